"""How far a trigger has logged, kept in XCom: where another triggerer goes on."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from airflow_provider_sbx.api.following import Following
from airflow_provider_sbx.compat import AirflowRuntimeError, push, pushed

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger

XCOM_KEY = "sbx_checkpoint"

CHECKPOINT_SECONDS = 10.0
"""Least time between two checkpoints of a trigger, in seconds.

All triggers of a triggerer share one supervisor, which takes some 28 requests a second.
"""

CHECKPOINT_BYTES = 256 * 1024
"""Least output between two checkpoints, in bytes; less is soon read again: the service keeps a few MiB."""

CHECKPOINT_EVENTS = 1000
"""As many events are worth a checkpoint as well."""


class Checkpoint:
    """Notes now and then how far a noisy process was logged.

    A triggerer that takes over reads again all output since the deferral; what it logs twice bears
    equal stamps, and merges away in Airflow's log. Where the service, which keeps a few MiB, no longer
    has all of that, it goes on from here. It asks only then: a triggerer that takes over thousands of
    waits would otherwise be deaf for as long as Airflow answers thousands of requests, one by one.

    :param trigger: whose task's XCom it is kept in.
    :param process_id: what it belongs to; a checkpoint of another process is none.
    :param machine: the wait as it begins, which is noted already.
    """

    def __init__(self, trigger: BaseTrigger, process_id: str, machine: Following) -> None:
        self._trigger = trigger
        self._process_id = process_id
        self._note(machine)
        self._saving: asyncio.Task[None] | None = None

    async def load(self) -> dict[str, Any] | None:
        """Return the state that was noted last, or None."""
        try:
            note = await pushed(self._trigger, XCOM_KEY)
        except AirflowRuntimeError as error:
            self._trigger.log.warning("The checkpoint could not be read. %s", error)
            return None
        if not isinstance(note, dict) or note.get("process_id") != self._process_id:
            return None
        state: dict[str, Any] = note["state"]
        return state

    def _note(self, machine: Following) -> None:
        self._at, self._seq, self._bytes = time.monotonic(), machine.next_seq, machine.logged_bytes

    def offer(self, machine: Following) -> None:
        """Note how far a wait has come, if that is worth it. Called when all was logged that it saw."""
        # Not amid a line: its text would stand in XCom, which hides no secrets as the log does.
        if time.monotonic() - self._at < CHECKPOINT_SECONDS or machine.has_open_line:
            return
        events, output = machine.next_seq - self._seq, machine.logged_bytes - self._bytes
        if (events < CHECKPOINT_EVENTS and output < CHECKPOINT_BYTES) or self._is_saving:
            return
        self._note(machine)
        # Beside the stream: a triggerer's first request takes seconds.
        self._saving = asyncio.create_task(self._save(machine.state()))

    @property
    def _is_saving(self) -> bool:
        return self._saving is not None and not self._saving.done()

    async def _save(self, state: dict[str, Any]) -> None:
        try:
            await push(self._trigger, XCOM_KEY, {"process_id": self._process_id, "state": state})
        except AirflowRuntimeError as error:
            self._trigger.log.debug("The checkpoint could not be kept. %s", error)

    def stop(self) -> None:
        """Leave a note that is still on its way to itself."""
        if self._saving is not None:
            self._saving.cancel()
