"""What a trigger has logged, and its triggerer has not yet written down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airflow_provider_sbx.api.output import Line
from airflow_provider_sbx.api.steps import Entry
from airflow_provider_sbx.compat import AirflowRuntimeError, has_supervisor, have_supervisor_turn
from airflow_provider_sbx.follow import Emit
from airflow_provider_sbx.logpipe import READ_BYTES, log_pipe

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger

_WINDOW_SECONDS = 5.0
_LONGEST_SECONDS = 30.0
_MOST_BYTES = 208 * 1024
_RECORD_BYTES = 300
"""A record of the log beside its text and the names of its task, in bytes (Airflow 3.3; less before)."""

_ROOM_BYTES = 40 * 1024
"""How much of all triggers' logs may wait to be read before those that write much wait as well, in bytes.

The socket holds 208 KiB, but counts a KiB more or so for each record: it is full with 166 short ones. Whoever
logs then stands still, and with it all triggers of the triggerer.
"""

_CALM_BYTES = _ROOM_BYTES / 2
"""How much of it is left when they go on, in bytes.

Each question costs both sides, so one makes room for several batches; and while they write these, the
supervisor still has something to read.
"""

_UNASKED_TURNS = 2

_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


class Backlog:
    """Counts what a trigger logs, and waits until that is written.

    The triggerer's supervisor reads 4 KiB of log in each turn of its loop, and what it has not read when
    it learns that a trigger has finished goes into its own log instead of the task's. Turns are dear: in
    each, the supervisor looks into Airflow's database. So those count as well that any trigger had.

    :param trigger: whose log.
    """

    def __init__(self, trigger: BaseTrigger) -> None:
        self._trigger = trigger
        self._since = self._last = 0.0
        self._bytes = 0
        self._end = log_pipe.end
        ti = trigger.task_instance
        names = "" if ti is None else f"{ti.dag_id}{ti.run_id}{ti.task_id}"
        self._record_bytes = _RECORD_BYTES + len(names)

    def counted(self, emit: Emit) -> Emit:
        """Return what logs entries and counts them."""

        def count(entries: Sequence[Entry]) -> None:
            texts = sum(len(entry.text) for entry in entries if isinstance(entry, Line))
            self._add(self._record_bytes * len(entries) + texts)
            emit(entries)

        return count

    def words(self, count: int) -> None:
        """Count a trigger's own words, that it is about to log.

        :param count: records.
        """
        self._add(self._record_bytes * count)

    async def room(self) -> None:
        """Wait, after a batch, until the supervisor has read most of what all triggers logged."""
        await asyncio.sleep(0)
        if log_pipe.unread <= _ROOM_BYTES or not has_supervisor():
            return
        # One after the other, since the next to have room fills it at once.
        async with _queues.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            # Output that stood still for good would be worse than a loop that does for a moment.
            with suppress(AirflowRuntimeError, TimeoutError):
                async with asyncio.timeout(_LONGEST_SECONDS):
                    await self._drain()

    async def _drain(self) -> None:
        while log_pipe.unread > _CALM_BYTES:
            end, asked = log_pipe.end, time.monotonic()
            await have_supervisor_turn()
            if log_pipe.unread > _CALM_BYTES:
                # It goes on reading, a turn after the other; and not all of them need be asked for.
                await asyncio.sleep(_UNASKED_TURNS * (time.monotonic() - asked))
                log_pipe.may_have_had(_UNASKED_TURNS, end)

    def _add(self, size: int) -> None:
        now = time.monotonic()
        if now - self._since > _WINDOW_SECONDS:
            self._since, self._bytes = now, 0
        self._last = now
        self._bytes += size
        log_pipe.write(size)
        self._end = log_pipe.end

    @property
    def turns(self) -> int:
        """How many turns of the supervisor's loop it takes yet to write all of it."""
        size = 0 if time.monotonic() - self._last > _WINDOW_SECONDS else min(self._bytes, _MOST_BYTES)
        # Where others log much, what they logged is not waited for: one turn more must do.
        own = 1 + -(-size // READ_BYTES) - log_pipe.turns_since(self._end)
        return max(0, min(own, log_pipe.turns_to(self._end)))

    async def written(self, *, at_least: int = 0) -> None:
        """Wait until the supervisor has had turns enough to write all of it.

        :param at_least: turns to wait for in any case.
        """
        left = max(at_least, self.turns)
        try:
            async with asyncio.timeout(_LONGEST_SECONDS):
                while left > 0:
                    await have_supervisor_turn()
                    at_least -= 1
                    left = min(left - 1, max(at_least, self.turns))
        except (TimeoutError, AirflowRuntimeError) as error:
            # The end of a task matters more than the end of its log.
            self._trigger.log.debug("The supervisor did not answer: some log may go astray. %s", error)
