"""The DAG of one way of `bench_airflow`, by the name of the file: the same command by each.

A file for each, as a worker parses a task's file before it runs it, and the DAG processor does for each task
that ends in the triggerer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

from airflow_provider_sbx.operators.process import SandboxProcessOperator

TASKS = int(os.environ["SBX_BENCH_TASKS"])
COMMAND = "echo hello"
BY_SSH = "ssh_remote_job"
OURS: dict[str, dict[str, Any]] = {
    "worker": {"deferrable": False},
    "deferrable": {"defer_after": 0},
    "ended_in_triggerer": {"defer_after": 0, "end_from_trigger": True},
    "workerless": {"start_from_trigger": True},
}


def make_task(way: str, task_id: str) -> None:
    """Add a task to the DAG at hand."""
    if way == "bash":
        BashOperator(task_id=task_id, bash_command=COMMAND)
    elif way == BY_SSH:
        from airflow.providers.ssh.operators.ssh_remote_job import (  # type: ignore[import-not-found]
            SSHRemoteJobOperator,
        )

        # With its own defaults, but for the folder, which goes with sshd.
        folder = os.environ["SBX_BENCH_SSH_JOBS"]
        SSHRemoteJobOperator(
            task_id=task_id, command=COMMAND, ssh_conn_id="ssh_default", remote_base_dir=folder
        )
    else:
        SandboxProcessOperator(task_id=task_id, command=COMMAND, **OURS[way])


def tasks_of(name: str) -> Iterator[tuple[str, str]]:
    """Yield the way and the id of each task of a DAG."""
    if name != "warm_up":
        yield from ((name, f"task_{n}") for n in range(TASKS))
        return
    for way in (*OURS, *([BY_SSH] if "SBX_BENCH_SSH_JOBS" in os.environ else [])):
        yield way, way


NAME = Path(__file__).stem
with DAG(NAME, max_active_tasks=TASKS):
    for way, task_id in tasks_of(NAME):
        make_task(way, task_id)
