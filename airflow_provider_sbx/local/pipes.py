"""The server's ends of a process's pipes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from airflow_provider_sbx.local.output import OutputLog
from airflow_provider_sbx.local.text import TextSplitter

_READ_BYTES = 64 * 1024
_HELD_SECONDS = 0.1
"""How long the beginning of a character waits for its rest."""

_AFTER_END_BYTES = 1024 * 1024
"""How much is read of a pipe after the command's end. Its own output can't be more than the
pipe holds; what a background process goes on writing is not the command's."""

_STDIN_BYTES = 1024 * 1024
"""How much input is buffered before a writer must wait."""


def now_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class OutputPipe:
    """Reads one of a process's output streams into its log.

    :param fd: the pipe's end; owned from now on.
    :param stream: `stdout` or `stderr`.
    """

    def __init__(self, fd: int, stream: str, log: OutputLog) -> None:
        self._fd = fd
        self._stream = stream
        self._log = log
        self._splitter = TextSplitter()
        self._loop = asyncio.get_running_loop()
        self._flushing: asyncio.TimerHandle | None = None
        self._left_after_end: int | None = None
        self._discards = False
        self.last_read = time.monotonic()
        self.is_open = True
        self.changed: Callable[[], None] = lambda: None
        """Called at the pipe's end."""
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    @property
    def is_spent(self) -> bool:
        """Whether there will be no more of the command's output."""
        return not self.is_open or self._left_after_end == 0

    def resume(self) -> None:
        """Read on: there is room again."""
        if self.is_open and (self._discards or self._left_after_end != 0):
            self._loop.add_reader(self._fd, self._read)

    def command_ended(self) -> None:
        """Read what is left, without regard to slow readers: it is at most what the pipe holds."""
        if self._left_after_end is None:
            self._left_after_end = _AFTER_END_BYTES
            self.last_read = time.monotonic()
            self.resume()

    def discard(self) -> None:
        """Pass on what is held, then read to nowhere: a background process may still write."""
        self._flush()
        self._discards = True
        self.resume()

    def close(self) -> None:
        """Close the pipe."""
        if self.is_open:
            self.is_open = False
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._flush()
            self.changed()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        if self._discards:
            return
        self.last_read = time.monotonic()
        self._add(self._splitter.feed(data))
        if self._splitter.holds and self._flushing is None:
            self._flushing = self._loop.call_later(_HELD_SECONDS, self._flush)
        if self._left_after_end is not None:
            self._left_after_end = max(0, self._left_after_end - len(data))
            if self._left_after_end == 0:
                self._loop.remove_reader(self._fd)
                self.changed()
        elif self._log.is_full:
            self._loop.remove_reader(self._fd)

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        self._add(self._splitter.flush())

    def _add(self, piece: tuple[bytes, bool] | None) -> None:
        if piece is not None and not self._discards:
            data, is_text = piece
            self._log.append(self._stream, data, is_text=is_text, timestamp=now_ms())


class InputPipe:
    """Writes to a process's standard input.

    :param fd: the pipe's end; owned from now on.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._pending = bytearray()
        self._room = asyncio.Event()
        self._room.set()
        self._ends = False
        self.is_open = True
        os.set_blocking(fd, False)

    @property
    def takes_more(self) -> bool:
        """Whether it is open and has not been told to end."""
        return self.is_open and not self._ends

    async def write(self, data: bytes) -> bool:
        """Write, or queue it to be written; wait first where a lot is queued.

        :return: False where the process no longer reads.
        """
        await self._room.wait()
        if not self.takes_more:
            return False
        self._pending += data
        self._write()
        return self.is_open

    def end(self) -> None:
        """Close it once everything queued is written."""
        self._ends = True
        self._write()

    def close(self) -> None:
        """Close it at once."""
        if self.is_open:
            self.is_open = False
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
            self._pending.clear()
            self._room.set()

    def _write(self) -> None:
        if not self.is_open:
            return
        try:
            while self._pending:
                with memoryview(self._pending) as view:
                    written = os.write(self._fd, view[:_READ_BYTES])
                del self._pending[:written]
        except BlockingIOError:
            self._loop.add_writer(self._fd, self._write)
        except BrokenPipeError:
            self.close()
            return
        else:
            self._loop.remove_writer(self._fd)
            if self._ends:
                self.close()
                return
        if len(self._pending) < _STDIN_BYTES:
            self._room.set()
        else:
            self._room.clear()
