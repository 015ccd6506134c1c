"""The service's operations as methods, once for each kind of caller.

Whoever can send a call has them: the clients, and the hooks that build one from a connection.
The two classes differ by `async` and `await` alone; a test compares them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any

from airflow_provider_sbx.api import calls
from airflow_provider_sbx.api.calls import Answer, Call
from airflow_provider_sbx.api.events import Event
from airflow_provider_sbx.api.models import (
    ImagePage,
    ProcessPage,
    ProcessParameters,
    ProcessResult,
    ProcessStatus,
    ProcessSummary,
    Sandbox,
    SandboxPage,
    SandboxSpec,
    SnapshotPage,
)
from airflow_provider_sbx.api.validation import process_parameters, sandbox_spec

DEFAULT_EXEC_SECONDS = 3600.0
"""How long `exec` waits for its answer where the command has no timeout, in seconds."""


def _exec_call(params: ProcessParameters) -> Call[ProcessResult]:
    longest = params.timeout_ms / 1000 if params.timeout_ms else DEFAULT_EXEC_SECONDS
    return calls.exec_process(params, longest_seconds=longest)


def _start_call(sandbox_id: str, params: ProcessParameters) -> Call[Any]:
    if params.uses_secrets:
        return calls.start_process_with_secrets(sandbox_id, params)
    return calls.start_process(params)


class SandboxOperations(ABC):
    """All operations of the service, each one request and its answer."""

    @abstractmethod
    def send(self, call: Call[Answer], sandbox_id: str | None = None, *, retry: bool = True) -> Answer:
        """Send a call and return its answer.

        :param call: what to send.
        :param sandbox_id: whose runtime plane; needed for calls of that plane.
        :param retry: repeat it while its failure may pass and it may be repeated.
        :raises ServiceError: it failed, and would again.
        """

    @abstractmethod
    def stream(
        self, sandbox_id: str, process_id: str, *, from_seq: int = 1
    ) -> AbstractContextManager[Iterator[Event]]:
        """Follow a process's events from a sequence number; leaving the context closes the stream.

        :raises ServiceError: it could not be opened, or broke. It is not opened again by itself.
        """

    def exec(self, sandbox_id: str, command: str | ProcessParameters, **options: Any) -> ProcessResult:
        """Run a command and wait for its end in one request, stdin closed.

        :param sandbox_id: where.
        :param command: what a shell there runs, or all parameters at once.
        :param options: `cwd`, `env`, `timeout_ms`, `run_as`; see `ProcessParameters`.
        """
        return self.send(_exec_call(process_parameters(command, options)), sandbox_id)

    def start(self, sandbox_id: str, command: str | ProcessParameters, **options: Any) -> ProcessSummary:
        """Start a process and return as soon as it runs.

        :param sandbox_id: where.
        :param command: what a shell there runs, or all parameters at once.
        :param options: `cwd`, `env`, `timeout_ms`, `run_as`, `secrets`, `vault`, `one_password`;
            see `ProcessParameters`.
        """
        call = _start_call(sandbox_id, process_parameters(command, options))
        started: ProcessSummary = self.send(call, sandbox_id).process
        return started

    def get_process(self, sandbox_id: str, process_id: str) -> ProcessSummary:
        """Read a process."""
        return self.send(calls.get_process(process_id), sandbox_id)

    def list_processes(
        self,
        sandbox_id: str,
        *,
        status: ProcessStatus | str | Iterable[ProcessStatus | str] | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        created_after: int | None = None,
        created_before: int | None = None,
    ) -> ProcessPage:
        """Read one page of a sandbox's processes; see `calls.list_processes`."""
        call = calls.list_processes(
            status=status,
            limit=limit,
            cursor=cursor,
            created_after=created_after,
            created_before=created_before,
        )
        return self.send(call, sandbox_id)

    def iterate_processes(
        self,
        sandbox_id: str,
        *,
        status: ProcessStatus | str | Iterable[ProcessStatus | str] | None = None,
        created_after: int | None = None,
    ) -> Iterator[ProcessSummary]:
        """Read all of a sandbox's processes, page after page."""
        cursor = None
        while True:
            page = self.list_processes(sandbox_id, status=status, cursor=cursor, created_after=created_after)
            yield from page.data
            cursor = page.next_cursor
            if cursor is None:
                return

    def wait(self, sandbox_id: str, process_id: str, *, timeout_seconds: float = 30.0) -> ProcessResult:
        """Wait for a process's end for a while.

        :param timeout_seconds: how long, in seconds.
        :raises WaitTimeoutError: it still runs.
        """
        return self.send(calls.wait(process_id, timeout_seconds=timeout_seconds), sandbox_id)

    def write_stdin(
        self, sandbox_id: str, process_id: str, data: str | bytes | None = None, *, eof: bool = False
    ) -> None:
        """Write to a process's standard input, and close it where `eof` is set.

        :raises ProcessExitedError: it has ended.
        """
        self.send(calls.write_stdin(process_id, data, eof=eof), sandbox_id)

    def signal(self, sandbox_id: str, process_id: str, signal: str) -> ProcessSummary:
        """Send a signal by its name, with or without `SIG`."""
        return self.send(calls.send_signal(process_id, signal), sandbox_id)

    def kill(self, sandbox_id: str, process_id: str) -> ProcessSummary:
        """Kill a process at once."""
        return self.send(calls.kill_process(process_id), sandbox_id)

    def create_sandbox(self, spec: SandboxSpec | Mapping[str, Any]) -> Sandbox:
        """Make a sandbox; see `SandboxSpec` for what can be asked for."""
        return self.send(calls.create_sandbox(sandbox_spec(spec)))

    def get_sandbox(self, sandbox_id: str) -> Sandbox:
        """Read a sandbox."""
        return self.send(calls.get_sandbox(sandbox_id))

    def list_sandboxes(self, **narrow: Any) -> SandboxPage:
        """Read one page of the team's sandboxes; see `calls.list_sandboxes`."""
        return self.send(calls.list_sandboxes(**narrow))

    def stop_sandbox(self, sandbox_id: str) -> None:
        """Stop a sandbox; its processes end with it."""
        self.send(calls.stop_sandbox(sandbox_id))

    def list_images(self, **narrow: Any) -> ImagePage:
        """Read one page of the images; see `calls.list_images`."""
        return self.send(calls.list_images(**narrow))

    def list_snapshots(self, **narrow: Any) -> SnapshotPage:
        """Read one page of the snapshots; see `calls.list_snapshots`."""
        return self.send(calls.list_snapshots(**narrow))


