"""`SandboxHook` and `SandboxAsyncHook`: from an Airflow connection to a client."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_sbx.api import calls
from airflow_provider_sbx.api.calls import Answer, Call
from airflow_provider_sbx.api.errors import (
    AuthenticationError,
    InvalidParameterError,
    ServiceError,
    TransportError,
)
from airflow_provider_sbx.api.events import Event
from airflow_provider_sbx.api.retrying import NO_RETRIES, RetryPolicy
from airflow_provider_sbx.hooks.settings import CONNECTION_TYPE, Settings, settings_of
from airflow_provider_sbx.hooks.shared_client import has_new_key, shared_client
from airflow_provider_sbx.operations import AsyncSandboxOperations, SandboxOperations

if TYPE_CHECKING:
    from airflow_provider_sbx.client import AsyncSandboxClient, SandboxClient
DEFAULT_CONNECTION = "sbx_default"


class SandboxHook(BaseHook, SandboxOperations):
    """The sandbox service, through an Airflow connection of type `sbx`.

    Connection fields:

    - **Host**: the control plane's address; empty for the vendor's own.
    - **Password**: the API key.
    - **Extra** `sandbox_id`: the sandbox for tasks that name none.
    - **Extra** `request_timeout_seconds`: longest wait for an answer, in seconds (default 30).
    - **Extra** `patience_seconds`: how long the service may be out of reach without a break before
      a task fails, in seconds (default 600).
    - **Extra** `max_streams`: how many streams a triggerer holds at once over this connection; further
      waits look at their processes now and then, until one is free (default 1000).

    Where the credentials come from:

    1. The connection, if there is one under the id. Without a password it is an error: falling
       back to the environment would hide a half-filled connection.
    2. No connection under the *default* id: the environment variables `HYPERBROWSER_API_KEY` and
       `HYPERBROWSER_BASE_URL`, as the vendor's own clients read them.
    3. No connection under any *other* id: an error, since somebody named it on purpose.

    It has every operation of `SandboxOperations`: `exec`, `start`, `get_process`,
    `list_processes`, `wait`, `stream`, `write_stdin`, `signal`, `kill`, `create_sandbox`,
    `get_sandbox`, `stop_sandbox` and more. Use it as a context manager, or close it.

    :param sbx_conn_id: the connection's id.
    """

    conn_name_attr = "sbx_conn_id"
    default_conn_name = DEFAULT_CONNECTION
    conn_type = CONNECTION_TYPE
    hook_name = "Sandbox"

    def __init__(self, sbx_conn_id: str = DEFAULT_CONNECTION, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sbx_conn_id = sbx_conn_id
        self._settings: Settings | None = None
        self._client: tuple[int, SandboxClient] | None = None

    def __enter__(self) -> SandboxHook:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def settings(self) -> Settings:
        """What the connection says; read once.

        :raises InvalidParameterError: the connection is half-filled or wrong.
        :raises AirflowNotFoundException: there is none. Airflow says so as well where it could not be asked,
            as by a secrets backend that is busy.
        """
        if self._settings is None:
            try:
                connection = self.get_connection(self.sbx_conn_id)
            except AirflowNotFoundException:
                _only_default(self.sbx_conn_id)
                connection = None
            extra = connection.extra_dejson if connection else {}
            self._settings = settings_of(self.sbx_conn_id, connection, extra)
        return self._settings

    def get_conn(self) -> SandboxClient:
        """Return the client, made once a process: a connection must not be shared over a fork."""
        if self._client is None or self._client[0] != os.getpid():
            self._client = (os.getpid(), self.new_client())
        return self._client[1]

    def new_client(self, policy: RetryPolicy | None = None) -> SandboxClient:
        """Return a client of one's own, to be closed by whoever asked.

        :param policy: how failures are repeated; the connection's if None.
        """
        # Here, since no DAG file needs it: aiohttp, httpx and tenacity are most of what importing us takes.
        from airflow_provider_sbx.client import SandboxClient

        settings = self.settings
        return SandboxClient(
            settings.api_key,
            settings.base_url,
            request_timeout_seconds=settings.request_timeout_seconds,
            policy=policy or settings.policy,
        )

    def close(self) -> None:
        """Close the client's connections, if any were made in this process."""
        if self._client is not None and self._client[0] == os.getpid():
            self._client[1].close()
        self._client = None

    def send(self, call: Call[Answer], sandbox_id: str | None = None, *, retry: bool = True) -> Answer:
        """Send a call and return its answer; see `SandboxOperations.send`."""
        return self.get_conn().send(call, sandbox_id, retry=retry)

    def stream(
        self, sandbox_id: str, process_id: str, *, from_seq: int = 1
    ) -> AbstractContextManager[Iterator[Event]]:
        """Follow a process's events; see `SandboxOperations.stream`."""
        return self.get_conn().stream(sandbox_id, process_id, from_seq=from_seq)

    def test_connection(self) -> tuple[bool, str]:
        """Ask the service for one sandbox and say what came of it, for the connection form."""
        try:
            settings = self.settings
            with self.new_client(NO_RETRIES) as client:
                client.send(calls.list_sandboxes(limit=1))
        except AirflowNotFoundException as error:
            return False, str(error)
        except InvalidParameterError as error:
            return False, str(error)
        except AuthenticationError as error:
            return False, f"{_host(settings)} refused the API key. {error}"
        except TransportError as error:
            return False, f"{_host(settings)} can't be reached. {error}"
        except ServiceError as error:
            return False, f"{_host(settings)} does not answer as the sandbox service does. {error}"
        return True, f"{_host(settings)} accepted the API key"


