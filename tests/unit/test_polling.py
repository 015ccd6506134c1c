"""Looks at a sandbox that many waits share, over a real client whose transport is a fake."""

import asyncio
import gc
import weakref
from contextlib import suppress

import httpx
import pytest

from airflow_provider_sbx import sharing
from airflow_provider_sbx.api import errors
from airflow_provider_sbx.api.following import Following
from airflow_provider_sbx.api.retrying import RetryPolicy
from airflow_provider_sbx.api.steps import AskPoll, WaitStrategy
from airflow_provider_sbx.client import AsyncSandboxClient
from airflow_provider_sbx.follow import end_overdue, follow
from airflow_provider_sbx.polling import Hint, Poller
from tests.unit.builders import (
    API_KEY,
    CONTROL,
    SANDBOX,
    T0_MS,
    lines_of,
    notices_of,
    process_body,
    result_body,
    sandbox_body,
    until,
)
from tests.unit.client.twins import IMPATIENT, QUICK

P = "/sandbox/processes"
LIST = ("GET", P)


class Sandboxes:
    """A service that knows some processes, and counts what it is asked for."""

    def __init__(self, *ids, page=100):
        self.running = set(ids)
        self.known = list(ids)
        self.unlisted = set()
        self.page = page
        self.status = "active"
        self.trouble = []
        self.asked = []
        self.queries = []

    async def answer(self, request):
        path = request.url.path
        if path.startswith("/api/sandbox/"):
            self.asked.append("sandbox")
            return httpx.Response(200, json=sandbox_body(status=self.status))
        if path == P:
            self.asked.append("list")
            self.queries.append(dict(request.url.params))
            if self.trouble:
                return self.trouble.pop(0)
            return httpx.Response(200, json=self.listed(request.url.params.get("cursor")))
        process_id = path.split("/")[3]
        if path.endswith("/wait"):
            self.asked.append(f"wait {process_id}")
            return httpx.Response(
                200, json={"result": result_body(id=process_id, stdout=f"of {process_id}\n")}
            )
        self.asked.append(f"get {process_id}")
        if self.trouble:
            return self.trouble.pop(0)
        if process_id not in self.known:
            return httpx.Response(404, json={"error": "no such process"})
        return httpx.Response(200, json={"process": self.body(process_id)})

    def listed(self, cursor):
        ids = [each for each in self.known if each not in self.unlisted]
        begin = int(cursor or 0)
        shown, rest = ids[begin : begin + self.page], ids[begin + self.page :]
        return {
            "data": [self.body(each) for each in shown],
            "next_cursor": str(begin + self.page) if rest else None,
        }

    def body(self, process_id):
        return process_body(id=process_id, status="running" if process_id in self.running else "exited")

    def looks(self):
        """Return what was asked for without the reads of the token and of results."""
        return [what for what in self.asked if what != "sandbox" and not what.startswith("wait")]


def client_of(service, policy=QUICK):
    transport = httpx.MockTransport(service.answer)
    return AsyncSandboxClient(API_KEY, CONTROL, policy=policy, transport=transport)


def machine(process_id, seconds=0.01, policy=QUICK, **options):
    return Following(process_id, strategy=WaitStrategy.POLL, poll_seconds=seconds, policy=policy, **options)


def waits(client, ids, seconds=0.01, emit=lambda _: None, **options):
    return [
        asyncio.create_task(follow(client, SANDBOX, machine(each, seconds, **options), emit)) for each in ids
    ]


# --- sharing ---------------------------------------------------------------------------------


async def test_one_list_an_interval_answers_all_who_wait_in_a_sandbox():
    ids = [f"p-{n}" for n in range(60)]
    service = Sandboxes(*ids)
    async with client_of(service) as client:
        tasks = waits(client, ids)
        await until(lambda: len(service.looks()) >= 3)
        service.running.clear()
        outcomes = await asyncio.gather(*tasks)

    assert [outcome.stdout for outcome in outcomes] == [f"of {each}\n" for each in ids]
    assert set(service.looks()) == {"list"}
    assert len(service.looks()) <= 6
    assert sorted(what for what in service.asked if what.startswith("wait")) == sorted(
        f"wait {each}" for each in ids
    )