class AsyncSandboxOperations(ABC):
    """All operations of the service, each one request and its answer; the twin for an event loop."""

    @abstractmethod
    async def send(self, call: Call[Answer], sandbox_id: str | None = None, *, retry: bool = True) -> Answer:
        """Send a call and return its answer; see `SandboxOperations.send`."""

    @abstractmethod
    def stream(
        self, sandbox_id: str, process_id: str, *, from_seq: int = 1
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Follow a process's events from a sequence number; see `SandboxOperations.stream`."""

    async def exec(self, sandbox_id: str, command: str | ProcessParameters, **options: Any) -> ProcessResult:
        """Run a command and wait for its end in one request; see `SandboxOperations.exec`."""
        return await self.send(_exec_call(process_parameters(command, options)), sandbox_id)

    async def start(
        self, sandbox_id: str, command: str | ProcessParameters, **options: Any
    ) -> ProcessSummary:
        """Start a process and return as soon as it runs; see `SandboxOperations.start`."""
        call = _start_call(sandbox_id, process_parameters(command, options))
        started: ProcessSummary = (await self.send(call, sandbox_id)).process
        return started

    async def get_process(self, sandbox_id: str, process_id: str) -> ProcessSummary:
        """Read a process."""
        return await self.send(calls.get_process(process_id), sandbox_id)

    async def list_processes(
        self,
        sandbox_id: str,
        *,
        status: ProcessStatus | str | Iterable[ProcessStatus | str] | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        created_after: int | None = None,
        created_before: int | None = None,
    ) -> ProcessPage:
        """Read one page of a sandbox's processes; see `calls.list_processes`."""
        call = calls.list_processes(
            status=status,
            limit=limit,
            cursor=cursor,
            created_after=created_after,
            created_before=created_before,
        )
        return await self.send(call, sandbox_id)

    async def iterate_processes(
        self,
        sandbox_id: str,
        *,
        status: ProcessStatus | str | Iterable[ProcessStatus | str] | None = None,
        created_after: int | None = None,
    ) -> AsyncIterator[ProcessSummary]:
        """Read all of a sandbox's processes, page after page."""
        cursor = None
        while True:
            page = await self.list_processes(
                sandbox_id, status=status, cursor=cursor, created_after=created_after
            )
            for process in page.data:
                yield process
            cursor = page.next_cursor
            if cursor is None:
                return

    async def wait(self, sandbox_id: str, process_id: str, *, timeout_seconds: float = 30.0) -> ProcessResult:
        """Wait for a process's end for a while; see `SandboxOperations.wait`."""
        return await self.send(calls.wait(process_id, timeout_seconds=timeout_seconds), sandbox_id)

    async def write_stdin(
        self, sandbox_id: str, process_id: str, data: str | bytes | None = None, *, eof: bool = False
    ) -> None:
        """Write to a process's standard input; see `SandboxOperations.write_stdin`."""
        await self.send(calls.write_stdin(process_id, data, eof=eof), sandbox_id)

    async def signal(self, sandbox_id: str, process_id: str, signal: str) -> ProcessSummary:
        """Send a signal by its name, with or without `SIG`."""
        return await self.send(calls.send_signal(process_id, signal), sandbox_id)

    async def kill(self, sandbox_id: str, process_id: str) -> ProcessSummary:
        """Kill a process at once."""
        return await self.send(calls.kill_process(process_id), sandbox_id)

    async def create_sandbox(self, spec: SandboxSpec | Mapping[str, Any]) -> Sandbox:
        """Make a sandbox; see `SandboxSpec` for what can be asked for."""
        return await self.send(calls.create_sandbox(sandbox_spec(spec)))

    async def get_sandbox(self, sandbox_id: str) -> Sandbox:
        """Read a sandbox."""
        return await self.send(calls.get_sandbox(sandbox_id))

    async def list_sandboxes(self, **narrow: Any) -> SandboxPage:
        """Read one page of the team's sandboxes; see `calls.list_sandboxes`."""
        return await self.send(calls.list_sandboxes(**narrow))

    async def stop_sandbox(self, sandbox_id: str) -> None:
        """Stop a sandbox; its processes end with it."""
        await self.send(calls.stop_sandbox(sandbox_id))

    async def list_images(self, **narrow: Any) -> ImagePage:
        """Read one page of the images; see `calls.list_images`."""
        return await self.send(calls.list_images(**narrow))

    async def list_snapshots(self, **narrow: Any) -> SnapshotPage:
        """Read one page of the snapshots; see `calls.list_snapshots`."""
        return await self.send(calls.list_snapshots(**narrow))
