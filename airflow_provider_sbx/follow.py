"""Driving `api.following` with a real client: the one loop in which worker and triggerer wait.

The worker runs it in an event loop of its own, the triggerer in the one that all triggers share,
so nothing here may block, and a noisy process must let the others have their turn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_sbx.api import calls
from airflow_provider_sbx.api.conversations import Termination, terminate
from airflow_provider_sbx.api.errors import ServiceError
from airflow_provider_sbx.api.events import Event
from airflow_provider_sbx.api.following import Following
from airflow_provider_sbx.api.steps import (
    AskPoll,
    AskSandbox,
    AskStatus,
    AskWait,
    Entry,
    Finished,
    OpenStream,
    Outcome,
    Pause,
)
from airflow_provider_sbx.polling import Hint
from airflow_provider_sbx.sharing import Seat

if TYPE_CHECKING:
    from airflow_provider_sbx.client import AsyncSandboxClient

Emit = Callable[[Sequence[Entry]], None]


class Notes(Protocol):
    """Where it is noted how far a wait has come."""

    def offer(self, machine: Following) -> None:
        """Take note of the machine's state, if that is worth it; all that it has seen was handed on."""

    async def load(self) -> dict[str, Any] | None:
        """Return the state that was noted last, or None."""


class Watcher(Protocol):
    """Whoever counts the streams that are read."""

    def stream_opened(self) -> None:
        """Take note of a stream that is read from now on."""

    def stream_closed(self) -> None:
        """Take note that it is read no more."""

    def left(self) -> None:
        """Take note that the process was left on purpose: the next stream is no reconnect."""


Room = Callable[[], Awaitable[None]]
"""Waits until what takes the entries has room for more, and lets others have their turn meanwhile."""

_one_turn: Room = partial(asyncio.sleep, 0)

_BATCH = 50
"""So many entries are handed on without a turn for the others; few, since a log may be slow to take them."""

_BATCH_BYTES = 16 * 1024
"""And about so much of output, in bytes."""

_TICK_SECONDS = 1.0
_QUIET_TICK_SECONDS = 30.0
_LAST_WORDS_SECONDS = 5.0


async def follow(
    client: AsyncSandboxClient,
    sandbox_id: str,
    machine: Following,
    emit: Emit,
    *,
    events: AsyncIterator[Event] | None = None,
    until: float | None = None,
    notes: Notes | None = None,
    watcher: Watcher | None = None,
    room: Room = _one_turn,
) -> Outcome | None:
    """Wait for a process and hand its output on as it comes.

    :param client: how to reach the service.
    :param sandbox_id: where the process runs.
    :param machine: the state of the waiting; it stays usable when `until` comes first.
    :param emit: takes lines and notices, in order; called from the event loop, so it must be quick.
    :param events: the stream of a start that was just made, to be read first.
    :param until: when to give up, in seconds since 1970; None for never.
    :param notes: is offered the state often, and asked for it once: where what the machine would read
        next is no longer kept, and another may have read on.
    :param watcher: is told of each stream that is read.
    :param room: waited for after each batch of entries.
    :return: how the process ended, or None where `until` came first.
    :raises ServiceError: what makes going on pointless, such as a sandbox that was stopped.
    """
    ticker = _Ticker(machine, emit)
    ticker.arm()
    may_catch_up = notes is not None
    limit = asyncio.timeout(None if until is None else max(0.0, until - time.time()))
    try:
        async with limit:
            with Seat(client, sandbox_id) as seat:
                driver = _Driver(client, sandbox_id, machine, emit, ticker, notes, watcher, room, seat)
                if events is not None:
                    await driver.read(events)
                while True:
                    if notes is not None and may_catch_up and machine.misses_output:
                        may_catch_up = False
                        machine.go_on_from(await notes.load() or {})
                    step = machine.step(time.time())
                    if isinstance(step, Finished):
                        return step.outcome
                    try:
                        entries = await driver.take(step)
                    except ServiceError as error:
                        entries = machine.failed(error, time.time())
                    await _emit_in_turns(entries, emit, room)
    except TimeoutError:
        if limit.expired():
            return None
        raise
    finally:
        ticker.stop()


async def end_overdue(
    client: AsyncSandboxClient,
    sandbox_id: str,
    machine: Following,
    emit: Emit,
    *,
    grace_seconds: float,
) -> Termination:
    """End a process whose time is up, and hand on what it still writes.

    :param grace_seconds: time between TERM and KILL, in seconds.
    :raises ServiceError: the service could not be asked.
    """
    ending = await client.converse(sandbox_id, terminate(machine.process_id, grace_seconds=grace_seconds))
    if ending.ended:
        machine.has_ended()
    with suppress(ServiceError):  # it has ended, which is what matters; its last words are a bonus
        await follow(client, sandbox_id, machine, emit, until=time.time() + _LAST_WORDS_SECONDS)
    return ending


