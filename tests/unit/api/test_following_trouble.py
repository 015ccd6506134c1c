"""The state machine with a service in trouble: what is borne, for how long, and what is said of it."""

import pytest

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.api.events import Failed
from airflow_provider_sbx.api.following import Following
from airflow_provider_sbx.api.models import ProcessResult, Sandbox
from airflow_provider_sbx.api.retrying import RetryPolicy
from airflow_provider_sbx.api.steps import (
    AskPoll,
    AskSandbox,
    AskStatus,
    AskWait,
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
POLICY = RetryPolicy(patience_seconds=600)
ACTIVE = Sandbox.model_validate(sandbox_body())
CUT = errors.TransportError("The connection failed", surely_unsent=False)


def machine(strategy=WaitStrategy.STREAM, **options):
    return Following(PROCESS, strategy=strategy, policy=POLICY, chance=lambda: 0.5, **options)


def response(status, **options):
    return errors.ResponseError(f"answered {status}", status_code=status, **options)


def simulate(following, answer, *, seconds, at=T0):
    """Let time pass; `answer(step, at)` does a step and returns its entries, or raises its error."""
    entries, steps, until = [], [], at + seconds
    while at < until:
        step = following.step(at)
        if isinstance(step, Pause):
            at += step.seconds
            continue
        if isinstance(step, AskPoll):
            at += step.interval_seconds  # whoever looks paces the looks
        steps.append((at, step))
        assert len(steps) < 2000, "it spins"
        try:
            entries += answer(step, at)
        except errors.ServiceError as error:
            entries += following.failed(error, at)
    return entries, steps


def always(error):
    def answer(step, at):
        raise error

    return answer


# --- fatal -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        errors.AuthenticationError("no", status_code=401),
        errors.AuthenticationError("no", status_code=403),
        errors.SandboxNotRunningError("stopped", status_code=409, code="sandbox_not_running"),
        response(400),
        response(409),
        response(422),
    ],
)
def test_what_lasts_ends_the_wait_at_once(error):
    with pytest.raises(type(error)) as caught:
        machine().failed(error, T0)

    assert caught.value is error


def test_a_process_that_is_not_known_any_more_ends_the_wait_with_its_name():
    with pytest.raises(errors.NotFoundError, match=PROCESS) as caught:
        machine().failed(errors.NotFoundError("no such", status_code=404, request_id="r-1"), T0)

    assert (caught.value.status_code, caught.value.request_id) == (404, "r-1")


# --- out of reach ----------------------------------------------------------------------------

PASSING = [
    CUT,
    response(429, retryable=True),
    response(502, retryable=True),
    response(503, retryable=True),
    response(504, retryable=True),
    response(500),
    response(408),
    errors.DecodeError("an HTML page instead of JSON"),
    errors.StreamBrokenError("no event stream"),
]


@pytest.mark.parametrize("error", PASSING, ids=str)
@pytest.mark.parametrize("strategy", list(WaitStrategy))
def test_what_may_pass_is_borne_for_as_long_as_patience_lasts_and_not_longer(strategy, error):
    _, steps = simulate(machine(strategy), always(error), seconds=590)

    assert steps[-1][0] - T0 > 500
    assert len(steps) < 80 or strategy is WaitStrategy.POLL  # those are paced by whoever looks
    with pytest.raises(errors.ServiceUnavailableError, match=f"{PROCESS} may still be running") as caught:
        simulate(machine(strategy), always(error), seconds=700)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_lasting_trouble_is_told_once_a_minute_at_the_most(error):
    entries, _ = simulate(machine(), always(error), seconds=590)

    assert 5 <= len(notices_of(entries)) <= 10
    assert all(entry.warning for entry in entries)


def test_pauses_grow_and_a_retry_after_is_obeyed():
    following = machine()
    following.failed(CUT, T0)
    first = following.step(T0).seconds
    following.failed(CUT, T0 + 1)
    second = following.step(T0 + 1).seconds
    following.failed(response(429, retryable=True, retry_after_seconds=50), T0 + 2)

    assert 0 < first < second
    assert 50 <= following.step(T0 + 2).seconds < 60


def test_the_end_of_an_outage_is_told_once():
    following = machine()
    following.failed(CUT, T0)

    assert notices_of(following.opened(T0 + 12.3)) == ["The service answers again, after 12.3 s."]
    assert following.opened(T0 + 13) == []


def test_patience_begins_anew_with_each_outage():
    following = machine()
    for hour in range(10):
        following.failed(CUT, T0 + hour * 3600)
        following.opened(T0 + hour * 3600 + 500)


def test_streams_that_open_and_break_at_once_do_not_flood_the_log():
    following = machine()

    def answer(step, at):
        match step:
            case OpenStream():
                return following.opened(at) + following.event(Failed(error="broken"), at)
            case AskSandbox():
                return following.answered(ACTIVE, at)
            case AskStatus():
                return following.answered(summary(), at)

    entries, steps = simulate(following, answer, seconds=3600)

    assert len(notices_of(entries)) <= 2 * 61
    assert len(steps) < 1000


