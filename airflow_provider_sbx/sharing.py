"""What all waits over one client share: the looks at a sandbox, and the places for streams."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakValueDictionary

from airflow_provider_sbx.api.models import ProcessSummary
from airflow_provider_sbx.api.steps import AskPoll
from airflow_provider_sbx.finding import Finder
from airflow_provider_sbx.polling import Hint, News, Poller
from airflow_provider_sbx.streams import StreamLimit, Ticket

if TYPE_CHECKING:
    from airflow_provider_sbx.client import AsyncSandboxClient


@dataclass
class _Shared:
    """What belongs to one client, so to one event loop and connection."""

    streams: StreamLimit = field(default_factory=StreamLimit)
    pollers: dict[str, Poller] = field(default_factory=dict)
    finders: WeakValueDictionary[str, Finder] = field(default_factory=WeakValueDictionary)


# By client, so that one that is gone takes its own along. A poller knows its client, and stands here
# only while a wait uses it.
_shared: WeakKeyDictionary[AsyncSandboxClient, _Shared] = WeakKeyDictionary()


def limit_streams(client: AsyncSandboxClient, most: int) -> None:
    """Let no more streams be open over a client at once; before anybody waits over it.

    :param most: how many.
    """
    _shared[client] = _Shared(StreamLimit(most))


async def find_process(
    client: AsyncSandboxClient, sandbox_id: str, *keys: str, created_after: int | None = None
) -> ProcessSummary | None:
    """Find a process by its key, together with whoever looks in the same sandbox; see `Finder.find`."""
    finders = _shared.setdefault(client, _Shared()).finders
    finder = finders.setdefault(sandbox_id, Finder(client, sandbox_id))
    return await finder.find(*keys, created_after=created_after)


class Seat:
    """One wait's part in what is shared; a context manager that lasts as long as the wait.

    The last to leave a sandbox ends the looks at it.

    :param client: what the wait goes over.
    :param sandbox_id: where its process runs.
    """

    __slots__ = ("_poller", "_pollers", "_sandbox_id", "ticket")

    def __init__(self, client: AsyncSandboxClient, sandbox_id: str) -> None:
        shared = _shared.setdefault(client, _Shared())
        self._pollers, self._sandbox_id = shared.pollers, sandbox_id
        self._poller = shared.pollers.get(sandbox_id) or Poller(client, sandbox_id)
        self.ticket = Ticket(shared.streams)

    def __enter__(self) -> Seat:
        self._pollers[self._sandbox_id] = self._poller
        self._poller.users += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.ticket.give_back()
        self._poller.users -= 1
        if not self._poller.users:
            self._poller.stop()
            del self._pollers[self._sandbox_id]

    async def look(self, process_id: str, ask: AskPoll) -> News:
        """Wait for news of a process, or for a place for the stream that was asked for."""
        place = self.ticket.place
        if place is not None and place.done():
            return Hint.STREAM_FREE
        waiting = self._poller.join(process_id, ask)
        try:
            if place is None:
                return await waiting.news
            await asyncio.wait((waiting.news, place), return_when=asyncio.FIRST_COMPLETED)
            return waiting.news.result() if waiting.news.done() else Hint.STREAM_FREE
        finally:
            self._poller.leave(waiting)
