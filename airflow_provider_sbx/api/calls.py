"""One request description per operation of the service.

A `Call` says what to send and whether it may be sent again; `client.py` sends it. May be
repeated after a doubt: reads, `wait`, `stream`, `signal`, `kill`, `stop`. May not: a start,
`exec`, input to a process, a create.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.api.models import (
    Acknowledged,
    ImagePage,
    ProcessPage,
    ProcessParameters,
    ProcessResult,
    ProcessStatus,
    ProcessSummary,
    Sandbox,
    SandboxPage,
    SandboxSpec,
    SnapshotPage,
    StartedProcess,
)
from airflow_provider_sbx.api.planes import Plane

Answer = TypeVar("Answer", bound=BaseModel)

SIGNALS = ("TERM", "KILL", "INT", "HUP", "QUIT", "USR1", "USR2", "STOP", "CONT")
"""Signals that may be sent by name."""

MAX_WAIT_SECONDS = 30.0
"""One long-poll's longest turn, in seconds; what the receiver takes for no answer at all."""

_ANSWER_MARGIN_SECONDS = 10.0


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """One request.

    :param what: what it does, for messages: `read process p-1`.
    :param answer: the model that the body of a success is read as.
    :param unwrap: the member of the body that holds it; None for the whole body.
    :param repeatable: whether it may be sent again when it isn't known if it arrived.
    :param held_seconds: how long the service may take its time before it answers, in seconds;
        added to the client's own request timeout.
    """

    what: str
    plane: Plane
    method: str
    path: str
    answer: type[Answer]
    unwrap: str | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    # Not in the repr: a command or its env may hold what must not reach a log.
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    repeatable: bool = False
    held_seconds: float = 0.0


def _id(parameter: str, value: str) -> str:
    """Return an id safe to stand in a path.

    :raises InvalidParameterError: it is empty, not text, or a dot segment.
    """
    # A dot segment would be folded away, so that another path than the one meant were asked.
    if not isinstance(value, str) or not value.strip() or value in (".", ".."):
        raise InvalidParameterError(
            parameter, f"{value!r} is not an id", "Give the id that the service returned."
        )
    return quote(value, safe="")


def _query(**values: object) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}


# --- runtime plane ---------------------------------------------------------------------------


def exec_process(params: ProcessParameters, *, longest_seconds: float) -> Call[ProcessResult]:
    """Run a command and wait for its end in one request (the older one-shot form).

    :param longest_seconds: how long the answer may take, in seconds.
    """
    return Call(
        "run a command",
        Plane.RUNTIME,
        "POST",
        "/sandbox/exec",
        ProcessResult,
        unwrap="result",
        body=params.to_wire(),
        held_seconds=longest_seconds,
    )


def start_process(params: ProcessParameters) -> Call[StartedProcess]:
    """Start a process; the answer comes as soon as it runs."""
    return Call(
        "start a process",
        Plane.RUNTIME,
        "POST",
        "/sandbox/processes",
        StartedProcess,
        body=params.to_wire(),
    )


def start_process_with_secrets(sandbox_id: str, params: ProcessParameters) -> Call[StartedProcess]:
    """Start a process through the control plane, which puts stored secrets into its environment."""
    return Call(
        "start a process with secrets",
        Plane.CONTROL,
        "POST",
        f"/sandbox/{_id('sandbox_id', sandbox_id)}/processes",
        StartedProcess,
        body=params.to_wire(),
    )


def get_process(process_id: str) -> Call[ProcessSummary]:
    """Read one process."""
    return Call(
        f"read process {process_id}",
        Plane.RUNTIME,
        "GET",
        f"/sandbox/processes/{_id('process_id', process_id)}",
        ProcessSummary,
        unwrap="process",
        repeatable=True,
    )


def list_processes(
    *,
    status: ProcessStatus | str | Iterable[ProcessStatus | str] | None = None,
    limit: int | None = None,
    cursor: str | None = None,
    created_after: int | None = None,
    created_before: int | None = None,
) -> Call[ProcessPage]:
    """Read one page of the processes of a sandbox.

    :param status: one status or several to narrow by.
    :param limit: most entries on a page.
    :param cursor: the `next_cursor` of the page before.
    :param created_after: started after this, in milliseconds since 1970.
    :param created_before: started before this, in milliseconds since 1970.
    """
    if status is not None and not isinstance(status, str):
        status = ",".join(str(s) for s in status) or None
    query = _query(
        status=status,
        limit=limit,
        cursor=cursor,
        created_after=created_after,
        created_before=created_before,
    )
    return Call(
        "list the processes",
        Plane.RUNTIME,
        "GET",
        "/sandbox/processes",
        ProcessPage,
        query=query,
        repeatable=True,
    )


def wait(process_id: str, *, timeout_seconds: float) -> Call[ProcessResult]:
    """Wait for a process's end for a while (a long-poll).

    :param timeout_seconds: how long the receiver holds the request, in seconds.
    """
    return Call(
        f"wait for process {process_id}",
        Plane.RUNTIME,
        "POST",
        f"/sandbox/processes/{_id('process_id', process_id)}/wait",
        ProcessResult,
        unwrap="result",
        body={"timeoutMs": max(1, round(timeout_seconds * 1000)), "timeout_sec": None},
        repeatable=True,
        held_seconds=timeout_seconds + _ANSWER_MARGIN_SECONDS,
    )


