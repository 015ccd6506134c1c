"""How many streams are open at once, who is next, and what a process's limit of files allows."""

import asyncio
import logging
import resource
from contextlib import suppress

import httpx
import pytest

from airflow_provider_sbx import streams
from airflow_provider_sbx.api.following import Following
from airflow_provider_sbx.client import AsyncSandboxClient
from airflow_provider_sbx.follow import follow
from airflow_provider_sbx.sharing import limit_streams
from airflow_provider_sbx.streams import Places, StreamLimit, Ticket, fitting, warn_unless_fitting
from tests.unit.builders import (
    API_KEY,
    CONTROL,
    SANDBOX,
    lines_of,
    notices_of,
    process_body,
    result_body,
    sandbox_body,
    sse,
    sse_output,
)
from tests.unit.client.twins import QUICK

# --- places ----------------------------------------------------------------------------------


async def test_places_are_given_in_the_order_in_which_they_were_asked_for():
    places = Places(2)
    first, second, third, fourth = (places.ask() for _ in range(4))
    assert [place.done() for place in (first, second, third, fourth)] == [True, True, False, False]

    places.leave(second)
    assert (third.done(), fourth.done()) == (True, False)
    places.leave(first)
    assert fourth.done()


async def test_one_that_waits_no_more_is_passed_over():
    places = Places(1)
    first, second, third = (places.ask() for _ in range(3))
    places.leave(second)
    places.leave(first)

    assert third.done()
    assert not second.done()


async def test_a_place_that_nobody_waits_for_is_free_again():
    places = Places(1)
    places.leave(places.ask())

    assert places.ask().done()


async def test_an_ended_process_needs_not_stand_in_line_behind_those_that_run():
    limit = StreamLimit(1)
    holder, waiting, ended, next_ended = (Ticket(limit) for _ in range(4))
    assert await holder.may_stream(is_short=False)
    assert not await waiting.may_stream(is_short=False)

    assert await ended.may_stream(is_short=True)
    turn = asyncio.create_task(next_ended.may_stream(is_short=True))
    await asyncio.sleep(0)
    assert not turn.done()
    ended.give_back()
    assert await turn


async def test_one_whose_process_ends_in_line_leaves_it():
    limit = StreamLimit(1)
    holder, ended, waiting = (Ticket(limit) for _ in range(3))
    for ticket in (holder, ended, waiting):
        await ticket.may_stream(is_short=False)
    assert await ended.may_stream(is_short=True)

    holder.give_back()

    assert waiting.place.done()
    assert await ended.may_stream(is_short=True)  # again, as after a stream that was cut


async def test_one_that_is_cancelled_in_line_takes_no_place_along():
    limit = StreamLimit(1)
    holder, gone, waiting = (Ticket(limit) for _ in range(3))
    assert await holder.may_stream(is_short=True)
    turn = asyncio.create_task(gone.may_stream(is_short=True))
    await asyncio.sleep(0)
    turn.cancel()
    with suppress(asyncio.CancelledError):
        await turn
    gone.give_back()
    holder.give_back()

    assert await waiting.may_stream(is_short=True)


@pytest.mark.parametrize(("most", "short"), [(1, 1), (9, 1), (40, 4), (1000, 25)])
async def test_few_places_are_for_the_output_of_ended_processes(most, short):
    limit = StreamLimit(most)

    assert [limit.short.ask().done() for _ in range(short + 1)] == [True] * short + [False]


# --- files -----------------------------------------------------------------------------------


@pytest.fixture
def files(monkeypatch):
    def set_limit(count):
        monkeypatch.setattr(resource, "getrlimit", lambda _: (count, count))

    warn_unless_fitting.cache_clear()
    yield set_limit
    warn_unless_fitting.cache_clear()


@pytest.mark.parametrize(
    ("limit", "most", "fits"),
    [
        (1024, 1000, 924),
        (1024, 924, 924),
        (1024, 5, 5),
        (50, 1000, 1),
        (resource.RLIM_INFINITY, 10**6, 10**6),
    ],
)
def test_as_many_streams_are_opened_as_files_may_be(files, limit, most, fits):
    files(limit)

    assert fitting(most) == fits


