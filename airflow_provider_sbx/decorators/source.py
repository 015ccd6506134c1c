"""A function's source, for a Python elsewhere; and whether it makes sense there by itself."""

from __future__ import annotations
import __future__

import ast
import builtins
import dis
import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from airflow_provider_sbx.api.errors import InvalidParameterError

_PARAMETER = "python_callable"
_BY_VALUE = 'or set serializer="cloudpickle", which sends what it uses with it'
_ALWAYS_THERE = {"__name__", "__doc__", "__builtins__"}
_POSTPONED = __future__.annotations.compiler_flag


@dataclass(frozen=True)
class Source:
    """A function's definition, without its decorators, indented as it is in its file.

    :param text: from its `def` on.
    :param file: the name of its file.
    :param line: where the `def` stands in it.
    """

    text: str
    file: str
    line: int


def check_function(function: object) -> FunctionType:
    """Return the function, if it is one that was written with `def`.

    :raises InvalidParameterError: it is a lambda, a partial, a class or another callable, or yields.
    """
    remedy = "Give a function written with def, which may call the other."
    if not isinstance(function, FunctionType):
        what = type(function).__name__ if not isinstance(function, type) else f"class {function.__name__}"
        raise InvalidParameterError(_PARAMETER, f"a {what} is no plain function", remedy)
    if function.__name__ == "<lambda>":
        raise InvalidParameterError(_PARAMETER, "a lambda has no source of its own", remedy)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidParameterError(
            _PARAMETER, f"{function.__name__} yields, and a task has one result", "Return a list."
        )
    return function


def source_of(function: Callable[..., Any]) -> Source:
    """Return a function's source, if it makes sense without what stands around it.

    :raises InvalidParameterError: it has none, is wrapped by another decorator, or uses what is defined
        outside of it.
    """
    function = check_function(function)
    name = function.__name__
    if hasattr(function, "__wrapped__"):
        raise InvalidParameterError(
            _PARAMETER,
            f"{name} is wrapped by another decorator, whose code the sandbox has not",
            f"Do its work within the function, {_BY_VALUE}.",
        )
    if closed_over := function.__code__.co_freevars:
        raise _outside(name, closed_over, "which stand in the function around it")
    try:
        lines, first = inspect.getsourcelines(function)
    except (OSError, SyntaxError):
        raise InvalidParameterError(
            _PARAMETER, f"the source of {name} can't be read", f"Define it in the DAG's file, {_BY_VALUE}."
        ) from None
    # Not dedented: that would change its multi-line strings.
    tree = ast.parse("if True:\n" + "".join(lines) if lines[0][:1].isspace() else "".join(lines))
    before = 1 if lines[0][:1].isspace() else 0
    node = next((n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)), None)
    if node is None or node.name != name:
        raise InvalidParameterError(
            _PARAMETER, f"the source of {name} is not that of a function", "Write it with def."
        )
    free = sorted({*_defaults(node), *_globals(_code_of(tree, name) or function.__code__)} - {name})
    if missing := [n for n in free if n not in _ALWAYS_THERE and not hasattr(builtins, n)]:
        raise _outside(name, missing, "which the DAG's file defines or imports outside of it")
    # A decorator above the task's is none of the function's, and below it there is none.
    above = node.lineno - 1 - before
    return Source("".join(lines[above:]), os.path.basename(function.__code__.co_filename), first + above)


def _outside(name: str, names: Any, where: str) -> InvalidParameterError:
    return InvalidParameterError(
        _PARAMETER,
        f"{name} uses {', '.join(names)}, {where}: the sandbox gets the function alone",
        f"Import and define within the function, or pass values as arguments, {_BY_VALUE}.",
    )


def _defaults(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Name what the defaults of the parameters use: they are evaluated with the definition."""
    for default in (*node.args.defaults, *node.args.kw_defaults):
        if default is not None:
            yield from _globals(compile(ast.Expression(default), "<default>", "eval"))


def _code_of(tree: ast.Module, name: str) -> CodeType | None:
    """Return a function's code as the sandbox compiles it: with annotations that are not evaluated."""
    code = compile(tree, "<function>", "exec", flags=_POSTPONED, dont_inherit=True)
    return next((c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name), None)


def _globals(code: CodeType) -> set[str]:
    """Name the globals that some code reads and does not set itself."""
    read, written = set(), set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(instruction.argval)
        elif instruction.opname in ("STORE_GLOBAL", "STORE_NAME"):
            written.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            read |= _globals(constant)
    return read - written
