"""The state machine where it looks now and then: by choice, or for want of a place for a stream."""

import pytest

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.api.events import Output
from airflow_provider_sbx.api.following import Following
from airflow_provider_sbx.api.models import Sandbox
from airflow_provider_sbx.api.retrying import RetryPolicy
from airflow_provider_sbx.api.steps import (
    AskPoll,
    AskSandbox,
    AskStatus,
    AskWait,
    Notice,
    OpenStream,
    Pause,
    WaitStrategy,
)
from tests.unit.builders import (
    PROCESS,
    T0_MS,
    done,
    lines_of,
    notices_of,
    output,
    result,
    sandbox_body,
    summary,
)

T0 = T0_MS / 1000
CUT = errors.TransportError("The connection failed", surely_unsent=False)
FULL = "All 7 streams that may be open at once (max_streams) are taken"


def machine(strategy=WaitStrategy.POLL, **options):
    return Following(
        PROCESS, strategy=strategy, poll_seconds=5, policy=RetryPolicy(), chance=lambda: 0.5, **options
    )


def looking(**options):
    """Return a machine whose first look was answered."""
    following = machine(**options)
    following.step(T0)
    following.answered(summary(), T0)
    return following


def crowded():
    """Return a machine that has no place for its stream."""
    following = machine(WaitStrategy.STREAM)
    assert following.step(T0) == OpenStream(1)
    (notice,) = following.looks.crowded(7)
    assert FULL in notice.text
    return following


# --- by choice -------------------------------------------------------------------------------


def test_the_first_look_is_to_be_told_of_and_then_only_news_are():
    following = machine()
    assert following.step(T0) == AskPoll(5, None, is_first=True)
    assert following.answered(summary(started_at=None), T0) == []
    assert following.step(T0 + 1) == AskPoll(5, None, is_first=False)


def test_an_end_that_was_seen_is_followed_by_one_question_for_the_result():
    following = looking()
    following.step(T0)
    following.answered(summary(status="exited"), T0 + 60)

    assert following.step(T0 + 60) == AskWait(1.0)
    entries = following.answered(result(exit_code=3, stdout="a\n"), T0 + 60)
    assert lines_of(entries) == ["a"]
    assert following.step(T0 + 60).outcome.exit_code == 3


def test_a_status_that_is_not_known_is_no_end():
    following = looking()
    following.step(T0)
    following.answered(summary(status="hibernating"), T0)

    assert isinstance(following.step(T0 + 60), AskPoll)


def test_the_list_is_narrowed_to_what_was_made_some_time_before_the_process_started():
    for following in (machine(started_at=T0_MS), machine(state={"started_at": T0_MS}), looking()):
        assert following.step(T0).created_after == T0_MS - 60_000


def test_without_a_time_of_start_nothing_is_narrowed():
    assert machine().step(T0).created_after is None


def test_a_process_that_is_not_listed_is_asked_for_by_its_id_and_from_then_on_in_the_whole_list():
    following = looking()
    following.step(T0)
    assert following.not_listed(T0) == []
    assert following.step(T0) == AskStatus()

    following.answered(summary(), T0)

    assert following.step(T0) == AskPoll(5, None)


def test_a_process_that_is_not_known_by_its_id_either_is_lost():
    following = looking()
    following.step(T0)
    following.not_listed(T0)
    following.step(T0)

    with pytest.raises(errors.NotFoundError, match="no longer known"):
        following.failed(errors.NotFoundError("no such process", status_code=404), T0)


def test_a_process_that_is_not_listed_and_found_ended_is_read_as_any():
    following = looking()
    following.step(T0)
    following.not_listed(T0)
    following.step(T0)
    following.answered(summary(status="killed"), T0)

    assert following.step(T0) == AskWait(1.0)


# --- looks that fail -------------------------------------------------------------------------


def test_a_failed_look_is_told_once_and_neither_paced_nor_doubted_by_each_of_those_who_share_it():
    following, entries = looking(), []
    for second in range(10):
        assert isinstance(following.step(T0 + second), AskPoll)
        entries += following.failed(CUT, T0 + second)

    assert len(notices_of(entries)) == 1
    assert following.step(T0 + 10).is_first  # so that the recovery is told as soon as it comes
    assert notices_of(following.answered(summary(), T0 + 11)) == ["The service answers again, after 11.0 s."]
    assert not following.step(T0 + 12).is_first


