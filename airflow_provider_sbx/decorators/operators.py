"""The operators behind `@task.sandbox` and `@task.sandbox_command`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import DecoratedOperator, determine_kwargs
from airflow.sdk.definitions._internal.types import SET_DURING_EXECUTION

from airflow_provider_sbx.api.errors import InvalidParameterError, ProcessFailedError
from airflow_provider_sbx.api.frames import LINE_BYTES, MARK, read_frame
from airflow_provider_sbx.api.models import ProcessParameters
from airflow_provider_sbx.api.steps import Outcome
from airflow_provider_sbx.api.validation import check_text
from airflow_provider_sbx.decorators.arguments import (
    arguments,
    as_json,
    as_pickle,
    check_context_names,
    check_known_arguments,
    check_serializer,
)
from airflow_provider_sbx.decorators.source import Source, check_function, source_of
from airflow_provider_sbx.operators.command import check_if_known, naming
from airflow_provider_sbx.operators.process import SandboxProcessOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

_INPUT_SECONDS = 600
"""How long the sandbox's Python waits for the function: a worker that was lost sends none."""

_LEAST_OUTPUT_BYTES = 4096

_NOT_OURS = ("command", "stdin", "wait_for_completion", "output_processor")
_TAKEN_VALUES: dict[str, Any] = {
    "stdin": None,
    "wait_for_completion": True,
    "output_processor": None,
    "end_from_trigger": False,
    "start_from_trigger": False,
}
"""What they are for a function that runs in the sandbox, and what else it can't do without."""

# What runs of the command line alone. All else comes by standard input: a command holds 128 KiB at the
# most, and whoever lists the sandbox's processes sees it.
_BOOTSTRAP = f"""\
import json, select, sys
if not select.select([0], [], [], {_INPUT_SECONDS})[0]:
    sys.exit("The function did not arrive on standard input within {_INPUT_SECONDS} s.")
call = json.load(sys.stdin.buffer)
runner = {{"__name__": "airflow_sbx_runner"}}
exec(compile(call.pop("runner"), "airflow_sbx_runner.py", "exec"), runner)
runner["run"](call)
"""


class _Decorated(DecoratedOperator, SandboxProcessOperator):
    """What both have in common."""

    # Else an argument that ends in `.py` would be taken for a template file's name.
    template_ext: Sequence[str] = ()
    # Airflow 3.0's DecoratedOperator hands it on, and has none itself.
    xcom_push = None

    taken: ClassVar[tuple[str, ...]] = ("command",)
    """Parameters of `SandboxProcessOperator` whose place the function takes."""

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Check that nothing is given whose place the function takes.

        :raises InvalidParameterError: something is.
        """
        for name in cls.taken:
            if name in options:
                taker = "SandboxProcessOperator" if name == "command" else "@task.sandbox_command"
                raise InvalidParameterError(
                    name, "the function takes its place", f"Leave it out; {taker} takes it."
                )


class SandboxCommandDecoratedOperator(_Decorated):
    """Run the command that a function returns. The function itself runs on the worker.

    :param python_callable: the function.
    :param op_args: its positional arguments. (templated)
    :param op_kwargs: its keyword arguments. (templated)
    """

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *SandboxProcessOperator.template_fields,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **SandboxProcessOperator.template_fields_renderers,
    }
    custom_operator_name = "@task.sandbox_command"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        with naming(kwargs.get("task_id")):
            self.check_options(kwargs)
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            command=SET_DURING_EXECUTION,
            **kwargs,
        )

    @property
    def overwrite_rtif_after_execution(self) -> bool:  # type: ignore[override]  # Airflow only reads it
        """Whether the command that Airflow's pages show as rendered has become known."""
        return isinstance(self.command, str)

    def _parameters(self, context: Context, time_left: float | None) -> ProcessParameters:
        if not isinstance(self.command, str):
            self.command = self.render_template(self._returned(context), context)
            # Resumed after a deferral, the task does not know it any more, and neither do Airflow's pages.
            self.log.info("The command is: %s", self.command)
        return super()._parameters(context, time_left)

    def _returned(self, context: Context) -> str:
        merged = {**context, **self.op_kwargs}
        kwargs = determine_kwargs(self.python_callable, self.op_args, merged)
        command = self.python_callable(*self.op_args, **kwargs)
        if isinstance(command, str) and command.strip():
            return command
        what = "an empty text" if isinstance(command, str) else f"a {type(command).__name__}"
        name = self.python_callable.__name__
        raise InvalidParameterError(
            "python_callable", f"{name} returned {what}", "Let it return the shell command as a string."
        )


