"""How many streams are open at once, and who is next.

Each open stream is a connection, so a file descriptor and some tens of KiB of the triggerer. Above
the limit a wait looks at its process now and then instead, until a place is free.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import resource
from collections import OrderedDict

log = logging.getLogger(__name__)

DEFAULT_MAX_STREAMS = 1000

_RESERVED_FILES = 100
"""Descriptors that are left to everything else: requests, Airflow's own connections, log files."""

_MOST_SHORT = 25


class Places:
    """A number of places, given in the order in which they were asked for.

    :param most: how many there are.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._queue: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    def ask(self) -> asyncio.Future[None]:
        """Return a place, which is done once it is one's own; it must be given back by `leave`."""
        place = asyncio.get_running_loop().create_future()
        if self._free:
            self._free -= 1
            place.set_result(None)
        else:
            self._queue[place] = None
        return place

    def leave(self, place: asyncio.Future[None]) -> None:
        """Give a place back to the one who has waited longest, or wait for it no more."""
        if not place.done():
            del self._queue[place]
        elif self._queue:
            self._queue.popitem(last=False)[0].set_result(None)
        else:
            self._free += 1


class StreamLimit:
    """The places of one client.

    :param most: how many streams may be open at once.
    """

    def __init__(self, most: int = DEFAULT_MAX_STREAMS) -> None:
        self.most = most
        self.places = Places(most)
        # For the output of processes that have ended. Such a stream ends by itself once it was read,
        # so it needn't stand in line behind those that are held for hours; and as there are few of
        # these places, a thousand processes that end at once open no thousand streams.
        self.short = Places(min(_MOST_SHORT, max(1, most // 10)))


class Ticket:
    """One wait's claim to a stream, from the first time that it wants one to its end."""

    __slots__ = ("_limit", "_place", "_places")

    def __init__(self, limit: StreamLimit) -> None:
        self._limit = limit
        self._places = limit.places
        self._place: asyncio.Future[None] | None = None

    @property
    def most(self) -> int:
        """How many streams may be open at once."""
        return self._limit.most

    @property
    def place(self) -> asyncio.Future[None] | None:
        """What is done once a stream may be opened; None if none was asked for yet."""
        return self._place

    async def may_stream(self, *, is_short: bool) -> bool:
        """Whether a stream may be opened now; else it is this wait's turn in time.

        :param is_short: the process has ended: wait for the place, which is soon free.
        """
        if self._place is None or (is_short and not self._place.done()):
            self.give_back()
            self._places = self._limit.short if is_short else self._limit.places
            self._place = self._places.ask()
        if is_short:
            await asyncio.wait((self._place,))
        return self._place.done()

    def give_back(self) -> None:
        """Leave the place, or the line."""
        if self._place is not None:
            self._places.leave(self._place)
        self._place = None


def fitting(most: int) -> int:
    """Return how many of so many streams this process's limit of open files allows."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if files == resource.RLIM_INFINITY else max(1, min(most, files - _RESERVED_FILES))


@functools.cache
def warn_unless_fitting(conn_id: str, most: int) -> None:
    """Say once in this process that its limit of open files allows less than a connection wants.

    :param conn_id: the connection's id.
    :param most: its `max_streams`.
    """
    fits, needed = fitting(most), most + _RESERVED_FILES
    if fits < most:
        log.warning(
            "Connection %r: max_streams is %d, but this process may not open as many files: %d streams are "
            "opened at once, and further waits poll. Raise its limit, such as by `ulimit -n %d`, or "
            "`LimitNOFILE=%d` in a systemd unit, or lower max_streams.",
            *(conn_id, most, fits, needed, needed),
        )
