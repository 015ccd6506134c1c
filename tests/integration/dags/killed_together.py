"""A DAG whose run is failed while all of its tasks wait: for the chaos tests."""

from __future__ import annotations

import os

from airflow.sdk import DAG

from airflow_provider_sbx.compat import renders_in_triggerer
from airflow_provider_sbx.operators.process import SandboxProcessOperator

TASKS = int(os.environ.get("SBX_KILL_TASKS", "40"))

if renders_in_triggerer():
    with DAG("killed_together", params={"sandbox_id": ""}, max_active_tasks=TASKS):
        for number in range(TASKS):
            SandboxProcessOperator(
                task_id=f"stands_{number}",
                command="trap '' TERM; while :; do sleep 1000; done",  # so that KILL must follow
                sandbox_id="{{ params.sandbox_id }}",
                kill_grace=3,
                start_from_trigger=True,
            )