async def test_who_waits_alone_asks_for_the_process_itself():
    service = Sandboxes("p-1", "p-2")
    async with client_of(service) as client:
        tasks = waits(client, ["p-1", "p-1"])
        await until(lambda: len(service.looks()) >= 2)
        service.running.clear()
        await asyncio.gather(*tasks)

    assert set(service.looks()) == {"get p-1"}


async def test_pages_are_read_until_all_were_seen_and_no_further():
    ids = [f"p-{n}" for n in range(10)]
    service = Sandboxes(*ids, page=2)
    async with client_of(service) as client:
        tasks = waits(client, ["p-0", "p-3"], seconds=0.2)
        await until(lambda: len(service.looks()) == 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    assert service.queries == [{"limit": "100"}, {"limit": "100", "cursor": "2"}]


@pytest.mark.parametrize(
    ("starts", "bound"),
    [((T0_MS, T0_MS + 5000), str(T0_MS - 60_000)), ((T0_MS, None), None)],
)
async def test_a_list_is_narrowed_to_the_earliest_start_if_all_are_known(starts, bound):
    service = Sandboxes("p-0", "p-1")
    async with client_of(service) as client:
        tasks = [
            asyncio.create_task(follow(client, SANDBOX, machine(f"p-{n}", started_at=at), lambda _: None))
            for n, at in enumerate(starts)
        ]
        await until(lambda: len(service.queries) == 1)
        service.running.clear()
        await asyncio.gather(*tasks)

    assert service.queries[0].get("created_after") == bound


async def test_a_process_that_is_not_listed_is_asked_for_by_its_id():
    service = Sandboxes("p-0", "p-1", "p-2")
    service.unlisted = {"p-1"}
    async with client_of(service) as client:
        tasks = waits(client, ["p-0", "p-1", "p-2"])
        await until(lambda: service.looks().count("get p-1") >= 2)
        service.running.clear()
        outcomes = await asyncio.gather(*tasks)

    assert [outcome.exit_code for outcome in outcomes] == [0, 0, 0]
    assert set(service.looks()) == {"list", "get p-1"}


async def test_only_the_one_that_is_not_known_by_its_id_either_is_lost():
    service = Sandboxes("p-0", "p-1")
    async with client_of(service) as client:
        tasks = waits(client, ["p-0", "p-1", "p-9"])
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(tasks[2].exception(), errors.NotFoundError)
        service.running.clear()
        await asyncio.gather(*tasks[:2])


# --- when ------------------------------------------------------------------------------------


class Clock:
    """Stands where the loop's timers would be: says how soon each look comes, and lets it come."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.due = None
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: self.now)
        monkeypatch.setattr(loop, "call_later", self.call_later)

    def call_later(self, seconds, callback, *, context):
        return Timer(self, self.now + seconds, callback)

    async def look(self):
        """Let the next look come, and all that follows from it."""
        self.now = self.due.when()
        timer, self.due = self.due, None
        timer.callback()
        for _ in range(30):
            await asyncio.sleep(0)


class Timer:
    def __init__(self, clock, at, callback):
        self.at, self.callback, self.clock = at, callback, clock
        clock.due = self

    def when(self):
        return self.at

    def cancel(self):
        if self.clock.due is self:
            self.clock.due = None


@pytest.fixture
async def clock(monkeypatch):
    return Clock(monkeypatch)


def poller_of(client):
    return Poller(client, SANDBOX, chance=lambda: 0.5)


async def test_the_first_look_comes_soon_and_the_next_after_the_shortest_interval(clock):
    client = client_of(Sandboxes("a", "b"))
    poller = poller_of(client)
    poller.join("a", AskPoll(30, is_first=True))
    assert clock.due.when() == pytest.approx(0.1875)
    await clock.look()
    poller.join("a", AskPoll(30))
    assert clock.due.when() - clock.now == pytest.approx(30)

    poller.join("b", AskPoll(5, is_first=True))
    assert clock.due.when() - clock.now == pytest.approx(5)
    poller.join("b", AskPoll(60))
    assert clock.due.when() - clock.now == pytest.approx(5)

    await clock.look()
    assert clock.due.when() - clock.now == pytest.approx(5)


async def test_a_look_tells_of_ends_and_of_first_looks_and_else_of_nothing(clock):
    service = Sandboxes("a", "b", "c")
    poller = poller_of(client_of(service))
    service.running = {"a", "b"}
    ask, first = AskPoll(5), AskPoll(5, is_first=True)
    a, b, c, d = (poller.join(*each) for each in [("a", ask), ("b", first), ("c", ask), ("d", ask)])

    await clock.look()

    assert not a.news.done()
    assert not b.news.result().status.is_terminal
    assert c.news.result().status.is_terminal
    assert d.news.result() is Hint.NOT_LISTED


async def test_a_retry_after_decides_when_the_next_look_comes_also_for_one_who_comes_meanwhile(clock):
    service = Sandboxes("a", "b", "c")
    service.trouble = [httpx.Response(429, headers={"retry-after": "40"})]
    poller = poller_of(client_of(service, RetryPolicy()))
    first = [poller.join(each, AskPoll(5)) for each in "ab"]
    await clock.look()

    assert [each.news.result().status_code for each in first] == [429, 429]
    assert first[0].news.result() is not first[1].news.result()
    poller.join("c", AskPoll(1))
    assert 40 <= clock.due.when() - clock.now <= 41
    poller.join("a", AskPoll(5))
    await clock.look()
    assert clock.due.when() - clock.now == pytest.approx(1)


async def test_a_lasting_failure_is_met_with_growing_pauses_and_a_question_for_the_sandbox(clock):
    service = Sandboxes("a", "b")
    service.trouble = [httpx.Response(503)] * 6
    poller = poller_of(client_of(service, RetryPolicy()))
    pauses = []
    for _ in range(6):
        for each in "ab":
            poller.join(each, AskPoll(5))
        await clock.look()
        pauses.append(clock.due.when() - clock.now)

    assert pauses == sorted(pauses)
    assert service.asked.count("list") == 6
    assert service.asked.count("sandbox") == 1 + 2  # the token's, and after each third failure


async def test_a_sandbox_that_is_gone_is_told_instead_of_the_failure(clock):
    service = Sandboxes("a", "b")
    service.trouble = [httpx.Response(503)] * 3
    poller = poller_of(client_of(service))
    for _ in range(3):
        waiting = [poller.join(each, AskPoll(5)) for each in "ab"]
        await clock.look()
        service.status = "closed"

    assert [each.news.result().status.is_terminal for each in waiting] == [True, True]


# --- failures --------------------------------------------------------------------------------


async def test_one_failed_look_is_one_request_and_every_waits_own_failure():
    ids = ["p-0", "p-1", "p-2"]
    service, entries = Sandboxes(*ids), []
    service.trouble = [httpx.Response(503), httpx.Response(502)]
    async with client_of(service) as client:
        tasks = waits(client, ids, emit=entries.extend)
        await until(lambda: len(service.looks()) >= 4)
        service.running.clear()
        await asyncio.gather(*tasks)

    assert len([text for text in notices_of(entries) if "answered 503" in text]) == 3
    assert len([text for text in notices_of(entries) if "answers again" in text]) == 3
    assert set(service.looks()) == {"list"}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(403, json={"error": "x"}), errors.AuthenticationError),
        (httpx.Response(409, json={"code": "sandbox_not_running"}), errors.SandboxNotRunningError),
    ],
)
async def test_a_failure_that_makes_going_on_pointless_ends_every_wait(answer, kind):
    service = Sandboxes("p-0", "p-1")
    service.trouble = [answer]
    async with client_of(service) as client:
        ends = await asyncio.gather(*waits(client, ["p-0", "p-1"]), return_exceptions=True)

    assert [type(end) for end in ends] == [kind, kind]
    assert service.looks() == ["list"]


async def test_a_service_out_of_reach_ends_every_wait_once_patience_is_over():
    service = Sandboxes("p-0", "p-1")
    service.trouble = [httpx.Response(503)] * 5000
    async with client_of(service, IMPATIENT) as client:
        ends = await asyncio.gather(*waits(client, ["p-0", "p-1"], policy=IMPATIENT), return_exceptions=True)

    assert [type(end) for end in ends] == [errors.ServiceUnavailableError] * 2


async def test_a_look_that_breaks_lets_nobody_wait_for_ever():
    async def broken(request):
        raise ZeroDivisionError

    transport = httpx.MockTransport(broken)
    async with AsyncSandboxClient(API_KEY, CONTROL, transport=transport) as client:
        ends = await asyncio.gather(*waits(client, ["p-0", "p-1"]), return_exceptions=True)

    assert [type(end) for end in ends] == [ZeroDivisionError] * 2


# --- leaving ---------------------------------------------------------------------------------


async def test_one_that_is_cancelled_leaves_the_others_alone_and_the_last_ends_the_looks():
    ids = ["p-0", "p-1", "p-2"]
    service = Sandboxes(*ids)
    client = client_of(service)
    tasks = waits(client, ids)
    await until(lambda: len(service.looks()) >= 1)
    (poller,) = sharing._shared[client].pollers.values()
    tasks[0].cancel()
    asked = len(service.looks())
    await until(lambda: len(service.looks()) > asked)
    assert {each.process_id for each in poller._waiting} == {"p-1", "p-2"}

    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert sharing._shared[client].pollers == {}
    assert poller._waiting == set()
    assert len(asyncio.all_tasks()) <= 2  # this one, and a look that is being cancelled
    asked = len(service.asked)
    await asyncio.sleep(0.03)
    assert len(service.asked) == asked
    await client.close()


async def test_one_that_is_cancelled_while_it_is_told_takes_nothing_from_the_others():
    service = Sandboxes("p-1", "p-2", "p-3")
    async with client_of(service) as client:
        poller = Poller(client, SANDBOX)
        waiting = [poller.join(each, AskPoll(0.01, is_first=True)) for each in ("p-1", "p-2", "p-3")]
        waiting[0].news.cancel()  # and who waited has not had its turn yet

        told = await asyncio.gather(*(each.news for each in waiting), return_exceptions=True)
        poller.stop()

    assert isinstance(told[0], asyncio.CancelledError)
    assert [process.id for process in told[1:]] == ["p-2", "p-3"]


async def test_nothing_of_a_client_is_kept_once_it_is_gone():
    service = Sandboxes("p-0")
    service.running.clear()
    client = client_of(service)
    await asyncio.gather(*waits(client, ["p-0", "p-0"]))
    await client.close()
    gone, client = weakref.ref(client), None
    gc.collect()

    assert gone() is None


async def test_a_look_runs_in_nobodys_context(monkeypatch):
    """Airflow's triggerer tells by a context variable whose log a line belongs to."""
    import contextvars

    whose = contextvars.ContextVar("whose", default=None)
    service = Sandboxes("p-0", "p-1")
    seen = []
    answer = service.answer

    async def seeing(request):
        seen.append(whose.get())
        return await answer(request)

    service.answer = seeing
    service.running.clear()
    async with client_of(service) as client:
        whose.set("mine")
        await asyncio.gather(*waits(client, ["p-0", "p-1"]))

    assert seen[0] is None


async def test_a_polled_process_whose_time_is_up_is_ended_and_its_output_is_read_at_once(service):
    """Whatever the interval: the next look may be far."""
    service.queue("GET", f"{P}/p-1", {"process": process_body()})
    service.queue("POST", f"{P}/p-1/signal", {"process": process_body()})
    ended = {"result": result_body(status="killed", exit_code=143, stdout="bye\n", error="TERM")}
    service.queue("POST", f"{P}/p-1/wait", ended, ended)
    entries = []
    transport = httpx.MockTransport(service.answer_async)
    async with AsyncSandboxClient(API_KEY, CONTROL, policy=QUICK, transport=transport) as client:
        with suppress(TimeoutError):
            await end_overdue(client, SANDBOX, machine("p-1", seconds=3600), entries.extend, grace_seconds=1)

    assert lines_of(entries) == ["bye"]
