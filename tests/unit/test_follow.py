"""The loop that follows a process, over a real client whose transport is a fake."""

import asyncio
import itertools
import time
import types
from contextlib import suppress

import httpx
import pytest

from airflow_provider_sbx import follow as module
from airflow_provider_sbx.api import errors
from airflow_provider_sbx.api.following import Following
from airflow_provider_sbx.api.models import ProcessParameters
from airflow_provider_sbx.api.steps import WaitStrategy
from airflow_provider_sbx.client import AsyncSandboxClient
from airflow_provider_sbx.follow import end_overdue, follow
from tests.unit.builders import (
    API_KEY,
    CONTROL,
    PROCESS,
    SANDBOX,
    lines_of,
    notices_of,
    process_body,
    result_body,
    sse,
    sse_output,
)
from tests.unit.client.twins import IMPATIENT, QUICK, event_stream, held_stream

P = "/sandbox/processes"
STREAM = ("GET", f"{P}/{PROCESS}/stream")
CUT = httpx.ReadError("the line was cut")


def done(**changes):
    return sse("done", result_body(**changes))


def client_of(service, policy=QUICK):
    transport = httpx.MockTransport(service.answer_async)
    return AsyncSandboxClient(API_KEY, CONTROL, policy=policy, transport=transport)


def machine(policy=QUICK, **options):
    return Following(PROCESS, policy=policy, **options)


async def followed(service, following=None, *, policy=QUICK, entries=None, **options):
    entries = [] if entries is None else entries
    async with client_of(service, policy) as client:
        outcome = await follow(client, SANDBOX, following or machine(), entries.extend, **options)
    return outcome, entries


async def test_a_process_is_followed_to_its_end(service):
    service.queue(*STREAM, event_stream(sse_output(1, "a\nb\n"), done(exit_code=3, last_seq=1)))

    outcome, entries = await followed(service)

    assert (outcome.exit_code, outcome.stdout) == (3, "a\nb\n")
    assert lines_of(entries) == ["a", "b"]


async def test_a_stream_that_is_cut_is_taken_up_from_the_next_number(service):
    service.queue(
        *STREAM,
        event_stream(sse_output(1, "a\n"), sse_output(2, "b\n"), CUT),
        httpx.Response(503),
        event_stream(sse_output(3, "c\n")),
        event_stream(sse_output(4, "d\n"), done(last_seq=4)),
    )

    outcome, entries = await followed(service)

    assert lines_of(entries) == ["a", "b", "c", "d"]
    assert not outcome.output_lost
    assert [path.partition("?")[2] for path in service.asked()] == [
        "",
        "from_seq=3",
        "from_seq=3",
        "from_seq=4",
    ]


async def test_output_that_is_gone_is_searched_over_the_wire(service):
    expired = httpx.Response(410, json={"error": "Replay window expired"})
    rest = [sse_output(3, "c\n"), sse_output(4, "d\n"), done(last_seq=4)]
    service.queue(*STREAM, expired, expired, event_stream(*rest[1:]), event_stream(*rest))

    outcome, entries = await followed(service)

    assert notices_of(entries) == ["Output events 1 to 2: no longer kept by the service."]
    assert lines_of(entries) == ["c", "d"]
    assert [path.rpartition("=")[2] for path in service.asked()[1:]] == ["2", "4", "3"]
    assert outcome.output_lost


async def test_the_events_of_a_start_are_read_before_anything_is_asked(service):
    service.queue("POST", P, event_stream(sse("started", process_body()), sse_output(1, "a\n"), CUT))
    service.queue(*STREAM, event_stream(done(last_seq=1)))
    entries = []
    async with (
        client_of(service) as client,
        client.start_streaming(SANDBOX, ProcessParameters(command="x")) as begun,
    ):
        outcome = await follow(client, SANDBOX, machine(), entries.extend, events=begun.events)

    assert outcome.exit_code == 0
    assert lines_of(entries) == ["a"]
    assert service.asked("GET") == [f"GET {P}/{PROCESS}/stream?from_seq=2"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(404, json={"error": "x"}), errors.NotFoundError),
        (httpx.Response(403, json={"error": "x"}), errors.AuthenticationError),
        (httpx.Response(409, json={"code": "sandbox_not_running"}), errors.SandboxNotRunningError),
    ],
)
async def test_what_makes_going_on_pointless_is_raised(service, answer, kind):
    service.queue(*STREAM, answer)

    with pytest.raises(kind):
        await followed(service)


