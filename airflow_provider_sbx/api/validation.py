"""Checks of what callers give, each with an error that names the parameter and the remedy.

The operators check at parse time what is known then, and everything again once templates are
rendered; nothing has been started by then.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Mapping
from datetime import timedelta
from typing import Any, TypeGuard

from pydantic import ValidationError

from airflow_provider_sbx.api.calls import normal_signal
from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.api.models import ProcessParameters, SandboxSpec
from airflow_provider_sbx.api.schema import MISFIT

MOST_COMMAND_BYTES = 126 * 1024
"""Longest command, in bytes: `MAX_ARG_STRLEN` of execve(2), 128 KiB, less the line that names the task."""

MOST_VARIABLE_BYTES = 128 * 1024 - 1
"""Longest `NAME=value`, in bytes: `MAX_ARG_STRLEN` of execve(2), 128 KiB, less the NUL at its end."""

MOST_ENV_BYTES = 6 * 1024 * 1024
"""Most of all variables together, in bytes: what Linux passes at all. With the usual limit of the stack it is
2 MiB, but a sandbox's isn't known here."""

LEAST_POLL_SECONDS = 0.5
"""Shortest pause between two looks at a process, in seconds: what is quicker is a stream's task."""

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_EXIT_CODE = 255


def check_command(command: object) -> str:
    """Return the command, if it is one.

    :raises InvalidParameterError: it is not text, is empty, is too long for a shell, or holds a NUL.
    """
    if not isinstance(command, str):
        raise InvalidParameterError(
            "command", f"a {type(command).__name__} is not a command", "Give the shell command as a string."
        )
    if not command.strip():
        raise InvalidParameterError("command", "it is empty", "Name the command to run.")
    size = len(command.encode("utf-8", "replace"))
    if size > MOST_COMMAND_BYTES:
        raise InvalidParameterError(
            "command",
            f"it has {size:,} bytes, and Linux passes no more than {MOST_COMMAND_BYTES:,} to a shell",
            "Give a long script as the stdin of SandboxProcessOperator, with the command `sh -s` or "
            "`python3 -`, or put it into the sandbox's image.",
        )
    return _no_nul("command", command)


def check_env(env: object, parameter: str = "env") -> dict[str, str] | None:
    """Return environment variables as text.

    Numbers become text; a bool or None doesn't, since what a shell should see of it is a guess.

    :raises InvalidParameterError: a name or a value can't be one, or there is too much of it for Linux.
    """
    if env is None:
        return None
    if not isinstance(env, Mapping):
        raise InvalidParameterError(
            parameter,
            f"a {type(env).__name__} is not a mapping",
            'Give variables as a dict, such as {"DAY": "{{ ds }}"}.',
        )
    remedy = (
        "Give so much as the stdin of SandboxProcessOperator, or put it into a file or the sandbox's image."
    )
    checked, total = {}, 0
    for name, value in env.items():
        if not isinstance(name, str) or not _ENV_NAME.fullmatch(name):
            raise InvalidParameterError(
                parameter,
                f"{name!r} is not a variable's name",
                "Use letters, digits and underscores, not starting with a digit.",
            )
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InvalidParameterError(
                f"{parameter}[{name!r}]",
                f"a {type(value).__name__} is not a value for a variable",
                "Give a string or a number; turn anything else into text yourself, such as by json.dumps.",
            )
        checked[name] = text = _no_nul(f"{parameter}[{name!r}]", str(value))
        size = len(f"{name}={text}".encode("utf-8", "replace"))
        if size > MOST_VARIABLE_BYTES:
            raise InvalidParameterError(
                f"{parameter}[{name!r}]",
                f"with its name it has {size:,} bytes, and Linux passes no more than {MOST_VARIABLE_BYTES:,}",
                remedy,
            )
        total += size + 1
    if total > MOST_ENV_BYTES:
        raise InvalidParameterError(
            parameter,
            f"all in all it has {total:,} bytes, and Linux passes no more than {MOST_ENV_BYTES:,}",
            remedy,
        )
    return checked


