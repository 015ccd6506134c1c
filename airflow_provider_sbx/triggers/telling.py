"""Word to Airflow of a process that a trigger started: its ids in XCom, and a note for who takes over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from airflow_provider_sbx.compat import AirflowRuntimeError, push
from airflow_provider_sbx.runs.ending import SESSION_URL_KEY
from airflow_provider_sbx.triggers.note import Note, leave_note

if TYPE_CHECKING:
    from airflow_provider_sbx.client import AsyncSandboxClient
    from airflow_provider_sbx.triggers.process import SandboxProcessTrigger

_TELL_SECONDS = 2.0
"""How long a process runs until its ids go to XCom by themselves, in seconds; those of a shorter one go with
its result. All triggers of a triggerer share one supervisor, which takes some 28 requests a second."""


class Telling:
    """What a trigger tells of its process, and has told.

    :param trigger: whose process it is.
    :param pushes: the task pushes to XCom; the note is left in any case.
    :param note: makes the note, when it is left.
    """

    def __init__(self, trigger: SandboxProcessTrigger, *, pushes: bool, note: Callable[[], Note]) -> None:
        self._trigger = trigger
        self._pushes = pushes
        self._note = note
        self._told: set[str] = set()
        self._soon: asyncio.Task[None] | None = None

    def soon(self, client: AsyncSandboxClient) -> None:
        """Tell in a while, beside the wait: a short process has its end told with it."""
        self.stop()  # of a follow with a key that was refused
        self._soon = asyncio.create_task(self._tell_soon(client))

    async def _tell_soon(self, client: AsyncSandboxClient) -> None:
        await asyncio.sleep(0 if self._trigger.owns_sandbox else _TELL_SECONDS)
        await self.now(client)
        with suppress(AirflowRuntimeError):
            await leave_note(self._trigger, self._note())

    def stop(self) -> None:
        """Don't tell any more what was to be told soon."""
        if self._soon is not None:
            self._soon.cancel()

    def forget(self) -> None:
        """Tell anew: the process or its sandbox is another one."""
        self._told.clear()

    async def now(self, client: AsyncSandboxClient) -> None:
        """Push what the operator pushes before it waits, unless that was done."""
        trigger = self._trigger
        values = {"sandbox_id": trigger.sandbox_id, "process_id": trigger.process_id}
        if (page := client.page_of(trigger.sandbox_id)) is not None:
            values[SESSION_URL_KEY] = page
        try:
            for key in values.keys() - self._told if self._pushes else ():
                await push(trigger, key, values[key])
                self._told.add(key)
        except AirflowRuntimeError as error:
            trigger.log.warning("XCom could not take the process's id. %s", error)
