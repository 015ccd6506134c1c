"""The DAGs of `bench_airflow`: the same command by each way to run it; the one by SSH only where it can."""

from __future__ import annotations

import os
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

from airflow_provider_sbx.operators.process import SandboxProcessOperator

TASKS = int(os.environ["SBX_BENCH_TASKS"])
COMMAND = "echo hello"
WAYS: dict[str, dict[str, Any]] = {
    "worker": {"deferrable": False},
    "deferrable": {"defer_after": 0},
    "ended_in_triggerer": {"defer_after": 0, "end_from_trigger": True},
    "workerless": {"start_from_trigger": True},
}

with DAG("bash", max_active_tasks=TASKS):
    for n in range(TASKS):
        BashOperator(task_id=f"task_{n}", bash_command=COMMAND)

with DAG("warm_up") as warm_up:
    for name, how in WAYS.items():
        SandboxProcessOperator(task_id=name, command=COMMAND, **how)

if jobs := os.environ.get("SBX_BENCH_SSH_JOBS"):
    from airflow.providers.ssh.operators.ssh_remote_job import (  # type: ignore[import-not-found]
        SSHRemoteJobOperator,
    )

    # With its own defaults, but for the folder, which goes with sshd.
    by_ssh = {"ssh_conn_id": "ssh_default", "command": COMMAND, "remote_base_dir": jobs}
    warm_up.add_task(SSHRemoteJobOperator(task_id="ssh_remote_job", **by_ssh))
    with DAG("ssh_remote_job", max_active_tasks=TASKS):
        for n in range(TASKS):
            SSHRemoteJobOperator(task_id=f"task_{n}", **by_ssh)

for name, how in WAYS.items():
    with DAG(name, max_active_tasks=TASKS):
        for n in range(TASKS):
            SandboxProcessOperator(task_id=f"task_{n}", command=COMMAND, **how)
