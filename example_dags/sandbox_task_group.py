"""A group of tasks in one sandbox, which is made before them and stopped after them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_sbx.operators.process import SandboxExecOperator
from airflow_provider_sbx.operators.sandbox_group import sandbox_group


@task
def report(result: Any) -> str:
    return f"the longest is {result['stdout'].strip()}"


with DAG("sandbox_task_group", tags=["sandbox"]):
    # Its tasks name no sandbox, and run in the group's.
    with sandbox_group(
        "etl",
        image_name="python",
        timeout_minutes=30,
        default_args={"execution_timeout": timedelta(minutes=5)},
    ) as sbx:
        extract = SandboxExecOperator(
            task_id="extract", command="mkdir -p work && printf 'ash\nbeech\noak\n' > work/trees"
        )
        count = SandboxExecOperator.partial(task_id="count").expand(
            command=[f"grep -c {letter} work/trees > work/{letter}" for letter in "ae"]
        )
        load = SandboxExecOperator(
            task_id="load",
            command="awk '{ print length, $0 }' work/trees | sort -n | tail -1 | cut -d' ' -f2",
            env={"SANDBOX": sbx.sandbox_id},
        )
        extract >> count >> load
    sbx >> report(load.output)
