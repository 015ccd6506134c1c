"""A one-shot command, as a user of the sandbox, with a directory, a variable and a time limit."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_provider_sbx.operators.process import SandboxExecOperator

with DAG("sandbox_exec", tags=["sandbox"]):
    SandboxExecOperator(
        task_id="who_and_where",
        command="pwd && echo $FOO && whoami",
        sandbox={"image_name": "python"},
        cwd="/tmp",
        env={"FOO": "bar"},
        run_as="root",
        timeout=5,
    )
