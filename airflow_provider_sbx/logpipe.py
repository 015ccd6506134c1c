"""How far a triggerer's supervisor has read what its triggers logged."""

from __future__ import annotations

import time
from collections import deque

READ_BYTES = 4096
"""What the supervisor reads of the log in each turn of its loop (`make_buffered_socket_reader`), in bytes."""

_SOCKET_BYTES = 208 * 1024  # more does not wait to be read: whoever logs then waits itself
_TURNS_A_SECOND = 4.0  # at the least, also where nobody asks anything
_REMEMBERED = _SOCKET_BYTES // READ_BYTES + 2


class LogPipe:
    """The one way of all triggers' logs of a triggerer to its supervisor.

    How far it was read can't be asked for. But a request that a trigger sends is answered in a turn of the
    supervisor's loop, one in each, and so some of what was logged before it has then been read.
    """

    def __init__(self) -> None:
        self._written = self._read = self._likely_read = 0.0
        self._at = 0.0
        self._answered: deque[float] = deque(maxlen=_REMEMBERED)

    @property
    def end(self) -> float:
        """Where that ends which was logged so far, in bytes."""
        return self._written

    @property
    def unread(self) -> float:
        """How much is likely to wait to be read, in bytes."""
        return self._written - max(self._read, self._likely_read)

    def write(self, size: int) -> None:
        """Count what is logged.

        :param size: in bytes, about.
        """
        now = time.monotonic()
        meanwhile = (now - self._at) * _TURNS_A_SECOND * READ_BYTES
        self._at = now
        self._read = min(self._written, self._read + meanwhile)
        self._written += size
        self._read = max(self._read, self._written - _SOCKET_BYTES)

    def had_turn(self, end: float) -> None:
        """Count a turn of the supervisor.

        :param end: where the log ended when the request was sent that was answered in that turn.
        """
        self._answered.append(end)
        self._read = max(self._read, min(end, self._read + READ_BYTES))
        self._likely_read = max(self._read, min(end, self._likely_read + READ_BYTES))

    def may_have_had(self, turns: int, end: float) -> None:
        """Count turns that are likely, as nobody asked for them.

        :param end: where the log ended before them.
        """
        likely = max(self._read, self._likely_read)
        self._likely_read = max(likely, min(end, likely + turns * READ_BYTES))

    def turns_to(self, end: float) -> int:
        """Return how many turns it takes yet to read up to there."""
        return -(-int(end - self._read) // READ_BYTES)

    def turns_since(self, end: float) -> int:
        """Return how many turns there were since the log ended there."""
        return sum(asked >= end for asked in self._answered)


log_pipe = LogPipe()
"""That of this process."""
