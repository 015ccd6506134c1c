"""Tasks for what Airflow's pages show: the link to the sandbox, and values that are to be hidden."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_provider_sbx.operators.process import SandboxExecOperator, SandboxProcessOperator

with DAG("pages", schedule=None):
    common = {
        "sandbox": {"image_name": "python"},
        "env": {"DB_PASSWORD": "open-sesame", "REGION": "north"},
    }
    SandboxExecOperator(task_id="sync", command='echo "pass $DB_PASSWORD to $REGION"', **common)
    SandboxProcessOperator(task_id="deferred", command="sleep 4", defer_after=0, **common)
    SandboxExecOperator(task_id="unlinked", command="true", do_xcom_push=False, **common)
