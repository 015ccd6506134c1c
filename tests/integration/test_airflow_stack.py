"""The Airflow that the other integration tests stand on."""

from __future__ import annotations

import pytest

from dev.airflow_api import AirflowApiError, render_log
from dev.airflow_stack import COMPONENTS, AirflowStack

DAG_ID = "stack_smoke"


@pytest.fixture(scope="module")
def run_id(airflow: AirflowStack) -> str:
    run_id = airflow.trigger(DAG_ID)
    assert airflow.wait_for_run(DAG_ID, run_id, timeout=90) == "success"
    return run_id


def test_each_component_is_a_process_of_its_own(airflow: AirflowStack) -> None:
    pids = {airflow.process(name).pid for name in COMPONENTS}
    assert len(pids) == 4
    assert all(airflow.process(name).running for name in COMPONENTS)


def test_the_state_of_each_task_comes_back(airflow: AirflowStack, run_id: str) -> None:
    tasks = airflow.task_instances(DAG_ID, run_id)
    assert {(ti.label, ti.state, ti.try_number) for ti in tasks} == {
        ("numbers", "success", 1),
        ("double[0]", "success", 1),
        ("double[1]", "success", 1),
    }


def test_what_a_task_prints_is_in_the_log_that_the_rest_api_gives(airflow: AirflowStack, run_id: str) -> None:
    lines = airflow.task_log(DAG_ID, run_id, "numbers", 1)
    assert "counting" in [line["event"] for line in lines]
    assert "counting" in render_log(lines)


def test_xcoms_come_back_as_the_values_they_were(airflow: AirflowStack, run_id: str) -> None:
    assert airflow.xcom(DAG_ID, run_id, "numbers") == [1, 2]
    assert airflow.xcoms(DAG_ID, run_id, "double", map_index=1) == {"return_value": 4}


def test_an_xcom_that_is_not_there_is_a_404(airflow: AirflowStack, run_id: str) -> None:
    with pytest.raises(AirflowApiError) as caught:
        airflow.xcom(DAG_ID, run_id, "numbers", key="nothing")
    assert caught.value.status == 404
