"""One client an event loop and connection."""

import asyncio
import gc
import resource
import weakref
from dataclasses import replace

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse

from airflow_provider_sbx import sharing
from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.api.planes import VENDOR_URL
from airflow_provider_sbx.client import AsyncSandboxClient
from airflow_provider_sbx.client.wire import tls_context
from airflow_provider_sbx.hooks import shared_client as module
from airflow_provider_sbx.hooks.settings import Settings
from airflow_provider_sbx.hooks.shared_client import has_new_key, new_async_client, shared_client
from airflow_provider_sbx.streams import warn_unless_fitting
from tests.unit.builders import API_KEY

SETTINGS = Settings(
    API_KEY, f"{VENDOR_URL}/api", sandbox_id=None, request_timeout_seconds=7, patience_seconds=8
)


@pytest.fixture
def lingering(monkeypatch):
    """How long a client is kept when nobody uses it any more: not at all."""
    monkeypatch.setattr(module, "LINGER_SECONDS", 0)


async def settled():
    for _ in range(20):
        await asyncio.sleep(0)


class Reader:
    """Reads a connection, and may be made to wait or fail."""

    def __init__(self, *failures, settings=SETTINGS):
        self.reads, self.settings = 0, settings
        self.failures = list(failures)
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self):
        self.reads += 1
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        return self.settings


def is_closed(client):
    return client._http.is_closed


async def test_all_of_one_loop_share_a_client_that_is_closed_when_the_last_has_left(lingering):
    read = Reader()
    async with shared_client("mine", read) as (first, _):
        async with shared_client("mine", read) as (second, _):
            assert isinstance(first, AsyncSandboxClient)
            assert second is first
        assert not is_closed(first)

    await settled()
    assert is_closed(first)
    assert read.reads == 1


async def test_a_thousand_that_come_at_once_read_the_connection_once(lingering):
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
    await settled()
    assert is_closed(clients.pop())


async def test_each_connection_has_a_client_of_its_own():
    read = Reader()
    async with shared_client("mine", read) as (first, _), shared_client("yours", read) as (second, _):
        assert first is not second


async def test_who_comes_soon_after_the_last_has_left_finds_the_client_still_there():
    read = Reader()
    async with shared_client("mine", read) as (first, _):
        pass
    await settled()
    async with shared_client("mine", read) as (second, _):
        await settled()
        assert second is first
        assert not is_closed(second)
    assert read.reads == 1


async def test_some_time_after_all_have_left_the_connection_is_read_again(lingering):
    read = Reader()
    async with shared_client("mine", read) as (first, _):
        pass
    await settled()
    async with shared_client("mine", read) as (second, _):
        assert second is not first
        assert not is_closed(second)
    assert read.reads == 2


async def test_a_client_whose_key_was_exchanged_is_left_to_those_inside_and_closed_by_the_last(monkeypatch):
    read, after = Reader(), Reader(settings=replace(SETTINGS, api_key="another"))
    async with shared_client("mine", read) as (first, _):
        assert not await has_new_key("mine", first, read)
        monkeypatch.setattr(module, "_COMPARE_SECONDS", 0)
        assert await has_new_key("mine", first, after)
        assert await has_new_key("mine", first, after)
        async with shared_client("mine", after) as (second, _):
            assert second is not first
            assert await has_new_key("mine", first, after), "the one that stands there now"
            assert not await has_new_key("mine", second, after)
            async with shared_client("mine", after) as (third, _):
                assert third is second
        assert not is_closed(first)
    assert is_closed(first)
    assert not is_closed(second)


async def test_who_follows_edits_does_not_share_what_the_connection_said_long_ago(monkeypatch):
    read = Reader()
    async with shared_client("mine", read) as (old, _):
        read.settings = replace(SETTINGS, sandbox_id="another")
        async with shared_client("mine", read, follows_edits=True) as (same, _):
            assert same is old, "it was read just now"
        monkeypatch.setattr(module, "_FRESH_SECONDS", 0.0)
        async with shared_client("mine", read) as (same, _):
            assert same is old, "a wait that has begun does not ask"
        async with shared_client("mine", read, follows_edits=True) as (new, settings):
            assert new is not old
            assert settings.sandbox_id == "another"
            assert not is_closed(old)
            async with shared_client("mine", read) as (same, _):
                assert same is new
    assert is_closed(old)


async def test_an_airflow_that_can_not_be_asked_again_keeps_nobody_from_the_client(monkeypatch):
    monkeypatch.setattr(module, "_FRESH_SECONDS", 0.0)
    read = Reader()
    async with shared_client("mine", read) as (old, _):
        read.failures = [AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR))]
        async with shared_client("mine", read, follows_edits=True) as (same, _):
            assert same is old
    assert read.reads == 2


async def test_who_follows_edits_shares_the_client_of_a_connection_that_says_the_same(monkeypatch):
    monkeypatch.setattr(module, "_FRESH_SECONDS", 0.0)
    read = Reader()
    async with (
        shared_client("mine", read) as (old, _),
        shared_client("mine", read, follows_edits=True) as (same, _),
    ):
        assert same is old
    assert read.reads == 2


async def test_a_thousand_whose_key_was_refused_read_the_connection_once(monkeypatch):
    # However long the thousand take, they are of one moment.
    monkeypatch.setattr("airflow_provider_sbx.hooks.shared_client._COMPARE_SECONDS", 3600.0)
    read = Reader()
    async with shared_client("mine", read) as (client, _):
        answers = await asyncio.gather(*(has_new_key("mine", client, read) for _ in range(1000)))

    assert not any(answers)
    assert read.reads == 2

    after = Reader(settings=replace(SETTINGS, api_key="another"))
    async with shared_client("yours", read) as (client, _):
        answers = await asyncio.gather(*(has_new_key("yours", client, after) for _ in range(1000)))

    assert all(answers)
    assert after.reads == 1


def test_a_loop_that_ends_closes_what_lingers():
    async def use():
        async with shared_client("mine", Reader()) as (client, _):
            pass
        await settled()
        return client

    assert is_closed(asyncio.run(use()))


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


async def test_the_streams_of_a_loop_and_connection_are_limited_by_its_settings(
    lingering, monkeypatch, caplog
):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    warn_unless_fitting.cache_clear()

    async def read():
        return replace(SETTINGS, max_streams=5000)

    with caplog.at_level("WARNING"):
        for _ in range(2):
            async with shared_client("limited", read) as (client, _):
                assert sharing._shared[client].streams.most == 924
            await settled()
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


async def test_a_failure_of_one_maker_does_not_poison_those_who_wait(lingering):
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
    await settled()
    assert is_closed(served[0])


async def test_one_that_is_cancelled_while_it_waits_leaves_the_others_alone(lingering):
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
    await settled()
    assert is_closed(await waiting)
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def test_a_user_that_breaks_leaves_as_others_do(lingering):
    with pytest.raises(ZeroDivisionError):
        async with shared_client("mine", Reader()) as (client, _):
            raise ZeroDivisionError
    await settled()
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
