"""Tasks with processes on a real Airflow, waiting in the worker and in the triggerer: one behaviour."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_sbx.api.models import ProcessStatus
from airflow_provider_sbx.client import SandboxClient
from airflow_provider_sbx.compat import renders_in_triggerer
from dev.airflow_api import AirflowApiError

pytestmark = pytest.mark.airflow

MODES = ("worker", "triggerer")
"""How a task waits, in `make test`."""

MODES_IN_TRIGGERER = ("ending", *(["workerless"] if renders_in_triggerer() else []))
"""Where it also ends, or starts as well: `make workerless`."""


def modes(*but: str) -> list[Any]:
    """Return the modes but for some, as parameters of tests."""
    marks = [pytest.mark.workerless]
    every = [*MODES, *(pytest.param(mode, marks=marks) for mode in MODES_IN_TRIGGERER)]
    return [mode for mode in every if (mode if isinstance(mode, str) else mode.values[0]) not in but]


@pytest.fixture(scope="module")
def service(sbx_local: Any) -> Iterator[SandboxClient]:
    with SandboxClient(sbx_local.api_key, sbx_local.url) as client:
        yield client


class Run:
    """A run that has ended, read through Airflow's REST API."""

    def __init__(self, airflow: Any, dag_id: str, run_id: str) -> None:
        self.airflow, self.dag_id, self.run_id = airflow, dag_id, run_id
        self.instances = {ti.label: ti for ti in airflow.task_instances(dag_id, run_id)}

    def state(self, task_id: str) -> str:
        return self.instances[task_id].state

    def tries(self, task_id: str) -> int:
        return self.instances[task_id].try_number

    def log(self, task_id: str, try_number: int | None = None) -> str:
        return self.airflow.task_log_text(
            self.dag_id, self.run_id, task_id, try_number or self.tries(task_id)
        )

    def records(self, task_id: str) -> list[dict[str, Any]]:
        return self.airflow.task_log(self.dag_id, self.run_id, task_id, self.tries(task_id))

    def lines(self, task_id: str, stream: str | None = None) -> list[str]:
        """The command's own output as the log has it: the records with the given stream's mark."""
        return [r["event"] for r in self.records(task_id) if r.get("stream") == stream]

    def xcom(self, task_id: str, key: str = "return_value") -> Any:
        return self.airflow.xcom(self.dag_id, self.run_id, task_id, key)


@pytest.fixture(scope="module")
def run_of(airflow: Any) -> Callable[[str, str], Run]:
    """Return a DAG's run in a mode, once it has ended; those of like modes are begun together."""
    begun: dict[str, str] = {}

    def run_of(name: str, mode: str) -> Run:
        group = MODES if mode in MODES else MODES_IN_TRIGGERER
        for each in group:
            dag_id = f"{name}_{each}"
            if dag_id not in begun and (each != "ending" or name == "ends"):
                begun[dag_id] = airflow.trigger(dag_id)
        dag_id = f"{name}_{mode}"
        airflow.wait_for_run(dag_id, begun[dag_id], timeout=240)
        return Run(airflow, dag_id, begun[dag_id])

    return run_of


@pytest.fixture(scope="module", params=modes())
def ends(request: pytest.FixtureRequest, run_of: Callable[[str, str], Run]) -> Run:
    return run_of("ends", request.param)


def test_a_success_has_its_output_in_the_log_and_its_result_in_xcom(ends: Run) -> None:
    assert ends.state("succeeds") == "success"
    expected = ["succeeds 1", "succeeds", "root", "/tmp", "typed"]
    assert [line for line in ends.lines("succeeds") if line in expected] == expected
    assert ends.lines("succeeds", "stderr") == ["more"]
    result = ends.xcom("succeeds")
    assert result["stdout"].splitlines() == expected
    assert (result["stderr"], result["status"], result["exit_code"]) == ("more\n", "exited", 0)
    assert result["process_id"] == ends.xcom("succeeds", "process_id")
    assert result["sandbox_id"] == ends.xcom("succeeds", "sandbox_id")
    assert result["started_at"] < result["completed_at"]
    assert not result["stdout_truncated"]
    assert not result["output_lost"]


def test_a_failure_says_its_exit_code_and_the_end_of_stderr(ends: Run) -> None:
    assert ends.state("fails") == "failed"
    log = ends.log("fails")
    assert "failed with exit code 3" in log
    assert ends.lines("fails", "stderr") == ["why"]
    assert any(
        "The end of its stderr:\nwhy" in json.dumps(r).replace("\\n", "\n") for r in ends.records("fails")
    )


