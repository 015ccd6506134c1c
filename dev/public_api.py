"""Write the public names of the package with their parameters, as tests/packaging/public_api.txt has them.

Usage: ``python -m dev.public_api`` prints the list, ``python -m dev.public_api --write`` writes it into that
file: only when a change is meant, since what the file has is covered by semantic versioning.

The list is the same on every supported Airflow and Python: of a class it has what this package defines.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from enum import Enum
from pathlib import Path
from typing import Any, get_overloads

PACKAGE = "airflow_provider_sbx"
FILE = Path(__file__).resolve().parent.parent / "tests" / "packaging" / "public_api.txt"

# Where people import from. Models and errors are public by their names.
NAMES: dict[str, tuple[str, ...]] = {
    "api.errors": (),
    "api.models": (),
    "client": ("SandboxClient", "AsyncSandboxClient"),
    "decorators.process": ("sandbox_command_task", "sandbox_task"),
    "get_provider_info": ("get_provider_info",),
    "hooks.sandbox": ("SandboxHook", "SandboxAsyncHook", "Settings"),
    "links.sandbox": ("SandboxLink",),
    "operations": ("SandboxOperations", "AsyncSandboxOperations"),
    "operators.process": ("SandboxExecOperator", "SandboxProcessOperator", "SandboxSignalOperator"),
    "operators.sandbox": ("SandboxCreateOperator", "SandboxStopOperator"),
    "operators.sandbox_group": ("sandbox_group",),
    "sensors.process": ("SandboxProcessSensor",),
    "triggers.process": ("SandboxProcessTrigger",),
}

HEADER = """\
# The public names and their parameters. A change here is a change that users may have to follow: see
# docs/versioning.md. Made by `python -m dev.public_api --write`.
"""

# Airflow calls these of an operator; nobody else does.
_OF_AIRFLOW = ("BaseOperator", "BaseTrigger", "TaskGroup", "BaseOperatorLink")


def listing() -> str:
    """Return the list."""
    lines = []
    for module_name, names in NAMES.items():
        module = importlib.import_module(f"{PACKAGE}.{module_name}")
        lines.append(f"\n{module.__name__}")
        for name in names or _own_names(module):
            lines += [f"  {line}" for line in describe(name, getattr(module, name))]
    return HEADER + "\n".join(lines) + "\n"


def _own_names(module: Any) -> list[str]:
    """Return the public classes that stand in a module, in their order there."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and inspect.isclass(value) and value.__module__ == module.__name__
    ]


def describe(name: str, value: Any) -> list[str]:
    """Return the lines of a class or a function."""
    if not inspect.isclass(value):
        made = inspect.getattr_static(value, "__wrapped__", value)
        return [f"{name}{parameters(one)}" for one in get_overloads(made) or [made]]
    ours = [cls for cls in value.__mro__ if cls.__module__.startswith(PACKAGE)]
    if issubclass(value, Enum):
        return [f"{name}: {', '.join(f'{member.name}={member.value}' for member in value)}"]
    if hasattr(value, "model_fields"):
        fields = (f"{field}{'' if it.is_required() else '=...'}" for field, it in value.model_fields.items())
        lines = [f"{name}(*, {', '.join(fields)})"]
    else:
        made = next((vars(cls)["__init__"] for cls in ours if "__init__" in vars(cls)), None)
        lines = [f"{name}{parameters(made) if made else ''}"]
    if any(cls.__name__ in _OF_AIRFLOW for cls in value.__mro__):
        return lines
    members = {key: member for cls in reversed(ours) for key, member in vars(cls).items()}
    for key, member in sorted(members.items()):
        function = getattr(member, "__func__", member)
        if key.startswith("_"):
            continue
        if inspect.isfunction(function):
            lines.append(f"  {key}{parameters(function)}")
        elif isinstance(member, property):
            lines.append(f"  {key}")
    return lines


def parameters(function: Any) -> str:
    """Return a function's parameters with their defaults: ``(a, *, b=1)``."""
    texts, had_star = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not had_star:
            texts.append("*")
        had_star = had_star or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        star = {parameter.VAR_POSITIONAL.name: "*", parameter.VAR_KEYWORD.name: "**"}.get(
            parameter.kind.name, ""
        )
        default = "" if parameter.default is parameter.empty else f"={_text(parameter.default)}"
        texts.append(f"{star}{parameter.name}{default}")
    return f"({', '.join(texts)})"


def _text(default: Any) -> str:
    # Others have an address, or a form that differs between versions.
    plain = default is None or isinstance(default, str | int | float | tuple)
    return repr(default) if plain and not isinstance(default, Enum) else "..."


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        FILE.write_text(listing())
    else:
        sys.stdout.write(listing())
