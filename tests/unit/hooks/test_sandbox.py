"""The hooks over their clients: one client a process, one client an event loop."""

import asyncio
import gc
import resource
import weakref
from dataclasses import replace

import httpx
import pytest

from airflow_provider_sbx import sharing
from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.api.planes import VENDOR_URL
from airflow_provider_sbx.client import AsyncSandboxClient, SandboxClient
from airflow_provider_sbx.client.wire import tls_context
from airflow_provider_sbx.hooks.sandbox import (
    SandboxAsyncHook,
    SandboxHook,
    Settings,
    new_async_client,
    shared_client,
)
from airflow_provider_sbx.streams import warn_unless_fitting
from tests.unit.builders import API_KEY, PROCESS, SANDBOX, process_body, result_body, sse, sse_output
from tests.unit.client.twins import event_stream

SETTINGS = Settings(
    API_KEY, f"{VENDOR_URL}/api", sandbox_id=None, request_timeout_seconds=7, patience_seconds=8
)


@pytest.fixture
def mine(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_MINE", f'{{"conn_type": "sbx", "password": "{API_KEY}"}}')
    return "mine"


# --- the synchronous hook --------------------------------------------------------------------


def test_making_a_hook_reads_nothing():
    assert SandboxHook("there-is-none").sbx_conn_id == "there-is-none"
    assert SandboxAsyncHook("there-is-none").sbx_conn_id == "there-is-none"


def test_a_hook_has_one_client_and_makes_another_once_it_was_closed(mine):
    with SandboxHook(mine) as hook:
        first = hook.get_conn()
        assert isinstance(first, SandboxClient)
        assert hook.get_conn() is first
        hook.close()
        assert hook.get_conn() is not first


def test_a_client_of_ones_own_is_not_the_hooks(mine):
    with SandboxHook(mine) as hook, hook.new_client() as own:
        assert own is not hook.get_conn()


def test_a_client_is_not_shared_over_a_fork(mine, monkeypatch):
    with SandboxHook(mine) as hook:
        parents = hook.get_conn()
        monkeypatch.setattr("os.getpid", lambda: -1)
        assert hook.get_conn() is not parents
        hook.close()
        assert not parents._http.is_closed


def test_a_hook_is_found_by_its_connections_type():
    assert (SandboxHook.conn_type, SandboxHook.conn_name_attr) == ("sbx", "sbx_conn_id")
    assert SandboxHook.default_conn_name == "sbx_default"


def test_testing_a_connection_that_is_not_there_or_half_filled_says_so(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_HALF", '{"conn_type": "sbx", "host": "https://h.test"}')

    for conn_id, says in [("half", "password"), ("none", "there is no connection 'none'")]:
        ok, message = SandboxHook(conn_id).test_connection()
        assert not ok
        assert says in message


def test_a_hook_has_the_operations_of_the_service(mine, network):
    network.queue("GET", f"/sandbox/processes/{PROCESS}", {"process": process_body()})
    network.queue(
        "GET",
        f"/sandbox/processes/{PROCESS}/stream",
        event_stream(sse_output(1, "a\n"), sse("done", result_body(last_seq=1))),
    )

    with SandboxHook(mine) as hook:
        assert hook.get_process(SANDBOX, PROCESS).id == PROCESS
        with hook.stream(SANDBOX, PROCESS) as events:
            assert len(list(events)) == 2
    assert network.requests[0].headers["x-api-key"] == API_KEY


@pytest.mark.parametrize(
    ("answer", "ok", "says"),
    [
        ({"sandboxes": []}, True, "https://api.hyperbrowser.ai accepted the API key"),
        (
            httpx.Response(401, json={"message": "bad"}),
            False,
            "https://api.hyperbrowser.ai refused the API key",
        ),
        (httpx.Response(403, json={"message": "scope"}), False, "refused the API key"),
        (httpx.ConnectError("no route"), False, "https://api.hyperbrowser.ai can't be reached"),
        (httpx.ReadTimeout("slow"), False, "can't be reached"),
        (httpx.Response(200, html="<title>Sign in</title>"), False, "does not answer as the sandbox service"),
        (httpx.Response(404, html="<h1>nginx"), False, "does not answer as the sandbox service"),
        (httpx.Response(503), False, "does not answer as the sandbox service"),
    ],
    ids=str,
)
def test_testing_a_connection_tells_a_wrong_key_a_wrong_host_and_success_apart(
    mine, network, answer, ok, says
):
    network.queue("GET", "/api/sandboxes", answer)

    found, message = SandboxHook(mine).test_connection()

    assert (found, says in message) == (ok, True)
    assert API_KEY not in message
    assert len(network.requests) == 1


# --- the shared client -----------------------------------------------------------------------


class Reader:
    """Reads a connection, and may be made to wait or fail."""

    def __init__(self, *failures):
        self.reads = 0
        self.failures = list(failures)
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self):
        self.reads += 1
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        return SETTINGS


def is_closed(client):
    return client._http.is_closed


async def test_all_of_one_loop_share_a_client_that_the_last_to_leave_closes():
    read = Reader()
    async with shared_client("mine", read) as (first, _):
        async with shared_client("mine", read) as (second, _):
            assert isinstance(first, AsyncSandboxClient)
            assert second is first
        assert not is_closed(first)

    assert is_closed(first)
    assert read.reads == 1


async def test_a_thousand_that_come_at_once_read_the_connection_once():
    read, clients = Reader(), set()
    read.gate.clear()
    all_in = asyncio.Event()

    async def use():
        async with shared_client("mine", read) as (client, _):
            clients.add(client)
            await all_in.wait()

    users = [asyncio.create_task(use()) for _ in range(1000)]
    await asyncio.sleep(0)
    read.gate.set()
    while len(clients) == 0:  # noqa: ASYNC110 - the making goes over a thread, which signals nothing
        await asyncio.sleep(0)
    all_in.set()
    await asyncio.gather(*users)

    assert (read.reads, len(clients)) == (1, 1)
    assert is_closed(clients.pop())


async def test_each_connection_has_a_client_of_its_own():
    read = Reader()
    async with shared_client("mine", read) as (first, _), shared_client("yours", read) as (second, _):
        assert first is not second


async def test_once_all_have_left_the_connection_is_read_again():
    read = Reader()
    async with shared_client("mine", read) as (first, _):
        pass
    async with shared_client("mine", read) as (second, _):
        assert second is not first
        assert not is_closed(second)
    assert read.reads == 2


async def test_the_client_has_the_settings_of_the_connection():
    async with shared_client("mine", Reader()) as (client, _):
        assert client.policy.patience_seconds == 8


async def test_all_clients_have_one_tls_context_and_each_has_one_pool():
    read = Reader()
    async with shared_client("mine", read) as (first, _), shared_client("yours", read) as (second, _):
        assert tls_context() is tls_context()
        pools = [client._http._transport for client in (first, second)]
        assert pools[0] is not pools[1]
        assert [pool.client for pool in pools] == [pools[0].client, pools[1].client]


async def test_the_streams_of_a_loop_and_connection_are_limited_by_its_settings(monkeypatch, caplog):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    warn_unless_fitting.cache_clear()

    async def read():
        return replace(SETTINGS, max_streams=5000)

    with caplog.at_level("WARNING"):
        for _ in range(2):
            async with shared_client("limited", read) as (client, _):
                assert sharing._shared[client].streams.most == 924
    assert len([text for text in caplog.messages if "'limited': max_streams is 5000" in text]) == 1


async def test_a_worker_that_follows_one_process_is_not_told_of_a_limit_that_it_never_meets(
    monkeypatch, caplog
):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    async with await new_async_client(replace(SETTINGS, max_streams=5000)):
        pass

    assert caplog.messages == []


async def test_a_failure_to_make_it_reaches_the_maker_and_leaves_nothing_behind():
    read = Reader(InvalidParameterError("password", "missing", "Enter it."))

    with pytest.raises(InvalidParameterError):
        async with shared_client("mine", read):
            pass
    async with shared_client("mine", read) as (client, _):
        assert not is_closed(client)
    assert read.reads == 2


async def test_a_failure_of_one_maker_does_not_poison_those_who_wait():
    read = Reader(InvalidParameterError("password", "missing", "Enter it."))
    read.gate.clear()

    async def use():
        async with shared_client("mine", read) as (client, _):
            return client

    users = [asyncio.create_task(use()) for _ in range(3)]
    await asyncio.sleep(0)
    read.gate.set()
    failed, *served = await asyncio.gather(*users, return_exceptions=True)

    assert isinstance(failed, InvalidParameterError)
    assert served[0] is served[1]
    assert isinstance(served[0], AsyncSandboxClient)
    assert is_closed(served[0])


async def test_one_that_is_cancelled_while_it_waits_leaves_the_others_alone():
    read = Reader()
    read.gate.clear()

    async def use():
        async with shared_client("mine", read) as (client, _):
            return client

    maker, waiting, cancelled = (asyncio.create_task(use()) for _ in range(3))
    await asyncio.sleep(0)
    cancelled.cancel()
    maker.cancel()
    await asyncio.sleep(0)
    read.gate.set()

    assert isinstance(await waiting, AsyncSandboxClient)
    assert is_closed(await waiting)
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def test_a_user_that_breaks_leaves_as_others_do():
    with pytest.raises(ZeroDivisionError):
        async with shared_client("mine", Reader()) as (client, _):
            raise ZeroDivisionError
    assert is_closed(client)


def test_the_client_of_a_loop_that_died_is_not_used_again():
    """As where a triggerer's loop breaks while triggers run: nobody left, and nothing was closed."""
    clients = []

    async def use():
        user = shared_client("mine", Reader())
        clients.append(await user.__aenter__())
        abandoned.append(user)

    abandoned = []
    for _ in range(2):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use())
        loop.close()

    assert clients[0] is not clients[1]


def test_each_loop_has_a_client_of_its_own_and_takes_it_along():
    async def use():
        async with shared_client("mine", Reader()):
            return weakref.ref(asyncio.get_running_loop())

    loops = [asyncio.run(use()), asyncio.run(use())]
    gc.collect()

    assert [loop() for loop in loops] == [None, None]


async def test_the_async_hook_uses_the_shared_client(mine):
    async with SandboxAsyncHook(mine) as first, SandboxAsyncHook(mine) as second:
        client = first.client
        assert second.client is client
        assert second.settings is first.settings
    assert is_closed(client)
    with pytest.raises(RuntimeError, match="async with"):
        _ = first.client