def test_an_hourly_hiccup_of_a_quiet_process_costs_no_long_pause():
    following = machine()
    for hour in range(20):
        at = T0 + hour * 3600
        following.opened(at)
        following.failed(CUT, at + 3500)
        assert following.step(at + 3500).seconds < 1
        assert following.step(at + 3502) == OpenStream(1)


def test_an_hourly_hiccup_of_a_wait_costs_no_long_pause():
    following = machine(WaitStrategy.WAIT)
    for hour in range(20):
        at = T0 + hour * 3600
        following.failed(CUT, at)
        assert following.step(at).seconds < 1
        following.step(at + 1)
        following.failed(errors.WaitTimeoutError("still", status_code=408), at + 25)


# --- is it still there? ----------------------------------------------------------------------


def test_after_repeated_failures_a_sandbox_that_was_closed_ends_the_wait():
    following = machine()
    closed = Sandbox.model_validate({"id": "sb-1", "status": "closed", "closeReason": "timeout"})

    def answer(step, at):
        if isinstance(step, AskSandbox):
            return following.answered(closed, at)
        raise CUT

    with pytest.raises(errors.SandboxNotRunningError, match=r"sb-1 is closed \(timeout\)") as caught:
        simulate(following, answer, seconds=60)
    assert caught.value.code == "sandbox_not_running"


def test_a_control_plane_that_answers_does_not_prolong_the_patience_with_the_runtime():
    following = machine()
    entries = []

    def answer(step, at):
        if isinstance(step, AskSandbox):
            entries.extend(following.answered(ACTIVE, at))
            return []
        raise CUT

    with pytest.raises(errors.ServiceUnavailableError):
        simulate(following, answer, seconds=900)
    assert notices_of(entries) == []


def test_a_process_that_ended_while_its_stream_can_not_be_read_is_found_to_have_ended():
    following = machine()

    def answer(step, at):
        match step:
            case OpenStream():
                following.opened(at)
                raise errors.StreamBrokenError("An event 'output' can't be read")
            case AskSandbox():
                return following.answered(ACTIVE, at)
            case AskStatus():
                return following.answered(summary(status="exited"), at)
            case AskWait():
                return following.answered(result(exit_code=4, last_seq=1), at)

    entries, steps = [], 0
    at = T0
    while not hasattr(following.step(at), "outcome"):
        step = following.step(at)
        steps += 1
        assert steps < 100
        if isinstance(step, Pause):
            at += step.seconds
            continue
        try:
            entries += answer(step, at)
        except errors.ServiceError as error:
            entries += following.failed(error, at)

    assert following.step(at).outcome.exit_code == 4
    assert following.step(at).outcome.output_lost


def unreadable(seq, *, is_output=True):
    return errors.EventUnreadableError("An event can't be read", is_output=is_output, seq=seq)


@pytest.mark.parametrize("seq", [2, None])
def test_an_event_that_can_not_be_read_is_asked_for_once_more_and_then_named_as_lost(seq):
    following = machine()
    following.event(output(1, "a\n"), T0)

    assert notices_of(following.failed(unreadable(seq), T0))
    assert following.next_seq == 2
    following.opened(T0 + 5)
    entries = following.failed(unreadable(seq), T0 + 5)

    assert any("Output event 2: it can't be read, twice" in text for text in notices_of(entries))
    assert following.next_seq == 3
    following.opened(T0 + 10)
    assert lines_of(following.event(output(3, "c\n"), T0 + 10)) == ["c"]


def test_an_event_that_can_be_read_at_the_second_time_is_not_lost():
    following = machine()
    following.failed(unreadable(1), T0)
    following.opened(T0 + 5)

    assert lines_of(following.event(output(1, "a\n"), T0 + 5)) == ["a"]
    following.failed(unreadable(2), T0 + 6)
    assert following.next_seq == 2


def test_a_duplicate_that_can_not_be_read_loses_nothing():
    following = machine()
    for seq in (1, 2):
        following.event(output(seq, "a\n"), T0)
    for at in (T0, T0 + 5, T0 + 10):
        following.failed(unreadable(1), at)
        following.opened(at + 1)

    assert following.next_seq == 3


def killed(**changes):
    following = machine()
    following.opened(T0)
    following.event(done(status="killed", exit_code=137, last_seq=0, **changes), T0)
    return following


def test_a_process_that_was_killed_with_its_sandbox_says_so():
    following = killed()
    assert following.step(T0) == AskSandbox()

    following.answered(
        Sandbox.model_validate({"id": "sb-1", "status": "closed", "closeReason": "timeout"}), T0
    )

    assert following.step(T0).outcome.error == "its sandbox sb-1 is closed (timeout)"


