"""What is said of a call that is sent again and again, and for how long it is."""

import copy
import logging
from dataclasses import replace

import pytest

from airflow_provider_sbx.api import calls, errors
from airflow_provider_sbx.api.models import ProcessParameters
from airflow_provider_sbx.api.outage import Repeats
from airflow_provider_sbx.api.retrying import NO_RETRIES, RetryPolicy

START = calls.start_process(ProcessParameters(command="x"))
POLICY = RetryPolicy(patience_seconds=600, first_delay_seconds=1, longest_delay_seconds=20)
T0 = 1000.0


def refused():
    return errors.TransportError("Could not start: the connection failed", surely_unsent=True)


def response(status, **options):
    return errors.ResponseError(f"answered {status}", status_code=status, **options)


class Told(list):
    """What was said, with the level."""

    def __call__(self, level, text):
        self.append((level, text))


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def repeats(told):
    return Repeats(START, POLICY, told, chance=lambda: 0.5)


FIRST = (logging.WARNING, "Could not start: the connection failed. Trying again.")


def test_an_outage_is_told_at_its_first_failure_and_at_its_end(repeats, told):
    for second in range(10):
        assert repeats.failed(refused(), T0 + second)
        assert told == [FIRST]

    repeats.answered(T0 + 12.3)
    repeats.answered(T0 + 13)

    assert told == [FIRST, (logging.INFO, "The service answers again, after 12.3 s.")]


def test_one_that_lasts_is_told_once_a_minute_at_the_most(repeats, told):
    at = T0
    while at < T0 + 590:
        assert repeats.failed(refused(), at)
        at += repeats.pause_seconds

    assert 8 <= len(told) <= 10
    assert set(told) == {FIRST}


def test_nothing_is_said_of_a_call_that_succeeds_at_once(repeats, told):
    repeats.answered(T0)

    assert told == []


def test_the_pauses_grow_and_a_retry_after_is_obeyed(repeats):
    repeats.failed(refused(), T0)
    first = repeats.pause_seconds
    repeats.failed(refused(), T0 + 1)
    second = repeats.pause_seconds
    repeats.failed(response(429, retryable=True, retry_after_seconds=50), T0 + 2)

    assert 0 < first < second < 50 <= repeats.pause_seconds


def test_the_last_error_says_for_how_long_it_was_tried(repeats):
    last = errors.TransportError("Could not start: the connection failed", surely_unsent=True)
    last.request_id = "r-1"
    repeats.failed(refused(), T0)

    assert not repeats.failed(last, T0 + 600.4)
    assert str(last) == "Could not start: the connection failed, after 600 s of trying (request id r-1)"
    assert str(copy.copy(last)) == str(last)


@pytest.mark.parametrize("policy", [NO_RETRIES, replace(POLICY, patience_seconds=0)])
def test_that_of_a_call_that_is_not_repeated_does_not(told, policy):
    error = refused()

    assert not Repeats(START, policy, told).failed(error, T0)
    assert str(error) == str(refused())
    assert told == []


def test_a_refusal_is_an_answer_and_stays_as_it_is(repeats, told):
    error = response(404)
    repeats.failed(refused(), T0)

    assert not repeats.failed(error, T0 + 5)
    assert str(error) == "answered 404"
    assert told[1:] == [(logging.INFO, "The service answers again, after 5.0 s.")]


@pytest.mark.parametrize(
    "error", [response(502), errors.TransportError("cut", surely_unsent=False), ValueError("x")], ids=str
)
def test_what_leaves_the_outcome_open_is_none(repeats, told, error):
    repeats.failed(refused(), T0)

    assert not repeats.failed(error, T0 + 5)
    assert told == [FIRST]
