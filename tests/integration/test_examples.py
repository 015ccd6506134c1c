"""Each example DAG on a real Airflow."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sbx.compat import renders_in_triggerer

pytestmark = pytest.mark.airflow


def ended(airflow: Any, dag_id: str) -> tuple[str, str]:
    run_id = airflow.trigger(dag_id)
    return run_id, airflow.wait_for_run(dag_id, run_id, timeout=120)


def test_a_one_shot_command_shows_where_and_who_it_is(airflow: Any) -> None:
    run_id, state = ended(airflow, "sandbox_exec")
    assert state == "success"
    result = airflow.xcom("sandbox_exec", run_id, "who_and_where")
    assert result["stdout"].splitlines() == ["/tmp", "bar", "root"]


def test_a_background_process_answers_to_its_input(airflow: Any) -> None:
    run_id, state = ended(airflow, "sandbox_background_process")
    assert state == "success"
    result = airflow.xcom("sandbox_background_process", run_id, "read_a_line")
    assert (result["stdout"], result["stderr"]) == ("stdout:hello\n", "stderr:hello\n")


def test_a_long_process_has_each_line_once_in_the_log(airflow: Any) -> None:
    run_id, state = ended(airflow, "sandbox_long_process")
    assert state == "success"
    records = airflow.task_log("sandbox_long_process", run_id, "count", 1)
    steps = [r["event"] for r in records if r["event"].startswith("step ")]
    assert steps == [f"step {n} of 12" for n in range(1, 13)]


def test_a_nightly_batch_runs_one_process_for_each_input(airflow: Any) -> None:
    run_id, state = ended(airflow, "sandbox_nightly_batch")
    assert state == "success"
    outputs = [
        airflow.xcom("sandbox_nightly_batch", run_id, "report", map_index=n)["stdout"].splitlines()
        for n in range(3)
    ]
    assert [lines[1] for lines in outputs] == ["north,1", "east,1", "south,1"]
    labels = {ti.raw["rendered_map_index"] for ti in airflow.task_instances("sandbox_nightly_batch", run_id)}
    assert labels == {"north", "east", "south"}


def test_a_result_reaches_the_next_task(airflow: Any) -> None:
    run_id, state = ended(airflow, "sandbox_result_to_next_task")
    assert state == "success"
    assert airflow.xcom("sandbox_result_to_next_task", run_id, "add_up") == 30


def test_an_exit_code_skips_the_task(airflow: Any) -> None:
    run_id, _ = ended(airflow, "sandbox_skip_by_exit_code")
    (task,) = airflow.task_instances("sandbox_skip_by_exit_code", run_id)
    assert task.state == "skipped"


def test_a_sandbox_is_made_by_a_setup_and_stopped_by_its_teardown(airflow: Any) -> None:
    run_id, state = ended(airflow, "sandbox_lifecycle")
    assert state == "success"
    made = airflow.xcom("sandbox_lifecycle", run_id, "create")
    results = [airflow.xcom("sandbox_lifecycle", run_id, task) for task in ("write", "add")]
    assert [result["stdout"] for result in results] == ["5\n", "15\n"]
    assert {result["sandbox_id"] for result in results} == {made}
    assert f"Stopped sandbox {made}" in airflow.task_log_text("sandbox_lifecycle", run_id, "stop", 1)


def test_the_tasks_of_a_group_share_its_sandbox(airflow: Any) -> None:
    run_id, state = ended(airflow, "sandbox_task_group")
    assert state == "success"
    assert airflow.xcom("sandbox_task_group", run_id, "report") == "the longest is beech"
    made = airflow.xcom("sandbox_task_group", run_id, "etl.create_sandbox")
    stopped = airflow.task_log_text("sandbox_task_group", run_id, "etl.stop_sandbox", 1)
    assert f"Stopped sandbox {made}" in stopped


def test_a_background_server_is_used_ended_and_checked(airflow: Any) -> None:
    run_id, state = ended(airflow, "sandbox_background_server")
    assert state == "success"
    assert airflow.xcom("sandbox_background_server", run_id, "web.use")["stdout"] == "200\n" * 3
    end = airflow.xcom("sandbox_background_server", run_id, "web.check")
    assert (end["stdout"], end["exit_code"]) == ("serving\nserved\n", 0)


def asset_events(airflow: Any, run_id: str) -> list[dict[str, Any]]:
    """Return the asset events of a run, the newest first."""
    params = {"source_run_id": run_id, "order_by": "-timestamp"}
    events: list[dict[str, Any]] = airflow.request("GET", "/assets/events", params=params)["asset_events"]
    return events


def test_a_deferred_job_tells_in_its_own_assets_event_what_it_found(airflow: Any) -> None:
    run_id, state = ended(airflow, "sandbox_asset_extra")
    assert state == "success"
    (event,) = asset_events(airflow, run_id)
    process_id = airflow.xcom("sandbox_asset_extra", run_id, "export_sales", "process_id")
    assert event["extra"] == {"rows": 2, "process_id": process_id}


def test_a_file_goes_in_by_stdin_and_another_comes_back_by_stdout(airflow: Any) -> None:
    run_id, state = ended(airflow, "sandbox_files")
    assert state == "success"
    assert airflow.xcom("sandbox_files", run_id, "total") == 42


def test_an_assets_event_tells_what_a_job_wrote_and_starts_the_dag_that_waits_for_it(airflow: Any) -> None:
    produced, state = ended(airflow, "sandbox_asset_producer")
    assert state == "success"

    def consumed() -> str | None:
        runs = airflow.request("GET", "/dags/sandbox_asset_consumer/dagRuns")["dag_runs"]
        return runs[0]["dag_run_id"] if runs else None

    run_id = airflow.wait_for(consumed, 60, "a run that the asset's event started")
    assert airflow.wait_for_run("sandbox_asset_consumer", run_id, timeout=120) == "success"
    assert airflow.xcom("sandbox_asset_consumer", run_id, "mail")["stdout"] == "42 rows\n"
    # Not before: Airflow can't tell of an event while the run that it started still waits (HTTP 500).
    extras = {event["source_task_id"]: event["extra"] for event in asset_events(airflow, produced)}
    assert extras == {"extract": {}, "publish": {"rows": 42}}


def test_functions_run_in_sandboxes_and_pass_each_other_their_results(airflow: Any) -> None:
    run_id, state = ended(airflow, "sandbox_taskflow")
    assert state == "success"
    trees = airflow.xcom("sandbox_taskflow", run_id, "trees")
    assert len(set(trees)) == 4
    measured = [airflow.xcom("sandbox_taskflow", run_id, "measure", map_index=n) for n in range(4)]
    assert [one["tree"] for one in measured] == trees
    assert airflow.xcom("sandbox_taskflow", run_id, "longest") == max(trees, key=len)
    assert "4 trees of the north" in airflow.task_log_text("sandbox_taskflow", run_id, "trees", 1)


def test_functions_return_the_commands_to_run(airflow: Any) -> None:
    run_id, state = ended(airflow, "sandbox_taskflow_command")
    assert state == "success"
    outputs = [
        airflow.xcom("sandbox_taskflow_command", run_id, "export", map_index=n)["stdout"] for n in (0, 1)
    ]
    assert outputs == [f"{name},2026-11-24,1\n{name},2026-11-24,2\n" for name in ("orders", "customers")]


@pytest.mark.workerless
@pytest.mark.skipif(not renders_in_triggerer(), reason="this Airflow starts tasks on workers only")
def test_tasks_without_a_worker_have_their_output_and_result_where_others_have_it(airflow: Any) -> None:
    run_id, state = ended(airflow, "sandbox_without_a_worker")
    assert state == "success"
    for task in airflow.task_instances("sandbox_without_a_worker", run_id):
        result = airflow.xcom("sandbox_without_a_worker", run_id, task.label)
        assert result["stdout"] == f"{task.label} for north, run {run_id}\ndone\n"
        log = airflow.task_log_text("sandbox_without_a_worker", run_id, task.label, 1)
        assert f"{task.label} for north" in log
        # Whatever a worker does, it begins with this.
        assert "Pre Execute" not in log
        assert task.raw["pid"] is None
