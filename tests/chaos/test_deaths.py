"""What dies while a process runs: the process runs once, and its output stands once in the log."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sbx.client import SandboxClient
from airflow_provider_sbx.compat import renders_in_triggerer
from dev.airflow_api import AirflowApiError

pytestmark = pytest.mark.airflow

LINES = [f"line {n}" for n in range(1, 401)]

WORKERLESS = ("workerless",) if renders_in_triggerer() else ()
"""Tasks that no worker starts or ends."""


def output(airflow: Any, run_id: str, task: str, try_number: int, dag_id: str = "survives") -> list[str]:
    """The process's own lines, as Airflow's REST API gives them."""
    records = airflow.task_log(dag_id, run_id, task, try_number)
    return [r["event"] for r in records if r["event"].startswith("line ")]


def has_line(airflow: Any, run_id: str, task: str, line: str) -> bool:
    try:
        return line in output(airflow, run_id, task, 1)
    except AirflowApiError as error:
        if error.status != 404:  # else it has not been queued yet
            raise
        return False


def wait_for_output(airflow: Any, dag_id: str, run_id: str, tasks: tuple[str, ...]) -> None:
    for task in tasks:
        airflow.wait_for_task(dag_id, run_id, task, {"deferred"}, timeout=60)
        airflow.wait_for(
            lambda task=task: len(output(airflow, run_id, task, 1, dag_id)) > 30, 60, f"output of {task}"
        )
        # Some of it may be the worker's.
        airflow.wait_for(lambda task=task: starts(airflow, dag_id, run_id, task) > 0, 60, "the triggerer")


def starts(airflow: Any, dag_id: str, run_id: str, task: str) -> int:
    """How many triggerers have begun to follow a task."""
    text: str = airflow.task_log_text(dag_id, run_id, task, 1)
    return text.count(" starting")


def sandboxes(airflow: Any, dag_id: str, run_id: str, tasks: tuple[str, ...]) -> list[str]:
    return [airflow.xcom(dag_id, run_id, task, "sandbox_id") for task in tasks]


def let_go(sbx_local: Any, sandbox_ids: list[str]) -> None:
    """Let the commands come to their end, once they have written what comes before it."""
    with SandboxClient(sbx_local.api_key, sbx_local.url) as service:
        for sandbox_id in sandbox_ids:
            service.exec(sandbox_id, "touch /tmp/go")


def ran_once(airflow: Any, dag_id: str, run_id: str, task: str) -> None:
    """Check that a task of 800 lines has each once, in one try, and that its command ran once."""
    assert output(airflow, run_id, task, 1, dag_id) == [f"line {n}" for n in range(1, 801)]
    assert airflow.task_instance(dag_id, run_id, task).try_number == 1
    assert airflow.xcom(dag_id, run_id, task)["stdout"].splitlines()[-1] == "1"


def task_process(airflow: Any) -> int:
    """The process of the one task that runs on the worker now: the newest below the scheduler."""
    pids = [pid for pid in airflow.process("scheduler").members() if _is_task(pid)]
    return max(pids, key=lambda pid: Path(f"/proc/{pid}").stat().st_ctime)


def _is_task(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except FileNotFoundError:
        return False
    return b"airflow worker --" in words and b"LocalExecutor" not in words


def test_when_triggerer_and_worker_are_killed_the_process_runs_once_and_each_line_stands_once(
    airflow: Any, sbx_local: Any
) -> None:
    # Of a task that a triggerer can't render any more, from when the variable is gone.
    unrendered = ("unrendered",) if WORKERLESS else ()
    airflow.request("POST", "/variables", body={"key": "sbx_word", "value": "line"})
    run_id = airflow.trigger("survives")
    for task in ("triggerer", "worker", *WORKERLESS, *unrendered):
        airflow.wait_for(
            lambda task=task: has_line(airflow, run_id, task, "line 60"), 60, f"output of {task}"
        )
    noisy = [f"line {n} {'x' * 5600}" for n in range(1, 701)]
    airflow.wait_for(lambda: has_line(airflow, run_id, "noisy", noisy[499]), 90, "output of noisy")
    for task in ("triggerer", "noisy", *WORKERLESS, *unrendered):
        assert airflow.task_instance("survives", run_id, task).state == "deferred"

    held = sandboxes(airflow, "survives", run_id, ("triggerer", "worker", "noisy", *WORKERLESS, *unrendered))
    airflow.request("DELETE", "/variables/sbx_word")
    os.kill(task_process(airflow), signal.SIGKILL)
    airflow.kill("triggerer", signal.SIGKILL)
    time.sleep(1)  # the dead one's lines and the next one's must differ in time, as in life
    airflow.start_component("triggerer")
    let_go(sbx_local, held)

    assert airflow.wait_for_run("survives", run_id, timeout=200) == "success"
    for task in ("triggerer", *WORKERLESS, *unrendered):
        assert output(airflow, run_id, task, 1) == LINES
        assert airflow.task_instance("survives", run_id, task).try_number == 1
    worker = airflow.task_instance("survives", run_id, "worker")
    assert worker.try_number == 2
    assert output(airflow, run_id, "worker", 2) == LINES
    for task in ("triggerer", "worker", "noisy", *WORKERLESS, *unrendered):
        result = airflow.xcom("survives", run_id, task)
        # Its last line counts how often the command ran in its sandbox.
        assert result["stdout"].splitlines()[-1] == "1"
    # The next triggerer went on from the dead one's checkpoint: where it was deferred is no longer kept.
    assert output(airflow, run_id, "noisy", 1) == noisy
    checkpoint = airflow.xcom("survives", run_id, "noisy", key="sbx_checkpoint")
    assert checkpoint["state"]["next_seq"] > 100


def test_a_triggerer_that_was_frozen_until_another_took_over_kills_nothing(
    airflow: Any, sbx_local: Any
) -> None:
    dag_id = "survives_a_freeze"
    run_id = airflow.trigger(dag_id)
    tasks = ("count", *WORKERLESS)
    wait_for_output(airflow, dag_id, run_id, tasks)
    held = sandboxes(airflow, dag_id, run_id, tasks)
    frozen = airflow.process("triggerer").members()
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        airflow.start_component("triggerer-2")
        airflow.wait_for(
            lambda: all(starts(airflow, dag_id, run_id, task) > 1 for task in tasks),
            150,
            "the second triggerer to take over",
        )
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    try:
        # Awake, the first finds that its triggers are another's, and is told by Airflow to kill. Of the other
        # task it waits for a note of the second triggerer, and may not come to say so: it shuts down.
        airflow.wait_for(
            lambda: "another triggerer follows it" in airflow.task_log_text(dag_id, run_id, "count", 1),
            60,
            "the first triggerer to leave the process alone",
        )
        let_go(sbx_local, held)
        assert airflow.wait_for_run(dag_id, run_id, timeout=150) == "success"
        for task in tasks:
            ran_once(airflow, dag_id, run_id, task)
            log = airflow.task_log_text(dag_id, run_id, task, 1)
            assert "invoking on_kill" in log
            assert "Ending process" not in log
    finally:
        airflow.stop_component("triggerer-2")


def test_a_rolling_deploy_of_the_triggerer_kills_nothing_and_loses_no_line(
    airflow: Any, sbx_local: Any
) -> None:
    dag_id = "survives_a_freeze"
    run_id = airflow.trigger(dag_id)
    tasks = ("count", *WORKERLESS)
    wait_for_output(airflow, dag_id, run_id, tasks)
    held = sandboxes(airflow, dag_id, run_id, tasks)
    airflow.restart("triggerer")
    let_go(sbx_local, held)

    assert airflow.wait_for_run(dag_id, run_id, timeout=150) == "success"
    for task in tasks:
        ran_once(airflow, dag_id, run_id, task)
