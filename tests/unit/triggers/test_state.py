"""What became of a task: asked once for all tasks of a run whose triggers are cancelled together."""

import asyncio
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.sdk.execution_time.comms import TaskStatesResult

from airflow_provider_sbx.triggers import state
from airflow_provider_sbx.triggers.state import task_state
from tests.unit.triggers.conftest import of_a_task


def of(task_id, *, run_id="r", map_index=-1):
    made = of_a_task()
    made.task_instance = SimpleNamespace(dag_id="d", run_id=run_id, task_id=task_id, map_index=map_index)
    return made


@pytest.fixture
def asked(supervisor):
    """Answer by a table of states; return what was asked for."""
    questions = []
    states = {
        "r": {"a": "failed", "b": "deferred", "m_0": "failed", "m_1": "deferred"},
        "s": {"a": "success"},
    }

    async def answer(message):
        questions.append((message.run_ids, message.task_ids, message.map_index))
        return TaskStatesResult(task_states={run: states[run] for run in message.run_ids})

    supervisor.asend = answer
    return questions


async def test_all_tasks_of_a_run_are_asked_for_at_once(asked):
    found = await asyncio.gather(*map(task_state, [of("a"), of("b"), of("a", run_id="s"), of("gone")]))

    assert found == ["failed", "deferred", "success", None]
    assert asked == [(["r"], ["a", "b", "gone"], -1), (["s"], ["a"], -1)]


async def test_all_instances_of_a_mapped_task_are_asked_for_at_once(asked):
    found = await asyncio.gather(*(task_state(of("m", map_index=n)) for n in (0, 1, 2)))

    assert found == ["failed", "deferred", None]
    assert asked == [(["r"], ["m"], None)]


async def test_who_comes_later_asks_anew(asked):
    await task_state(of("a"))
    await task_state(of("a"))

    assert len(asked) == 2


async def test_a_question_is_for_so_many_tasks_at_most(asked, monkeypatch):
    monkeypatch.setattr(state, "_MOST_TASKS", 2)

    await asyncio.gather(*map(task_state, [of("a"), of("b"), of("gone")]))

    assert asked == [(["r"], ["a", "b"], -1), (["r"], ["gone"], -1)]


async def test_one_that_is_cancelled_leaves_the_answer_to_the_others(asked):
    first, second = (asyncio.ensure_future(task_state(of(each))) for each in ("a", "b"))
    await asyncio.sleep(0)
    first.cancel()

    assert await second == "deferred"
    assert first.cancelled()


async def test_all_hear_that_airflow_could_not_be_asked(supervisor):
    supervisor.broken = True

    found = await asyncio.gather(task_state(of("a")), task_state(of("b")), return_exceptions=True)

    assert [type(each) for each in found] == [AirflowRuntimeError] * 2
    assert supervisor.asked == ["GetTaskStates"]


async def test_where_there_is_nobody_to_ask_it_is_unknown():
    assert await task_state(of("a")) == "unknown"