async def test_a_service_out_of_reach_is_an_error_once_patience_is_over(service):
    service.queue(*STREAM, *[httpx.Response(503)] * 2000)
    service.queue("GET", f"{P}/{PROCESS}", *[httpx.Response(503)] * 2000)

    with pytest.raises(errors.ServiceUnavailableError):
        await followed(service, machine(policy=IMPATIENT), policy=IMPATIENT)


async def test_a_long_poll_that_fails_is_told_of_and_asked_again(service):
    service.queue("POST", f"{P}/{PROCESS}/wait", httpx.Response(502), {"result": result_body(stdout="a\n")})

    outcome, entries = await followed(service, machine(strategy=WaitStrategy.WAIT))

    assert (outcome.stdout, lines_of(entries)) == ("a\n", ["a"])
    assert "answered 502" in notices_of(entries)[0]


async def test_polling_asks_for_the_status_and_at_the_end_for_the_result(service):
    running, ended = {"process": process_body()}, {"process": process_body(status="exited")}
    service.queue("GET", f"{P}/{PROCESS}", running, running, ended)
    service.queue("POST", f"{P}/{PROCESS}/wait", {"result": result_body(exit_code=2)})

    outcome, _ = await followed(service, machine(strategy=WaitStrategy.POLL, poll_seconds=0.001))

    assert outcome.exit_code == 2
    assert service.asked() == [f"GET {P}/{PROCESS}"] * 3 + [f"POST {P}/{PROCESS}/wait"]


# --- leaving early ---------------------------------------------------------------------------


async def test_when_its_time_comes_it_leaves_and_the_machine_can_go_on_elsewhere(service):
    opened = held_stream(sse_output(1, "a\nhalf"))
    service.queue(*STREAM, opened)
    following = machine()

    outcome, entries = await followed(service, following, until=time.time() + 0.05)

    assert outcome is None
    assert lines_of(entries) == ["a"]
    assert opened.is_closed
    service.queue(*STREAM, event_stream(sse_output(2, " line\n"), done(last_seq=2)))
    outcome, entries = await followed(service, machine(state=following.state()))
    assert lines_of(entries) == ["half line"]


async def test_when_its_time_has_passed_it_leaves_at_once(service):
    service.queue(*STREAM, held_stream())

    outcome, entries = await followed(service, until=time.time() - 1)

    assert (outcome, entries) == (None, [])


async def test_a_timeout_of_somebody_elses_is_not_taken_for_ones_own(service):
    service.queue(*STREAM, held_stream())

    async def limited():
        async with asyncio.timeout(0.05):
            await followed(service, until=time.time() + 60)

    with pytest.raises(TimeoutError):
        await limited()


async def test_a_timeout_that_the_log_raises_is_not_taken_for_ones_own_either(service):
    service.queue(*STREAM, held_stream(sse_output(1, "a\n")))

    def emit(_):
        raise TimeoutError

    async with client_of(service) as client:
        with pytest.raises(TimeoutError):
            await follow(client, SANDBOX, machine(), emit, until=time.time() + 60)


async def test_being_cancelled_closes_the_stream(service):
    opened = held_stream(sse_output(1, "a\n"))
    service.queue(*STREAM, opened)
    task = asyncio.create_task(followed(service))
    for _ in range(50):
        await asyncio.sleep(0)
    task.cancel()

    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert opened.is_closed


# --- many lines ------------------------------------------------------------------------------


