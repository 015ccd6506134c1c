"""What a function's process says to Airflow amid its output: marked lines of stdout.

They come at the very end, so that they lie within whatever end of the output is kept, and are seen by
whoever waits: the worker, a task that was resumed, a later try that found the process. Each line says
of itself that it is no output of the function, so that a log can leave it out without knowing others.
"""

from __future__ import annotations

import json
import re
from typing import Any

MARK = "::airflow-sbx-5c7e2d94::"
"""Begins a line of a frame, as long as no process prints it by chance."""

LINE_BYTES = 1000
"""Longest line of a frame, in bytes: one write to a pipe, which no other writer can cut (`PIPE_BUF`)."""

_LINE = re.compile(re.escape(MARK) + r"(\d+)/(\d+):(.*)")


def without_frame(line: str) -> str | None:
    """Return what a log shows of a line of output: None where it is one of a frame.

    What stands before the mark is output that had no line end.
    """
    shown, mark, _ = line.partition(MARK)
    return shown or None if mark else line


def read_frame(stdout: str) -> dict[str, Any] | None:
    """Return what the last whole frame says, or None where there is none.

    :param stdout: the end of a process's output.
    """
    parts: list[str] = []
    whole: str | None = None
    for line in stdout.split("\n"):
        match = _LINE.search(line)
        if match is None:
            continue
        index, count = int(match[1]), int(match[2])
        if index == 1:
            parts = []
        # One that begins elsewhere has lost its beginning.
        if index == len(parts) + 1:
            parts.append(match[3].rstrip("\r"))
            if index == count:
                whole = "".join(parts)
    if whole is None:
        return None
    try:
        said = json.loads(whole)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
