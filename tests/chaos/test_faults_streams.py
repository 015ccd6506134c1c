"""A process's event stream in every kind of trouble: it ran once, and each line stands once in the log."""

import pytest

from tests.chaos.proxy import Rule, starts, streams
from tests.chaos.proxy.faults import (
    STRANGERS,
    Act,
    Break,
    CloseStream,
    CutAfter,
    Delay,
    Drop,
    EndStream,
    Fail,
    Hang,
    Intersperse,
    Refuse,
    Repeat,
    ResetConnection,
    Shred,
    Swap,
    Utf8,
    gateway_error,
    named,
    numbered,
)
from tests.chaos.runs import Script

# --- the stream breaks off ---------------------------------------------------------------------


def test_a_stream_that_is_cut_every_few_events_loses_nothing(chaos):
    def plan(run):
        ending = run.rng.choice([ResetConnection, CloseStream])
        return [Rule(streams, CutAfter(lambda: run.rng.randint(2, 7), ending))]

    chaos(plan)


def test_a_stream_that_is_cut_amid_an_event_loses_nothing(chaos):
    def plan(run):
        ending = run.rng.choice([ResetConnection, CloseStream])
        return [
            Rule(streams, Utf8()),
            Rule(
                streams,
                CutAfter(lambda: run.rng.randint(2, 7), ending, spare_bytes=lambda: run.rng.randint(1, 120)),
            ),
        ]

    chaos(plan)


def test_a_stream_that_ends_without_done_is_no_end_of_the_process(chaos):
    def plan(run):
        spare = run.rng.choice([lambda: 0, lambda: run.rng.randint(1, 90)])
        return [Rule(streams, CutAfter(lambda: run.rng.randint(1, 9), EndStream, spare_bytes=spare))]

    chaos(plan)


def test_a_stream_that_breaks_off_before_any_event_time_and_again_loses_nothing(chaos):
    def plan(run):
        ending = run.rng.choice([ResetConnection, CloseStream, EndStream, gateway_error(502)])
        fault = Refuse(ending) if ending is not EndStream else CutAfter(0, EndStream)
        return [
            Rule(streams, CutAfter(3, CloseStream), times=1),
            Rule(streams, fault, skip=1, times=run.rng.randint(2, 4)),
        ]

    chaos(plan)


def test_a_stream_that_falls_silent_is_left_and_read_on_anew(chaos, monkeypatch):
    # A minute for users; no setting shortens it.
    monkeypatch.setattr("airflow_provider_sbx.client.wire.IDLE_SECONDS", 1.2)

    def plan(run):
        return [Rule(streams, CutAfter(lambda: run.rng.randint(1, 12), Hang), times=2)]

    chaos(plan)


def test_a_command_that_ends_while_nobody_looks_leaves_the_same_log_and_result(chaos):
    def plan(run):
        return [
            Rule(starts, CutAfter(run.rng.randint(0, 2), CloseStream)),
            Rule(lambda r: streams(r) and not starts(r), Delay(1.0), times=1),
        ]

    chaos(plan, Script(pause=0.005))


def test_quiet_seconds_are_no_trouble(chaos):
    runs = chaos(lambda run: [], Script(lines=3, pause=1.0))

    assert all(len(run.log.notices) <= 4 for run in runs)


# --- the stream is not as it was sent ----------------------------------------------------------


def test_events_that_come_twice_or_late_are_logged_once(chaos):
    chaos(lambda run: [Rule(streams, Repeat(run.rng))])


def test_events_that_get_lost_on_the_way_are_fetched_again(chaos):
    def plan(run):
        lost = set(run.rng.sample(range(1, 29), 4))
        return [Rule(streams, Drop(lambda seq: int(seq in lost)))]

    chaos(plan)


def test_events_that_change_places_are_fetched_again(chaos):
    chaos(lambda run: [Rule(streams, Swap(run.rng))])


def test_events_that_never_arrive_are_named_and_the_rest_is_logged(chaos):
    lost = {}

    def plan(run):
        first = run.rng.randint(2, 20)
        lost[run.task_id] = {first, *range(24, 24 + run.rng.randint(0, 2))}
        return [Rule(streams, Drop(lambda seq: 99 * (seq in lost[run.task_id])))]

    for run in chaos(plan, may_lose=True):
        assert run.log.named == run.existing(lost[run.task_id])


def test_bytes_that_are_split_anywhere_make_the_same_lines(chaos):
    def plan(run):
        return [Rule(streams, Utf8()), Rule(streams, Shred(run.rng, run.rng.choice([1, 3, 40])))]

    chaos(plan)


def test_half_lines_and_half_characters_of_the_process_make_whole_ones(chaos):
    body = (
        "for i in 1 2 3 4 5 6; do printf 'half \\303'; sleep 0.15; "
        "printf '\\244 and \\360\\235'; sleep 0.15; printf '\\204\\236 %s\\n' $i; done"
    )

    def plan(run):
        return [Rule(streams, Utf8()), Rule(streams, CutAfter(lambda: run.rng.randint(1, 5), CloseStream))]

    script = Script(body=body, expected=[f"half ä and 𝄞 {n}" for n in range(1, 7)])
    chaos(plan, script, whole_lines=False)


