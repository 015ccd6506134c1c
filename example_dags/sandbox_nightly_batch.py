"""A nightly batch job: one process for each input, each in a sandbox of its own."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_sbx.operators.process import SandboxProcessOperator

REGIONS = ["north", "east", "south"]

with DAG("sandbox_nightly_batch", schedule="0 2 * * *", catchup=False, tags=["sandbox"]):
    SandboxProcessOperator.partial(
        task_id="report",
        command="""
            set -e
            echo "report of $REGION for $AIRFLOW_CTX_DAG_RUN_ID"
            for row in 1 2 3; do echo "$REGION,$row"; sleep 1; done
        """,
        sandbox={"image_name": "python"},
        timeout=timedelta(minutes=30),
        retries=2,
        retry_delay=timedelta(seconds=30),
        map_index_template="{{ task.env['REGION'] }}",
    ).expand(env=[{"REGION": region} for region in REGIONS])