def test_a_limit_of_files_that_allows_less_is_told_once_with_the_remedy(files, caplog):
    files(1024)
    with caplog.at_level(logging.WARNING, logger=streams.__name__):
        for _ in range(3):
            warn_unless_fitting("mine", 5000)
            warn_unless_fitting("small", 100)

    (said,) = caplog.messages
    assert "'mine': max_streams is 5000" in said
    assert "924 streams" in said
    assert "ulimit -n 5100" in said
    assert "LimitNOFILE=5100" in said


# --- waits that share them -------------------------------------------------------------------


class Service:
    """A service whose streams are held until their processes are let go, and which counts them."""

    def __init__(self, count):
        self.ends = {f"p-{n}": asyncio.Event() for n in range(count)}
        self.open, self.most, self.opened = 0, 0, []

    async def answer(self, request):
        path = request.url.path
        if path.startswith("/api/sandbox/"):
            return httpx.Response(200, json=sandbox_body())
        if path == "/sandbox/processes":
            return httpx.Response(200, json={"data": [self.body(each) for each in self.ends]})
        process_id = path.split("/")[3]
        if path.endswith("/stream"):
            self.opened.append(process_id)
            return httpx.Response(
                200, headers={"content-type": "text/event-stream"}, stream=Output(self, process_id)
            )
        return httpx.Response(200, json={"process": self.body(process_id)})

    def body(self, process_id):
        status = "exited" if self.ends[process_id].is_set() else "running"
        return process_body(id=process_id, status=status)


class Output(httpx.AsyncByteStream):
    def __init__(self, service, process_id):
        self.service, self.process_id = service, process_id
        service.open += 1
        service.most = max(service.most, service.open)

    async def __aiter__(self):
        yield sse_output(1, f"first of {self.process_id}\n")
        await self.service.ends[self.process_id].wait()
        yield sse_output(2, f"last of {self.process_id}\n")
        yield sse("done", result_body(id=self.process_id, last_seq=2))

    async def aclose(self):
        self.service.open -= 1


async def test_waits_above_the_limit_poll_say_so_once_and_stream_in_turn_without_a_loss():
    service = Service(6)
    entries = {each: [] for each in service.ends}
    transport = httpx.MockTransport(service.answer)
    async with AsyncSandboxClient(API_KEY, CONTROL, policy=QUICK, transport=transport) as client:
        limit_streams(client, 2)
        tasks = [
            asyncio.create_task(
                follow(client, SANDBOX, Following(each, policy=QUICK, poll_seconds=0.01), told.extend)
            )
            for each, told in entries.items()
        ]
        while not all(entries.values()):  # noqa: ASYNC110 - what is waited for signals nothing
            await asyncio.sleep(0.001)
        assert service.opened == ["p-0", "p-1"]
        service.ends["p-4"].set()  # in line: its output is read by a short stream
        await tasks[4]
        assert service.opened == ["p-0", "p-1", "p-4"]
        for each in service.ends.values():
            await asyncio.sleep(0.002)
            each.set()
        await asyncio.gather(*tasks)

    assert service.most <= 3
    assert service.opened[3] == "p-2"  # who waited longest comes first
    for each, told in entries.items():
        assert lines_of(told) == [f"first of {each}", f"last of {each}"]
    full = "All 2 streams that may be open at once (max_streams) are taken"
    assert [len([t for t in notices_of(told) if full in t]) for told in entries.values()] == [
        *(0, 0, 1, 1, 1, 1)
    ]


async def test_waits_that_are_cancelled_in_line_or_while_they_stream_leave_their_places():
    service = Service(4)
    transport = httpx.MockTransport(service.answer)
    async with AsyncSandboxClient(API_KEY, CONTROL, policy=QUICK, transport=transport) as client:
        limit_streams(client, 1)
        told = [[] for _ in service.ends]
        tasks = [
            asyncio.create_task(
                follow(client, SANDBOX, Following(each, policy=QUICK, poll_seconds=0.01), entries.extend)
            )
            for each, entries in zip(service.ends, told, strict=True)
        ]
        while not all(told):  # noqa: ASYNC110 - what is waited for signals nothing
            await asyncio.sleep(0.001)
        tasks[1].cancel()
        await asyncio.sleep(0)
        tasks[0].cancel()
        while len(service.opened) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert service.opened == ["p-0", "p-2"]
        for each in service.ends.values():
            each.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    assert [task.cancelled() for task in tasks] == [True, True, False, False]
