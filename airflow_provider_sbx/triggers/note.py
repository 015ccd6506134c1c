"""What a trigger leaves in its task's XCom for those that take it over, or run in its next try.

A trigger can't reach the task's state store (the request is never answered), and XCom it can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_provider_sbx.api.steps import Outcome
from airflow_provider_sbx.compat import push, pushed

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger

XCOM_KEY = "sbx_process"

KILLED_KEY = "sbx_killed"
"""The process that was ended since its try was cleared or marked: a later try must not take its end."""

_MOST_OUTPUT = 256 * 1024


class Note(BaseModel):
    """Who follows what.

    :param follower: the trigger that wrote this; another triggerer's bears another name.
    :param try_number: the try that it belongs to: XCom outlives a try that began in the triggerer.
    :param sandbox_id: the sandbox.
    :param process_id: the process; None while only the sandbox is known.
    :param owns_sandbox: the sandbox was made for this task.
    :param outcome: how the process ended, where its sandbox is stopped next.
    :param is_done: the try has succeeded, though the process may run on: a later one is to start its own.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    follower: str
    try_number: int | None
    sandbox_id: str
    process_id: str | None = None
    owns_sandbox: bool = False
    outcome: Outcome | None = None
    is_done: bool = False


async def leave_note(trigger: BaseTrigger, note: Note) -> None:
    """Leave a note in the place of the one before.

    An outcome that is too large for a row of Airflow's database is left out.

    :raises AirflowRuntimeError: Airflow could not take it.
    """
    outcome = note.outcome
    if outcome is not None and len(outcome.stdout) + len(outcome.stderr) > _MOST_OUTPUT:
        note = note.model_copy(update={"outcome": None})
    await push(trigger, XCOM_KEY, note.model_dump(mode="json"))


async def read_note(trigger: BaseTrigger) -> Note | None:
    """Return the note that was left last, or None.

    :raises AirflowRuntimeError: Airflow could not be asked.
    """
    try:
        return Note.model_validate(await pushed(trigger, XCOM_KEY))
    except ValidationError:
        return None
