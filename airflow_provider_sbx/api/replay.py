"""Finding where a process's retained output begins, once its beginning has expired (410).

The service tells that a sequence number is gone, not which is the first that is left. So numbers
are tried: in doubling steps until one is there, then by halves. Each try is one request; what the
process writes meanwhile moves the window on, so that the search does not insist on the last one.
"""

from __future__ import annotations

_MOST_PROBES = 64


class ReplaySearch:
    """The search for the first retained sequence number.

    :param gone: a sequence number that is known to be gone.
    """

    def __init__(self, gone: int) -> None:
        self.probe = gone
        self.found: int | None = None
        """The first number to read on from, once it is known."""
        self._gone = gone
        self._kept: int | None = None
        self._step = 1
        self._moved = False
        self._probes = 0

    @property
    def exhausted(self) -> bool:
        """Whether it is not worth going on: whatever was asked for is gone."""
        return self._kept is None and self._probes >= _MOST_PROBES

    def expired(self) -> None:
        """Tell that `probe` is gone."""
        self._gone = max(self._gone, self.probe)
        self._next()

    def opened(self) -> None:
        """Tell that `probe` is there, and is being streamed."""
        self._kept = self.probe
        if self._kept - self._gone <= 1 or self._moved or self._probes >= _MOST_PROBES:
            self.found = self._kept
        else:
            self._next()

    def _next(self) -> None:
        self._probes += 1
        if self._kept is not None:
            if self._kept > self._gone:
                self.probe = (self._gone + self._kept + 1) // 2
                return
            # The window moves faster than the search: take the next that is there.
            self._kept, self._moved, self._step = None, True, 1
        self.probe = self._gone + self._step
        self._step *= 2
