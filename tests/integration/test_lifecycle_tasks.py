"""Sandboxes that several tasks share, and sensors and signals for processes in them, on a real Airflow."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_sbx.api.models import ProcessStatus, SandboxStatus
from airflow_provider_sbx.client import SandboxClient

pytestmark = pytest.mark.airflow

MODES = ("poke", "reschedule", "deferrable")


@pytest.fixture(scope="module")
def service(sbx_local: Any) -> Iterator[SandboxClient]:
    with SandboxClient(sbx_local.api_key, sbx_local.url) as client:
        yield client


class Run:
    """A run that has ended, read through Airflow's REST API."""

    def __init__(self, airflow: Any, dag_id: str, timeout: float = 150) -> None:
        self.airflow, self.dag_id = airflow, dag_id
        self.run_id = airflow.trigger(dag_id)
        self.state = airflow.wait_for_run(dag_id, self.run_id, timeout=timeout)
        self.tasks = {ti.label: ti for ti in airflow.task_instances(dag_id, self.run_id)}
        self.states = {label: ti.state for label, ti in self.tasks.items()}

    def log(self, task_id: str) -> str:
        return self.airflow.task_log_text(self.dag_id, self.run_id, task_id, self.tasks[task_id].try_number)

    def records(self, task_id: str) -> list[dict[str, Any]]:
        return self.airflow.task_log(self.dag_id, self.run_id, task_id, self.tasks[task_id].try_number)

    def xcom(self, task_id: str, key: str = "return_value", **where: Any) -> Any:
        return self.airflow.xcom(self.dag_id, self.run_id, task_id, key, **where)


# --- groups ----------------------------------------------------------------------------------


def test_a_group_with_a_failing_task_is_stopped_after_all_its_work_and_the_run_fails(
    airflow: Any, service: SandboxClient
) -> None:
    run = Run(airflow, "group_that_fails")

    assert run.state == "failed"
    assert run.states == {
        "box.create_sandbox": "success",
        "box.fails": "failed",
        "box.works": "success",  # the sandbox was there to its end
        "box.last": "upstream_failed",
        "box.stop_sandbox": "success",
    }
    sandbox_id = run.xcom("box.create_sandbox")
    assert {run.xcom(f"box.{task}", "sandbox_id") for task in ("fails", "works")} == {sandbox_id}
    sandbox = service.get_sandbox(sandbox_id)
    assert sandbox.status is SandboxStatus.CLOSED
    assert f"Stopped sandbox {sandbox_id}" in run.log("box.stop_sandbox")
    assert run.xcom("box.create_sandbox", "session_url") == sandbox.session_url
    assert "token" not in json.dumps(run.records("box.create_sandbox")).lower()


def test_a_group_whose_tasks_are_skipped_is_stopped_and_followed(
    airflow: Any, service: SandboxClient
) -> None:
    run = Run(airflow, "group_that_skips")

    assert run.state == "success"
    assert (run.states["box.skips"], run.states["box.skipped"]) == ("skipped", "skipped")
    assert (run.states["box.stop_sandbox"], run.states["after"]) == ("success", "success")
    assert service.get_sandbox(run.xcom("box.create_sandbox")).status is SandboxStatus.CLOSED


def test_a_group_of_a_run_that_a_person_marks_failed_is_stopped(airflow: Any, service: SandboxClient) -> None:
    dag_id = "group_given_up"
    run_id = airflow.trigger(dag_id)
    airflow.wait_for_task(dag_id, run_id, "box.works", {"running"}, timeout=60)
    airflow.wait_for(
        lambda: "begun" in airflow.task_log_text(dag_id, run_id, "box.works", 1), 60, "output in the log"
    )
    sandbox_id = airflow.xcom(dag_id, run_id, "box.create_sandbox")

    airflow.set_run_state(dag_id, run_id, "failed")

    airflow.wait_for_task(dag_id, run_id, "box.stop_sandbox", {"success"}, timeout=60)
    assert service.get_sandbox(sandbox_id).status is SandboxStatus.CLOSED


def test_groups_within_and_mapped_tasks_share_the_sandbox_and_mapped_groups_have_their_own(
    airflow: Any, service: SandboxClient
) -> None:
    run = Run(airflow, "group_with_groups")

    assert run.state == "success"
    assert run.xcom("box.inner.reads")["stdout"] == "here\n"
    each = [run.xcom("box.inner.each", map_index=n)["stdout"] for n in range(2)]
    assert each == ["here\n", "1\n"]
    made = [run.xcom("region.own.create_sandbox", map_index=n) for n in range(2)]
    used = [run.xcom("region.own.work", map_index=n) for n in range(2)]
    assert made == [result["sandbox_id"] for result in used]
    assert [result["stdout"] for result in used] == ["north\n", "south\n"]
    sandboxes = [run.xcom("box.create_sandbox"), *made]
    assert len(set(sandboxes)) == 3
    assert {service.get_sandbox(name).status for name in sandboxes} == {SandboxStatus.CLOSED}


