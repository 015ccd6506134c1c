"""A whole cluster whose parts are killed at random: each command runs once, and each line stands once."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow_provider_sbx.hooks.sandbox import SandboxHook
from dev.airflow_stack import TERMINAL_RUN_STATES
from dev.cluster import SCHEDULERS, Cluster
from tests.soak.inspection import DAG, Inspection
from tests.soak.killer import Killer
from tests.soak.report import Report

DRAIN_SECONDS = 1200


def test_whatever_dies_each_command_runs_once_and_each_line_stands_once(
    cluster: Cluster, told: Any, shared_sandbox: str, seed: int, tmp_path: Path
) -> None:
    seconds = float(os.environ.get("SBX_SOAK_SECONDS", "300"))
    report = Report(seed, seconds)
    print(f"\nseed {seed}: SEED={seed} makes the same choices", flush=True)
    runs = [cluster.trigger(DAG, timeout=180)]
    # What dies is to die amid the work: not before the first command runs.
    cluster.wait_for(lambda: told.counts, 180, "the first command to begin")

    def keep_busy() -> None:
        cluster.revive()
        if cluster.run_state(DAG, runs[-1]) in TERMINAL_RUN_STATES:
            runs.append(cluster.create_run(DAG, None, None))

    killer = Killer(cluster, seed)
    killer.run(seconds, between=keep_busy)
    report.kills = killer.kills
    begin = time.monotonic()
    # Even with runs that hang, the report is to be had.
    with contextlib.suppress(TimeoutError):
        cluster.wait_for(
            lambda: all(cluster.run_state(DAG, run_id) in TERMINAL_RUN_STATES for run_id in runs),
            DRAIN_SECONDS,
            "all runs to end",
        )
    report.drain_seconds = time.monotonic() - begin
    report.components_ended_alone = cluster.ended_alone.copy()

    inspection = Inspection(cluster, told.counts, report, tmp_path)
    for run_id in runs:
        inspection.run(run_id)
    with SandboxHook("sbx_soak") as hook:
        inspection.leftovers(hook, shared_sandbox)
    print(f"\n{report.text()}", flush=True)
    if path := os.environ.get("SBX_SOAK_JSON"):
        report.write(Path(path))
    assert not report.problems, f"the logs of these tasks are in {tmp_path}"
    states = {cluster.run_state(DAG, run_id) for run_id in runs}
    assert states == {"success"} or report.airflow_problems


def test_restarts_of_what_no_process_needs_have_no_effect(
    cluster: Cluster, told: Any, shared_sandbox: str
) -> None:
    """The database is restarted, the api-server, and both schedulers are killed, while tasks run."""
    # As shipped. The soak's 30 s pass before this machine may have an api-server anew, to take heartbeats.
    cluster.configure({"scheduler.task_instance_heartbeat_timeout": "300"})
    _lose_schedulers(cluster)
    end = f"end-{time.time_ns()}"
    run_id = cluster.trigger("soak_restarts", {"end": end}, timeout=180)
    names = {task: f"{task}/-1/{run_id}" for task in ("worker", "triggerer")}
    for name in names.values():
        cluster.wait_for(lambda name=name: told.counts[f"began {name}"], 180, f"{name} to begin")
    cluster.wait_for_task("soak_restarts", run_id, "triggerer", {"deferred"}, timeout=120)

    restarts: dict[str, Callable[[], None]] = {
        "PostgreSQL": cluster.database.restart,
        "api-server": lambda: cluster.restart("api-server", timeout=180),
        "schedulers": lambda: _lose_schedulers(cluster),
    }
    for what, restart in restarts.items():
        began = time.monotonic()
        restart()
        time.sleep(5)
        states = {ti.task_id: ti.state for ti in cluster.task_instances("soak_restarts", run_id)}
        print(f"\n{what} restarted in {time.monotonic() - began:.0f} s: {states}", flush=True)
        assert states == {"worker": "running", "triggerer": "deferred"}, what

    with SandboxHook("sbx_soak") as hook:
        hook.exec(shared_sandbox, f"touch ~/{end}")
    assert cluster.wait_for_run("soak_restarts", run_id, timeout=300) == "success"
    for ti in cluster.task_instances("soak_restarts", run_id):
        stdout = cluster.xcom("soak_restarts", run_id, ti.task_id)["stdout"].splitlines()
        total = int(stdout[-1].removeprefix("total "))
        lines = [f"line {n}" for n in range(1, total + 1)]
        log = cluster.task_log("soak_restarts", run_id, ti.task_id, ti.try_number)
        assert [record["event"] for record in log if record["event"].startswith("line ")] == lines
        assert stdout[:-1] == lines
        assert ti.try_number == 1
        assert told.counts[f"began {names[ti.task_id]}"] == 1


def _lose_schedulers(cluster: Cluster) -> None:
    for name in SCHEDULERS:
        cluster.lose(name)
    for name in SCHEDULERS:
        cluster.start_component(name)
    for name in SCHEDULERS:
        cluster.wait_healthy(name, 180)
