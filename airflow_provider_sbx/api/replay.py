"""Finding where a process's retained output begins, once its beginning has expired (410).

The service tells that a sequence number is gone, not which is the first that is left. So numbers
are tried: in doubling steps until one is there, then by halves. Each try is one request. What the
process writes meanwhile moves the window on; each time that it has passed the search, the search goes
by longer steps and is content with four times as many numbers given up that may still have been there.
"""

from __future__ import annotations

_MOST_PROBES = 128
_LARGEST_STEP = 2**60
_GIVEN_UP = 4


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
        self._passed = 0
        self._probes = 0

    @property
    def exhausted(self) -> bool:
        """Whether it is not worth going on: whatever was asked for is gone."""
        return self._kept is None and self._step > _LARGEST_STEP

    def expired(self) -> None:
        """Tell that `probe` is gone."""
        self._gone = max(self._gone, self.probe)
        self._next()

    def opened(self) -> None:
        """Tell that `probe` is there, and is being streamed."""
        self._kept = self.probe
        if self._kept - self._gone <= self._tolerance or self._probes >= _MOST_PROBES:
            self.found = self._kept
        else:
            self._next()

    @property
    def _tolerance(self) -> int:
        """How far apart what is gone and what is there may be."""
        return _GIVEN_UP * 4**self._passed if self._passed else 1

    def _next(self) -> None:
        self._probes += 1
        if self._kept is not None:
            if self._kept > self._gone:
                self.probe = (self._gone + self._kept + 1) // 2
                return
            # The window moves faster than the search.
            self._passed += 1
            self._kept, self._step = None, self._tolerance
        self.probe = self._gone + self._step
        self._step *= 2
