"""Tasks of every kind, each with numbered output for some 20 s; see `tests/soak`."""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_sbx.operators.process import SandboxExecOperator, SandboxProcessOperator

# How many of each kind, where to tell that a command began and ended, and the sandbox that many share.
EACH = int(os.environ["SOAK_EACH"])
PORT = os.environ["SOAK_COUNTER_PORT"]
SHARED = {"sandbox_id": os.environ["SOAK_SANDBOX"]}
OWN = {"sandbox": {"image_name": "python", "timeout_minutes": 30}}
LINES = 100


def told(word: str, name: str) -> str:
    return f"bash -c 'echo {word} {name} > /dev/tcp/127.0.0.1/{PORT}'"


def command(name: str, reads: str = "") -> str:
    loop = f"i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; sleep 0.$((1 + $$ % 3)); done"
    return f"{told('began', name)}\n{reads}\n{loop}\n{told('ended', name)}"


with DAG(
    "soak",
    max_active_tasks=1000,
    default_args={"retries": 50, "retry_delay": timedelta(seconds=1), "kill_grace": 2},
):
    for n in range(EACH):
        SandboxExecOperator(task_id=f"exec_{n}", command=command(f"exec_{n}"), **SHARED)
        SandboxProcessOperator(task_id=f"deferred_{n}", command=command(f"deferred_{n}"), **SHARED)
        SandboxProcessOperator(
            task_id=f"own_{n}", command=command(f"own_{n}"), execution_timeout=timedelta(minutes=20), **OWN
        )
        SandboxExecOperator(task_id=f"own_exec_{n}", command=command(f"own_exec_{n}"), **OWN)
        SandboxProcessOperator(
            task_id=f"input_{n}",
            command=command(f"input_{n}", reads="read word; [ $word = given ] || exit 7"),
            stdin="given\n",
            **SHARED,
        )
    SandboxProcessOperator.partial(task_id="mapped", **SHARED).expand(
        command=[command(f"mapped_{n}") for n in range(EACH)]
    )

with DAG("soak_restarts"):
    for task_id, deferrable in (("worker", False), ("triggerer", True)):
        SandboxProcessOperator(
            task_id=task_id,
            command=f"{told('began', task_id)}\nfor n in $(seq 300); do echo line $n; sleep 0.2; done",
            deferrable=deferrable,
            **SHARED,
        )