def stream(process_id: str, *, from_seq: int = 1) -> Call[ProcessResult]:
    """Follow a process's output as server-sent events.

    :param from_seq: the first sequence number wanted; 1 for all.
    """
    return Call(
        f"follow process {process_id}",
        Plane.RUNTIME,
        "GET",
        f"/sandbox/processes/{_id('process_id', process_id)}/stream",
        ProcessResult,
        query=_query(from_seq=from_seq if from_seq > 1 else None),
        repeatable=True,
    )


def write_stdin(process_id: str, data: str | bytes | None = None, *, eof: bool = False) -> Call[Acknowledged]:
    """Write to a process's standard input.

    :param data: text or bytes; None to only close it.
    :param eof: close it afterwards.
    :raises InvalidParameterError: there is neither data nor eof.
    """
    body: dict[str, Any] = {"eof": eof}
    if isinstance(data, str):
        body |= {"data": data, "encoding": "utf8"}
    elif data is not None:
        body |= {"data": base64.b64encode(data).decode("ascii"), "encoding": "base64"}
    elif not eof:
        raise InvalidParameterError("data", "there is nothing to write", "Give data, or eof=True, or both.")
    return Call(
        f"write to process {process_id}",
        Plane.RUNTIME,
        "POST",
        f"/sandbox/processes/{_id('process_id', process_id)}/stdin",
        Acknowledged,
        body=body,
        # To close what is closed changes nothing; to write twice does.
        repeatable=data is None,
    )


def send_signal(process_id: str, signal: str) -> Call[ProcessSummary]:
    """Send a signal to a process.

    :param signal: a name of `SIGNALS`, with or without `SIG`.
    :raises InvalidParameterError: no such signal.
    """
    return Call(
        f"send {signal} to process {process_id}",
        Plane.RUNTIME,
        "POST",
        f"/sandbox/processes/{_id('process_id', process_id)}/signal",
        ProcessSummary,
        unwrap="process",
        body={"signal": normal_signal(signal)},
        repeatable=True,
    )


def normal_signal(signal: object) -> str:
    """Return a signal's name as the service takes it: upper case, without `SIG`.

    :raises InvalidParameterError: no such signal.
    """
    name = signal.upper().removeprefix("SIG") if isinstance(signal, str) else None
    if name not in SIGNALS:
        raise InvalidParameterError(
            "signal", f"{signal!r} is not a signal", f"Use one of {', '.join(SIGNALS)}."
        )
    return name


def kill_process(process_id: str) -> Call[ProcessSummary]:
    """Kill a process at once."""
    return Call(
        f"kill process {process_id}",
        Plane.RUNTIME,
        "DELETE",
        f"/sandbox/processes/{_id('process_id', process_id)}",
        ProcessSummary,
        unwrap="process",
        repeatable=True,
    )


# --- control plane ---------------------------------------------------------------------------


def create_sandbox(spec: SandboxSpec) -> Call[Sandbox]:
    """Make a sandbox."""
    return Call("create a sandbox", Plane.CONTROL, "POST", "/sandbox", Sandbox, body=spec.to_wire())


def get_sandbox(sandbox_id: str) -> Call[Sandbox]:
    """Read a sandbox, with a token for its runtime plane while it is active."""
    return Call(
        f"read sandbox {sandbox_id}",
        Plane.CONTROL,
        "GET",
        f"/sandbox/{_id('sandbox_id', sandbox_id)}",
        Sandbox,
        repeatable=True,
    )


def stop_sandbox(sandbox_id: str) -> Call[Acknowledged]:
    """Stop a sandbox; its processes end with it."""
    return Call(
        f"stop sandbox {sandbox_id}",
        Plane.CONTROL,
        "PUT",
        f"/sandbox/{_id('sandbox_id', sandbox_id)}/stop",
        Acknowledged,
        repeatable=True,
    )


def list_sandboxes(
    *,
    status: str | None = None,
    page: int | None = None,
    limit: int | None = None,
    start: int | None = None,
    end: int | None = None,
    search: str | None = None,
) -> Call[SandboxPage]:
    """Read one page of the team's sandboxes.

    :param status: `active`, `closed`, `error` or `close-error`.
    :param page: the page, from 1.
    :param limit: most entries on a page.
    :param start: started after this, in milliseconds since 1970.
    :param end: started before this, in milliseconds since 1970.
    :param search: text to look for.
    """
    query = _query(status=status, page=page, limit=limit, start=start, end=end, search=search)
    return Call(
        "list the sandboxes",
        Plane.CONTROL,
        "GET",
        "/sandboxes",
        SandboxPage,
        query=query,
        repeatable=True,
    )


def list_images(
    *, search: str | None = None, page: int | None = None, limit: int | None = None
) -> Call[ImagePage]:
    """Read one page of the images that sandboxes can be made from."""
    return Call(
        "list the images",
        Plane.CONTROL,
        "GET",
        "/images",
        ImagePage,
        query=_query(search=search, page=page, limit=limit),
        repeatable=True,
    )


def list_snapshots(
    *, search: str | None = None, page: int | None = None, limit: int | None = None
) -> Call[SnapshotPage]:
    """Read one page of the snapshots that sandboxes can be made from."""
    return Call(
        "list the snapshots",
        Plane.CONTROL,
        "GET",
        "/snapshots",
        SnapshotPage,
        query=_query(search=search, page=page, limit=limit),
        repeatable=True,
    )
