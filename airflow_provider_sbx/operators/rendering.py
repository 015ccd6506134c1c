"""Which templates a triggerer renders as a worker would: those of a task that starts there.

A triggerer knows the serialized DAG only, and asks Airflow for little: `xcom_pull` never returns there
(`GetXComSequenceSlice` is no message that a trigger may send), the DAG's own macros and filters are
missing, and its settings for templates as well. A wrong or empty command must never run, so what isn't
known to be the same goes to a worker. What is known only when the task runs, such as `ds` in a run without a
logical date, is an error there as it is on a worker (`SandboxStartTrigger.render_template_fields`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import SandboxedEnvironment

from airflow_provider_sbx.api.models import SandboxSpec
from airflow_provider_sbx.operators.command import is_known

_NAMES = frozenset(
    {
        "conn",
        "dag",
        "dag_run",
        "data_interval_end",
        "data_interval_start",
        "ds",
        "ds_nodash",
        "logical_date",
        "macros",
        "params",
        "run_id",
        "task",
        "task_instance",
        "task_instance_key_str",
        "ti",
        "ts",
        "ts_nodash",
        "ts_nodash_with_tz",
        "var",
    }
)
"""What a triggerer's context has, and has as a worker's (`RuntimeTaskInstance.get_template_context`)."""

_JINJA = frozenset({*jinja2.defaults.DEFAULT_NAMESPACE, "loop"})

_ITS_OWN = {"dag_id", "map_index", "run_id", "task_id", "try_number"}
_ATTRIBUTES = {
    "ti": _ITS_OWN,
    "task_instance": _ITS_OWN,
    "dag": {"dag_id"},
    "dag_run": {"conf", "dag_id", "logical_date", "run_id", "start_date"},
    "task": {"owner", "task_id"},
}
"""Where not all attributes are the same, those that are."""


def why_not_in_a_triggerer(field: str, value: object, filters: Mapping[str, Any]) -> str | None:
    """Return why a triggerer could not render a field as a worker would, in words; None where it can.

    :param field: the field's name.
    :param value: what the task's author wrote.
    :param filters: the filters that a triggerer has.
    """
    for text in _templates(value):
        if not isinstance(text, str):
            return f"{field} is no text, such as the result of another task"
        if why := _why_not(text, filters):
            return f"{field} {why}"
    return None


def why_not_of_this_dag(dag: Any) -> str | None:
    """Return why a triggerer could render no template of a DAG as a worker would; None where it can.

    :param dag: the DAG, or None.
    """
    if getattr(dag, "render_template_as_native_obj", False):
        return "the DAG renders its templates as native objects"
    for name, usual in (("template_undefined", jinja2.StrictUndefined), ("jinja_environment_kwargs", None)):
        if (getattr(dag, name, None) or usual) is not usual:
            return f"the DAG has a {name} of its own"
    return None


def trigger_filters(dag: Any = None) -> Mapping[str, Any]:
    """Return the filters that mean in a trigger what they mean on a worker.

    :param dag: the task's DAG, which may have others of the same names.
    """
    own = getattr(dag, "user_defined_filters", None) or {}
    return {name: filtered for name, filtered in _filters().items() if name not in own}


@cache
def _filters() -> Mapping[str, Any]:
    from airflow.triggers.base import BaseTrigger

    env: jinja2.Environment = BaseTrigger.get_template_env(None)  # type: ignore[arg-type]  # uses no self
    return env.filters


@cache
def _environment() -> SandboxedEnvironment:
    return SandboxedEnvironment()


def _templates(value: object) -> Iterator[object]:
    """Go through all texts of a field; anything else that is no plain value comes as it is."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _templates(key)
            yield from _templates(item)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for item in value:
            yield from _templates(item)
    elif isinstance(value, SandboxSpec):
        # A worker renders nothing in it.
        if not is_known(value.model_dump(mode="json")):
            yield value
    elif value is not None and not isinstance(value, bytes | bool | int | float | timedelta):
        yield value


def _why_not(text: str, filters: Mapping[str, Any]) -> str | None:
    if is_known(text):
        return None
    try:
        tree = _environment().parse(text)
    except jinja2.TemplateSyntaxError:
        return None  # fails there as here, and says so
    if any(map(tree.find, (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends))):
        return "includes another template, which only a worker finds"
    for used in tree.find_all(nodes.Filter):
        if used.name not in filters:
            return f"uses the filter {used.name!r}, which is the DAG's own"
    fine = {
        id(access.node)
        for access in tree.find_all(nodes.Getattr)
        if isinstance(access.node, nodes.Name) and access.attr in _ATTRIBUTES.get(access.node.name, ())
    }
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    for name in tree.find_all(nodes.Name):
        if name.name in own or name.name in _JINJA:
            continue
        if name.name not in _NAMES:
            return f"uses {name.name!r}, which a triggerer doesn't know"
        if name.name in _ATTRIBUTES and id(name) not in fine:
            return f"asks {name.name!r} for what a triggerer doesn't know"
    return None