def test_a_process_that_was_killed_alone_has_no_other_cause_named():
    following = killed()
    following.answered(ACTIVE, T0)

    assert following.step(T0).outcome.error is None


def test_a_cause_that_can_not_be_asked_for_keeps_no_end_back():
    following = killed()

    assert following.failed(CUT, T0) == []
    assert following.step(T0).outcome.status == "killed"


def test_a_cause_that_the_service_names_is_not_asked_for():
    assert killed(error="out of memory").step(T0).outcome.error == "out of memory"


# --- output that is no longer kept (410) -----------------------------------------------------


def replaying(following, *, first_kept, last):
    """Answer as a receiver that keeps the output from `first_kept` to `last` of an ended process."""

    def answer(step, at):
        assert isinstance(step, OpenStream)
        if step.from_seq < first_kept:
            raise errors.ReplayWindowExpiredError("Replay window expired", status_code=410)
        entries = following.opened(at)
        for seq in range(step.from_seq, last + 1):
            if following.reads_on:
                entries += following.event(output(seq, f"{seq}\n"), at)
        if following.reads_on:
            entries += following.event(done(last_seq=last), at)
        else:
            following.stream_ended(at)
        return entries

    return answer


@pytest.mark.parametrize(
    ("read", "first_kept", "last"), [(0, 2, 2), (3, 5, 9), (10, 1000, 1200), (0, 5000, 4999)]
)
def test_output_that_is_gone_is_named_exactly_and_the_rest_is_read(read, first_kept, last):
    following = machine(state={"next_seq": read + 1, "lines": None})
    answer = replaying(following, first_kept=first_kept, last=last)
    entries, at = [], T0
    for _ in range(100):
        step = following.step(at)
        if not isinstance(step, OpenStream):
            break
        try:
            entries += answer(step, at)
        except errors.ServiceError as error:
            entries += following.failed(error, at)

    gone = f"events {read + 1} to {first_kept - 1}" if first_kept - 1 > read + 1 else f"event {read + 1}"
    assert notices_of(entries) == [f"Output {gone}: no longer kept by the service."]
    assert lines_of(entries) == [str(seq) for seq in range(first_kept, last + 1)]
    assert following.step(at).outcome.output_lost


def test_an_expiry_within_the_stream_is_searched_as_well():
    following = machine()
    expiry = Failed(error="gone", code="replay_window_expired")
    following.opened(T0)
    assert following.event(expiry, T0) == []
    assert not following.reads_on
    following.stream_ended(T0)
    assert following.step(T0 + 1) == OpenStream(1)  # it may be there for one who comes anew

    following.opened(T0 + 1)
    following.event(expiry, T0 + 1)

    assert following.step(T0 + 1) == OpenStream(2)


def test_a_service_that_keeps_nothing_is_not_asked_without_end():
    following = machine()
    expired = errors.ReplayWindowExpiredError("Replay window expired", status_code=410)

    def answer(step, at):
        if isinstance(step, AskStatus):
            return following.answered(summary(), at)
        raise expired

    _, steps = simulate(following, answer, seconds=120)

    assert len(steps) < 1500
    assert any(isinstance(step, AskStatus) for _, step in steps)


# --- long-polls ----------------------------------------------------------------------------

STILL = errors.WaitTimeoutError("timed out", status_code=408)


def test_waits_follow_one_another_while_the_receiver_holds_them():
    following, at = machine(WaitStrategy.WAIT), T0
    for _ in range(5):
        step = following.step(at)
        assert isinstance(step, AskWait)
        assert 20 < step.timeout_seconds < 30
        at += step.timeout_seconds
        assert following.failed(STILL, at) == []
    following.answered(result(exit_code=1), at)

    assert following.step(at).outcome.exit_code == 1


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 21.0), (0.5, 24.75), (1.0, 28.5)])
def test_a_turn_of_waiting_is_jittered_and_under_half_a_minute(chance, seconds):
    following = Following(PROCESS, strategy=WaitStrategy.WAIT, chance=lambda: chance)

    assert following.step(T0).timeout_seconds == pytest.approx(seconds)


@pytest.mark.parametrize("ended", [False, True])
def test_a_proxy_that_ends_a_wait_at_once_makes_it_no_spin(ended):
    following = machine(WaitStrategy.WAIT)
    if ended:
        following.answered(summary(status="exited"), T0)

    _, steps = simulate(following, always(STILL), seconds=60)

    assert len(steps) <= (61 if ended else 4)


def test_a_wait_that_is_answered_with_a_process_that_still_runs_is_asked_again():
    following = machine(WaitStrategy.WAIT)
    step = following.step(T0)
    assert isinstance(step, AskWait)

    following.answered(ProcessResult(id="p-1", status="running"), T0 + 0.1)

    assert isinstance(following.step(T0 + 0.2), Pause)
    assert isinstance(following.step(T0 + step.timeout_seconds), AskWait)