def check_text(parameter: str, value: object, *, what: str) -> str | None:
    """Return an optional text such as a directory or a user's name.

    :param what: what it should be, for the error.
    :raises InvalidParameterError: it is not text, is blank, or holds a NUL.
    """
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise InvalidParameterError(parameter, f"{value!r} is not {what}", "Leave it out for the default.")
    return _no_nul(parameter, value)


def check_stdin(value: object) -> str | bytes | None:
    """Return the input to send.

    :raises InvalidParameterError: it is neither text nor bytes, or text that has no bytes.
    """
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidParameterError(
                "stdin",
                f"its character {error.start} is half of one, as in a file's name that is no UTF-8",
                "Give bytes, such as by os.fsencode.",
            ) from None
        return value
    raise InvalidParameterError(
        "stdin", f"a {type(value).__name__} can't be written", "Give text or bytes, such as by json.dumps."
    )


def check_seconds(
    parameter: str, value: object, *, or_zero: bool = False, at_least: float = 0.0
) -> float | None:
    """Return a duration in seconds.

    :param value: a timedelta, a number of seconds, or text that is one (a rendered template).
    :param or_zero: whether it may be zero.
    :param at_least: the shortest that serves, in seconds; 0 for any.
    :raises InvalidParameterError: it is none, or too short.
    """
    if value is None:
        return None
    least = "of 0 or more" if or_zero else f"of {at_least:g} or more" if at_least else "above 0"
    problem = f"is not {least}"
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str):
        try:
            seconds = float(value)
        except ValueError:
            seconds, problem = math.nan, "is not a number"
    else:
        seconds, problem = math.nan, "is not a duration"
    if at_least <= seconds < math.inf and (seconds > 0 or or_zero):
        return seconds
    remedy = f"Give a timedelta or a number of seconds {least}."
    raise InvalidParameterError(parameter, f"{value!r} {problem}", remedy)


_SIGNAL_NUMBERS = {
    1: "HUP",
    2: "INT",
    3: "QUIT",
    9: "KILL",
    10: "USR1",
    12: "USR2",
    15: "TERM",
    18: "CONT",
    19: "STOP",
}
"""Linux's, as a sandbox has them; the machine that Airflow is on may number them otherwise."""


def check_signal(value: object) -> str:
    """Return a signal's name, in capitals and without `SIG`.

    :param value: a name or a number, also as text.
    :raises InvalidParameterError: there is no such signal, or it can't be sent.
    """
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    if _is_whole(number):
        name = _SIGNAL_NUMBERS.get(number)
        if name is None:
            numbers = ", ".join(f"{number} ({name})" for number, name in _SIGNAL_NUMBERS.items())
            raise InvalidParameterError("signal", f"{value!r} is not a signal", f"Use one of {numbers}.")
        return name
    return normal_signal(value)


def check_choice(parameter: str, value: str, choices: tuple[str, ...]) -> str:
    """Return a value that is one of a few.

    :raises InvalidParameterError: it is none of them.
    """
    if value not in choices:
        raise InvalidParameterError(parameter, f"{value!r} is unknown", f"Use one of {', '.join(choices)}.")
    return value


def check_flag(parameter: str, value: object) -> None:
    """Check a yes or no: a text would be a yes, also "no".

    :raises InvalidParameterError: it is neither True nor False.
    """
    if not isinstance(value, bool):
        raise InvalidParameterError(parameter, f"{value!r} is neither True nor False", "Give one of the two.")


def check_callable(parameter: str, value: object) -> None:
    """Check what is to be called, if anything.

    :raises InvalidParameterError: it can't be called.
    """
    if value is not None and not callable(value):
        raise InvalidParameterError(
            parameter, f"{value!r} can't be called", "Give a function, or leave it out for none."
        )


