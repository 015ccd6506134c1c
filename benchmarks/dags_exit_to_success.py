"""The DAG of `bench_exit_to_success`: the same waits on the worker and in the triggerer."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_provider_sbx.operators.process import SandboxProcessOperator

ROUNDS = 8

with DAG("exit_to_success", max_active_tasks=4):
    for mode, seconds in (("worker", 1), ("triggerer_soon", 4), ("triggerer", 12)):
        for n in range(ROUNDS):
            SandboxProcessOperator(
                task_id=f"{mode}_{n}",
                command=f"sleep {seconds}",
                sandbox={"image_name": "python"},
                deferrable=mode != "worker",
            )
