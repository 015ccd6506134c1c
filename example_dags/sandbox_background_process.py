"""A process that is given input, and answers on stdout and stderr."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_provider_sbx.operators.process import SandboxProcessOperator

with DAG("sandbox_background_process", tags=["sandbox"]):
    SandboxProcessOperator(
        task_id="read_a_line",
        command="read line; echo stdout:$line; echo stderr:$line 1>&2",
        sandbox={"image_name": "python"},
        run_as="root",
        stdin="hello\n",
    )