def test_unknown_events_and_comments_are_passed_over(chaos):
    chaos(lambda run: [Rule(streams, Intersperse(run.rng, STRANGERS))])


def test_all_of_it_at_once_loses_nothing(chaos):
    def plan(run):
        lost = set(run.rng.sample(range(1, 29), 2))
        return [
            Rule(streams, Utf8()),
            Rule(streams, Drop(lambda seq: int(seq in lost))),
            Rule(streams, Repeat(run.rng)),
            Rule(streams, Intersperse(run.rng, STRANGERS)),
            Rule(streams, CutAfter(lambda: run.rng.randint(4, 20), CloseStream), times=3),
            Rule(streams, Shred(run.rng)),
        ]

    chaos(plan)


# --- the stream can't be read ------------------------------------------------------------------


def test_a_service_that_breaks_its_stream_off_with_an_error_is_asked_again(chaos):
    def plan(run):
        body = {"error": "the follower was moved", "code": run.rng.choice(["internal", None, "overloaded"])}
        return [Rule(streams, Fail(lambda: run.rng.randint(1, 8), body), times=4)]

    chaos(plan)


def test_an_expiry_that_the_stream_itself_tells_of_loses_nothing_that_is_there(chaos):
    def plan(run):
        body = {"error": "Replay window expired", "code": "replay_window_expired"}
        return [Rule(streams, Fail(lambda: run.rng.randint(2, 8), body), times=2)]

    chaos(plan)


SPOILT = [
    lambda data: data[:-9],
    lambda data: b"<html>502</html>",
    lambda data: data.replace(b'"stream"', b'"strm"').replace(b'"status"', b'"sttus"'),
    lambda data: b"",
]


def test_an_event_that_arrives_spoilt_once_is_read_the_second_time(chaos):
    def plan(run):
        spoilt = run.rng.sample(range(1, 29), 2)
        return [Rule(streams, Break(numbered(*spoilt), run.rng.choice(SPOILT)))]

    chaos(plan)


def test_an_event_that_can_never_be_read_is_named_and_the_rest_is_logged_as_it_comes(chaos):
    spoilt = {}

    def plan(run):
        spoilt[run.task_id] = set(run.rng.sample(range(2, 28), 2))
        return [Rule(streams, Break(numbered(*spoilt[run.task_id], times=99), run.rng.choice(SPOILT)))]

    for run in chaos(plan, may_lose=True):
        assert run.log.named == run.existing(spoilt[run.task_id])


def test_output_that_is_no_base64_is_named_and_the_rest_is_logged(chaos):
    spoilt = {}

    def plan(run):
        spoilt[run.task_id] = {run.rng.randint(2, 27)}

        def spoil(data):
            return data[:-1] + b', "encoding": "base64"}'

        return [Rule(streams, Break(numbered(*spoilt[run.task_id], times=99), spoil))]

    for run in chaos(plan, may_lose=True):
        assert run.log.named == run.existing(spoilt[run.task_id])


def test_an_end_that_can_never_be_read_from_the_stream_is_asked_for(chaos):
    chaos(lambda run: [Rule(streams, Break(named("done", 99)))])


def test_a_start_whose_first_event_can_not_be_read_is_found_by_its_key(chaos):
    chaos(lambda run: [Rule(streams, Break(named("started", 99), run.rng.choice(SPOILT)))])


# --- what is no longer kept --------------------------------------------------------------------


def test_output_that_is_no_longer_kept_is_named_and_the_rest_is_logged(chaos_on):
    def follows(request):
        return streams(request) and not starts(request)

    def plan(run):
        # Half of them come back once all is written; the others while the window still moves.
        late = Act(run.wait_for_end) if run.seed % 2 else Refuse(gateway_error(503))
        return [
            Rule(starts, CutAfter(3, CloseStream)),
            Rule(follows, late, times=2),
            Rule(follows, CutAfter(9, CloseStream), skip=2, times=1),
        ]

    script = Script(lines=400, pause=0.01)
    for run in chaos_on("--replay-bytes", "2000")(plan, script, may_lose=True):
        assert run.log.named or run.seed % 2 == 0
        assert run.log.lines()[-1] == script.stdout[-1]


# --- other ways to wait ------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["wait", "poll"])
def test_waits_without_a_stream_bear_the_same_gateways(chaos, strategy):
    def plan(run):
        # Each refusal is of an answer that may be asked for again.
        def waits(r):
            return r.path.endswith("/wait") or (r.method == "GET" and "/processes/" in r.path)

        ending = run.rng.choice([gateway_error(502), gateway_error(504), ResetConnection])
        return [Rule(waits, Refuse(ending), skip=run.rng.randint(0, 1), times=3)]

    chaos(plan, wait_strategy=strategy, poll_interval=0.5)
