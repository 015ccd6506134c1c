"""The state machine with an ordinary stream: what is asked, logged and kept."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_sbx.api.events import Failed, Started
from airflow_provider_sbx.api.following import Following
from airflow_provider_sbx.api.models import ProcessStatus
from airflow_provider_sbx.api.output import Line
from airflow_provider_sbx.api.steps import AskStatus, AskWait, Finished, OpenStream, Pause, WaitStrategy
from tests.unit.builders import PROCESS, T0_MS, done, lines_of, notices_of, output, result, summary

T0 = T0_MS / 1000


def machine(**options):
    return Following(PROCESS, chance=lambda: 0.5, **options)


def feed(following, *events, at=T0):
    """Open the stream and give it events, for as long as the machine reads on."""
    entries = following.opened(at)
    for event in events:
        if not following.reads_on:
            break
        entries += following.event(event, at)
    return entries


def outcome_of(following, at=T0):
    step = following.step(at)
    assert isinstance(step, Finished)
    return step.outcome


# --- a process that ends ---------------------------------------------------------------------


def test_a_stream_is_read_from_the_first_number_to_done():
    following = machine()
    assert following.step(T0) == OpenStream(1)

    entries = feed(
        following, output(1, "a\n"), output(2, "b\n", stream="stderr"), done(exit_code=3, last_seq=2)
    )

    assert lines_of(entries) == ["a", "b"]
    assert notices_of(entries) == []
    assert not following.reads_on
    outcome = outcome_of(following)
    assert (outcome.status, outcome.exit_code) == (ProcessStatus.EXITED, 3)
    assert (outcome.stdout, outcome.stderr, outcome.output_lost) == ("a\n", "b\n", False)
    assert (outcome.started_at, outcome.completed_at) == (T0_MS, T0_MS + 1000)


def test_a_process_without_output_ends_by_done():
    following = machine()

    assert feed(following, done(last_seq=0)) == []
    assert outcome_of(following).stdout == ""


def test_a_done_that_does_not_say_its_last_number_is_believed():
    following = machine()
    feed(following, output(1, "a\n"), done(last_seq=None))

    assert not outcome_of(following).output_lost


def test_the_last_line_needs_no_end():
    following = machine()

    assert lines_of(feed(following, output(1, "a\nb"), done(last_seq=1))) == ["a", "b"]


def test_the_services_own_voice_is_logged_and_counts_as_stderr():
    following = machine()
    entries = feed(following, output(1, "out of memory\n", stream="system"), done(last_seq=1))

    assert [entry.stream for entry in entries if isinstance(entry, Line)] == ["system"]
    assert outcome_of(following).stderr == "out of memory\n"


def test_the_outcome_keeps_the_ends_of_the_output():
    following = machine(output_bytes=4)
    feed(following, output(1, "abcdef"), output(2, "xy", stream="stderr"), done(last_seq=2))

    outcome = outcome_of(following)
    assert (outcome.stdout, outcome.stdout_truncated) == ("cdef", True)
    assert (outcome.stderr, outcome.stderr_truncated) == ("xy", False)


def test_events_that_say_nothing_new_change_nothing():
    following = machine()

    assert feed(following, Started(process=summary())) == []
    assert following.reads_on


# --- duplicates and gaps ---------------------------------------------------------------------


def test_what_was_seen_already_is_dropped():
    following = machine()
    entries = feed(following, output(1, "a\n"), output(1, "a\n"), output(2, "b\n"), output(1, "a\n"))

    assert lines_of(entries) == ["a", "b"]


def test_a_gap_is_asked_for_again_before_it_is_named():
    following = machine()
    entries = feed(following, output(1, "a\n"), output(4, "d\n"))
    following.stream_ended(T0)

    assert lines_of(entries) == ["a"]
    assert notices_of(entries) == []
    assert not following.reads_on
    assert following.step(T0 + 60) == OpenStream(2)


def test_a_gap_that_comes_the_second_time_is_no_loss():
    following = machine()
    feed(following, output(1, "a\n"), output(3, "c\n"))
    following.stream_ended(T0)
    entries = feed(following, output(2, "b\n"), output(3, "c\n"), done(last_seq=3))

    assert lines_of(entries) == ["b", "c"]
    assert outcome_of(following).stdout == "a\nb\nc\n"
    assert not outcome_of(following).output_lost


def test_a_gap_that_comes_twice_is_named_and_the_rest_is_read():
    following = machine()
    feed(following, output(1, "a\n"), output(4, "d\n"))
    following.stream_ended(T0)
    entries = feed(following, output(4, "d\n"), done(last_seq=4))

    assert notices_of(entries) == ["Output events 2 to 3: not delivered, twice."]
    assert lines_of(entries) == ["d"]
    assert outcome_of(following).output_lost


def test_each_gap_is_asked_for_again_by_itself():
    following = machine()
    feed(following, output(2, "b\n"))
    following.stream_ended(T0)
    entries = feed(following, output(2, "b\n"), output(4, "d\n"))
    following.stream_ended(T0)

    assert [text[:14] for text in notices_of(entries)] == ["Output event 1"]
    assert following.step(T0 + 60) == OpenStream(3)


def test_a_line_is_not_glued_together_over_a_gap():
    following = machine()
    feed(following, output(1, "half"), output(3, "other\n"))
    following.stream_ended(T0)
    entries = feed(following, output(3, "other\n"))

    assert lines_of(entries) == ["half", "other"]


def test_output_that_done_speaks_of_and_that_did_not_come_is_asked_for_and_then_named():
    following = machine()
    feed(following, output(1, "a\n"), done(last_seq=3))
    following.stream_ended(T0)
    assert following.step(T0 + 60) == OpenStream(2)

    entries = feed(following, done(last_seq=3))

    assert notices_of(entries) == ["Output events 2 to 3: not delivered, twice."]
    assert outcome_of(following).output_lost


# --- streams that end too early --------------------------------------------------------------


def test_a_stream_that_ends_without_done_is_opened_again_from_the_next_number():
    following = machine()
    feed(following, output(1, "a\n"), output(2, "b\n"))
    assert following.stream_ended(T0) == []

    step = following.step(T0)
    assert isinstance(step, Pause)
    assert 0 < step.seconds < 1
    assert following.step(T0 + step.seconds) == OpenStream(3)


def test_a_stream_that_ends_again_and_again_does_not_spin():
    following, at, opened = machine(), T0, 0
    while at < T0 + 300:
        match following.step(at):
            case Pause(seconds):
                at += seconds
            case OpenStream():
                opened += 1
                following.opened(at)
                following.stream_ended(at)
            case _:
                following.answered(summary(), at)

    assert opened < 50


@pytest.mark.parametrize(
    ("last_seq", "says"),
    [
        (None, "after sequence number 1 could not be followed"),
        (2, "Output event 2: the stream could not be read"),
        (4, "Output events 2 to 4: the stream could not be read"),
    ],
)
def test_a_process_whose_streams_say_nothing_is_looked_at_and_its_result_is_fetched(last_seq, says):
    following, at = machine(), T0
    feed(following, output(1, "a\n"))
    for _ in range(4):
        following.stream_ended(at)
        at += 60
        if not isinstance(following.step(at), OpenStream):
            break
        following.opened(at)
    following.answered(summary(status="exited"), at)
    assert following.step(at) == AskWait(1.0)

    entries = following.answered(result(stdout="a\nb\n", exit_code=5, last_seq=last_seq), at)
    while not entries:
        step = following.step(at)
        at += step.seconds if isinstance(step, Pause) else 1
        if isinstance(step, OpenStream):
            following.opened(at)
            entries = following.stream_ended(at)
        elif isinstance(step, AskStatus):
            entries = following.answered(summary(status="exited"), at)

    assert says in notices_of(entries)[0]
    outcome = outcome_of(following, at)
    assert (outcome.exit_code, outcome.stdout, outcome.output_lost) == (5, "a\nb\n", True)


def test_an_ended_process_whose_output_was_all_read_needs_no_stream_any_more():
    following = machine()
    feed(following, output(1, "a\n"))
    following.stream_ended(T0)

    following.answered(result(stdout="a\n", last_seq=1), T0 + 1)

    assert not outcome_of(following, T0 + 1).output_lost


def test_a_stream_that_held_for_long_counts_as_good_even_without_output():
    following, at = machine(), T0
    for _ in range(10):
        following.opened(at)
        at += 3600
        following.stream_ended(at)
        at += 1
        assert following.step(at) == OpenStream(1)


# --- limits, lines without end ---------------------------------------------------------------


def test_the_log_ends_at_its_limit_with_one_line_that_says_so_and_the_result_is_kept():
    following = machine(log_bytes=6)
    events = [output(seq, f"{seq:03}\n") for seq in range(1, 9)]

    entries = feed(following, *events, done(last_seq=8))

    assert lines_of(entries) == ["001", "002"]
    (notice,) = notices_of(entries)
    assert "max_log_bytes" in notice
    assert outcome_of(following).stdout.endswith("007\n008\n")


def test_with_logging_off_nothing_is_logged_and_all_is_kept():
    following = machine(log_bytes=0)

    assert feed(following, output(1, "a\nb"), done(last_seq=1)) == []
    assert outcome_of(following).stdout == "a\nb"


def test_a_line_without_end_is_shown_after_a_quiet_moment_by_the_clock():
    following = machine()
    assert following.tick(T0) == []
    feed(following, output(1, "Password: "))

    assert following.has_open_line
    assert following.tick(T0 + 1.5) == []
    assert lines_of(following.tick(T0 + 2.1)) == ["Password: "]
    assert following.tick(T0 + 9) == []


# --- handing over ----------------------------------------------------------------------------

CHUNKS = st.lists(
    st.tuples(st.sampled_from(["stdout", "stderr"]), st.text("ab\r\n\u20ac", max_size=8)), max_size=8
)


@given(CHUNKS, st.integers(0, 8), st.integers(0, 30))
def test_a_machine_that_goes_on_from_a_state_logs_what_one_alone_would(chunks, handed_at, log_bytes):
    events = [output(seq, text, stream=stream) for seq, (stream, text) in enumerate(chunks, 1)]
    end = done(last_seq=len(events))
    alone = feed(machine(log_bytes=log_bytes), *events, end)

    first = machine(log_bytes=log_bytes)
    before = feed(first, *events[:handed_at])
    state = json.loads(json.dumps(first.state()))
    second = machine(log_bytes=log_bytes, state=state)
    assert second.step(T0) == OpenStream(len(events[:handed_at]) + 1)
    after = feed(second, *events[handed_at:], end)

    assert before + after == alone


def test_a_state_is_small_whatever_was_read():
    following = machine()
    feed(following, *[output(seq, "x" * 1000 + "\n") for seq in range(1, 500)])

    assert len(json.dumps(following.state())) < 500


def test_that_output_was_lost_is_handed_over():
    first = machine()
    feed(first, output(2, "b\n"))
    feed(first, output(2, "b\n"))
    second = machine(state=first.state())
    feed(second, done(last_seq=2))

    assert outcome_of(second).output_lost


# --- the other strategies --------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [WaitStrategy.WAIT, WaitStrategy.POLL])
def test_without_a_stream_the_output_is_shown_at_the_end(strategy):
    following = machine(strategy=strategy)
    entries = following.answered(result(stdout="a\nb", stderr="e\n", output_truncated=True), T0)

    assert sorted(lines_of(entries)) == ["a", "b", "e"]
    assert "no longer kept all" in notices_of(entries)[0]
    outcome = outcome_of(following)
    assert (outcome.stdout, outcome.stderr, outcome.output_lost) == ("a\nb", "e\n", True)


def test_output_at_the_end_heeds_the_limit_of_the_log():
    following = machine(strategy=WaitStrategy.WAIT, log_bytes=8)
    entries = following.answered(result(stdout="1\n2\n3\n", stderr="4\n5\n6\n"), T0)

    assert lines_of(entries) == ["1", "2", "3", "6"]
    assert "max_log_bytes" in notices_of(entries)[0]
    assert outcome_of(following).stdout == "1\n2\n3\n"


def test_a_broken_off_stream_of_an_error_event_is_opened_again():
    following = machine()
    entries = feed(following, output(1, "a\n"), Failed(error="proxy restarts"), output(2, "b\n"))

    assert lines_of(entries) == ["a"]
    assert "proxy restarts" in notices_of(entries)[0]
    assert following.step(T0 + 60) == OpenStream(2)
