"""One sandbox for several tasks: a setup makes it, and its teardown stops it, whatever happens in between."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_sbx.operators.process import SandboxExecOperator
from airflow_provider_sbx.operators.sandbox import SandboxCreateOperator, SandboxStopOperator

with DAG("sandbox_lifecycle", tags=["sandbox"]):
    create = SandboxCreateOperator(task_id="create", image_name="python", timeout_minutes=30)
    write = SandboxExecOperator(
        task_id="write",
        command="mkdir -p work && seq 5 > work/numbers && wc -l < work/numbers",
        sandbox_id=create.output,
        timeout=timedelta(minutes=5),
    )
    add = SandboxExecOperator(
        task_id="add",
        command="paste -sd+ work/numbers | xargs -I{} sh -c 'echo $(({}))'",
        sandbox_id=create.output,
        timeout=timedelta(minutes=5),
    )
    stop = SandboxStopOperator(task_id="stop", sandbox_id=create.output)
    create >> write >> add >> stop.as_teardown(setups=create)