def test_an_exit_code_skips(ends: Run) -> None:
    assert ends.state("skips") == "skipped"


def test_a_timeout_fails_and_says_so(ends: Run) -> None:
    assert ends.state("times_out") == "failed"
    assert "timeout" in ends.log("times_out")
    assert "began" in ends.lines("times_out")


def test_the_execution_timeout_ends_the_process(ends: Run, service: SandboxClient) -> None:
    task = "runs_out_of_execution_timeout"
    assert ends.state(task) == "failed"
    # It gets TERM once, and all of its grace, and the log has what it writes meanwhile.
    words = ["began", "asked to end", "cleaned up"]
    assert [line for line in ends.lines(task) if line in words] == words
    # Its sandbox was made for it, so that both are gone.
    assert service.get_sandbox(ends.xcom(task, "sandbox_id")).status == "closed"


def test_a_task_without_xcom_pushes_nothing(ends: Run) -> None:
    assert ends.state("keeps_nothing") == "success"
    for key in ("return_value", "sandbox_id", "process_id"):
        with pytest.raises(AirflowApiError, match="404"):
            ends.xcom("keeps_nothing", key)


def test_a_result_keeps_the_end_and_goes_through_the_output_processor(ends: Run) -> None:
    value = ends.xcom("keeps_a_tail")
    if isinstance(value, dict):  # where no worker resumes the task, there is none
        value = [value["stdout"], value["stdout_truncated"]]
    assert value == ["1999\n2000\n", True]
    lines = ends.lines("keeps_a_tail")
    assert [line for line in lines if line.isdigit()] == [str(n) for n in range(1, 2001)]


def test_a_retry_after_a_failure_runs_anew(ends: Run) -> None:
    assert (ends.state("retries"), ends.tries("retries")) == ("success", 2)
    assert "try 1" in ends.log("retries", 1)
    assert "try 2" in ends.log("retries", 2)


def test_each_sandbox_made_for_a_task_was_stopped(ends: Run, service: SandboxClient) -> None:
    tasks = [task for task in ends.instances if task != "keeps_nothing"]
    states = {service.get_sandbox(ends.xcom(task, "sandbox_id")).status for task in tasks}
    assert states == {"closed"}


# Ending there differs in the end only.
@pytest.mark.parametrize("mode", modes("ending"))
def test_a_script_file_is_run_with_its_input(run_of: Callable[[str, str], Run], mode: str) -> None:
    run = run_of("scripts", mode)
    assert run.xcom("shell")["stdout"] == "shell script for you\nfrom stdin\n"
    assert run.xcom("python")["stdout"] == "python script for you\ninput: from stdin\n"


# Ending there differs in the end only.
@pytest.mark.parametrize("mode", modes("ending"))
def test_bad_input_fails_at_once_and_for_good(run_of: Callable[[str, str], Run], mode: str) -> None:
    run = run_of("bad_input", mode)
    said = {
        "nowhere": "sandbox_id",
        "no_such_sandbox": "no-such-sandbox",
        "no_such_user": "whoever",
        "no_such_place": "/not/there",
        "no_such_connection": "nobody_made_it",
        "wrong_key": "API key",
        "empty_command": "command",
        "odd_timeout": "timeout",
    }
    for task, word in said.items():
        assert (run.state(task), run.tries(task)) == ("failed", 1), task
        assert word in run.log(task), task


def test_without_any_sandbox_named_the_ways_to_name_one_are_told(airflow: Any) -> None:
    run_id = airflow.trigger("no_sandbox_named")
    assert airflow.wait_for_run("no_sandbox_named", run_id, timeout=60) == "failed"
    log = Run(airflow, "no_sandbox_named", run_id).log("nowhere")
    assert "neither it nor sandbox is given" in log


def _start_long(airflow: Any, mode: str, state: str) -> str:
    """Start the long task and return its run once its output stands in the log."""
    dag_id = f"long_{mode}"
    run_id: str = airflow.trigger(dag_id)
    airflow.wait_for_task(dag_id, run_id, "count", {state}, timeout=60)
    airflow.wait_for(
        lambda: "line 10" in airflow.task_log_text(dag_id, run_id, "count", 1), 90, "output in the log"
    )
    return run_id


