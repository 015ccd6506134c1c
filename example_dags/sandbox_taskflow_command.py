"""Functions that return the command to run: it depends on what they are given, and on the run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_sbx.decorators.process import sandbox_command_task

# `@task.sandbox_command` is the same decorator; an editor knows the options of this one.


@task
def tables() -> list[str]:
    return ["orders", "customers"]


@sandbox_command_task(
    sandbox={"image_name": "python"},
    env={"DAY": "{{ params.day }}"},
    timeout=timedelta(minutes=5),
    map_index_template="{{ task.op_kwargs['table'] }}",
)
def export(table: str, *, params: Any = None) -> str:
    limit = "| head -2" if params["sample"] else ""
    return f'for row in 1 2 3; do echo "{table},$DAY,$row"; done {limit}'


with DAG("sandbox_taskflow_command", tags=["sandbox"], params={"day": "2026-11-24", "sample": True}):
    export.expand(table=tables())
