"""Which process a task is about that it did not start: by ids, or by the result of the task that did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.providers.common.compat.sdk import XComArg

from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.api.validation import check_text
from airflow_provider_sbx.operators.command import is_known

Templated = str | XComArg | None
"""A text, a template of one, or the result of another task."""

Started = Mapping[str, Any] | XComArg | None
"""The result of a task that started a process: its `sandbox_id` and `process_id`."""

_WAYS = "Give process=start.output of the task that started it, or its process_id."


def check_target(process: Started, sandbox_id: Templated, process_id: Templated) -> None:
    """Check at parse time what is known then of a process's name.

    :raises InvalidParameterError: there is none, or more than one.
    """
    if process is None and process_id is None:
        raise InvalidParameterError("process, process_id", "neither is given", _WAYS)
    if process is not None and process_id is not None:
        raise InvalidParameterError("process, process_id", "both are given", _WAYS)
    if is_known(process) and is_known(process_id) and is_known(sandbox_id):
        target_of(process, sandbox_id, process_id)


def target_of(process: object, sandbox_id: object, process_id: object) -> tuple[str | None, str]:
    """Return a sandbox's and a process's id from rendered fields; no sandbox where none is named.

    :raises InvalidParameterError: they can't be ids, or name two sandboxes.
    """
    sandbox = check_text("sandbox_id", sandbox_id, what="an id")
    if process is None:
        if not isinstance(process_id, str) or not process_id.strip():
            raise InvalidParameterError("process_id", f"{process_id!r} is not an id", _WAYS)
        return sandbox, process_id
    if not isinstance(process, Mapping):
        raise InvalidParameterError(
            "process",
            f"a {type(process).__name__} is not the result of a task that started a process",
            "Give start.output, a dict with sandbox_id and process_id; a template makes text of it.",
        )
    ids = {}
    for name in ("sandbox_id", "process_id"):
        value = process.get(name)
        if not isinstance(value, str) or not value.strip():
            raise InvalidParameterError(f"process[{name!r}]", f"{value!r} is not an id", _WAYS)
        ids[name] = value
    if sandbox is not None and sandbox != ids["sandbox_id"]:
        raise InvalidParameterError(
            "process, sandbox_id",
            f"the process is in sandbox {ids['sandbox_id']!r}, and sandbox_id is {sandbox!r}",
            "Leave sandbox_id out: process names it. In a group of another sandbox, give sandbox_id=None.",
        )
    return ids["sandbox_id"], ids["process_id"]


def sandbox_of(named: str | None, connections_own: str | None) -> str:
    """Return the sandbox that a task is about.

    :param named: the one that the task names.
    :param connections_own: the one that the connection names.
    :raises InvalidParameterError: there is none.
    """
    sandbox_id = named or connections_own
    if sandbox_id is None:
        raise InvalidParameterError(
            "sandbox_id",
            "it is not given, and the connection names none",
            "Give sandbox_id, or process=start.output, or put one into the connection's extra.",
        )
    return sandbox_id
