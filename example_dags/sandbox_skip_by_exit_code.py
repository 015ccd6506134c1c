"""A process that finds nothing to do skips its task by its exit code."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_provider_sbx.operators.process import SandboxExecOperator

with DAG("sandbox_skip_by_exit_code", tags=["sandbox"]):
    SandboxExecOperator(
        task_id="only_if_there_is_data",
        command='test -e /data/incoming || { echo "nothing to do"; exit 99; }',
        sandbox={"image_name": "python"},
        skip_on_exit_code=99,
    )
