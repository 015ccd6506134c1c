"""Tasks of every kind, each with numbered output for some 20 s; see `tests/soak`."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from airflow_provider_sbx.operators.process import SandboxExecOperator, SandboxProcessOperator

# How many of each kind, where to tell that a command began and ended, and the sandbox that many share.
EACH = int(os.environ["SOAK_EACH"])
PORT = os.environ["SOAK_COUNTER_PORT"]
SHARED: dict[str, Any] = {"sandbox_id": os.environ["SOAK_SANDBOX"]}
OWN: dict[str, Any] = {"sandbox": {"image_name": "python", "timeout_minutes": 30}}
LINES = 100

# The same in `scripts/`.
NAME = "{{ ti.task_id }}/{{ ti.map_index }}/{{ run_id }}"
AGAIN = "~/{{ ti.task_id }}-{{ run_id }}"


def told(word: str) -> str:
    return f"bash -c 'echo \"{word} {NAME}\" > /dev/tcp/127.0.0.1/{PORT}'"


def command(first: str = ":", last: str = ":") -> str:
    loop = (
        f"i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; "
        "[ $((i % 20)) -ne 0 ] || echo err $i >&2; sleep 0.$((1 + $$ % 3)); done"
    )
    return f"{told('began')}\n{first}\n{loop}\n{told('ended')}\n{last}"


with DAG(
    "soak",
    # Little more than the workers take: a task that waits in a worker's queue is soon taken for stuck.
    max_active_tasks=14,
    params={"port": PORT, "lines": LINES},
    # Above all, a retry of a task whose worker was lost is not to wait.
    default_args={"retries": 50, "retry_delay": timedelta(seconds=1), "kill_grace": 2},
):
    for n in range(EACH):
        SandboxExecOperator(task_id=f"exec_{n}", command=command(), **SHARED)
        SandboxProcessOperator(task_id=f"deferred_{n}", command=command(), **SHARED)
        SandboxProcessOperator(
            task_id=f"own_{n}", command=command(), execution_timeout=timedelta(minutes=20), **OWN
        )
        SandboxExecOperator(task_id=f"own_exec_{n}", command=command(), **OWN)
        SandboxProcessOperator(
            task_id=f"input_{n}",
            command=command("read word; [ $word = given ] || exit 7"),
            stdin="given\n",
            **SHARED,
        )
        SandboxProcessOperator(
            task_id=f"script_{n}", command=f"scripts/numbered.{'py' if n % 2 else 'sh'}", **SHARED
        )
        # Fails the first time, so that it is to run twice.
        SandboxProcessOperator(
            task_id=f"again_{n}",
            command=command(last=f"mkdir {AGAIN} 2>/dev/null && exit 3; exit 0"),
            **SHARED,
        )
    SandboxProcessOperator.partial(task_id="mapped", **SHARED).expand(command=[command()] * EACH)
    SandboxProcessOperator.partial(task_id="mapped_own", **OWN).expand(command=[command()] * EACH)

with DAG("soak_restarts", params={"end": "none"}):
    for task_id, deferrable in (("worker", False), ("triggerer", True)):
        SandboxProcessOperator(
            task_id=task_id,
            command=f"{told('began')}\nn=0; until [ -e ~/{{{{ params.end }}}} ]; "
            "do n=$((n+1)); echo line $n; sleep 0.2; done; echo total $n",
            deferrable=deferrable,
            **SHARED,
        )