@dataclass(slots=True)
class _Driver:
    """Does what one wait's machine asks for."""

    client: AsyncSandboxClient
    sandbox_id: str
    machine: Following
    emit: Emit
    ticker: _Ticker
    notes: Notes | None
    watcher: Watcher | None
    room: Room
    seat: Seat

    async def take(
        self, step: OpenStream | AskWait | AskStatus | AskPoll | AskSandbox | Pause
    ) -> list[Entry]:
        """Do one step. Nothing is retried here: the machine decides that."""
        client, sandbox_id, machine = self.client, self.sandbox_id, self.machine
        match step:
            case Pause(seconds):
                await asyncio.sleep(seconds)
                return []
            case OpenStream(from_seq):
                if not await self.seat.ticket.may_stream(is_short=machine.is_over):
                    return [*machine.looks.crowded(self.seat.ticket.most)]
                async with client.stream(sandbox_id, machine.process_id, from_seq=from_seq) as events:
                    await self.read(events)
                return []
            case AskWait(seconds):
                wait = calls.wait(machine.process_id, timeout_seconds=seconds)
                result = await client.send(wait, sandbox_id, retry=False)
                return machine.answered(result, time.time())
            case AskStatus():
                process = await client.send(calls.get_process(machine.process_id), sandbox_id, retry=False)
                return machine.answered(process, time.time())
            case AskPoll():
                return await self._look(step)
            case AskSandbox():
                sandbox = await client.send(calls.get_sandbox(sandbox_id), retry=False)
                return machine.answered(sandbox, time.time())

    async def _look(self, step: AskPoll) -> list[Entry]:
        """Wait for what a look that is shared with others brings.

        :raises ServiceError: it failed.
        """
        match await self.seat.look(self.machine.process_id, step):
            case Hint.STREAM_FREE:
                return [*self.machine.looks.uncrowded()]
            case Hint.NOT_LISTED:
                return self.machine.not_listed(time.time())
            case ServiceError() as error:
                raise error
            case answer:
                return self.machine.answered(answer, time.time())

    async def read(self, events: AsyncIterator[Event]) -> None:
        """Read an open stream for as long as the machine wants to."""
        machine, emit, watcher, room = self.machine, self.emit, self.watcher, self.room
        await _emit_in_turns(machine.opened(time.time()), emit, room)
        taken, logged = 0, machine.logged_bytes
        if watcher is not None:
            watcher.stream_opened()
        try:
            while machine.reads_on:
                event = await anext(events, None)
                if event is None:
                    break
                entries = machine.event(event, time.time())
                if len(entries) > _BATCH:
                    with self.ticker.held():
                        await _emit_in_turns(entries, emit, room)
                elif entries:  # nearly always, and every microsecond of an event counts
                    emit(entries)
                machine.handed_on(time.time())
                if self.notes is not None:
                    self.notes.offer(machine)
                self.ticker.arm()
                # By lines, not by events: one event may hold as many lines as a batch.
                taken += 1 + len(entries)
                if taken >= _BATCH or machine.logged_bytes - logged >= _BATCH_BYTES:
                    taken, logged = 0, machine.logged_bytes
                    # What is buffered is read without ever waiting: give the others their turn.
                    await room()
        except ServiceError as error:
            await _emit_in_turns(machine.failed(error, time.time()), emit, room)
        else:
            await _emit_in_turns(machine.stream_ended(time.time()), emit, room)
        finally:
            if watcher is not None:
                watcher.stream_closed()


async def _emit_in_turns(entries: Sequence[Entry], emit: Emit, room: Room) -> None:
    """Hand entries on in batches, with a turn for the others in between; all of them, whatever comes."""
    if len(entries) <= _BATCH:
        if entries:
            emit(entries)
        return
    done = 0
    try:
        while done < len(entries):
            batch = entries[done : done + _BATCH]
            done += len(batch)
            emit(batch)
            await room()
    except asyncio.CancelledError:
        # The machine counts these as seen: whoever goes on from its state won't see them again.
        emit(entries[done:])
        raise


class _Ticker:
    """Shows lines without an end after a quiet moment, and signs of life in a long one: one timer a wait."""

    def __init__(self, machine: Following, emit: Emit) -> None:
        self._machine = machine
        self._emit = emit
        self._handle: asyncio.TimerHandle | None = None
        self._is_soon = False
        self._is_held = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Show nothing meanwhile: the end of a line would come before the lines that precede it."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    def arm(self) -> None:
        has_open_line = self._machine.has_open_line
        if self._handle is not None and (self._is_soon or not has_open_line):
            return
        self.stop()
        now = time.time()
        self._is_soon = has_open_line
        least = _TICK_SECONDS if self._is_soon else _QUIET_TICK_SECONDS
        seconds = max(least, self._machine.next_tick(now) - now)
        self._handle = asyncio.get_running_loop().call_later(seconds, self._tick)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _tick(self) -> None:
        self._handle = None
        if not self._is_held and (entries := self._machine.tick(time.time())):
            self._emit(entries)
        self.arm()
