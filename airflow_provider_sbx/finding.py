"""Looking for the processes of tries: one listing of a sandbox for all who look at the same time.

A thousand tasks that start in a triggerer look for what a lost triggerer may have started, each of them. If
each read the sandbox's list, that would be as many pages as there are pairs of them.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import logging
from typing import TYPE_CHECKING

from airflow_provider_sbx.api.conversations import Borne, find_processes, latest
from airflow_provider_sbx.api.errors import ServiceError
from airflow_provider_sbx.api.models import ProcessSummary
from airflow_provider_sbx.api.outage import teller

if TYPE_CHECKING:
    from airflow_provider_sbx.client import AsyncSandboxClient

log = logging.getLogger(__name__)


class _Listing:
    """One reading of a sandbox's list, and who waits for it."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.bounds: list[int | None] = []
        self.waiting = 0
        self.task: asyncio.Task[Borne] | None = None


class Finder:
    """Finds processes of one sandbox by their keys.

    A listing that is under way may have passed the place of a process that was started since: so who comes
    while one is read waits for the next, which all who came meanwhile share.

    :param client: how to reach the service.
    :param sandbox_id: whose processes.
    """

    def __init__(self, client: AsyncSandboxClient, sandbox_id: str) -> None:
        self._client = client
        self._sandbox_id = sandbox_id
        self._next: _Listing | None = None
        self._last: asyncio.Task[Borne] | None = None
        self._contexts: dict[object, contextvars.Context] = {}
        self._trouble: str | None = None

    async def find(self, *keys: str, created_after: int | None = None) -> ProcessSummary | None:
        """Return the process whose command bears one of the keys, or None; the latest of several.

        :param keys: see `process_key`.
        :param created_after: look only at those started after this, in milliseconds since 1970.
        :raises ServiceError: the service could not be asked.
        """
        listing = self._join(keys, created_after)
        assert listing.task is not None
        listing.waiting += 1
        wait = object()
        self._contexts[wait] = contextvars.copy_context()
        if self._trouble is not None:
            log.warning(self._trouble)
        try:
            found = await asyncio.shield(listing.task)
        except ServiceError as error:
            # A copy, as each raises its own: one that a thousand raise has a thousand tracebacks.
            raise copy.copy(error) from error.__cause__
        finally:
            del self._contexts[wait]
            listing.waiting -= 1
            if not listing.waiting and not listing.task.done():
                self._drop(listing)
        return latest(found, *keys)

    def _join(self, keys: tuple[str, ...], created_after: int | None) -> _Listing:
        listing = self._next
        if listing is None:
            listing = self._next = _Listing()
            # In a context of its own: what it does belongs to none of the waits, so to none of their logs.
            listing.task = self._last = asyncio.get_running_loop().create_task(
                self._read(listing, self._last), context=contextvars.Context()
            )
        listing.keys.update(keys)
        listing.bounds.append(created_after)
        return listing

    def _drop(self, listing: _Listing) -> None:
        assert listing.task is not None
        listing.task.cancel()
        if self._next is listing:
            self._next = None

    async def _read(self, listing: _Listing, before: asyncio.Task[Borne] | None) -> Borne:
        if before is not None:
            await asyncio.wait((before,))
        self._next = None
        bounds = [bound for bound in listing.bounds if bound is not None]
        created_after = min(bounds) if len(bounds) == len(listing.bounds) else None
        looking = find_processes(frozenset(listing.keys), created_after=created_after)
        teller.set(self._tell)  # of this task's own context
        try:
            return await self._client.converse(self._sandbox_id, looking)
        finally:
            self._trouble = None

    def _tell(self, level: int, text: str) -> None:
        """Tell each wait of an outage in its own task's log; who comes meanwhile, when it comes."""
        self._trouble = text if level >= logging.WARNING else None
        for context in self._contexts.values():
            context.run(log.log, level, text)
