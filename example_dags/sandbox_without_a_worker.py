"""Tasks that need no worker: the triggerer starts, follows and ends them (Airflow 3.3 or newer)."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_sbx.operators.process import SandboxProcessOperator

with DAG("sandbox_without_a_worker", tags=["sandbox"], params={"region": "north"}):
    for step in ("fetch", "report"):
        SandboxProcessOperator(
            task_id=step,
            command='echo "$STEP for {{ params.region }}, run {{ run_id }}"; sleep 3; echo done',
            sandbox={"image_name": "python"},
            env={"STEP": step},
            timeout=timedelta(minutes=10),
            retries=1,
            start_from_trigger=True,
        )
