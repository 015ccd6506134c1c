"""Python functions run by a sandbox's Python: arguments, results, prints, and one process for each input."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from airflow_provider_sbx.decorators.process import sandbox_task

# `@task.sandbox` is the same decorator; an editor knows the options of this one.
SANDBOX: dict[str, Any] = {"image_name": "python"}


@sandbox_task(sandbox=SANDBOX, timeout=timedelta(minutes=5))
def trees(count: int, *, params: Any = None) -> list[str]:
    import random

    print(f"{count} trees of the {params['region']}")
    random.seed(params["region"])
    return random.sample(["ash", "beech", "elm", "oak", "yew"], count)


@sandbox_task(sandbox=SANDBOX)
def measure(tree: str) -> dict[str, Any]:
    if not tree.isalpha():
        raise ValueError(f"{tree!r} is no tree")
    return {"tree": tree, "letters": len(tree)}


@sandbox_task(sandbox=SANDBOX)
def longest(measured: Any) -> str:
    return str(max(measured, key=lambda one: one["letters"])["tree"])


with DAG("sandbox_taskflow", tags=["sandbox"], params={"region": "north"}):
    longest(measure.expand(tree=trees(4)))
