"""What a type checker knows of decorated functions. Never run: `mypy` reads it, in the lint.

A line that must be an error bears an ignore, and an ignore that is not needed is an error itself.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import assert_type

from airflow.sdk import XComArg, task

from airflow_provider_sbx.decorators.process import sandbox_command_task, sandbox_task


@sandbox_task
def bare(a: int, b: str = "x") -> float:
    return a / len(b)


@sandbox_task(
    sandbox={"image_name": "python"},
    requirements=["pandas>=2"],
    timeout=timedelta(hours=1),
    retries=3,
)
def configured(a: int, b: str = "x") -> float:
    return a / len(b)


@sandbox_command_task
def bare_command(n: int) -> str:
    return f"seq {n}"


@sandbox_command_task(stdin="x", env={"A": 1})
def configured_command(n: int) -> str:
    return f"seq {n}"


@task.sandbox
def of_airflow(a: int) -> float:
    return a / 2


@task.sandbox_command(sandbox_id="sb-1")
def command_of_airflow(n: int) -> str:
    return f"seq {n}"


# --- arguments and results keep their types --------------------------------------------------

assert_type(bare(1, b="y"), XComArg)
assert_type(configured(1), XComArg)
assert_type(bare_command(1), XComArg)
assert_type(configured_command(n=1), XComArg)
assert_type(of_airflow(1), XComArg)
assert_type(command_of_airflow(1), XComArg)

assert_type(bare.function(1, "y"), float)
assert_type(configured.function(1, "y"), float)
assert_type(of_airflow.function(1), float)
assert_type(bare_command.function(1), str)
same: Callable[[int], str] = configured_command.function

bare.override(task_id="other")(1)
bare.partial(b="y").expand(a=[1, 2])

# --- what can't be right is an error ---------------------------------------------------------

bare("1")  # type: ignore[arg-type]
bare()  # type: ignore[call-arg,misc]
configured(1, c=2)  # type: ignore[call-arg]
configured(a="1")  # type: ignore[arg-type]
bare_command("1")  # type: ignore[arg-type]
of_airflow("1")  # type: ignore[arg-type]
wrong: Callable[[int, str], str] = bare.function  # type: ignore[assignment]

sandbox_task(serializer="pickle")  # type: ignore[call-overload]
sandbox_task(requirements=5)  # type: ignore[call-overload]
sandbox_task(timeout=[])  # type: ignore[call-overload]
sandbox_command_task(env=5)  # type: ignore[call-overload]


@sandbox_command_task  # type: ignore[arg-type]
def no_command() -> int:
    return 1
