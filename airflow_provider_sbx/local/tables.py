"""The processes of one sandbox: starts and their queue, look-up, paging, forgetting."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from airflow_provider_sbx.api.models import ProcessParameters, ProcessStatus
from airflow_provider_sbx.local.errors import ApiError, process_not_found
from airflow_provider_sbx.local.isolation.agents import Agent
from airflow_provider_sbx.local.isolation.rooms import Room
from airflow_provider_sbx.local.processes import Process
from airflow_provider_sbx.local.settings import Settings


class Retention:
    """Bounds the output that ended processes hold, over all sandboxes.

    :param limit: how much, in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[str, tuple[Process, int]] = OrderedDict()
        self._size = 0

    def hold(self, process: Process) -> None:
        """Count an ended process's output; the longest ended lose theirs first."""
        self._held[process.id] = (process, process.output.size)
        self._size += process.output.size
        while self._size > self._limit and len(self._held) > 1:
            _, (oldest, size) = self._held.popitem(last=False)
            self._size -= size
            oldest.output.forget()

    def drop(self, process: Process) -> None:
        """Count it no more: the process is forgotten altogether."""
        held = self._held.pop(process.id, None)
        if held is not None:
            self._size -= held[1]


@dataclass(frozen=True)
class ProcessQuery:
    """Which processes a listing shows. Times in milliseconds since 1970, exclusive.

    :param before_index: only those started before this one: the cursor.
    """

    statuses: Collection[ProcessStatus] = ()
    limit: int = 100
    before_index: int | None = None
    created_after: int | None = None
    created_before: int | None = None

    def matches(self, process: Process) -> bool:
        """Whether a process is shown."""
        return (
            (not self.statuses or process.status in self.statuses)
            and (self.before_index is None or process.index < self.before_index)
            and (self.created_after is None or process.created_at > self.created_after)
            and (self.created_before is None or process.created_at < self.created_before)
        )


class ProcessTable:
    """A sandbox's processes.

    :param agent: what starts them.
    :param room: who can run there, and how.
    """

    def __init__(self, agent: Agent, room: Room, settings: Settings, retention: Retention) -> None:
        self._agent = agent
        self._room = room
        self._settings = settings
        self._retention = retention
        self._processes: dict[str, Process] = {}
        self._ended: deque[Process] = deque()
        self._queue: deque[Process] = deque()
        self._running = 0
        self._count = 0
        self._is_closed = False
        self._starts: set[asyncio.Task[None]] = set()

    async def start(
        self,
        params: ProcessParameters,
        *,
        delivered: Mapping[str, str] | None = None,
        takes_stdin: bool = True,
    ) -> Process:
        """Start a process, or queue it where the sandbox runs as many as it may.

        :param delivered: the values of stored secrets, environment variable -> value.
        :raises ApiError: its user or its directory does not serve.
        """
        process = self.prepare(params, delivered=delivered, takes_stdin=takes_stdin)
        await self.launch(process)
        return process

    def prepare(
        self,
        params: ProcessParameters,
        *,
        delivered: Mapping[str, str] | None = None,
        takes_stdin: bool = True,
    ) -> Process:
        """Return a process that is not started yet, so that a reader can be attached first.

        :raises ApiError: there is no such user.
        """
        account = self._room.account(params.run_as)
        environment = self._room.environment(account) | (params.env or {}) | dict(delivered or {})
        self._count += 1
        return Process(
            process_id=f"proc-{secrets.token_hex(8)}",
            index=self._count,
            command=params.command,
            cwd=_directory(params.cwd, account.home),
            env=environment,
            account=account,
            switches=self._room.switches,
            timeout_seconds=None if params.timeout_ms is None else params.timeout_ms / 1000,
            takes_stdin=takes_stdin,
            replay_bytes=self._settings.replay_bytes,
            drain_seconds=self._settings.drain_seconds,
            on_exit=self._exited,
            on_end=self._has_ended,
        )

    async def launch(self, process: Process) -> None:
        """Start a prepared process, or queue it.

        :raises ApiError: its directory does not serve; it is not listed then.
        """
        self._processes[process.id] = process
        if self._running >= self._settings.max_processes:
            self._queue.append(process)
            return
        self._running += 1
        try:
            await process.start(self._agent)
        except ApiError:
            self._processes.pop(process.id, None)
            raise

    def get(self, process_id: str) -> Process:
        """Return a process.

        :raises ApiError: there is none of this id.
        """
        try:
            return self._processes[process_id]
        except KeyError:
            raise process_not_found(process_id) from None

    def page(self, query: ProcessQuery) -> tuple[list[Process], int | None]:
        """Return the newest processes that match, and where the next page begins if there is one.

        A page begins at a process, not at a count, so that what starts and ends between two
        requests moves nothing from one page to another.
        """
        found: list[Process] = []
        for process in reversed(self._processes.values()):
            if not query.matches(process):
                continue
            if len(found) == query.limit:
                return found, found[-1].index
            found.append(process)
        return found, None

    def all(self) -> list[Process]:
        """Return every process, the newest first."""
        return list(reversed(self._processes.values()))

    async def close(self) -> None:
        """Kill them all; the agent must be ended right after."""
        self._is_closed = True
        for process in self.all():
            if not process.is_over:
                process.signal("KILL")

    async def forget(self) -> None:
        """Wait for the ends of all, after the agent's own."""
        for process in self.all():
            await process.close()

    def drop(self) -> None:
        """Let go of what the processes wrote: the sandbox itself is forgotten."""
        for process in self.all():
            self._retention.drop(process)

    def _exited(self, _: Process) -> None:
        self._running -= 1
        while self._queue and not self._is_closed and self._running < self._settings.max_processes:
            waiting = self._queue.popleft()
            if waiting.is_over:
                continue
            self._running += 1
            task = asyncio.ensure_future(self._start_queued(waiting))
            self._starts.add(task)
            task.add_done_callback(self._starts.discard)

    async def _start_queued(self, process: Process) -> None:
        try:
            await process.start(self._agent)
        except ApiError as error:
            # Nobody waits for an answer any more: it shows as failed, with the reason.
            process.error = error.message

    def _has_ended(self, process: Process) -> None:
        if process.id not in self._processes:
            return
        self._retention.hold(process)
        self._ended.append(process)
        while len(self._ended) > self._settings.kept_processes:
            oldest = self._ended.popleft()
            self._processes.pop(oldest.id, None)
            self._retention.drop(oldest)


def _directory(cwd: str | None, home: str) -> str:
    """Return a working directory as an absolute path; a relative one is the home's."""
    if cwd is None:
        return home
    return cwd if cwd.startswith("/") else f"{home}/{cwd}"
