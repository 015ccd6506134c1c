"""A long process: the triggerer waits for it, and its output stands in the log as it comes."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_sbx.operators.process import SandboxProcessOperator

with DAG("sandbox_long_process", tags=["sandbox"], params={"steps": 12}):
    SandboxProcessOperator(
        task_id="count",
        command='for step in $(seq "$STEPS"); do echo "step $step of $STEPS"; sleep 1; done',
        sandbox={"image_name": "python"},
        env={"STEPS": "{{ params.steps }}"},
        execution_timeout=timedelta(hours=1),
    )