def test_a_sandbox_that_can_not_be_made_fails_the_run_and_leaves_nothing_to_stop(airflow: Any) -> None:
    run = Run(airflow, "setup_that_fails")

    assert run.state == "failed"
    assert run.states == {"create": "failed", "work": "upstream_failed", "stop": "upstream_failed"}
    assert "there-is-none" in run.log("create")


def test_a_teardown_of_a_sandbox_that_is_gone_succeeds_and_says_so(airflow: Any) -> None:
    run = Run(airflow, "stops_what_is_gone")

    assert run.state == "success"
    assert "no-such-sandbox is gone already" in run.log("stop")


# --- sensors ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sensors(airflow: Any) -> Run:
    return Run(airflow, "sensors", timeout=240)


@pytest.mark.parametrize("mode", MODES)
def test_a_sensor_has_the_output_in_its_log_and_the_result(sensors: Run, mode: str) -> None:
    task = f"box.good_{mode}"
    assert sensors.states[task] == "success"
    lines = [r["event"] for r in sensors.records(task) if r["event"].startswith("line ")]
    assert lines == [f"line {n}" for n in range(1, 7)]
    assert [r["event"] for r in sensors.records(task) if r.get("stream") == "stderr"] == ["more"]
    result = sensors.xcom(task)
    assert (result["status"], result["exit_code"], result["stderr"]) == ("exited", 0, "more\n")
    assert result["stdout"].splitlines() == lines
    started = sensors.xcom(f"box.start_good_{mode}")
    assert started == {name: result[name] for name in started}


@pytest.mark.parametrize("mode", MODES)
def test_a_sensor_of_a_failed_process_fails_once_and_says_why(sensors: Run, mode: str) -> None:
    task = f"box.bad_{mode}"
    assert (sensors.states[task], sensors.tasks[task].try_number) == ("failed", 1)
    log = sensors.log(task)
    assert "failed with exit code 3" in log
    assert "why" in log


@pytest.mark.parametrize("mode", MODES)
def test_a_sensor_of_an_unknown_process_fails_at_once_and_says_which(sensors: Run, mode: str) -> None:
    task = f"box.unknown_{mode}"
    assert (sensors.states[task], sensors.tasks[task].try_number) == ("failed", 1)
    assert "no-such-process" in sensors.log(task)


def test_a_sensor_that_gives_up_leaves_the_process_running(airflow: Any) -> None:
    run = Run(airflow, "sensors_that_give_up", timeout=240)

    for mode in MODES:
        assert run.states[f"box.wait_{mode}"] == "failed", mode
        assert run.states[f"box.soft_{mode}"] == "skipped", mode
        assert run.states[f"box.still_{mode}"] == "success", mode


def test_a_deferred_sensor_that_is_marked_failed_leaves_the_process_running(
    airflow: Any, service: SandboxClient
) -> None:
    sandbox = service.create_sandbox({"image_name": "python"})
    process = service.start(sandbox.id, "while :; do echo tick; sleep 0.5; done")
    dag_id = "sensor_that_is_killed"
    run_id = airflow.trigger(dag_id, {"sandbox_id": sandbox.id, "process_id": process.id})
    airflow.wait_for_task(dag_id, run_id, "wait", {"deferred"}, timeout=60)
    airflow.wait_for(
        lambda: "tick" in airflow.task_log_text(dag_id, run_id, "wait", 1), 30, "output in the log"
    )

    airflow.set_task_state(dag_id, run_id, "wait", "failed")

    time.sleep(8)  # a kill takes some 2 s
    assert service.get_process(sandbox.id, process.id).status is ProcessStatus.RUNNING
    service.stop_sandbox(sandbox.id)


# --- signals ---------------------------------------------------------------------------------


def test_signals_end_processes_of_other_tasks(airflow: Any) -> None:
    run = Run(airflow, "signals")

    assert run.state == "success"
    assert run.xcom("box.check")["exit_code"] == 0
    assert "bye" in run.log("box.check")
    assert run.xcom("box.kill")["status"] == "killed"
    assert run.xcom("box.again") == run.xcom("box.kill")
    assert "no signal needed" in run.log("box.again")
