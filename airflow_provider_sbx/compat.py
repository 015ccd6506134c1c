"""Every branch on Airflow's version, each with its reason. Oldest supported: 3.0."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import structlog
from airflow.providers.common.compat.sdk import conf

try:
    from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout
except ImportError:  # before 3.1 they stand with the core's exceptions
    from airflow.exceptions import (  # type: ignore[no-redef]  # the same, at their older place
        TaskDeferralError,
        TaskDeferralTimeout,
    )

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger

__all__ = [
    "TaskDeferralError",
    "TaskDeferralTimeout",
    "default_deferrable",
    "pushed_text",
    "task_logger",
    "task_state",
    "task_state_store",
    "trigger_kill_seconds",
]


def default_deferrable() -> bool:
    """Return `[operators] default_deferrable`, which operators honour where they have no default."""
    return bool(conf.getboolean("operators", "default_deferrable", fallback=False))


def trigger_kill_seconds() -> float:
    """Return how long a trigger's `on_kill` may take, in seconds: `[triggerer] on_kill_timeout`."""
    return float(conf.getint("triggerer", "on_kill_timeout", fallback=30))


def task_logger(log: Any) -> Any:
    """Return a logger that takes a time and keys beside the text.

    `self.log` is structlog's since 3.1; before, it is the standard library's, which takes neither.
    """
    return structlog.get_logger(log.name) if isinstance(log, logging.Logger) else log


def task_state_store(context: Mapping[str, Any]) -> Any:
    """Return the task's state store, which outlives a try; None before 3.3, which has none."""
    return context.get("task_state_store")


async def task_state(trigger: BaseTrigger) -> str | None:
    """Return the state of a trigger's task instance, `"unknown"` where it can't be asked for.

    Asked from `on_kill`, which is there since 3.3: Airflow calls it also on a triggerer that was
    only frozen while another took over, so that the state alone tells whether somebody killed.

    :return: the state, or None for a task instance that was cleared.
    """
    try:
        from airflow.sdk.execution_time.comms import GetTaskStates, TaskStatesResult
    except ImportError:  # before 3.1 a trigger can't ask
        return "unknown"
    ti = trigger.task_instance
    if ti is None:
        return "unknown"
    answer = await _ask_supervisor(
        GetTaskStates(dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index)
    )
    if not isinstance(answer, TaskStatesResult):
        return "unknown"
    # A mapped instance stands under task_id_mapindex.
    states = answer.task_states.get(ti.run_id, {})
    state = states.get(ti.task_id, states.get(f"{ti.task_id}_{ti.map_index}"))
    return str(state) if state is not None else None


async def pushed_text(trigger: BaseTrigger, key: str) -> str | None:
    """Return a text that a trigger's task pushed to XCom, or None where there is none to be had."""
    from airflow.sdk.execution_time.comms import GetXCom, XComResult

    ti = trigger.task_instance
    if ti is None:
        return None
    answer = await _ask_supervisor(
        GetXCom(key=key, dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id, map_index=ti.map_index)
    )
    value = answer.value if isinstance(answer, XComResult) else None
    # The value comes as XCom stores it: a JSON text in a text, in some versions.
    return value.strip('"') if isinstance(value, str) else None


async def _ask_supervisor(message: Any) -> Any:
    """Send a message of the triggerer's own protocol; None where there is no supervisor to ask.

    By `asend`, since the synchronous calls work only in a trigger's own asyncio task.
    """
    from airflow.sdk.execution_time import task_runner

    comms: Any = getattr(task_runner, "SUPERVISOR_COMMS", None)
    return await comms.asend(message) if hasattr(comms, "asend") else None
