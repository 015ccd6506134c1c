"""Functions as tasks on a real Airflow, waiting in the worker and in the triggerer: one behaviour."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = pytest.mark.airflow

MODES = ("worker", "triggerer")


class Run:
    """A run, read through Airflow's REST API."""

    def __init__(self, airflow: Any, dag_id: str, *, timeout: float = 180) -> None:
        self.airflow, self.dag_id = airflow, dag_id
        self.run_id = airflow.trigger(dag_id)
        self.state = airflow.wait_for_run(dag_id, self.run_id, timeout=timeout)
        self.instances = {ti.label: ti for ti in airflow.task_instances(dag_id, self.run_id)}

    def states(self) -> dict[str, str]:
        return {label: ti.state for label, ti in self.instances.items()}

    def records(self, task_id: str, try_number: int | None = None) -> list[dict[str, Any]]:
        number = try_number or self.instances[task_id].try_number
        return self.airflow.task_log(self.dag_id, self.run_id, task_id, number)

    def lines(self, task_id: str, stream: str | None = None) -> list[str]:
        return [r["event"] for r in self.records(task_id) if r.get("stream") == stream]

    def log(self, task_id: str) -> str:
        return json.dumps(self.records(task_id)).replace("\\n", "\n")

    def xcom(self, task_id: str, key: str = "return_value", **where: Any) -> Any:
        return self.airflow.xcom(self.dag_id, self.run_id, task_id, key, **where)


@pytest.fixture(scope="module", params=MODES)
def run(request: pytest.FixtureRequest, airflow: Any) -> Run:
    return Run(airflow, f"taskflow_{request.param}")


def test_what_a_function_returns_is_in_xcom_as_a_whole_and_item_by_item(run: Run) -> None:
    expected = {"word": "you there", "letters": 9, "run": run.run_id, "who": "you"}

    assert run.xcom("measures") == expected
    assert {key: run.xcom("measures", key) for key in expected} == expected
    assert run.xcom("measures", "process_id").startswith("proc-")


def test_what_a_function_prints_is_in_the_log_and_its_result_is_not(run: Run) -> None:
    assert run.lines("measures", "stderr") == ["to stderr"]
    assert run.lines("measures").count("measuring you there") == 1
    assert "::airflow-sbx" not in run.log("measures")
    assert "def measures" not in run.log("measures")


def test_an_exception_shows_its_traceback_and_is_named(run: Run) -> None:
    assert run.instances["breaks"].state == "failed"
    stderr = run.lines("breaks", "stderr")
    assert stderr[0] == "Traceback (most recent call last):"
    assert '    raise LookupError(f"nothing for {given}")' in stderr
    assert any("taskflow_tasks.py" in line and "in breaks" in line for line in stderr)
    assert stderr[-1] == "LookupError: nothing for anybody"
    assert "breaks raised LookupError: nothing for anybody\nProcess " in run.log("breaks")


def test_a_result_that_json_can_not_hold_fails_with_where_it_is(run: Run) -> None:
    assert run.instances["returns_a_set"].state == "failed"
    assert "returned what can't be sent: the result['words'] is a set" in run.log("returns_a_set")


def test_a_function_that_failed_is_called_again_by_a_retry(run: Run) -> None:
    ti = run.instances["comes_round"]

    assert (ti.state, ti.try_number, run.xcom("comes_round")) == ("success", 2, 2)
    assert run.lines("comes_round").count("try 2") == 1


def test_functions_are_mapped_and_take_each_others_results(run: Run) -> None:
    assert [run.xcom("square", map_index=n) for n in range(3)] == [1, 4, 9]
    assert run.xcom("adds_up") == 14


def test_a_command_that_a_function_returned_is_run_with_its_templates(run: Run) -> None:
    assert run.xcom("counts")["stdout"] == "1\n2\n3\nyou counts\n"


@pytest.mark.parametrize("mode", MODES)
def test_what_a_function_prints_is_in_the_log_while_it_runs(airflow: Any, mode: str) -> None:
    dag_id = f"taskflow_talks_{mode}"
    run_id = airflow.trigger(dag_id)

    at_work = "deferred" if mode == "triggerer" else "running"

    def state() -> str | None:
        return next((ti.state for ti in airflow.task_instances(dag_id, run_id)), None)

    airflow.wait_for(lambda: state() == at_work, 60, "the task's start")
    airflow.wait_for(lambda: "step 1" in airflow.task_log_text(dag_id, run_id, "talks", 1), 60, "its words")
    assert state() == at_work
    assert airflow.wait_for_run(dag_id, run_id, timeout=120) == "success"
    records = airflow.task_log(dag_id, run_id, "talks", 1)
    assert [r["event"] for r in records if r["event"].startswith("step ")] == [f"step {n}" for n in range(15)]
    assert airflow.xcom(dag_id, run_id, "talks") == 14


@pytest.mark.parametrize("mode", MODES)
def test_requirements_are_installed_before_the_call(airflow: Any, mode: str) -> None:
    run = Run(airflow, f"taskflow_requirements_{mode}")

    assert run.xcom("box.greets") == "hello", run.log("box.greets")
    lines = run.lines("box.greets")
    assert any(line.startswith("Installing requirements: --no-index, /home/") for line in lines)
    assert any(line.startswith("Installed requirements in ") for line in lines)


def test_the_decorators_are_there_under_airflows_own_name(airflow: Any) -> None:
    run = Run(airflow, "taskflow_registered")

    assert (run.xcom("registered"), run.xcom("registered", "a")) == ({"a": 1}, 1)