async def test_a_noisy_process_lets_the_others_have_their_turn(service):
    noise = b"".join(sse_output(seq, "x\n" * 50) for seq in range(1, 401))
    service.queue(*STREAM, event_stream(noise, done(last_seq=400)))
    longest, at_turn, seen = 0, 0, []

    async def others():
        nonlocal longest, at_turn
        while True:
            longest, at_turn = max(longest, len(seen) - at_turn), len(seen)
            await asyncio.sleep(0)

    async with client_of(service) as client:
        task = asyncio.create_task(others())
        await follow(client, SANDBOX, machine(), seen.extend)
        task.cancel()

    assert len(seen) == 400 * 50
    assert 0 < longest <= 300


async def test_one_event_of_many_lines_is_handed_on_in_batches_and_all_of_it_when_cancelled(service):
    service.queue(*STREAM, held_stream(sse_output(1, "x\n" * 2000)))
    following, batches, begun = machine(), [], asyncio.Event()

    def emit(entries):
        batches.append(len(entries))
        begun.set()

    async def run():
        async with client_of(service) as client:
            await follow(client, SANDBOX, following, emit)

    task = asyncio.create_task(run())
    await begun.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    assert batches[0] <= 50
    assert sum(batches) == 2000
    assert following.next_seq == 2


async def test_a_line_without_an_end_is_shown_while_its_process_is_quiet(monkeypatch, service):
    clock = itertools.count(int(time.time()))
    monkeypatch.setattr(module, "time", types.SimpleNamespace(time=lambda: next(clock)))
    monkeypatch.setattr(module, "_TICK_SECONDS", 0.001)
    shown = asyncio.Event()
    entries = []

    def emit(batch):
        entries.extend(batch)
        shown.set()

    service.queue(*STREAM, held_stream(sse_output(1, "Password: ")))

    async with client_of(service) as client:
        task = asyncio.create_task(follow(client, SANDBOX, machine(), emit))
        await asyncio.wait_for(shown.wait(), 5)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    assert lines_of(entries) == ["Password: "]


# --- a process whose time is up --------------------------------------------------------------


async def test_a_process_whose_time_is_up_is_ended_and_its_last_words_are_shown(service):
    service.queue("GET", f"{P}/{PROCESS}", {"process": process_body()})
    service.queue("POST", f"{P}/{PROCESS}/signal", {"process": process_body()})
    service.queue("POST", f"{P}/{PROCESS}/wait", {"result": result_body(status="killed", exit_code=143)})
    service.queue(*STREAM, event_stream(sse_output(1, "bye\n"), done(last_seq=1, status="killed")))
    entries = []

    async with client_of(service) as client:
        ending = await end_overdue(client, SANDBOX, machine(), entries.extend, grace_seconds=1)

    assert ending.how == "it ended after TERM"
    assert lines_of(entries) == ["bye"]


async def test_last_words_that_can_not_be_had_are_no_error(service):
    service.queue("GET", f"{P}/{PROCESS}", {"process": process_body(status="exited")})
    service.queue(*STREAM, httpx.Response(404, json={"error": "x"}))

    async with client_of(service) as client:
        ending = await end_overdue(client, SANDBOX, machine(), lambda _: None, grace_seconds=1)

    assert "had already ended" in ending.how


async def test_the_beginning_of_a_line_is_not_shown_amid_the_lines_before_it(service, monkeypatch):
    """Whoever logs slowly must not take that for a pause of the process."""
    monkeypatch.setattr(module, "_TICK_SECONDS", 0.0)
    monkeypatch.setattr("airflow_provider_sbx.api.transcript._TICK_SECONDS", 0.0)
    clock = [1_700_000_000.0]
    monkeypatch.setattr(module, "time", types.SimpleNamespace(time=lambda: clock[0]))
    many = "".join(f"{n}\n" for n in range(1000))
    pieces = [sse_output(1, "be"), sse_output(2, f"gin\n{many}ha"), sse_output(3, "lf\n")]
    service.queue(*STREAM, event_stream(*pieces, done(last_seq=3)))
    entries = []

    def emit(batch):
        entries.extend(batch)
        clock[0] += 5.0

    async with client_of(service) as client:
        await follow(client, SANDBOX, machine(), emit)

    assert lines_of(entries) == ["begin", *map(str, range(1000)), "half"]
