"""What a task's author wrote, checked: at parse time as far as it is known then, and once rendered."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any

from airflow_provider_sbx.api.errors import InvalidParameterError

SCRIPT_SUFFIXES = (".sh", ".bash", ".py")


def is_script_file(command: object) -> bool:
    """Whether a command is the name of a script file rather than a command.

    One word with a script's suffix is; `python main.py` is a command that ends in a file's name.
    """
    return isinstance(command, str) and command.endswith(SCRIPT_SUFFIXES) and len(command.split()) == 1


def is_python_file(command: object) -> bool:
    """Whether a command is the name of a Python script."""
    return is_script_file(command) and PurePosixPath(str(command)).suffix == ".py"


# It gives the script the name of its file, so that a traceback shows that and its lines, and none of these.
_RUN = """\
import sys
def run():
    import linecache
    with open(3, "rb") as script:
        source = script.read()
    sys.argv[:] = name, *rest = sys.argv[1:]
    linecache.cache[name] = len(source), None, source.decode("utf-8", "replace").splitlines(True), name
    own = sys._getframe()
    def show(kind, error, trace):
        import traceback
        if trace is not None and trace.tb_next is not None and trace.tb_next.tb_frame is own:
            trace = trace.tb_next.tb_next
        traceback.print_exception(kind, error, trace)
    sys.excepthook, main = show, vars(sys.modules["__main__"])
    main["__file__"] = name
    del main["run"], main["sys"]
    exec(compile(source, name, "exec"), main)
run()
"""


def python_script(source: str, name: str = "script.py") -> str:
    """Return a shell command that runs a Python script with its standard input left free.

    :param name: the script's file.
    """
    end = "SBX_" + hashlib.sha256(source.encode("utf-8", "replace")).hexdigest()[:16]
    body = source if source.endswith("\n") else source + "\n"
    # By way of descriptor 3: `python3 -` would read the script from the command's own input.
    return f"exec python3 -c {shlex.quote(_RUN)} {shlex.quote(name)} 3<<'{end}'\n{body}{end}\n"


def is_known(value: object) -> bool:
    """Whether a value stands already at parse time: no template and no result of another task."""
    if isinstance(value, str):
        return not any(mark in value for mark in ("{{", "{%", "{#"))
    if isinstance(value, Mapping):
        return all(is_known(k) and is_known(v) for k, v in value.items())
    if isinstance(value, list | tuple | set):
        return all(map(is_known, value))
    return value is None or isinstance(value, bytes | int | float | timedelta)


def check_if_known(value: object, check: Callable[[Any], object]) -> None:
    """Run a check now, if the value is known now."""
    if is_known(value):
        check(value)


def check_connection(conn_id: object) -> None:
    """Check the name of a connection as far as it is known.

    :raises InvalidParameterError: it is empty, or no text.
    """
    # Not by `check_if_known`: a template is no less a text, and nearly all are one.
    if not (conn_id.strip() if isinstance(conn_id, str) else not is_known(conn_id)):
        raise InvalidParameterError(
            "sbx_conn_id", f"{conn_id!r} is not the id of a connection", "Leave it out for the default."
        )


class naming:  # in lower case, since it reads as a statement, as contextlib's do
    """Let errors that come up within name the task that is being made.

    Not by `contextlib.contextmanager`, which takes four times as long, for each task of a DAG file.

    :param task_id: the task; None where it isn't known.
    """

    __slots__ = ("_task_id",)

    def __init__(self, task_id: str | None) -> None:
        self._task_id = task_id

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, InvalidParameterError):
            error.task_id = self._task_id
