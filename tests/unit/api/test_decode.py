import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sbx.api import calls, errors
from airflow_provider_sbx.api.decode import decode_answer, decode_error, parse_retry_after
from airflow_provider_sbx.api.models import ProcessParameters
from tests.unit.builders import process_body, sandbox_body

GET = calls.get_process("p-1")
WAIT = calls.wait("p-1", timeout_seconds=1)
STDIN = calls.write_stdin("p-1", "x")
SANDBOX = calls.get_sandbox("sb-1")
START = calls.start_process(ProcessParameters(command="x"))
NOW = 1_700_000_000.0


def answer(call, body, status=200, headers=None):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode_answer(call, status, headers or {}, raw, now=NOW)


def error_of(call, status, body=b"", headers=None):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode_error(call, status, headers or {}, raw, now=NOW)


def test_a_success_is_read_as_its_model():
    assert answer(GET, {"process": process_body()}).pid == 42
    assert answer(START, {"process": process_body()}, status=201).process.id == "p-1"
    assert answer(SANDBOX, sandbox_body()).id == "sb-1"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "an empty body"),
        (b"  \n", "an empty body"),
        (b"<html><title>502 Bad\n Gateway</title></html>", r"an HTML page \(502 Bad Gateway\)"),
        (b"<!doctype html><p>x", "an HTML page instead of JSON"),
        (b'{"process": {"id"', "cut off"),
        (b"[" * 100_000, "cut off or of an unknown form"),
        (b"\xff\xfe\x00", "instead of JSON"),
        (b"nope", "'nope'"),
    ],
)
def test_a_success_that_is_no_json_says_what_came_instead(body, says):
    with pytest.raises(errors.DecodeError, match=says) as caught:
        answer(GET, body, headers={"x-request-id": "req-1"})

    assert caught.value.request_id == "req-1"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "body", [[], None, 5, {}, {"process": None}, {"process": {"id": "p"}}, {"other": {}}]
)
def test_a_success_of_another_form_is_an_error_that_names_the_place(body):
    with pytest.raises(errors.DecodeError, match=r"process|status|id"):
        answer(GET, body)


def test_half_a_character_in_an_answer_does_not_make_it_unreadable():
    body = b'{"result": {"id": "p-1", "status": "exited", "stdout": "a\\ud83d"}}'

    assert answer(WAIT, body).stdout == "a\ufffd"


def test_a_token_in_an_unreadable_answer_reaches_no_message():
    with pytest.raises(errors.DecodeError) as caught:
        answer(SANDBOX, sandbox_body("very-secret-token", id=None))

    assert "very-secret-token" not in repr(caught.value) + str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("call", "status", "body", "kind"),
    [
        (GET, 401, {"message": "no"}, errors.AuthenticationError),
        (SANDBOX, 401, {"message": "no"}, errors.AuthenticationError),
        (SANDBOX, 403, {"message": "no", "code": "API_KEY_SCOPE_DENIED"}, errors.AuthenticationError),
        (GET, 404, {"error": "process not found"}, errors.NotFoundError),
        (GET, 409, {"error": "x", "code": "sandbox_not_running"}, errors.SandboxNotRunningError),
        (STDIN, 409, {"error": "process has exited"}, errors.ProcessExitedError),
        (STDIN, 409, {"error": "x", "code": "sandbox_not_running"}, errors.SandboxNotRunningError),
        (WAIT, 408, {"error": "timed out"}, errors.WaitTimeoutError),
        (calls.stream("p-1"), 410, {"error": "Replay window expired"}, errors.ReplayWindowExpiredError),
        (GET, 500, {"error": "x", "code": "replay_window_expired"}, errors.ReplayWindowExpiredError),
        (GET, 418, {"error": "x"}, errors.ResponseError),
        (GET, 500, b"", errors.ResponseError),
    ],
)
def test_each_error_status_has_its_class(call, status, body, kind):
    assert type(error_of(call, status, body)) is kind


def test_a_408_to_anything_but_a_wait_is_no_word_on_the_process():
    assert type(error_of(GET, 408)) is errors.ResponseError


def test_an_error_carries_what_the_service_said_and_its_request_id():
    error = error_of(
        GET, 422, {"message": "unknown user\n  bob.", "code": "BAD_USER"}, {"request-id": "req-7"}
    )

    assert (error.status_code, error.code, error.request_id) == (422, "BAD_USER", "req-7")
    assert str(error) == (
        "Could not read process p-1: the service answered 422, unknown user bob (request id req-7)"
    )


def test_a_remedy_follows_where_there_is_one():
    assert "Check the API key" in str(error_of(SANDBOX, 401, {"message": "no"}))
    assert "timeout_minutes" in str(error_of(GET, 409, {"error": "x", "code": "sandbox_not_running"}))


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[1]", b'{"message": 5}', b'{"message": "  "}', b"[" * 99_999]
)
def test_an_error_without_words_is_told_all_the_same(body):
    assert "answered 502, it sent" in str(error_of(GET, 502, body))


def test_a_long_answer_is_cut():
    assert len(str(error_of(GET, 500, {"message": "x" * 10_000}))) < 400


def test_a_code_may_stand_in_the_error_member_beside_a_message():
    assert error_of(GET, 400, {"error": "SECRET_NOT_FOUND", "message": "no such"}).code == "SECRET_NOT_FOUND"
    assert error_of(GET, 400, {"error": "Bad thing", "message": "no such"}).code is None
    assert error_of(GET, 400, {"error": "SECRET_NOT_FOUND"}).code is None


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_four_statuses_may_be_tried_again_on_both_planes(status):
    assert error_of(GET, status).retryable
    assert error_of(SANDBOX, status).retryable


@pytest.mark.parametrize("status", [400, 404, 409, 500, 501])
def test_other_statuses_may_not(status):
    assert not error_of(GET, status).retryable
    assert not error_of(SANDBOX, status).retryable


def test_the_control_planes_own_word_on_retrying_wins_and_the_runtimes_does_not_count():
    for flag in (True, False):
        assert error_of(SANDBOX, 500, {"retryable": flag}).retryable is flag
        assert error_of(SANDBOX, 503, {"retryable": flag}).retryable is flag
        assert error_of(GET, 503, {"retryable": flag}).retryable
        assert not error_of(GET, 500, {"retryable": flag}).retryable
    assert error_of(SANDBOX, 503, {"retryable": "no"}).retryable


def test_a_secret_that_can_not_be_read_is_not_tried_again():
    assert not error_of(SANDBOX, 503, {"message": "x", "code": "SECRET_DECRYPT_FAILED"}).retryable
    assert error_of(SANDBOX, 503, {"message": "x", "code": "SECRET_TOO_BUSY"}).retryable


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10.0),
        ("Tue, 14 Nov 2023 22:13:00 GMT", 0.0),
        ("Mon, 01 Jan 99999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value, seconds):
    assert parse_retry_after(value, now=NOW) == seconds


def test_retry_after_reaches_the_error():
    assert error_of(GET, 429, {}, {"retry-after": "12"}).retry_after_seconds == 12


@given(st.text())
def test_any_retry_after_is_no_time_or_none(value):
    seconds = parse_retry_after(value, now=NOW)

    assert seconds is None or 0 <= seconds < 1e10


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["process", "id"]), inner),
    max_leaves=8,
)


@given(status=st.integers(100, 599), body=st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_an_answer_or_an_error_of_ours(status, body):
    for call in (GET, SANDBOX, STDIN, WAIT):
        with contextlib.suppress(errors.ServiceError):
            answer(call, body, status=status)