class SandboxFunctionDecoratedOperator(_Decorated):
    """Run a function by a sandbox's Python.

    :param python_callable: the function.
    :param op_args: its positional arguments. (templated)
    :param op_kwargs: its keyword arguments. (templated)
    :param python: the sandbox's Python, a name or a path. (templated)
    :param requirements: what pip installs for the function before it is called. (templated)
    :param serializer: how the function and its arguments get there: `json` or `cloudpickle`.
    """

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        "python",
        "requirements",
        *(field for field in SandboxProcessOperator.template_fields if field not in _NOT_OURS),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        "requirements": "json",
        **{
            field: renderer
            for field, renderer in SandboxProcessOperator.template_fields_renderers.items()
            if field not in _NOT_OURS
        },
    }
    custom_operator_name = "@task.sandbox"
    taken = _NOT_OURS

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        python: str = "python3",
        requirements: Sequence[str] | None = None,
        serializer: str = "json",
        **kwargs: Any,
    ) -> None:
        with naming(kwargs.get("task_id")):
            self._source = check_early(python_callable, serializer, requirements)
            self.check_options(kwargs)
            if kwargs.get("end_from_trigger") or kwargs.get("start_from_trigger"):
                raise InvalidParameterError(
                    "end_from_trigger, start_from_trigger",
                    "a worker sends the function and reads its return value",
                    "Leave them out; @task.sandbox_command takes end_from_trigger.",
                )
        self.python = python
        self.requirements = requirements
        self.serializer = serializer
        self._payload: str | None = None
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            command=f"exec {python} -c ...",
            # By name, so that a DAG's default_args give none of them.
            **{**kwargs, **_TAKEN_VALUES},
        )

    def _check_early(self) -> None:
        super()._check_early()
        check_if_known(self.python, _check_python)
        check_context_names(self.python_callable, self.op_args, self.op_kwargs)
        if self.serializer == "json":
            check_known_arguments(self.python_callable, self.op_args, self.op_kwargs)
        if self.max_output_bytes < _LEAST_OUTPUT_BYTES:
            raise InvalidParameterError(
                "max_output_bytes",
                f"{self.max_output_bytes} bytes are too few for a return value",
                f"Give {_LEAST_OUTPUT_BYTES} or more.",
            )

    def _parameters(self, context: Context, time_left: float | None) -> ProcessParameters:
        # Before `_stdin`, which is asked for with the other options of the wait.
        self._payload = json.dumps(self._call(context))
        self.command = f"exec {shlex.quote(_check_python(self.python))} -c {shlex.quote(_BOOTSTRAP)}"
        return super()._parameters(context, time_left)

    def _call(self, context: Context) -> dict[str, Any]:
        """Return what the runner in the sandbox is told."""
        function = self.python_callable
        args, kwargs = arguments(function, self.op_args, self.op_kwargs, context)
        if (source := self._source) is None:
            called = as_pickle(function, args, kwargs)
        else:
            called = as_json(function, args, kwargs)
            called |= {"source": source.text, "file": source.file, "line": source.line}
        return {
            "runner": (Path(__file__).parent / "runner.py").read_text("utf-8"),
            "name": function.__name__,
            "requirements": check_requirements(self.requirements),
            "mark": MARK,
            "line_bytes": LINE_BYTES,
            "limit_bytes": self.max_output_bytes,
            **called,
        }

    def _stdin(self) -> str | bytes | None:
        return self._payload

    def _value(self, sandbox_id: str, process_id: str, outcome: Outcome) -> Any:
        said = read_frame(outcome.stdout) or {}
        name = self.python_callable.__name__
        try:
            super()._value(sandbox_id, process_id, outcome)
        except ProcessFailedError as error:
            if "failure" not in said:
                raise
            raise ProcessFailedError(f"{name} {said['failure']}\n{error}") from None
        if "result" not in said:
            raise ProcessFailedError(
                f"{name} came to its end in process {process_id} of sandbox {sandbox_id}, and its return "
                "value could not be read: it ended its process by itself, or its output is no longer kept. "
                "A large result is better written to a store."
            )
        return said["result"]


def check_early(function: object, serializer: object, requirements: object) -> Source | None:
    """Check what is known of a task once its function is decorated, and return its source if that is sent.

    :raises InvalidParameterError: the function, the serializer or the requirements can't be right.
    """
    checked = check_function(function)
    check_serializer(serializer)
    check_requirements(requirements)
    return source_of(checked) if serializer == "json" else None


def _check_python(python: object) -> str:
    """Return the name of the Python, if it is one.

    :raises InvalidParameterError: it is no text, or empty.
    """
    checked = check_text("python", python, what="a Python")
    if checked is None:
        raise InvalidParameterError("python", "there is none", "Give a name or a path, such as python3.")
    return checked


def check_requirements(requirements: object) -> list[str]:
    """Return requirements as lines of a requirements file.

    :raises InvalidParameterError: they are no list of texts of one line.
    """
    if requirements is None:
        return []
    remedy = 'Give a list of texts as pip takes them, such as ["pandas>=2"].'
    if not isinstance(requirements, list | tuple):
        raise InvalidParameterError("requirements", f"a {type(requirements).__name__} is no list", remedy)
    for index, line in enumerate(requirements):
        if not isinstance(line, str) or not line.strip() or len(line.splitlines()) > 1:
            raise InvalidParameterError(
                f"requirements[{index}]", f"{line!r} is no requirement of one line", remedy
            )
    return list(requirements)