class SandboxAsyncHook(AsyncSandboxOperations):
    """The twin of `SandboxHook` for an event loop, with the same connection and operations.

    All hooks of one event loop and connection share one client: one pool, one TLS context, one
    token a sandbox. Use it as an async context manager; 15 s after the last has left, the client is closed.

    :param sbx_conn_id: the connection's id.
    :param follows_edits: don't take the client of a connection that was edited more than 10 s ago: one in
        use is kept for as long as somebody uses it.
    """

    def __init__(self, sbx_conn_id: str = DEFAULT_CONNECTION, *, follows_edits: bool = False) -> None:
        self.sbx_conn_id = sbx_conn_id
        self._follows_edits = follows_edits
        self._leave: AbstractAsyncContextManager[tuple[AsyncSandboxClient, Settings]] | None = None
        self._shared: tuple[AsyncSandboxClient, Settings] | None = None

    async def __aenter__(self) -> SandboxAsyncHook:
        self._leave = shared_client(self.sbx_conn_id, self.read_settings, follows_edits=self._follows_edits)
        self._shared = await self._leave.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        if self._leave is not None:
            self._shared = None
            await self._leave.__aexit__(*exc)

    async def has_new_key(self) -> bool:
        """Whether the connection names another API key by now than the shared client has.

        If so, whoever enters from now on gets a client with that one; those inside go on with theirs.
        Raises as `read_settings` does.
        """
        return await has_new_key(self.sbx_conn_id, self.client, self.read_settings)

    async def read_settings(self) -> Settings:
        """Read the connection; raises as `SandboxHook.settings` does."""
        try:
            connection = await get_async_connection(self.sbx_conn_id)
        except AirflowNotFoundException:
            _only_default(self.sbx_conn_id)
            return settings_of(self.sbx_conn_id, None, {})
        extra = await get_async_extra_dejson(connection)
        return settings_of(self.sbx_conn_id, connection, extra)

    @property
    def client(self) -> AsyncSandboxClient:
        """The shared client, inside the context."""
        return self._entered[0]

    @property
    def settings(self) -> Settings:
        """What the connection said when the shared client was made, inside the context."""
        return self._entered[1]

    @property
    def _entered(self) -> tuple[AsyncSandboxClient, Settings]:
        if self._shared is None:
            raise RuntimeError("Enter SandboxAsyncHook first: async with SandboxAsyncHook(...) as hook")
        return self._shared

    async def send(self, call: Call[Answer], sandbox_id: str | None = None, *, retry: bool = True) -> Answer:
        """Send a call and return its answer; see `SandboxOperations.send`."""
        return await self.client.send(call, sandbox_id, retry=retry)

    def stream(
        self, sandbox_id: str, process_id: str, *, from_seq: int = 1
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Follow a process's events; see `SandboxOperations.stream`."""
        return self.client.stream(sandbox_id, process_id, from_seq=from_seq)


def _only_default(conn_id: str) -> None:
    """Let a missing default connection pass, and no other: that one was named on purpose."""
    if conn_id != DEFAULT_CONNECTION:
        raise AirflowNotFoundException(
            f"sbx_conn_id: there is no connection {conn_id!r}. Create it (type Sandbox, the API key as its "
            f"password), or leave sbx_conn_id out to use {DEFAULT_CONNECTION!r}."
        )


def _host(settings: Settings) -> str:
    return settings.base_url.removesuffix("/api")
