"""What the test of the Airflow stack itself runs: no sandbox in it."""

from __future__ import annotations

from airflow.sdk import DAG, task

with DAG("stack_smoke", schedule=None):

    @task
    def numbers() -> list[int]:
        print("counting")
        return [1, 2]

    @task
    def double(number: int) -> int:
        return 2 * number

    double.expand(number=numbers())
