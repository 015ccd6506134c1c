"""One client an event loop and connection, for all who wait over it."""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_sbx.api.retrying import RetryPolicy
from airflow_provider_sbx.compat import AirflowRuntimeError
from airflow_provider_sbx.hooks.settings import Settings
from airflow_provider_sbx.sharing import limit_streams
from airflow_provider_sbx.streams import fitting, warn_unless_fitting

if TYPE_CHECKING:
    from airflow_provider_sbx.client import AsyncSandboxClient

LINGER_SECONDS = 15.0
"""How long a client is kept when nobody uses it any more, in seconds.

Short waits that follow one another would each make one: for that a triggerer asks Airflow for the connection
and has its secrets masked, which takes its supervisor longer than all else that such a wait takes.
"""

_COMPARE_SECONDS = 2.0
_FRESH_SECONDS = 10.0


@dataclass
class _Shared:
    """A client in use by several."""

    making: asyncio.Lock
    made: tuple[AsyncSandboxClient, Settings] | None = None
    users: int = 0
    closing: asyncio.Task[None] | None = None
    compared_at: float = -math.inf
    """When its key was last compared with the connection's, on the monotonic clock."""
    read_at: float = -math.inf
    """When the connection was last read for it, on the monotonic clock."""


# By loop, so that a loop that ended takes its clients with it.
_shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Shared]] = (
    weakref.WeakKeyDictionary()
)


@asynccontextmanager
async def shared_client(
    conn_id: str, read_settings: Callable[[], Awaitable[Settings]], *, follows_edits: bool = False
) -> AsyncIterator[tuple[AsyncSandboxClient, Settings]]:
    """Give the one client of this event loop and connection; it is closed some time after the last has left.

    With it comes what the connection said: each question to Airflow costs a triggerer dear.

    The first makes it while the others wait: a thousand triggers that start together read the
    connection once. A connection that was edited is read again when its client has been closed, or
    its key was refused (`has_new_key`), or for who follows edits.

    :param conn_id: the connection's id.
    :param read_settings: reads it, without blocking.
    :param follows_edits: see that the connection still says the same, if it was not read for some seconds.
        If not, whoever comes from now on gets a new client; those who share the old one go on with it.
    """
    clients = _clients()
    if follows_edits and (shared := clients.get(conn_id)) is not None:
        async with _joined(clients, conn_id, shared):
            await _renew(clients, conn_id, shared, read_settings)
    shared = clients.setdefault(conn_id, _Shared(asyncio.Lock()))
    async with _joined(clients, conn_id, shared):
        async with shared.making:
            if shared.made is None:
                settings = await read_settings()
                shared.read_at = time.monotonic()
                shared.made = await new_async_client(settings), settings
                warn_unless_fitting(conn_id, settings.max_streams)
        yield shared.made


async def has_new_key(
    conn_id: str, client: AsyncSandboxClient, read_settings: Callable[[], Awaitable[Settings]]
) -> bool:
    """Whether a connection names another API key by now than a client that came of it has.

    If so, whoever comes from now on gets a client with that one; those who share the old one go on with it.
    Asked by a thousand whose key was refused, it reads the connection once in a while.

    :param conn_id: the connection's id.
    :param client: one that the asker still uses.
    :param read_settings: reads the connection, without blocking.
    """
    clients = _clients()
    shared = clients.get(conn_id)
    if shared is None:
        return True  # another asker has seen the new key
    async with shared.making:
        if clients.get(conn_id) is not shared or shared.made is None or shared.made[0] is not client:
            return True
        if time.monotonic() - shared.compared_at < _COMPARE_SECONDS:
            return False
        shared.compared_at = time.monotonic()
        is_new = (await read_settings()).api_key != shared.made[1].api_key
        if is_new:
            del clients[conn_id]
        return is_new


async def _renew(
    clients: dict[str, _Shared],
    conn_id: str,
    shared: _Shared,
    read_settings: Callable[[], Awaitable[Settings]],
) -> None:
    """Let nobody else join a client whose connection says something else by now."""
    async with shared.making:
        if shared.made is None or time.monotonic() - shared.read_at < _FRESH_SECONDS:
            return
        try:
            settings = await read_settings()
        except (AirflowRuntimeError, AirflowNotFoundException):
            return  # Airflow can't be asked now: what it said last holds
        shared.read_at = time.monotonic()
        if settings != shared.made[1] and clients.get(conn_id) is shared:
            del clients[conn_id]


@asynccontextmanager
async def _joined(clients: dict[str, _Shared], conn_id: str, shared: _Shared) -> AsyncIterator[None]:
    """Use a client; the last to leave has it closed after a while."""
    shared.users += 1
    if shared.closing is not None:
        shared.closing.cancel()
        shared.closing = None
    try:
        yield
    finally:
        shared.users -= 1
        if shared.users == 0:
            if shared.made is None or clients.get(conn_id) is not shared:
                await _close(clients, conn_id, shared)
            else:
                # In a context of its own: what it does belongs to no task, so to no task's log.
                shared.closing = asyncio.get_running_loop().create_task(
                    _close_later(clients, conn_id, shared), context=contextvars.Context()
                )


def _async_client_class() -> type[AsyncSandboxClient]:
    from airflow_provider_sbx.client import AsyncSandboxClient  # here, since no DAG file needs it

    return AsyncSandboxClient


async def new_async_client(settings: Settings, policy: RetryPolicy | None = None) -> AsyncSandboxClient:
    """Return a client for the running event loop, to be closed by whoever asked.

    :param settings: what the connection says.
    :param policy: how failures are repeated; the connection's if None.
    """
    # In a thread: the first time takes some tenths of a second, which other triggers needn't wait.
    client_class = await asyncio.to_thread(_async_client_class)
    client = await client_class.make(
        settings.api_key,
        settings.base_url,
        request_timeout_seconds=settings.request_timeout_seconds,
        policy=policy or settings.policy,
    )
    limit_streams(client, fitting(settings.max_streams))
    return client


def _clients() -> dict[str, _Shared]:
    return _shared.setdefault(asyncio.get_running_loop(), {})


async def _close_later(clients: dict[str, _Shared], conn_id: str, shared: _Shared) -> None:
    try:
        await asyncio.sleep(LINGER_SECONDS)
    finally:
        # Also where the loop ends meanwhile; not where somebody came.
        if shared.users == 0:
            await _close(clients, conn_id, shared)


async def _close(clients: dict[str, _Shared], conn_id: str, shared: _Shared) -> None:
    if clients.get(conn_id) is shared:
        del clients[conn_id]
    if shared.made is not None:
        await shared.made[0].close()
