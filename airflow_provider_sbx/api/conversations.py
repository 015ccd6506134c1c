"""Several calls that make one thing, written once for both clients.

A conversation is a generator: it yields a call and is sent its answer, or is thrown the error
that came instead; what it returns is the result. `SandboxClient.converse` and its async twin do
the sending. So what is decided between the calls can't differ between worker and triggerer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Set
from dataclasses import dataclass
from typing import Any, TypeVar

from airflow_provider_sbx.api import calls
from airflow_provider_sbx.api.errors import (
    NotFoundError,
    ResponseError,
    SandboxNotRunningError,
    WaitTimeoutError,
)
from airflow_provider_sbx.api.models import ProcessResult, ProcessSummary

Result = TypeVar("Result")
Conversation = Generator[calls.Call[Any], Any, Result]

_PAGE = 100
_KILL_CONFIRMATION_SECONDS = 5.0
_RESULT_SECONDS = 5.0


@dataclass(frozen=True)
class Termination:
    """What came of ending a process.

    :param ended: it is known to have ended.
    :param was_running: it was running when it was asked to end.
    :param how: in words, for the log.
    """

    ended: bool
    was_running: bool
    how: str


def terminate(process_id: str, *, grace_seconds: float, signal: str = "TERM") -> Conversation[Termination]:
    """End a process: TERM, up to `grace_seconds` to end by itself, KILL, and make sure.

    :param signal: what to send instead of TERM.
    :raises ServiceError: the service could not be asked.
    """
    try:
        summary: ProcessSummary = yield calls.get_process(process_id)
        if summary.status.is_terminal:
            return Termination(True, False, f"it had already ended ({summary.status})")
        if grace_seconds > 0:
            try:
                yield calls.send_signal(process_id, signal)
            except ResponseError as error:
                if error.status_code != 409 or isinstance(error, SandboxNotRunningError):
                    raise
                # It has just ended, and if not, KILL is next.
            if (yield from _ends_within(process_id, grace_seconds)):
                return Termination(True, True, f"it ended after {signal}")
        yield calls.kill_process(process_id)
        ended = yield from _ends_within(process_id, _KILL_CONFIRMATION_SECONDS)
    except NotFoundError:
        return Termination(True, False, "the service no longer knows it")
    except SandboxNotRunningError:
        return Termination(True, False, "its sandbox is no longer running")
    return Termination(ended, True, "it was killed" if ended else "KILL was sent but its end was not seen")


def _ends_within(process_id: str, seconds: float) -> Conversation[bool]:
    while seconds > 0:
        turn = min(seconds, calls.MAX_WAIT_SECONDS)
        seconds -= turn
        try:
            result: ProcessResult = yield calls.wait(process_id, timeout_seconds=turn)
        except WaitTimeoutError:
            continue
        if result.status.is_terminal:  # some receivers answer a wait whose time is up, too
            return True
    return False


def read_result(process_id: str) -> Conversation[ProcessResult]:
    """Return the result of a process that has ended, with the output that the service still holds.

    :raises ServiceError: the service could not be asked.
    """
    result: ProcessResult = yield calls.wait(process_id, timeout_seconds=_RESULT_SECONDS)
    return result


def process_key(*identity: object) -> str:
    """Return a key for what may run once: a hash of its names, safe to stand in a shell comment."""
    text = "\x1f".join(str(part) for part in identity)
    return "sbx-" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


def marked(command: str, key: str, label: str) -> str:
    """Return the command under a first line that names it, so that it can be found again.

    The line is a shell comment and stands before the command, so no quoting or heredoc of the
    command can touch it. It takes the place of a first line that is empty or begins with `#!`, which
    is but a comment to a shell that is given a command: the numbers of the lines in the shell's errors stay.

    :param label: for people who list the sandbox's processes.
    """
    first, _, rest = command.partition("\n")
    if rest and (not first.strip() or first.startswith("#!")):
        command = rest
    return f"# {key} {' '.join(label.split())}\n{command}"


def bears(process: ProcessSummary, key: str) -> bool:
    """Whether a process was started under a key."""
    return process.command.startswith(f"# {key} ")


Borne = dict[str, ProcessSummary]
"""Processes by the key that their command bears."""


def find_processes(keys: Set[str], *, created_after: int | None = None) -> Conversation[Borne]:
    """Return the processes whose commands bear one of the keys; the latest where several bear the same.

    :param keys: see `process_key`.
    :param created_after: look only at those started after this, in milliseconds since 1970.
    """
    cursor, found = None, Borne()
    while True:
        page = yield calls.list_processes(limit=_PAGE, cursor=cursor, created_after=created_after)
        for process in page.data:
            mark, _, rest = process.command.partition(" ")
            key = rest.partition(" ")[0]
            if mark == "#" and key in keys:
                known = found.get(key)
                if known is None or (process.started_at or 0) >= (known.started_at or 0):
                    found[key] = process
        cursor = page.next_cursor
        if cursor is None:
            return found


def find_process(*keys: str, created_after: int | None = None) -> Conversation[ProcessSummary | None]:
    """Return the process whose command bears one of the keys, or None; the latest where there are several.

    :param keys: see `process_key`.
    :param created_after: look only at those started after this, in milliseconds since 1970.
    """
    return latest((yield from find_processes(frozenset(keys), created_after=created_after)), *keys)


def latest(found: Borne, *keys: str) -> ProcessSummary | None:
    """Return the latest of those found under some keys, or None."""
    those = [found[key] for key in keys if key in found]
    return max(those, key=lambda process: process.started_at or 0, default=None)
