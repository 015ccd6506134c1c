"""What a process has written: numbered events, kept within bounds, read by many at their own pace."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_EVENT_OVERHEAD_BYTES = 64
_BATCH_EVENTS = 64
_BATCH_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class OutputEvent:
    """A piece of output.

    :param seq: 1 for the first, rising by one.
    :param stream: `stdout` or `stderr`.
    :param data: its bytes.
    :param is_text: whether they are UTF-8 from end to end.
    :param timestamp: when it was read, in milliseconds since 1970.
    """

    seq: int
    stream: str
    data: bytes
    is_text: bool
    timestamp: int

    @property
    def cost(self) -> int:
        """What it takes of the retained bytes."""
        return len(self.data) + _EVENT_OVERHEAD_BYTES


class OutputLog:
    """The retained output of one process.

    Beyond its limit the oldest goes, except what an attached reader has yet to take: then
    `is_full` asks the writer to stop for a while, so that a slow reader costs the process time and
    never the server memory.

    :param limit: how much is kept, in bytes.
    :param on_room: called when there is room again after `is_full`.
    """

    def __init__(self, limit: int, on_room: Callable[[], None] = lambda: None) -> None:
        self._limit = limit
        self._on_room = on_room
        self._events: deque[OutputEvent] = deque()
        self._size = 0
        self._readers: set[OutputReader] = set()
        self.last_seq = 0
        self.is_closed = False

    @property
    def first_seq(self) -> int:
        """The first retained number; the next one to come where nothing is retained."""
        return self._events[0].seq if self._events else self.last_seq + 1

    @property
    def is_truncated(self) -> bool:
        """Whether the beginning is no longer retained."""
        return self.first_seq > 1

    @property
    def is_full(self) -> bool:
        """Whether more would drop what a reader has yet to take, or exceed the limit."""
        return self._size >= self._limit and self._needed_from() <= self.first_seq

    @property
    def size(self) -> int:
        """How much is retained, in bytes."""
        return self._size

    def append(self, stream: str, data: bytes, *, is_text: bool, timestamp: int) -> None:
        """Add a piece of output."""
        self.last_seq += 1
        event = OutputEvent(self.last_seq, stream, data, is_text, timestamp)
        self._events.append(event)
        self._size += event.cost
        self._trim()
        self._wake()

    def close(self) -> None:
        """Say that nothing more will come."""
        self.is_closed = True
        self._wake()

    def forget(self) -> None:
        """Drop everything that no reader has yet to take."""
        self._limit = 0
        self._trim()

    def text(self, stream: str) -> str:
        """Return what is retained of a stream."""
        data = b"".join(event.data for event in self._events if event.stream == stream)
        return data.decode("utf-8", "replace")

    def attach(self, from_seq: int = 1) -> OutputReader | None:
        """Return a reader from this number on; None where that is no longer retained."""
        if from_seq < self.first_seq:
            return None
        reader = OutputReader(self, from_seq)
        self._readers.add(reader)
        return reader

    def batch(self, from_seq: int) -> list[OutputEvent]:
        """Return some of the events from this number on; none where there are none yet."""
        taken: list[OutputEvent] = []
        size = 0
        index = from_seq - self.first_seq
        while 0 <= index < len(self._events) and len(taken) < _BATCH_EVENTS and size < _BATCH_BYTES:
            taken.append(self._events[index])
            size += taken[-1].cost
            index += 1
        return taken

    def release(self, reader: OutputReader | None = None) -> None:
        """Hear that a reader has moved on, or (given) has gone."""
        if reader is not None:
            self._readers.discard(reader)
        if self._size >= self._limit:
            self._trim()
            if not self.is_full:
                self._on_room()

    def _trim(self) -> None:
        if self._size <= self._limit:
            return
        needed = self._needed_from()
        while self._events and self._size > self._limit and self._events[0].seq < needed:
            self._size -= self._events.popleft().cost

    def _needed_from(self) -> int:
        return min((reader.next_seq for reader in self._readers), default=self.last_seq + 1)

    def _wake(self) -> None:
        for reader in self._readers:
            reader.news.set()


class OutputReader:
    """One reader's place in a log. Loses nothing while it is attached.

    :param log: what it reads.
    :param next_seq: where it begins.
    """

    def __init__(self, log: OutputLog, next_seq: int) -> None:
        self._log = log
        self.next_seq = next_seq
        self.news = asyncio.Event()

    async def read(self) -> list[OutputEvent]:
        """Return the next events, when there are some; none once there will be no more."""
        while True:
            self.news.clear()
            batch = self._log.batch(self.next_seq)
            if batch or self._log.is_closed:
                return batch
            await self.news.wait()

    def took(self, seq: int) -> None:
        """Say that this event has been passed on, so that its place may be used again."""
        self.next_seq = seq + 1
        self._log.release()

    def close(self) -> None:
        """Go away."""
        self._log.release(self)
