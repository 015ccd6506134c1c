import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sbx.api import calls, errors
from airflow_provider_sbx.api.models import ProcessParameters
from airflow_provider_sbx.api.retrying import (
    NO_RETRIES,
    RetryPolicy,
    is_outcome_unknown,
    may_pass,
    may_repeat,
)

READ = calls.get_process("p-1")
START = calls.start_process(ProcessParameters(command="x"))
POLICY = RetryPolicy(first_delay_seconds=1, longest_delay_seconds=8, longest_retry_after_seconds=30)

CUT = errors.TransportError("cut", surely_unsent=False)
REFUSED = errors.TransportError("refused", surely_unsent=True)


def response(status, *, retryable=False, retry_after=None):
    return errors.ResponseError("x", status_code=status, retryable=retryable, retry_after_seconds=retry_after)


BUSY, GATEWAY = response(429, retryable=True), response(502, retryable=True)
UNREADABLE = errors.DecodeError("HTML")


@pytest.mark.parametrize("error", [CUT, REFUSED, BUSY, GATEWAY])
def test_a_read_may_be_sent_again_after_what_may_pass(error):
    assert may_repeat(READ, error)


@pytest.mark.parametrize("error", [response(404), response(500), UNREADABLE, ValueError("x")])
def test_a_read_is_not_sent_again_after_what_lasts(error):
    assert not may_repeat(READ, error)


@pytest.mark.parametrize("error", [REFUSED, BUSY])
def test_a_start_may_be_sent_again_only_where_it_surely_did_not_happen(error):
    assert may_repeat(START, error)


@pytest.mark.parametrize("error", [CUT, GATEWAY, response(503, retryable=True), UNREADABLE, ValueError("x")])
def test_a_start_is_never_sent_again_in_doubt(error):
    assert not may_repeat(START, error)


def test_a_start_whose_token_could_not_be_read_was_not_sent_and_may_be():
    unsent = response(503, retryable=True)
    unsent.surely_unsent = True

    assert may_repeat(START, unsent)
    assert not is_outcome_unknown(START, unsent)


@pytest.mark.parametrize(
    "error", [CUT, GATEWAY, response(500), response(504, retryable=True), response(408), UNREADABLE]
)
def test_the_outcome_of_a_start_is_unknown_after_a_lost_or_unclear_answer(error):
    assert is_outcome_unknown(START, error)


@pytest.mark.parametrize(
    "error", [REFUSED, BUSY, response(400), response(401), response(404), response(409), response(422)]
)
def test_the_outcome_of_a_start_is_known_after_a_clear_refusal(error):
    assert not is_outcome_unknown(START, error)


def test_the_outcome_of_a_read_is_never_in_doubt():
    assert not is_outcome_unknown(READ, CUT)


@pytest.mark.parametrize("error", [CUT, GATEWAY, BUSY, response(500), response(408), UNREADABLE])
def test_a_wait_goes_on_after_what_may_pass(error):
    assert may_pass(error)


@pytest.mark.parametrize("error", [response(400), response(409), response(302), errors.ServiceError("x")])
def test_a_wait_does_not_go_on_after_what_lasts(error):
    assert not may_pass(error)


def test_pauses_double_up_to_a_limit():
    assert [POLICY.delay_seconds(n, CUT, 1.0) for n in (1, 2, 3, 4, 5, 60)] == [1, 2, 4, 8, 8, 8]


def test_half_of_a_pause_is_jitter():
    assert [POLICY.delay_seconds(2, CUT, chance) for chance in (0, 0.5, 1)] == [1, 1.5, 2]


def test_a_retry_after_is_the_least_that_is_waited():
    busy = response(429, retryable=True, retry_after=10)

    assert [POLICY.delay_seconds(1, busy, chance) for chance in (0, 1)] == [10, 10.5]


def test_a_retry_after_is_obeyed_up_to_a_limit():
    assert POLICY.delay_seconds(1, response(429, retryable=True, retry_after=86_400), 0) == 30


@given(st.integers(1, 10**9), st.floats(0, 1), st.none() | st.floats(0, 1e9))
def test_no_pause_is_negative_or_endless(failures, chance, asked):
    error = response(429, retryable=True, retry_after=asked)

    assert 0 <= POLICY.delay_seconds(failures, error, chance) <= 30 + 8


def test_no_retries_means_no_patience():
    assert NO_RETRIES.patience_seconds == 0