def check_exit_codes(parameter: str, value: object) -> Container[int]:
    """Return exit codes as something to look them up in.

    :param value: a code, a container of codes, or None for none.
    :raises InvalidParameterError: it is neither, or holds something else.
    """
    if value is None:
        return ()
    if _is_whole(value) and 0 <= value <= _MOST_EXIT_CODE:
        return (value,)
    wrong: list[object] = [value]
    if isinstance(value, Container) and not isinstance(value, str | bytes):
        # A range and the like may go beyond what there is, so as to mean "or more".
        is_listed = isinstance(value, tuple | list | set | frozenset)
        codes = value if isinstance(value, Iterable) else ()
        wrong = [
            code for code in codes if not _is_whole(code) or (is_listed and not 0 <= code <= _MOST_EXIT_CODE)
        ]
        if not wrong:
            return value
    raise InvalidParameterError(
        parameter,
        f"{wrong[0]!r} is no exit code",
        f"Give a whole number from 0 to {_MOST_EXIT_CODE}, a list of some, or None.",
    )


def check_count(parameter: str, value: object, *, least: int = 0) -> int:
    """Return a whole number that is not too small.

    :raises InvalidParameterError: it is not one, or too small.
    """
    if not _is_whole(value) or value < least:
        raise InvalidParameterError(
            parameter, f"{value!r} is not a whole number of {least} or more", "Give such a number."
        )
    return value


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def process_parameters(command: str | ProcessParameters, options: Mapping[str, Any]) -> ProcessParameters:
    """Return process parameters from what a caller gave.

    :raises InvalidParameterError: one of them can't be right.
    """
    if isinstance(command, ProcessParameters):
        if options:
            raise InvalidParameterError(
                ", ".join(options), "given beside a ProcessParameters", "Put them into it."
            )
        return command
    given = dict(options)
    given["env"] = check_env(given.get("env"))
    for name, value in given.items():
        _no_nul_within(name, value)
    try:
        return ProcessParameters(command=check_command(command), **given)
    except ValidationError as error:
        raise _invalid("", error) from None


def sandbox_spec(spec: SandboxSpec | Mapping[str, Any], parameter: str = "sandbox") -> SandboxSpec:
    """Return a sandbox spec from what a caller gave.

    :raises InvalidParameterError: a member is unknown, or can't be right.
    """
    if isinstance(spec, SandboxSpec):
        return spec
    if not isinstance(spec, Mapping):
        raise InvalidParameterError(
            parameter,
            f"a {type(spec).__name__} is not a spec",
            'Give a dict such as {"image_name": "python"}.',
        )
    _no_nul_within(parameter, spec)
    try:
        return SandboxSpec.model_validate(dict(spec))
    except ValidationError as error:
        raise _invalid(parameter, error) from None


def _invalid(parameter: str, error: ValidationError) -> InvalidParameterError:
    """Say in our words what pydantic found first; never with the value, which may be a secret."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == MISFIT:
        names = [_member(parameter, name) for name in first["ctx"]["names"]]
        whole = parameter or "image_name, snapshot_name"
        return InvalidParameterError(
            ", ".join(names) or whole, first["ctx"]["problem"], first["ctx"]["remedy"]
        )
    where = ".".join(str(part) for part in first["loc"])
    name = _member(parameter, where) if where else parameter or "parameters"
    if first["type"] == "extra_forbidden":
        known = ", ".join(SandboxSpec.model_fields if parameter else ProcessParameters.model_fields)
        return InvalidParameterError(name, "there is no such option", f"The options are {known}.")
    problem = first["msg"].removeprefix("Value error, ")
    return InvalidParameterError(name, problem[:1].lower() + problem[1:], "See the docs for what it takes.")


def _member(parameter: str, name: str) -> str:
    """Return a member's name as the caller writes it; without a parameter, it is one itself."""
    return f"{parameter}[{name!r}]" if parameter else name


def _no_nul_within(parameter: str, value: object) -> None:
    if isinstance(value, str):
        _no_nul(parameter, value)
    elif isinstance(value, Mapping):
        for name, member in value.items():
            _no_nul_within(_member(parameter, name), member)
    elif isinstance(value, list | tuple):
        for member in value:
            _no_nul_within(parameter, member)


def _no_nul(parameter: str, text: str) -> str:
    if "\x00" in text:
        raise InvalidParameterError(
            parameter, "it holds a NUL byte", "No process can be given one; pass such data by stdin."
        )
    return text
