"""Looks for tries' processes that many share, over a real client whose transport is a fake."""

import asyncio
import contextvars
import logging

import httpx
import pytest

from airflow_provider_sbx import sharing
from airflow_provider_sbx.api import errors
from airflow_provider_sbx.client import AsyncSandboxClient
from tests.unit.builders import API_KEY, CONTROL, SANDBOX, process_body, sandbox_body
from tests.unit.client.twins import QUICK


class Sandbox:
    """A service whose list is held back until it is let go."""

    def __init__(self):
        self.processes = {}
        self.queries, self.refuses = [], False
        self.unreachable = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    def start(self, key, started_at=1, process_id=None):
        process_id = process_id or f"proc_{key}"
        self.processes[process_id] = process_body(
            id=process_id, command=f"# {key} a label\ntrue", started_at=started_at
        )

    async def answer(self, request):
        if request.url.path.startswith("/api/sandbox/"):
            return httpx.Response(200, json=sandbox_body())
        if self.unreachable:
            self.unreachable -= 1
            raise httpx.ConnectError("refused")
        self.queries.append(dict(request.url.params))
        listed = list(self.processes.values())
        await self.may_answer.wait()
        if self.refuses:
            return httpx.Response(400, json={"error": "no"})
        return httpx.Response(200, json={"data": listed, "nextCursor": None})


@pytest.fixture
async def sandbox():
    return Sandbox()


@pytest.fixture
async def client(sandbox):
    transport = httpx.MockTransport(sandbox.answer)
    async with AsyncSandboxClient(API_KEY, CONTROL, policy=QUICK, transport=transport) as made:
        yield made


async def settled():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_hundred_that_look_together_share_one_listing(sandbox, client):
    for n in range(0, 100, 2):
        sandbox.start(f"sbx-{n}")

    found = await asyncio.gather(
        *(sharing.find_process(client, SANDBOX, f"sbx-{n}", created_after=1000 + n) for n in range(100))
    )

    assert [each and each.id for each in found[:4]] == ["proc_sbx-0", None, "proc_sbx-2", None]
    assert len(sandbox.queries) == 1
    assert sandbox.queries[0]["created_after"] == "1000"


async def test_one_that_knows_no_bound_widens_the_listing_for_all(sandbox, client):
    await asyncio.gather(
        sharing.find_process(client, SANDBOX, "sbx-1", created_after=5),
        sharing.find_process(client, SANDBOX, "sbx-2"),
    )

    assert "created_after" not in sandbox.queries[0]


async def test_who_comes_while_a_list_is_read_sees_what_was_started_before_it_came(sandbox, client):
    sandbox.may_answer.clear()
    first = asyncio.create_task(sharing.find_process(client, SANDBOX, "sbx-1"))
    await settled()
    sandbox.start("sbx-1")
    late = [asyncio.create_task(sharing.find_process(client, SANDBOX, "sbx-1")) for _ in range(5)]
    await settled()
    assert len(sandbox.queries) == 1
    sandbox.may_answer.set()

    assert await first is None
    assert {(await each).id for each in late} == {"proc_sbx-1"}
    assert len(sandbox.queries) == 2


async def test_the_latest_process_under_several_keys_is_found(sandbox, client):
    sandbox.start("sbx-1", started_at=9, process_id="old")
    sandbox.start("sbx-2", started_at=10, process_id="new")

    assert (await sharing.find_process(client, SANDBOX, "sbx-1", "sbx-2")).id == "new"


async def test_a_failure_is_told_to_each_by_an_error_of_its_own(sandbox, client):
    sandbox.refuses = True

    results = await asyncio.gather(
        *(sharing.find_process(client, SANDBOX, f"sbx-{n}") for n in range(3)), return_exceptions=True
    )

    assert [type(each) for each in results] == [errors.ResponseError] * 3
    assert len(set(map(id, results))) == 3
    assert len({str(each) for each in results}) == 1
    assert len(sandbox.queries) == 1


TASK = contextvars.ContextVar("TASK", default=None)


@pytest.fixture
def logged(caplog):
    """What stands in the log of each task, which Airflow tells apart by their contexts."""
    caplog.set_level(logging.INFO, "airflow_provider_sbx")
    found = {}

    def note(record):
        found.setdefault(TASK.get(), []).append(record.getMessage())
        return True

    caplog.handler.addFilter(note)
    yield found
    caplog.handler.removeFilter(note)


async def looks_as(task, client):
    TASK.set(task)
    return await sharing.find_process(client, SANDBOX, f"sbx-{task}")


async def test_an_outage_and_its_end_are_told_once_in_the_log_of_each_that_waits(sandbox, client, logged):
    sandbox.unreachable = 6

    await asyncio.gather(*(asyncio.create_task(looks_as(n, client)) for n in range(3)))

    assert set(logged) == {0, 1, 2}
    for first, last in logged.values():
        assert first.endswith("the connection failed (refused). Trying again.")
        assert last.startswith("The service answers again, after ")


async def test_who_comes_during_an_outage_is_told_of_it_and_who_has_left_is_not(sandbox, client, logged):
    sandbox.unreachable = 10**9
    leaving, staying = (asyncio.create_task(looks_as(name, client)) for name in ("leaving", "staying"))
    await until(lambda: len(logged) == 2)
    leaving.cancel()
    late = asyncio.create_task(looks_as("late", client))
    await until(lambda: len(logged) == 3)
    sandbox.unreachable = 0
    await asyncio.gather(staying, late)
    await looks_as("after", client)

    assert {task: len(texts) for task, texts in logged.items()} == {"leaving": 1, "staying": 2, "late": 2}


async def until(condition):
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came")


async def test_a_listing_that_nobody_waits_for_any_more_is_given_up(sandbox, client):
    sandbox.may_answer.clear()
    one = asyncio.create_task(sharing.find_process(client, SANDBOX, "sbx-1"))
    await settled()
    queued = asyncio.create_task(sharing.find_process(client, SANDBOX, "sbx-1"))
    await settled()
    for each in (queued, one):
        each.cancel()
    await asyncio.wait((one, queued))
    sandbox.may_answer.set()
    sandbox.start("sbx-1")

    assert (await sharing.find_process(client, SANDBOX, "sbx-1")).id == "proc_sbx-1"
    assert len(sandbox.queries) == 2


async def test_one_that_leaves_does_not_end_the_listing_of_the_others(sandbox, client):
    sandbox.start("sbx-2")
    sandbox.may_answer.clear()
    leaving, staying = (
        asyncio.create_task(sharing.find_process(client, SANDBOX, key)) for key in ("sbx-1", "sbx-2")
    )
    await settled()
    leaving.cancel()
    sandbox.may_answer.set()

    assert (await staying).id == "proc_sbx-2"
