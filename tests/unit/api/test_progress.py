"""Signs of life in a long quiet wait."""

import json

import pytest

from airflow_provider_sbx.api.errors import TransportError
from airflow_provider_sbx.api.following import Following
from airflow_provider_sbx.api.progress import Progress
from airflow_provider_sbx.api.steps import WaitStrategy
from tests.unit.builders import T0_MS, output, summary, texts

T0 = T0_MS / 1000
MINUTE, HOUR = 60.0, 3600.0


def told(progress, until, *, output_every=None):
    """Return when something is told, in minutes, looking each minute."""
    minutes = []
    progress.due_at(0.0)
    for minute in range(int(until / MINUTE) + 1):
        if output_every and minute % output_every == 0:
            progress.heard(minute * MINUTE)
        if progress.tick(minute * MINUTE):
            minutes.append(minute)
    return minutes


def test_it_is_told_at_growing_intervals_and_then_each_hour():
    assert told(Progress("p"), 4 * HOUR) == [5, 10, 20, 30, 60, 120, 180, 240]


def test_a_process_with_output_needs_no_sign():
    assert told(Progress("p"), 4 * HOUR, output_every=5) == []


def test_one_that_is_quiet_time_and_again_is_told_of_no_more_often():
    assert len(told(Progress("p"), 24 * HOUR, output_every=7)) <= 24 + 4


def test_when_the_next_is_due_is_known():
    progress = Progress("p")
    assert progress.due_at(100.0) == 400.0
    progress.heard(200.0)
    assert progress.due_at(200.0) == 500.0
    assert progress.tick(500.0)
    assert progress.due_at(500.0) == 800.0


@pytest.mark.parametrize(
    ("started_at", "sees_output", "text"),
    [
        (T0_MS, True, "Process p still runs, for 1 h 5 min; no output for 35 min."),
        (None, True, "Process p still runs; no output for 35 min."),
        (T0_MS, False, "Process p still runs, for 1 h 5 min."),
    ],
)
def test_it_tells_what_is_known(started_at, sees_output, text):
    progress = Progress("p", started_at, sees_output=sees_output)
    progress.heard(T0 + 30 * MINUTE)

    assert texts(progress.tick(T0 + 65 * MINUTE)) == [text]


def test_a_sandbox_whose_clock_is_ahead_is_no_matter():
    progress = Progress("p", T0_MS + 3_600_000)
    progress.heard(T0)

    assert texts(progress.tick(T0 + 5 * MINUTE)) == ["Process p still runs, for 0 min; no output for 5 min."]


# --- in the waiting ---------------------------------------------------------------------------


def test_a_wait_tells_and_output_puts_it_off():
    following = Following("p", started_at=T0_MS)
    assert following.next_tick(T0) == T0 + 5 * MINUTE
    following.event(output(1, "a\n"), T0 + 4 * MINUTE)
    assert following.tick(T0 + 5 * MINUTE) == []

    assert texts(following.tick(T0 + 9 * MINUTE)) == ["Process p still runs, for 9 min; no output for 5 min."]


def test_whoever_goes_on_from_the_state_knows_when_the_process_was_started():
    first = Following("p", started_at=T0_MS)
    second = Following("p", state=json.loads(json.dumps(first.state())))
    second.next_tick(T0 + HOUR)

    assert texts(second.tick(T0 + HOUR + 5 * MINUTE)) == [
        "Process p still runs, for 1 h 5 min; no output for 5 min."
    ]


def test_nothing_is_said_of_a_process_that_is_out_of_reach_or_has_ended():
    following = Following("p", strategy=WaitStrategy.POLL)
    following.next_tick(T0)
    following.failed(TransportError("gone", surely_unsent=False), T0 + 1)
    assert following.tick(T0 + 5 * MINUTE) == []
    following.answered(summary(), T0 + 5 * MINUTE)
    assert texts(following.tick(T0 + 5 * MINUTE)) == ["Process p still runs, for 5 min."]
    following.answered(summary(status="exited"), T0 + 11 * MINUTE)

    assert following.tick(T0 + 12 * MINUTE) == []


def test_a_line_without_an_end_is_looked_at_sooner():
    following = Following("p")
    following.event(output(1, "half"), T0)

    assert following.next_tick(T0) == T0 + 1
