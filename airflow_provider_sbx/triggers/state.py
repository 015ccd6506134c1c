"""What became of the tasks whose triggers are cancelled: one question for all those of a run.

A run that is marked failed cancels all its triggers at once, and the supervisor answers one question after
the other. Each asking for itself, the last of a thousand would be past the time that Airflow gives a kill.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from airflow_provider_sbx.compat import task_states

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger

_GATHER_SECONDS = 0.1
_MOST_TASKS = 200

_Key = tuple[str, str, str | None]
"""DAG, run, and the task if it is mapped: all of its instances are asked for."""


class _Question:
    """One question that others may still join."""

    def __init__(self, open_questions: dict[_Key, _Question], key: _Key) -> None:
        self.task_ids: set[str] = set()
        self._open_questions = open_questions
        self._key = key
        # In a context of its own: what it does belongs to none of the tasks, so to none of their logs.
        self.answer = asyncio.get_running_loop().create_task(self._ask(), context=contextvars.Context())
        self.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())

    async def _ask(self) -> Mapping[str, Any] | None:
        await asyncio.sleep(_GATHER_SECONDS)
        self.close()
        dag_id, run_id, mapped = self._key
        return await task_states(dag_id, run_id, sorted(self.task_ids), -1 if mapped is None else None)

    def close(self) -> None:
        """Let nobody join any more."""
        if self._open_questions.get(self._key) is self:
            del self._open_questions[self._key]


_questions: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, _Question]] = WeakKeyDictionary()


async def task_state(trigger: BaseTrigger) -> str | None:
    """Return the state of a trigger's task instance, `"unknown"` where it can't be asked for.

    :return: the state, or None for a task instance that was cleared.
    :raises AirflowRuntimeError: Airflow could not be asked.
    """
    ti = trigger.task_instance
    if ti is None:
        return "unknown"
    is_mapped = ti.map_index is not None and ti.map_index >= 0
    key = (ti.dag_id, ti.run_id, ti.task_id if is_mapped else None)
    open_questions = _questions.setdefault(asyncio.get_running_loop(), {})
    question = open_questions.get(key)
    if question is None:
        question = open_questions[key] = _Question(open_questions, key)
    question.task_ids.add(ti.task_id)
    if len(question.task_ids) >= _MOST_TASKS:
        question.close()
    states = await asyncio.shield(question.answer)
    if states is None:
        return "unknown"
    state = states.get(f"{ti.task_id}_{ti.map_index}" if is_mapped else ti.task_id)
    return str(state) if state is not None else None
