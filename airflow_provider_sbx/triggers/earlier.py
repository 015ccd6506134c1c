"""What the triggerers before this one, and the tries before this try, left running."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_sbx import sharing
from airflow_provider_sbx.api.conversations import bears
from airflow_provider_sbx.api.models import ProcessStatus, ProcessSummary
from airflow_provider_sbx.compat import pushed
from airflow_provider_sbx.triggers.note import KILLED_KEY, read_note

if TYPE_CHECKING:
    from airflow_provider_sbx.client import AsyncSandboxClient
    from airflow_provider_sbx.runs.attempt import Attempt
    from airflow_provider_sbx.triggers.event import ProcessEvent
    from airflow_provider_sbx.triggers.process import SandboxProcessTrigger

_CLOCKS_MS = 3_600_000
"""How much the clocks of Airflow and the service may differ, in milliseconds."""


async def left_over(
    trigger: SandboxProcessTrigger, client: AsyncSandboxClient, attempt: Attempt, *, waits: bool
) -> ProcessSummary | None:
    """Return this try's process, that a lost triggerer started; or an earlier try's, where it runs on.

    An earlier try's that has ended was that try's result, or nobody's any more.

    :param waits: whether the task waits for its process.
    :raises SandboxError: the service can't be asked.
    """
    run_started = attempt.run_started
    since = run_started and int(run_started.timestamp() * 1000) - _CLOCKS_MS
    keys = attempt.key, *await _earlier_keys(trigger, attempt, waits=waits)
    found = await sharing.find_process(client, trigger.sandbox_id, *keys, created_after=since)
    if found is None or (found.status.is_terminal and not bears(found, attempt.key)):
        return None
    return found


async def _earlier_keys(trigger: SandboxProcessTrigger, attempt: Attempt, *, waits: bool) -> tuple[str, ...]:
    """Return the keys of earlier tries whose processes may be this try's as well."""
    if attempt.try_number > 1 and not waits:
        note = await read_note(trigger)
        if note is not None and note.is_done and note.try_number is not None:
            # It had succeeded, though its process may run on: a try after it is a clear's.
            return tuple(attempt.key_of(n) for n in range(note.try_number + 1, attempt.try_number))
    return attempt.unrecorded_keys


async def was_killed(trigger: SandboxProcessTrigger, end: ProcessEvent) -> bool:
    """Whether a process was ended since its try was cleared: it may well have ended with exit code 0."""
    return end.status is ProcessStatus.KILLED or await pushed(trigger, KILLED_KEY) == end.process_id