def test_a_task_that_is_killed_amid_its_output_leaves_no_sandbox_behind(
    airflow: Any, service: SandboxClient
) -> None:
    run_id = airflow.trigger("floods")

    def logged_bytes() -> int:
        return sum(path.stat().st_size for path in airflow.home.glob("logs/dag_id=floods/**/*.log"))

    airflow.wait_for(lambda: logged_bytes() > 1_000_000, 90, "output")
    sandbox_id = airflow.xcom("floods", run_id, "flood", "sandbox_id")
    airflow.set_task_state("floods", run_id, "flood", "failed")
    airflow.wait_for(lambda: service.get_sandbox(sandbox_id).status == "closed", 60, "the sandbox's end")


# Ending there differs in the end only.
@pytest.mark.parametrize("mode", modes("ending"))
def test_output_is_live_and_marking_failed_ends_the_process(
    airflow: Any, service: SandboxClient, mode: str
) -> None:
    dag_id, state = f"long_{mode}", "running" if mode == "worker" else "deferred"
    run_id = _start_long(airflow, mode, state)
    run = Run(airflow, dag_id, run_id)
    # It is being waited for, and its output is there already.
    assert run.state("count") == state
    sandbox_id = run.xcom("count", "sandbox_id")
    airflow.set_task_state(dag_id, run_id, "count", "failed")
    airflow.wait_for(
        lambda: service.get_sandbox(sandbox_id).status == "closed", 30, "the task's sandbox to be stopped"
    )


@pytest.mark.parametrize("mode", modes("worker", "ending"))
def test_clearing_a_deferred_task_ends_its_process_and_starts_another(
    airflow: Any, service: SandboxClient, mode: str
) -> None:
    dag_id = f"long_{mode}"
    run_id = _start_long(airflow, mode, "deferred")
    first = Run(airflow, dag_id, run_id).xcom("count", "sandbox_id")
    airflow.clear(dag_id, run_id, ["count"])

    def second() -> str | None:
        run = Run(airflow, dag_id, run_id)
        try:
            sandbox_id: str = run.xcom("count", "sandbox_id")
        except AirflowApiError:
            return None
        return sandbox_id if run.state("count") == "deferred" and sandbox_id != first else None

    sandbox_id = airflow.wait_for(second, 90, "a second try in a sandbox of its own")
    airflow.wait_for(
        lambda: service.get_sandbox(first).status == "closed", 30, "the first sandbox to be stopped"
    )
    # Airflow calls no on_kill before the triggerer has picked the trigger up.
    airflow.wait_for(
        lambda: "starting" in airflow.task_log_text(dag_id, run_id, "count", 2), 30, "the trigger"
    )
    airflow.set_task_state(dag_id, run_id, "count", "failed")
    airflow.wait_for(
        lambda: service.get_sandbox(sandbox_id).status == "closed", 30, "the second sandbox to be stopped"
    )


def test_a_process_that_is_not_waited_for_outlives_its_task(airflow: Any, service: SandboxClient) -> None:
    sandbox = service.create_sandbox({"image_name": "python"})
    run_id = airflow.trigger("left_running", {"sandbox_id": sandbox.id})
    assert airflow.wait_for_run("left_running", run_id, timeout=60) == "success"
    started = Run(airflow, "left_running", run_id).xcom("start")
    assert started["sandbox_id"] == sandbox.id
    assert service.get_process(sandbox.id, started["process_id"]).status is ProcessStatus.RUNNING
    service.stop_sandbox(sandbox.id)


@pytest.mark.workerless
@pytest.mark.skipif(not renders_in_triggerer(), reason="this Airflow renders nothing in the triggerer")
def test_a_task_that_a_triggerer_can_not_render_starts_on_a_worker(
    airflow: Any, service: SandboxClient
) -> None:
    sandbox = service.create_sandbox({"image_name": "python"})
    run_id = airflow.trigger("workerless_mapped", {"sandbox_id": sandbox.id})
    assert airflow.wait_for_run("workerless_mapped", run_id, timeout=120) == "success"
    run = Run(airflow, "workerless_mapped", run_id)
    assert run.xcom("first")["stdout"] == "one\n"
    assert "start_from_trigger" not in run.log("first")
    assert run.xcom("pulls")["stdout"] == "one\n"
    assert "command asks 'ti' for what a triggerer doesn't know" in run.log("pulls")
    ran = {p.command.splitlines()[-1] for p in service.list_processes(sandbox.id).data}
    assert {"echo a", "echo b"} <= ran
    service.stop_sandbox(sandbox.id)