def test_a_look_that_fails_for_too_long_ends_the_wait():
    following = looking()
    following.step(T0)
    following.failed(CUT, T0)
    following.step(T0)

    with pytest.raises(errors.ServiceUnavailableError):
        following.failed(CUT, T0 + 601)


@pytest.mark.parametrize(
    "error",
    [
        errors.NotFoundError("x", status_code=404),
        errors.AuthenticationError("x", status_code=403),
        errors.SandboxNotRunningError("x", status_code=409),
    ],
)
def test_a_look_that_no_other_can_better_ends_the_wait_at_once(error):
    following = looking()
    following.step(T0)

    with pytest.raises(type(error)):
        following.failed(error, T0)


def test_a_sandbox_that_was_found_gone_ends_the_wait():
    following = looking()
    following.step(T0)

    with pytest.raises(errors.SandboxNotRunningError, match="sb-1 is closed"):
        following.answered(Sandbox.model_validate(sandbox_body(status="closed")), T0)


def test_the_result_of_an_ended_process_is_asked_for_with_pauses_of_ones_own():
    following, at = looking(), T0
    following.step(T0)
    following.answered(summary(status="exited"), T0)
    for _ in range(3):
        assert following.step(at) == AskWait(1.0)
        following.failed(CUT, at)
        pause = following.step(at)
        assert isinstance(pause, Pause)
        at += pause.seconds

    assert isinstance(following.step(at), AskSandbox)


# --- for want of a place ---------------------------------------------------------------------


def test_a_stream_without_a_place_is_looked_for_and_opened_where_it_left_off_once_there_is_one():
    following = machine(WaitStrategy.STREAM, state={"next_seq": 4})
    following.step(T0)
    following.looks.crowded(7)
    assert following.step(T0) == AskPoll(5, None, is_first=True)
    following.answered(summary(), T0)

    (notice,) = following.looks.uncrowded()

    assert notice == Notice("A stream is free: the output is read from here on.")
    assert following.step(T0) == OpenStream(4)


def test_a_process_that_ends_without_a_place_is_still_read_to_its_end():
    following = crowded()
    following.step(T0)
    assert following.answered(summary(status="exited"), T0) == []

    assert following.is_over
    assert following.step(T0) == OpenStream(1)
    entries = following.opened(T0) + following.event(output(1, "a\n"), T0)
    following.event(done(exit_code=4, last_seq=1), T0)
    assert lines_of(entries) == ["a"]
    assert following.step(T0).outcome.exit_code == 4


def test_one_that_is_found_ended_by_its_id_needs_no_place_either():
    following = crowded()
    following.step(T0)
    following.not_listed(T0)
    following.step(T0)
    following.answered(summary(status="exited"), T0)
    assert following.step(T0) == AskWait(1.0)
    following.answered(result(stdout="a\n", last_seq=1), T0)

    assert following.is_over
    assert following.step(T0) == OpenStream(1)


def test_a_stream_without_a_place_says_nothing_of_a_quiet_process():
    following = crowded()
    following.tick(T0)

    assert following.tick(T0 + 3600) == []


def test_a_failed_look_without_a_place_is_borne_as_others_are():
    following = crowded()
    following.step(T0)

    assert "Trying again" in notices_of(following.failed(CUT, T0))[0]
    assert following.step(T0 + 1) == AskPoll(5, None, is_first=True)


@pytest.mark.parametrize(
    ("strategy", "step"), [(WaitStrategy.STREAM, OpenStream(1)), (WaitStrategy.POLL, AskWait(1.0))]
)
def test_one_that_was_ended_by_us_is_read_at_once(strategy, step):
    following = machine(strategy)
    following.has_ended()

    assert following.is_over
    assert following.step(T0) == step


def test_a_place_that_was_had_is_not_given_up_for_an_output_that_was_read():
    following = machine(WaitStrategy.STREAM)
    following.opened(T0)
    following.event(Output(seq=1, stream="stdout", data="a\n", timestamp=T0_MS), T0)
    following.stream_ended(T0)

    assert following.step(T0 + 60) == OpenStream(2)
