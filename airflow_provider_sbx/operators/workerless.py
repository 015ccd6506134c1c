"""Tasks that need no worker at their end, or at no point: what they must be for that, and what is refused.

Airflow 3.3 starts a task in the triggerer where the operator says `start_from_trigger`, and renders its
fields there. It calls none of the task's own methods then.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import StartTriggerArgs

from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.api.models import SandboxSpec
from airflow_provider_sbx.api.validation import check_exit_codes
from airflow_provider_sbx.compat import renders_in_triggerer
from airflow_provider_sbx.operators.command import is_known, is_script_file
from airflow_provider_sbx.operators.rendering import (
    trigger_filters,
    why_not_in_a_triggerer,
    why_not_of_this_dag,
)
from airflow_provider_sbx.runs.parameters import is_sensitive
from airflow_provider_sbx.triggers.start import SandboxStartTrigger

if TYPE_CHECKING:
    from airflow_provider_sbx.operators.process import SandboxProcessOperator
    from airflow_provider_sbx.operators.worker import Options

_ON_A_WORKER = {
    "output_processor": "it is called on a worker",
    "on_execute_callback": "Airflow calls it on a worker",
    "on_success_callback": "Airflow calls it on a worker",
    "on_skipped_callback": "Airflow calls it on a worker",
    "outlets": "Airflow tells of assets from a worker",
    "multiple_outputs": "a worker takes the result apart",
    "_pre_execute_hook": "it is called on a worker",
    "_post_execute_hook": "it is called on a worker",
}
_EXIT_CODES = range(256)


def check_workerless(task: SandboxProcessOperator, parameter: str) -> None:
    """Check that a task can end in the triggerer.

    :param parameter: `end_from_trigger` or `start_from_trigger`, which the task has.
    :raises InvalidParameterError: something of it takes a worker.
    """
    for name, why in _ON_A_WORKER.items():
        if getattr(task, name, None):
            raise InvalidParameterError(
                f"{parameter}, {name.removeprefix('_').removesuffix('_hook')}",
                f"both are given, and {why}, which {parameter} does without",
                "Give one of them.",
            )
    if not task.deferrable:
        raise InvalidParameterError(
            f"{parameter}, deferrable",
            "a task that isn't deferrable waits on a worker",
            f"Leave deferrable=False or {parameter} out.",
        )


def check_startable(task: SandboxProcessOperator) -> None:
    """Check that a task can start in the triggerer.

    :raises InvalidParameterError: something of it can't work there.
    """
    name = "start_from_trigger"
    if not renders_in_triggerer():
        raise InvalidParameterError(
            name,
            "this Airflow does not render a task's fields in the triggerer",
            f"Use Airflow 3.3 or newer, or leave {name} out: end_from_trigger=True works here.",
        )
    # Here, since few DAG files need it.
    from airflow.providers.common.compat.sdk import DecoratedOperator

    if isinstance(task, DecoratedOperator):
        raise InvalidParameterError(
            name, "the decorated function is called on a worker", "Leave it out; end_from_trigger may serve."
        )
    check_workerless(task, name)
    if isinstance(task.stdin, bytes):
        raise InvalidParameterError(
            f"{name}, stdin", "bytes can't be handed to a trigger", "Give text, or start on a worker."
        )
    # A trigger's arguments stand in Airflow's database.
    for variable, value in task.env.items() if isinstance(task.env, Mapping) else ():
        if isinstance(value, str) and is_known(value) and is_sensitive(variable):
            raise InvalidParameterError(
                f"{name}, env[{variable!r}]",
                "Airflow takes its name for sensitive, and its value would stand in a trigger's arguments",
                "Use secrets, or a template of a connection or variable, which is rendered in the triggerer.",
            )


def why_on_a_worker(task: SandboxProcessOperator) -> str | None:
    """Return why a task that may start in the triggerer starts on a worker all the same; None where not."""
    dag = task.get_dag()
    if why := why_not_of_this_dag(dag):
        return why
    if getattr(task, "render_template_as_native_obj", None):
        return "it renders its templates as native objects"
    if task.template_ext and is_script_file(task.command):
        return f"the file {task.command!r} was not found when the DAG was parsed"
    filters = trigger_filters(dag)
    for field in task.template_fields:
        if why := why_not_in_a_triggerer(field, getattr(task, field), filters):
            return why
    return None


def exit_codes(given: int | Container[int] | None) -> list[int]:
    """Return exit codes to skip on as a trigger's arguments hold them."""
    skip_on = check_exit_codes("skip_on_exit_code", given)
    if isinstance(skip_on, tuple):
        return [code for code in skip_on if code in _EXIT_CODES]
    return [code for code in _EXIT_CODES if code in skip_on]


def start_trigger_args(
    task: SandboxProcessOperator, command: str, options: Options, ends: dict[str, Any] | None
) -> StartTriggerArgs:
    """Return what Airflow starts the task in the triggerer with.

    :param command: the command, not rendered.
    :param options: how to wait.
    :param ends: how to end; see `TaskEnd`.
    """
    given = {field: getattr(task, field) for field in task.template_fields}
    kwargs = {field: _plain(value) for field, value in given.items() if value is not None}
    waiting = {
        "append_airflow_env": task.append_airflow_env,
        "wait_strategy": options.wait_strategy,
        "poll_interval": options.poll_interval,
        "max_log_bytes": options.log_bytes,
        "kill_grace": options.kill_grace,
        "checkpoints": task.do_xcom_push,
        "wait_for_completion": options.wait_for_completion,
        "ends": ends,
    }
    return StartTriggerArgs(
        trigger_cls=f"{SandboxStartTrigger.__module__}.{SandboxStartTrigger.__qualname__}",
        trigger_kwargs={**kwargs, **waiting, "command": command},
        next_method="execute_complete",
        # Where a worker is to end the task after all, it also stops the sandbox.
        next_kwargs={"owns_sandbox": task.sandbox is not None},
    )


def fails_in_triggerer(task: SandboxProcessOperator) -> bool:
    """Whether a failure may end a task there: of these, only a worker does what they ask for."""
    return not (
        getattr(task.get_dag(), "fail_fast", False) or task.email or getattr(task, "retry_policy", None)
    )


def _plain(value: Any) -> Any:
    """Return a field's value as JSON has it."""
    if isinstance(value, SandboxSpec):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
