"""From a task's rendered fields to what the service is asked to run: for worker and triggerer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from airflow.providers.common.compat.sdk import context_to_airflow_vars, mask_secret, redact

from airflow_provider_sbx.api.models import ProcessParameters, SandboxSpec
from airflow_provider_sbx.api.validation import (
    check_command,
    check_env,
    check_seconds,
    check_text,
    process_parameters,
)

if TYPE_CHECKING:
    import jinja2
    from airflow.providers.common.compat.sdk import Context

OVERDUE_SECONDS = 15.0
"""How much later than the process's own timeout the task ends it, in seconds, should the service not."""

_SPARE_MINUTES = 5


class ProcessFields(Protocol):
    """What an operator, and a trigger that starts in its place, know of the process to be."""

    command: str
    cwd: str | None
    env: Mapping[str, str | int | float] | None
    append_airflow_env: bool
    run_as: str | None
    timeout: timedelta | float | str | None
    secrets: Mapping[str, Any] | None
    vault: str | None
    one_password: Mapping[str, Any] | None

    @property
    def kill_grace(self) -> timedelta | float:
        """Time between TERM and KILL."""


def parameters_of(
    fields: ProcessFields, command: object, context: Context, time_left: float | None
) -> ProcessParameters:
    """Return what to run.

    :param fields: the rendered fields.
    :param command: the command, which a script's may be made into.
    :param context: the task's context.
    :param time_left: what is left of `execution_timeout`, in seconds.
    :raises InvalidParameterError: a field can't be right.
    """
    env = check_env(fields.env) or {}
    if fields.append_airflow_env:
        env = context_to_airflow_vars(context, in_env_var_format=True) | env
    limits = [check_seconds("timeout", fields.timeout), None]
    if time_left is not None:
        # The task ends it then, and gives it `kill_grace`. The service, which gives it a second, comes later.
        grace = check_seconds("kill_grace", fields.kill_grace, or_zero=True) or 0.0
        limits[1] = time_left + grace + OVERDUE_SECONDS
    known = [seconds for seconds in limits if seconds is not None]
    options = {
        "cwd": check_text("cwd", fields.cwd, what="a directory"),
        "env": env or None,
        "run_as": check_text("run_as", fields.run_as, what="a user"),
        "timeout_ms": max(1, round(min(known) * 1000)) if known else None,
        "secrets": fields.secrets or None,
        "vault": check_text("vault", fields.vault, what="a vault"),
        "one_password": fields.one_password,
    }
    return process_parameters(check_command(command), options)


def hide_values(env: object) -> None:
    """Tell Airflow's masker of the values under sensitive names: a process may print them."""
    # Airflow hides them by their names where it shows `env`, but not where the process prints them. The
    # masker is told of no others: it warns of each short one.
    for name, value in env.items() if isinstance(env, Mapping) else ():
        if isinstance(value, str) and is_sensitive(name):
            mask_secret(value, name)


def is_sensitive(name: str) -> bool:
    """Whether Airflow hides a value by its name."""
    return bool(redact(name, name) != name)


def outliving(spec: SandboxSpec, params: ProcessParameters) -> SandboxSpec:
    """Return a sandbox's spec with an end of its own, somewhat after the process's, where it has none.

    So that a sandbox whose record was lost with its worker does not live for long.
    """
    if spec.timeout_minutes is not None or params.timeout_ms is None:
        return spec
    minutes = math.ceil(params.timeout_ms / 60_000) + _SPARE_MINUTES
    return spec.model_copy(update={"timeout_minutes": minutes})


def keeping_last_line_end(template: Any, env: jinja2.Environment) -> Any:
    r"""Return a template whose last line end is rendered too: Jinja drops one, and `read` waits for it."""
    if isinstance(template, str) and template.endswith("\n") and not env.keep_trailing_newline:
        return template + "\n"
    return template
