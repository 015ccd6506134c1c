"""A function's arguments: which, with Airflow's context among them, and in a form that can be sent."""

from __future__ import annotations

import base64
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from airflow.sdk import Context

from airflow_provider_sbx.api.errors import InvalidParameterError

SERIALIZERS = ("json", "cloudpickle")

SENT_CONTEXT = frozenset(
    {
        *("ds", "ds_nodash", "ts", "ts_nodash", "ts_nodash_with_tz", "run_id", "logical_date"),
        *("data_interval_start", "data_interval_end", "params", "task_reschedule_count"),
        *("task_instance_key_str", "partition_key", "partition_date"),
        *("prev_data_interval_start_success", "prev_data_interval_end_success"),
        *("prev_start_date_success", "prev_end_date_success"),
    }
)
"""What of the context a function may name as a parameter; times come as ISO 8601 text."""

_REMEDY = (
    "Pass text, finite numbers, lists and dicts with text keys, such as by .isoformat() or list(), or set "
    'serializer="cloudpickle".'
)


def check_context_names(
    function: Callable[..., Any], op_args: Collection[Any], op_kwargs: Mapping[str, Any]
) -> None:
    """Check that a function asks for nothing of the context that can't be sent, and isn't passed either.

    :raises InvalidParameterError: it does.
    """
    for name in list(inspect.signature(function).parameters)[len(op_args) :]:
        if name in Context.__annotations__ and name not in SENT_CONTEXT and name not in op_kwargs:
            raise InvalidParameterError(
                name,
                f"{function.__name__} asks for this part of Airflow's context, which can't be sent",
                "Pass what is needed of it as a template, or ask for one of "
                f"{', '.join(sorted(SENT_CONTEXT))}.",
            )


def check_known_arguments(
    function: Callable[..., Any], op_args: Collection[Any], op_kwargs: Mapping[str, Any]
) -> None:
    """Check that arguments can be sent as JSON, as far as they are known.

    :raises InvalidParameterError: one can't; the error names it.
    """
    for name, value in _named(function, op_args, op_kwargs):
        _plain(value, name, early=True)


def arguments(
    function: Callable[..., Any],
    op_args: Collection[Any],
    op_kwargs: Mapping[str, Any],
    context: Mapping[str, Any],
) -> tuple[list[Any], dict[str, Any]]:
    """Return what to call a function with: its arguments, and what it asks for of the context.

    :raises InvalidParameterError: one is missing.
    """
    signature = inspect.signature(function)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    given = {*list(signature.parameters)[: len(op_args)], *op_kwargs}
    told = {
        name: _as_text(context[name])
        for name in SENT_CONTEXT - given
        # Those that begin so are asked of Airflow's API: only when they are wanted by name.
        if name in context and (name in signature.parameters or (takes_any and not name.startswith("prev_")))
    }
    args, kwargs = list(op_args), told | dict(op_kwargs)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InvalidParameterError(
            "op_args, op_kwargs",
            f"{function.__name__} can't be called: {error}",
            "A run has no ds and logical_date when it was triggered without a date.",
        ) from None
    return args, kwargs


def as_json(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as what JSON can hold.

    :raises InvalidParameterError: it can't hold one; the error names it.
    """
    plain = {name: _plain(value, name) for name, value in _named(function, args, kwargs)}
    values = list(plain.values())
    return {"args": values[: len(args)], "kwargs": dict(zip(kwargs, values[len(args) :], strict=True))}


def as_pickle(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function and its arguments as a pickle, with whatever the function uses.

    :raises InvalidParameterError: one can't be pickled; the error names it.
    """
    import cloudpickle  # type: ignore[import-not-found,import-untyped,unused-ignore]  # not everywhere installed

    def pickled(name: str, value: Any) -> bytes:
        try:
            pickle: bytes = cloudpickle.dumps(value)
        except Exception as error:  # a value's own code may raise whatever it likes
            raise InvalidParameterError(
                name,
                f"it can't be pickled: {error}",
                "Make it within the function, or pass what it is made from.",
            ) from error
        return pickle

    module = sys.modules.get(function.__module__)
    # By value: the sandbox has no such module to import it from.
    by_value = module is not None and module.__name__ not in cloudpickle.list_registry_pickle_by_value()
    if by_value:
        cloudpickle.register_pickle_by_value(module)
    try:
        named = {name: _settled(value) for name, value in _named(function, args, kwargs)}
        for name, value in {"python_callable": function, **named}.items():
            pickled(name, value)
        values = list(named.values())
        whole = (function, values[: len(args)], dict(zip(kwargs, values[len(args) :], strict=True)))
        text = base64.b64encode(pickled("op_args, op_kwargs", whole)).decode("ascii")
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(module)
    return {"pickled": text, "python": ".".join(map(str, sys.version_info[:2]))}


def check_serializer(serializer: object) -> None:
    """Check that there is such a serializer.

    :raises InvalidParameterError: there is none, or its package is missing.
    """
    if serializer not in SERIALIZERS:
        raise InvalidParameterError(
            "serializer", f"{serializer!r} is unknown", f"Use one of {', '.join(SERIALIZERS)}."
        )
    if serializer == "cloudpickle" and importlib.util.find_spec("cloudpickle") is None:
        raise InvalidParameterError(
            "serializer",
            "cloudpickle is not installed where this DAG is read",
            "Install it there, on the workers and in the sandbox.",
        )


def _named(
    function: Callable[..., Any], args: Collection[Any], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Return each argument with the name that its author knows it by; each name once."""
    names = list(inspect.signature(function).parameters)
    for index, value in enumerate(args):
        name = names[index] if index < len(names) else "op_args"
        yield (
            (f"op_args[{index}]" if name in kwargs or name == "op_args" else f"{name} (op_args[{index}])"),
            value,
        )
    for name, value in kwargs.items():
        yield f"op_kwargs[{name!r}]", value


def _plain(value: Any, where: str, *, early: bool = False) -> Any:
    """Return a value as JSON's own types: what is behind a proxy, a list for a tuple or a lazy sequence.

    :param early: leave what is not known yet, such as another task's result.
    """
    if value is None or isinstance(value, bool):
        return None if value is None else bool(value)
    if isinstance(value, str):
        return "".join(value)  # also of a proxy or an enum, whose own text may differ
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidParameterError(where, f"{float(value)} is no number in JSON", _REMEDY)
        return float(value)
    if early and hasattr(value, "resolve"):
        return None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidParameterError(
                    where, f"a key is a {type(key).__name__}, and JSON's are text", _REMEDY
                )
        return {str(key): _plain(member, f"{where}[{key!r}]", early=early) for key, member in value.items()}
    if isinstance(value, list | tuple) or _is_lazy(value):
        return [_plain(member, f"{where}[{index}]", early=early) for index, member in enumerate(value)]
    raise InvalidParameterError(where, f"a {type(value).__name__} can't be sent as JSON", _REMEDY)


def _is_lazy(value: Any) -> bool:
    """Whether it is Airflow's sequence of the results of a mapped task."""
    return isinstance(value, Sequence) and type(value).__module__.startswith("airflow.")


def _settled(value: Any) -> Any:
    return list(value) if _is_lazy(value) else value


def _as_text(value: Any) -> Any:
    """Return a part of the context as it is sent."""
    value = getattr(value, "__wrapped__", value)  # Airflow asks for some of it when it is used
    if isinstance(value, datetime):
        return value.isoformat()
    return dict(value) if isinstance(value, Mapping) else value
