"""Airflow fails a task that is resumed before the scheduler has seen its worker's exit: none of ours is."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest

from airflow_provider_sbx.client import SandboxClient

pytestmark = pytest.mark.airflow

TASKS = int(os.environ.get("SBX_RACE_TASKS", "25"))
"""How many of each kind: resumed by a worker, and ended in the triggerer."""


def test_tasks_whose_processes_end_at_any_moment_around_their_deferral_all_succeed(
    airflow: Any, sbx_local: Any
) -> None:
    dag_id = "around_the_deferral"
    with SandboxClient(sbx_local.api_key, sbx_local.url) as service:
        sandbox = service.create_sandbox({"image_name": "python", "timeout_minutes": 60})
        run_id = airflow.trigger(dag_id, {"sandbox_id": sandbox.id, "tasks": TASKS})
        airflow.wait_for_run(dag_id, run_id, timeout=120 + TASKS * 15)
        tasks = airflow.task_instances(dag_id, run_id)
        ends = Counter((ti.task_id, ti.state, ti.try_number) for ti in tasks)
        # Each command ran once.
        assert len(list(service.iterate_processes(sandbox.id))) == 2 * TASKS
        service.stop_sandbox(sandbox.id)
    # Where one was failed, Airflow tells why among its events.
    told = [] if all(ti.state == "success" for ti in tasks) else airflow.event_logs(dag_id, run_id)
    assert ends["resumed", "success", 1] == ends["ended", "success", 1] == TASKS, (ends, told)
