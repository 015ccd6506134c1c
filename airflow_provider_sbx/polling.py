"""Looking at the processes of a sandbox now and then: one look for all who wait for them.

A hundred waits that each asked for their own process would be a hundred requests an interval; one
page of the sandbox's list answers them all.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from airflow_provider_sbx.api import calls
from airflow_provider_sbx.api.errors import ServiceError
from airflow_provider_sbx.api.models import ProcessSummary, Sandbox
from airflow_provider_sbx.api.outage import SUSPICIOUS_FAILURES
from airflow_provider_sbx.api.steps import AskPoll

if TYPE_CHECKING:
    from airflow_provider_sbx.client import AsyncSandboxClient

_PAGE = 100
_GATHER_SECONDS = 0.25
"""How long a first look waits for others that start at the same time, at the most, in seconds."""


class Hint(Enum):
    """What came instead of an answer of the service."""

    NOT_LISTED = auto()
    """The process stands in no page of the list."""
    STREAM_FREE = auto()
    """There is a place for another stream."""


News = ProcessSummary | Sandbox | ServiceError | Hint


@dataclass(eq=False, slots=True)
class Waiting:
    """One wait that is to be told of a process's end, of a failed look, or of its first look."""

    process_id: str
    ask: AskPoll
    news: asyncio.Future[News]


class Poller:
    """Looks at the processes of one sandbox for all who wait for them over one client.

    The shortest interval among them decides, and the others share its looks. A look that fails is
    told to each, as what its own request would have met; how soon the next comes, by `Retry-After`
    or a growing pause, is decided once, and so is whether the sandbox is still there. Who waits
    alone is answered by its process's own page: that is exact, and smaller than a list.

    :param client: how to reach the service.
    :param sandbox_id: whose processes.
    :param chance: returns a random number from 0 to 1, for jitter: sandboxes must not be looked at
        all together.
    """

    def __init__(
        self, client: AsyncSandboxClient, sandbox_id: str, *, chance: Callable[[], float] = random.random
    ) -> None:
        self.users = 0
        """Waits that may yet ask; the last one to leave calls `stop`."""
        self._client = client
        self._sandbox_id = sandbox_id
        self._chance = chance
        self._waiting: set[Waiting] = set()
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        self._look: asyncio.Task[None] | None = None

    def join(self, process_id: str, ask: AskPoll) -> Waiting:
        """Have the process looked at; `news` of what this returns tells what came of it."""
        waiting = Waiting(process_id, ask, asyncio.get_running_loop().create_future())
        self._waiting.add(waiting)
        if self._look is not None:
            return waiting  # the next look is set when this one is over
        if self._timer is None:
            soon = min(_GATHER_SECONDS, ask.interval_seconds)
            self._look_within(soon * (1 + self._chance()) / 2)
        elif not self._failures:
            self._look_within(self._jittered(ask.interval_seconds))
        return waiting

    def leave(self, waiting: Waiting) -> None:
        """Want no news any more."""
        self._waiting.discard(waiting)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._look is not None:
            self._look.cancel()

    # --- inside ----------------------------------------------------------------------------

    def _jittered(self, seconds: float) -> float:
        return seconds * (0.9 + 0.2 * self._chance())

    def _look_within(self, seconds: float) -> None:
        """Look after so many seconds, unless a look comes sooner already."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        # In a context of its own: what it does belongs to none of the waits, so to none of their logs.
        self._timer = loop.call_later(seconds, self._begin, context=contextvars.Context())

    def _begin(self) -> None:
        self._timer = None
        if self._waiting:
            self._look = asyncio.create_task(self._look_once())
            self._look.add_done_callback(self._over)

    def _over(self, look: asyncio.Task[None]) -> None:
        """Let nobody wait for a look that broke: what is no failure of the service ends them all."""
        if not look.cancelled() and (error := look.exception()) is not None:
            self._look = None
            for waiting in self._waiting:
                if not waiting.news.done():
                    waiting.news.set_exception(error)
            self._waiting.clear()

    async def _look_once(self) -> None:
        asked = list(self._waiting)
        try:
            found = await self._find(asked)
        except ServiceError as error:
            self._failures += 1
            sandbox = await self._ended_sandbox()
            for waiting in asked:
                # A copy, as each raises its own: one that a thousand raise has a thousand tracebacks.
                self._tell(waiting, sandbox or copy.copy(error))
            seconds = self._client.policy.delay_seconds(self._failures, error, self._chance())
        else:
            self._failures = 0
            for waiting in asked:
                process = found.get(waiting.process_id)
                if process is None:
                    self._tell(waiting, Hint.NOT_LISTED)
                elif process.status.is_terminal or waiting.ask.is_first:
                    self._tell(waiting, process)
            seconds = self._jittered(min(each.ask.interval_seconds for each in (*asked, *self._waiting)))
        self._look = None
        self._look_within(seconds)

    def _tell(self, waiting: Waiting, news: News) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            if not waiting.news.done():  # cancelled, as who waits was, and will leave in its next turn
                waiting.news.set_result(news)

    async def _find(self, asked: list[Waiting]) -> dict[str, ProcessSummary]:
        """Return those of the processes that are there, from as few pages as may be."""
        wanted = {waiting.process_id for waiting in asked}
        if len(wanted) == 1:
            process_id = asked[0].process_id
            call = calls.get_process(process_id)
            return {process_id: await self._client.send(call, self._sandbox_id, retry=False)}
        bounds = [waiting.ask.created_after for waiting in asked]
        known = [bound for bound in bounds if bound is not None]
        created_after = min(known) if len(known) == len(bounds) else None
        found: dict[str, ProcessSummary] = {}
        cursor = None
        while True:
            listing = calls.list_processes(limit=_PAGE, cursor=cursor, created_after=created_after)
            page = await self._client.send(listing, self._sandbox_id, retry=False)
            found |= {process.id: process for process in page.data if process.id in wanted}
            cursor = page.next_cursor
            if cursor is None or len(found) == len(wanted) or not page.data:
                return found

    async def _ended_sandbox(self) -> Sandbox | None:
        """After some failures in a row, return the sandbox if it is gone."""
        if self._failures % SUSPICIOUS_FAILURES:
            return None
        try:
            sandbox = await self._client.send(calls.get_sandbox(self._sandbox_id), retry=False)
        except ServiceError:
            return None  # the failure of the look itself is told
        return sandbox if sandbox.status.is_terminal else None
