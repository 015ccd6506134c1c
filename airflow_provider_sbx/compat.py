"""Every branch on Airflow's version, each with its reason. Oldest supported: 3.0."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import structlog
from airflow.providers.common.compat.sdk import conf
from airflow.sdk.exceptions import AirflowRuntimeError

from airflow_provider_sbx.logpipe import log_pipe

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
    "AirflowRuntimeError",
    "TaskDeferralError",
    "TaskDeferralTimeout",
    "default_deferrable",
    "has_supervisor",
    "have_supervisor_turn",
    "push",
    "pushed",
    "renders_in_triggerer",
    "task_logger",
    "task_state_store",
    "task_states",
    "tells_triggers_of_kills",
    "trigger_kill_seconds",
    "triggerer_stats",
    "withdraw",
    "worker_stats",
]


@cache
def default_deferrable() -> bool:
    """Return `[operators] default_deferrable`, which operators honour where they have no default.

    Read once, as Airflow's own operators do: it takes a quarter of what a whole BashOperator does.
    """
    return bool(conf.getboolean("operators", "default_deferrable", fallback=False))


def tells_triggers_of_kills() -> bool:
    """Whether Airflow calls a trigger's `on_kill`; before 3.3 it just cancels it, as at every restart."""
    from airflow.triggers.base import BaseTrigger

    return hasattr(BaseTrigger, "on_kill")


def renders_in_triggerer() -> bool:
    """Whether Airflow renders the fields of a task that starts in the triggerer, and knows of its retries.

    Since 3.3; before, a trigger got them as they were written.
    """
    from airflow.triggers.base import BaseTrigger

    return hasattr(BaseTrigger, "render_template_fields") and tells_triggers_of_kills()


def trigger_kill_seconds() -> float:
    """Return how long a trigger's `on_kill` may take, in seconds: `[triggerer] on_kill_timeout`."""
    return float(conf.getint("triggerer", "on_kill_timeout", fallback=30))


def task_logger(log: Any) -> Any:
    """Return a logger that takes a time and keys beside the text.

    `self.log` is structlog's since 3.1; before, it is the standard library's, which takes neither.
    """
    return structlog.get_logger(log.name) if isinstance(log, logging.Logger) else log


def worker_stats() -> Any:
    """Return the metrics of a task's process, which since 3.2 are the Task SDK's own."""
    from airflow.providers.common.compat.sdk import Stats

    return Stats


def triggerer_stats() -> Any:
    """Return the metrics of the triggerer, which are the core's: those of the Task SDK lead nowhere there."""
    try:
        from airflow.observability.stats import Stats
    except ImportError:  # before 3.2 there is one for all
        return worker_stats()
    return Stats


def task_state_store(context: Mapping[str, Any]) -> Any:
    """Return the task's state store, which outlives a try; None before 3.3, which has none."""
    return context.get("task_state_store")


async def task_states(
    dag_id: str, run_id: str, task_ids: Sequence[str], map_index: int | None
) -> Mapping[str, Any] | None:
    """Return the states of tasks of one run, by task id; None where there is nobody to ask.

    :param map_index: -1 for tasks that aren't mapped; None for all instances of mapped ones, which then stand
        under task_id_mapindex.
    :return: their states. A task instance that was cleared has None, or is missing.
    :raises AirflowRuntimeError: Airflow could not be asked.
    """
    from airflow.sdk.execution_time.comms import GetTaskStates, TaskStatesResult

    answer = await _ask_supervisor(
        GetTaskStates(dag_id=dag_id, task_ids=list(task_ids), run_ids=[run_id], map_index=map_index),
    )
    return answer.task_states.get(run_id, {}) if isinstance(answer, TaskStatesResult) else None


async def pushed(trigger: BaseTrigger, key: str) -> Any:
    """Return what a trigger's task pushed to XCom, or None where there is none to be had.

    :raises AirflowRuntimeError: Airflow could not be asked.
    """
    from airflow.sdk.execution_time.comms import GetXCom, XComResult
    from airflow.sdk.execution_time.xcom import XCom

    ti = trigger.task_instance
    answer = None if ti is None else await _ask_supervisor(GetXCom(key=key, **_whose(ti)))
    if not isinstance(answer, XComResult) or answer.value is None:
        return None
    return XCom.deserialize_value(answer)


async def push(trigger: BaseTrigger, key: str, value: Any) -> None:
    """Push to the XCom of a trigger's task.

    :raises AirflowRuntimeError: Airflow could not take it.
    """
    from airflow.sdk.execution_time.comms import SetXCom
    from airflow.sdk.execution_time.xcom import XCom

    ti = trigger.task_instance
    if ti is not None:
        stored = XCom.serialize_value(value, key=key, **_whose(ti))
        await _ask_supervisor(SetXCom(key=key, value=stored, **_whose(ti)))


async def withdraw(trigger: BaseTrigger, key: str) -> None:
    """Delete what the XCom of a trigger's task has under a key, if anything.

    :raises AirflowRuntimeError: Airflow could not do it.
    """
    from airflow.sdk.execution_time.comms import DeleteXCom

    ti = trigger.task_instance
    if ti is not None:
        await _ask_supervisor(DeleteXCom(key=key, **_whose(ti)))


def has_supervisor() -> bool:
    """Whether this is a triggerer, whose supervisor can be asked."""
    return _comms() is not None


async def have_supervisor_turn() -> None:
    """Wait until a triggerer's supervisor has gone once more through its loop.

    :raises AirflowRuntimeError: Airflow could not be asked.
    """
    from airflow.sdk.execution_time.comms import MaskSecret

    # Of all that may be sent, this alone needs no database; and nothing is masked by nothing.
    await _ask_supervisor(MaskSecret(value=""))


def _whose(ti: Any) -> dict[str, Any]:
    return {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, "map_index": ti.map_index}


async def _ask_supervisor(message: Any) -> Any:
    """Send a message of the triggerer's own protocol; None where there is no supervisor to ask.

    By `asend`, since the synchronous calls work only in a trigger's own asyncio task.
    """
    comms = _comms()
    if comms is None:
        return None
    logged = log_pipe.end
    # Shielded: before 3.3 the answer to a request that was cut off would be taken for the next one's.
    answer = await asyncio.shield(asyncio.ensure_future(comms.asend(message)))
    log_pipe.had_turn(logged)
    return answer


def _comms() -> Any:
    from airflow.sdk.execution_time import task_runner

    comms: Any = getattr(task_runner, "SUPERVISOR_COMMS", None)
    return comms if hasattr(comms, "asend") else None
