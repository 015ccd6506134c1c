import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sbx.api.errors import ReplayWindowExpiredError, StreamBrokenError
from airflow_provider_sbx.api.events import Done, Failed, Output, Started, decode_event
from tests.unit.builders import output, process_body, result_body


def test_each_kind_of_event_is_read():
    piece = {"seq": 3, "stream": "stderr", "data": "x", "timestamp": "17"}

    read = decode_event("output", json.dumps(piece).encode())
    assert isinstance(read, Output)
    assert (read.seq, read.stream, read.timestamp) == (3, "stderr", 17)
    assert isinstance(decode_event("started", json.dumps(process_body()).encode()), Started)
    assert isinstance(decode_event("done", json.dumps(result_body()).encode()), Done)
    assert decode_event("error", b'{"error": "gone", "code": "c"}') == Failed(error="gone", code="c")


def test_a_kind_of_event_that_is_not_known_is_passed_over():
    assert decode_event("resized", b"not even JSON") is None
    assert decode_event("message", b"{}") is None


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("output", ""),
        ("output", "{"),
        ("output", "[]"),
        ("output", '{"seq": 1, "stream": "stdpool", "data": "", "timestamp": 1}'),
        ("output", '{"seq": "x", "stream": "stdout", "data": "", "timestamp": 1}'),
        ("output", "[" * 100_000),
        ("done", '{"status": "exited"}'),
        ("started", "null"),
        ("error", "oops"),
    ],
)
def test_an_event_that_can_not_be_read_breaks_the_stream(name, data):
    with pytest.raises(StreamBrokenError):
        decode_event(name, data.encode())


def test_an_event_that_can_not_be_read_is_not_repeated_in_the_message():
    with pytest.raises(StreamBrokenError) as caught:
        decode_event("output", b'{"seq": "hunter2"}')

    assert "hunter2" not in str(caught.value)


def test_output_is_text_or_bytes_in_base64():
    assert output(1, "hé").raw == "hé".encode()
    assert output(1, base64.b64encode(b"\xff\x00").decode(), encoding="base64").raw == b"\xff\x00"


@pytest.mark.parametrize("bad", ["a", "a===", "!!!!", "YQ==YQ"])
def test_what_claims_to_be_base64_and_is_not_breaks_the_stream(bad):
    with pytest.raises(StreamBrokenError, match="event 4"):
        _ = output(4, bad, encoding="base64").raw


@pytest.mark.parametrize("half", ["\\ud83d", "\\uDE00"])
def test_half_a_character_which_a_service_cut_in_two_crashes_nothing(half):
    data = f'{{"seq": 1, "stream": "stdout", "data": "a{half}b", "timestamp": 1}}'

    assert decode_event("output", data.encode()).raw.decode() == "a\ufffdb"


def test_a_whole_character_in_two_escapes_is_that_character():
    data = '{"seq": 1, "stream": "stdout", "data": "\\ud83d\\ude00 \\\\ud83d", "timestamp": 1}'

    assert decode_event("output", data.encode()).raw.decode() == "\U0001f600 \\ud83d"


def test_an_error_event_stands_for_an_error_of_ours():
    expired = Failed(error="gone", code="replay_window_expired").as_error()
    other = Failed(error="proxy restarts").as_error()

    assert isinstance(expired, ReplayWindowExpiredError)
    assert isinstance(other, StreamBrokenError)
    assert other.retryable
    assert "proxy restarts" in str(other)


@given(st.sampled_from(["output", "done", "started", "error", "x"]), st.binary() | st.text().map(str.encode))
def test_whatever_comes_is_an_event_or_a_broken_stream(name, data):
    with contextlib.suppress(StreamBrokenError):
        decode_event(name, data)
