"""What a trigger has logged, and its triggerer has not yet written down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_provider_sbx.api.output import Line
from airflow_provider_sbx.api.steps import Entry
from airflow_provider_sbx.compat import AirflowRuntimeError, have_supervisor_turn, supervisor_turns
from airflow_provider_sbx.follow import Emit

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger

_WINDOW_SECONDS = 5.0
_LONGEST_SECONDS = 30.0
_READ_BYTES = 4096
_MOST_BYTES = 208 * 1024
_RECORD_BYTES = 600


class Backlog:
    """Counts what a trigger logs, and waits until that is written.

    The triggerer's supervisor reads 4 KiB of log in each turn of its loop
    (`make_buffered_socket_reader`), and what it has not read when it learns that a trigger has
    finished goes into its own log instead of the task's. At most a socket's buffer waits there.

    :param trigger: whose log.
    """

    def __init__(self, trigger: BaseTrigger) -> None:
        self._trigger = trigger
        self._since = self._last = 0.0
        self._bytes = self._had = 0

    def counted(self, emit: Emit) -> Emit:
        """Return what logs entries and counts them."""

        def count(entries: Sequence[Entry]) -> None:
            now = time.monotonic()
            if now - self._since > _WINDOW_SECONDS:
                self._since, self._bytes = now, 0
            self._last = now
            for entry in entries:
                self._bytes += _RECORD_BYTES + (len(entry.text) if isinstance(entry, Line) else 0)
            emit(entries)
            self._had = supervisor_turns(self._trigger)

        return count

    @property
    def turns(self) -> int:
        """How many turns of the supervisor's loop it takes yet to write all of it."""
        size = 0 if time.monotonic() - self._last > _WINDOW_SECONDS else min(self._bytes, _MOST_BYTES)
        # Whatever the trigger asked for since, such as for a place for its result, took turns as well. They
        # are dear: in each, the supervisor looks into Airflow's database.
        return 1 + -(-size // _READ_BYTES) - (supervisor_turns(self._trigger) - self._had)

    async def written(self, *, at_least: int = 0) -> None:
        """Wait until the supervisor has had turns enough to write all of it.

        :param at_least: turns to wait for in any case.
        """
        try:
            async with asyncio.timeout(_LONGEST_SECONDS):
                for _ in range(max(at_least, self.turns)):
                    await have_supervisor_turn(self._trigger)
        except (TimeoutError, AirflowRuntimeError) as error:
            # The end of a task matters more than the end of its log.
            self._trigger.log.debug("The supervisor did not answer: some log may go astray. %s", error)
