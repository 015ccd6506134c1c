"""What earlier tries of a task left running, or ended unseen, when their worker was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_sbx.api import calls
from airflow_provider_sbx.api.conversations import find_process
from airflow_provider_sbx.api.errors import NotFoundError
from airflow_provider_sbx.api.models import ProcessStatus, ProcessSummary

if TYPE_CHECKING:
    from airflow_provider_sbx.client import AsyncSandboxClient
    from airflow_provider_sbx.runs.attempt import Attempt

ENDED_FOR_US = (ProcessStatus.KILLED, ProcessStatus.TIMED_OUT)
"""How no process ended that is this try's result: whoever cleared the task had it killed, and its time was
the earlier try's."""


async def left_over(client: AsyncSandboxClient, attempt: Attempt, sandbox_id: str) -> ProcessSummary | None:
    """Return the process of an earlier try that this one is to take; None where it starts its own.

    :raises SandboxError: the service can't be asked.
    """
    process = None
    if keys := attempt.unrecorded_keys:
        process = await client.converse(sandbox_id, find_process(*keys))
        if process is not None and process.status.is_terminal and not attempt.has_store:
            # Without the store it can't be told whether an ended one was that try's result.
            process = None
    if process is None:
        process = await _recorded(client, attempt, sandbox_id)
    if process is None or process.status in ENDED_FOR_US:
        return None
    return process


async def _recorded(client: AsyncSandboxClient, attempt: Attempt, sandbox_id: str) -> ProcessSummary | None:
    left = attempt.left_over
    if left is None or left.sandbox_id != sandbox_id:
        return None
    if left.process_id is None:
        return await client.converse(sandbox_id, find_process(attempt.key_of(left.try_number)))
    try:
        return await client.send(calls.get_process(left.process_id), sandbox_id)
    except NotFoundError:
        return None
