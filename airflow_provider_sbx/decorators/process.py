"""`@task.sandbox` and `@task.sandbox_command`: functions as tasks with a process in a sandbox.

`sandbox_task` and `sandbox_command_task` are the same decorators by another name, whose options an
editor knows: those of `@task...` are registered with Airflow while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from airflow.providers.common.compat.sdk import task_decorator_factory

from airflow_provider_sbx.decorators.operators import (
    SandboxCommandDecoratedOperator,
    SandboxFunctionDecoratedOperator,
    check_early,
)
from airflow_provider_sbx.operators.command import naming

if TYPE_CHECKING:
    from airflow.sdk.bases.decorator import Task

    from airflow_provider_sbx.api.models import SandboxSpec
    from airflow_provider_sbx.operators.target import Templated

__all__ = ["sandbox_command_task", "sandbox_task"]

P = ParamSpec("P")
R = TypeVar("R")


@overload
def sandbox_task(python_callable: Callable[P, R]) -> Task[P, R]: ...
@overload
def sandbox_task(
    *,
    python: str = ...,
    requirements: Sequence[str] | None = ...,
    serializer: Literal["json", "cloudpickle"] = ...,
    multiple_outputs: bool | None = ...,
    sandbox_id: Templated = ...,
    sandbox: Mapping[str, Any] | SandboxSpec | None = ...,
    cwd: str | None = ...,
    env: Mapping[str, str | int | float] | None = ...,
    append_airflow_env: bool = ...,
    run_as: str | None = ...,
    timeout: timedelta | float | str | None = ...,
    skip_on_exit_code: int | Container[int] | None = ...,
    deferrable: bool = ...,
    defer_after: timedelta | float = ...,
    wait_strategy: str = ...,
    log_output: bool = ...,
    poll_interval: float = ...,
    kill_grace: timedelta | float = ...,
    max_output_bytes: int = ...,
    max_log_bytes: int = ...,
    secrets: Mapping[str, Any] | None = ...,
    vault: str | None = ...,
    one_password: Mapping[str, Any] | None = ...,
    sbx_conn_id: str = ...,
    **kwargs: Any,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def sandbox_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    r"""Run a function by a sandbox's Python: `@task.sandbox`.

    Its arguments go there and its return value comes back as JSON, so that tuples become lists and keys
    of a returned dict text. What it prints stands in the task's log as it prints it; when it raises, its
    traceback does, and the task fails with the exception's type and text. `sys.exit(99)` skips the task
    (`skip_on_exit_code`). While it runs, the task waits in the triggerer, as `SandboxProcessOperator` does,
    of which it takes all parameters but `command`, `stdin`, `wait_for_completion` and `output_processor`,
    whose place the function takes, and `end_from_trigger` and `start_from_trigger`: a worker sends the
    function and reads what it returns.

    The sandbox gets the function's source alone, and runs it by Python 3.8 or newer: the function imports
    what it uses, and finds nothing of the DAG's file around it. Annotations are not evaluated. It may name
    what JSON can hold of Airflow's context as parameters, such as `ds` or `params`; times are ISO 8601
    text. Its standard input is at its end: the function itself came that way. A program of its own that
    goes on in the background keeps nothing of the result.

    :param python_callable: the function.
    :param python: the sandbox's Python, a name or a path; default `python3`. (templated)
    :param requirements: what pip installs for the function before it is called, as a list of lines of a
        requirements file; into a directory of its own, which is removed at the end. An index is named by
        such a line (`--index-url ...`) or by the variable `PIP_INDEX_URL` in `env`. (templated)
    :param serializer: `json` (default), or `cloudpickle` to send the function with what it uses around it,
        and any arguments, as a pickle. It takes cloudpickle in both places and a Python of one minor version.
        The result comes back as JSON all the same: nothing that a sandbox sends is ever unpickled.
    :param multiple_outputs: push each item of a returned dict by itself as well; by default what the return
        annotation says.
    :param max_output_bytes: the longest return value, in bytes of JSON as it is sent (3 % longer).
    :raises InvalidParameterError: the function or a parameter can't be right; when the DAG is read, as far
        as it is known then.
    """
    return _decorator(SandboxFunctionDecoratedOperator, python_callable, kwargs)


@overload
def sandbox_command_task(python_callable: Callable[P, str]) -> Task[P, str]: ...
@overload
def sandbox_command_task(
    *,
    stdin: str | bytes | None = ...,
    wait_for_completion: bool = ...,
    output_processor: Callable[[dict[str, Any]], Any] | None = ...,
    multiple_outputs: bool | None = ...,
    sandbox_id: Templated = ...,
    sandbox: Mapping[str, Any] | SandboxSpec | None = ...,
    cwd: str | None = ...,
    env: Mapping[str, str | int | float] | None = ...,
    append_airflow_env: bool = ...,
    run_as: str | None = ...,
    timeout: timedelta | float | str | None = ...,
    skip_on_exit_code: int | Container[int] | None = ...,
    deferrable: bool = ...,
    defer_after: timedelta | float = ...,
    end_from_trigger: bool = ...,
    wait_strategy: str = ...,
    log_output: bool = ...,
    poll_interval: float = ...,
    kill_grace: timedelta | float = ...,
    max_output_bytes: int = ...,
    max_log_bytes: int = ...,
    secrets: Mapping[str, Any] | None = ...,
    vault: str | None = ...,
    one_password: Mapping[str, Any] | None = ...,
    sbx_conn_id: str = ...,
    **kwargs: Any,
) -> Callable[[Callable[P, str]], Task[P, str]]: ...
def sandbox_command_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """Run the command that a function returns in a sandbox: `@task.sandbox_command`.

    The function runs on the worker, and may read Airflow's context; templates in what it returns are
    rendered. The task is that of `SandboxProcessOperator`, with its result, a dict with `stdout` and
    `exit_code`, and all its parameters but `command`, which the function returns, and `start_from_trigger`,
    since a worker calls the function. The name of a script file is a command like any other, and no file
    beside the DAG.

    :param python_callable: the function, which returns the command as text.
    :param multiple_outputs: push each item of the result by itself as well.
    :raises InvalidParameterError: a parameter can't be right; when the DAG is read, as far as it is known
        then.
    """
    return _decorator(SandboxCommandDecoratedOperator, python_callable, kwargs)


def _decorator(
    operator: type[Any], python_callable: Callable[..., Any] | None, options: dict[str, Any]
) -> Any:
    def decorate(function: Callable[..., Any]) -> Any:
        # Here already: a mapped task is not made before it runs, and Airflow's decorator asks for a name,
        # which a partial has not.
        with naming(options.get("task_id") or getattr(function, "__name__", None)):
            if operator is SandboxFunctionDecoratedOperator:
                check_early(function, options.get("serializer", "json"), options.get("requirements"))
            operator.check_options(options)
        return task_decorator_factory(function, decorated_operator_class=operator, **options)

    return decorate if python_callable is None else decorate(python_callable)
