"""The runtime plane: the processes of one sandbox. Opened by that sandbox's token."""

from __future__ import annotations

import asyncio
import base64
import binascii

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_provider_sbx.api.models import ProcessParameters, ProcessStatus
from airflow_provider_sbx.local import bodies
from airflow_provider_sbx.local.answers import Answer
from airflow_provider_sbx.local.errors import (
    ApiError,
    invalid,
    not_supported,
    replay_window_expired,
    wait_timed_out,
)
from airflow_provider_sbx.local.processes import Process
from airflow_provider_sbx.local.services import Services
from airflow_provider_sbx.local.signals import signal_name
from airflow_provider_sbx.local.streaming import EventStream
from airflow_provider_sbx.local.tables import ProcessQuery, ProcessTable

_KILL_SECONDS = 3.0
_STATUSES = {status.value: status for status in ProcessStatus if status is not ProcessStatus.UNKNOWN}


def _table(request: Request) -> ProcessTable:
    return Services.of(request).sandboxes.get(request.path_params["sandbox_id"]).processes()


def _process(request: Request) -> Process:
    return _table(request).get(request.path_params["process_id"])


async def exec_process(request: Request) -> Response:
    """POST /sandbox/exec: the answer comes at the end, and the input is empty."""
    params = bodies.process_parameters(await bodies.read_json(request))
    process = await _table(request).start(_without_secrets(params), takes_stdin=False)
    await process.ended.wait()
    return Answer({"result": process.result()})


async def start_process(request: Request) -> Response | EventStream:
    """POST /sandbox/processes: JSON, or a stream from the first byte for one who accepts it."""
    params = _without_secrets(bodies.process_parameters(await bodies.read_json(request)))
    settings = Services.of(request).settings
    table = _table(request)
    if "text/event-stream" not in request.headers.get("accept", "") or settings.plain_starts:
        process = await table.start(params)
        return Answer({"process": process.summary()})
    process = table.prepare(params)
    reader = process.output.attach()
    assert reader is not None  # nothing has been written yet, so nothing can be gone
    try:
        await table.launch(process)
    except ApiError:
        reader.close()
        raise
    return EventStream(process, reader, heartbeat_seconds=settings.heartbeat_seconds, announces=True)


async def list_processes(request: Request) -> Response:
    """GET /sandbox/processes."""
    query = request.query_params
    names = [name for name in (query.get("status") or "").split(",") if name]
    unknown = [name for name in names if name not in _STATUSES]
    if unknown:
        raise invalid(f"status must be some of {', '.join(_STATUSES)}, separated by commas")
    processes, cursor = _table(request).page(
        ProcessQuery(
            statuses={_STATUSES[name] for name in names},
            limit=bodies.query_number(request, "limit", 100, least=1, most=1000),
            before_index=bodies.number("cursor", query.get("cursor")),
            created_after=bodies.number("created_after", query.get("created_after")),
            created_before=bodies.number("created_before", query.get("created_before")),
        )
    )
    return Answer(
        {
            "data": [process.summary() for process in processes],
            "next_cursor": None if cursor is None else str(cursor),
        }
    )


async def get_process(request: Request) -> Response:
    """GET /sandbox/processes/{id}."""
    return Answer({"process": _process(request).summary()})


async def wait_process(request: Request) -> Response:
    """POST /sandbox/processes/{id}/wait."""
    body = await bodies.read_json(request)
    process = _process(request)
    seconds = float(bodies.number("timeout_sec", body.get("timeout_sec")) or 0)
    seconds = seconds or (bodies.number("timeoutMs", body.get("timeoutMs")) or 0) / 1000
    seconds = seconds or Services.of(request).settings.wait_seconds
    try:
        async with asyncio.timeout(seconds):
            await _ended_or_gone(process, request)
    except TimeoutError:
        raise wait_timed_out(process.id, seconds) from None
    return Answer({"result": process.result()})


async def _ended_or_gone(process: Process, request: Request) -> None:
    """Return at a process's end, or when the client has gone: nobody waits for the answer then."""
    ended = asyncio.ensure_future(process.ended.wait())
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended.cancel()
        gone.cancel()


async def stream_process(request: Request) -> EventStream:
    """GET /sandbox/processes/{id}/stream."""
    process = _process(request)
    from_seq = bodies.number("from_seq", request.query_params.get("from_seq")) or 1
    reader = process.output.attach(from_seq)
    if reader is None:
        raise replay_window_expired()
    seconds = Services.of(request).settings.heartbeat_seconds
    return EventStream(process, reader, heartbeat_seconds=seconds, announces=False)


async def write_stdin(request: Request) -> Response:
    """POST /sandbox/processes/{id}/stdin."""
    body = await bodies.read_json(request)
    process = _process(request)
    data, encoding, eof = body.get("data"), body.get("encoding") or "utf8", body.get("eof") or False
    if not isinstance(data, str | None):
        raise invalid("data must be a string")
    if not isinstance(eof, bool):
        raise invalid("eof must be true or false")
    if data is None and not eof:
        raise invalid("there is nothing to write: give data, or eof, or both")
    await process.write_stdin(_decoded(data or "", encoding), eof=eof)
    return Answer({"success": True})


def _decoded(data: str, encoding: object) -> bytes:
    try:
        if encoding == "utf8":
            return data.encode("utf-8")
        if encoding == "base64":
            return base64.b64decode(data, validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        raise invalid(f"data is not valid {encoding}") from None
    raise invalid("encoding must be utf8 or base64")


async def signal_process(request: Request) -> Response:
    """POST /sandbox/processes/{id}/signal."""
    body = await bodies.read_json(request)
    process = _process(request)
    process.signal(signal_name(body.get("signal")))
    return Answer({"process": process.summary()})


async def kill_process(request: Request) -> Response:
    """DELETE /sandbox/processes/{id}: the whole tree. Again is as good as once."""
    process = _process(request)
    await process.kill(_KILL_SECONDS)
    return Answer({"process": process.summary()})


async def refuse_unsupported(request: Request) -> Response:
    """Say that this part of the service isn't here."""
    raise not_supported(f"{request.method} {request.url.path}")


def _without_secrets(params: ProcessParameters) -> ProcessParameters:
    if params.uses_secrets:
        raise invalid("secrets, vault and onePassword are taken by the control plane only")
    return params


_ALL = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_BASE = "/sandbox/{sandbox_id}"
_ONE = f"{_BASE}/processes/{{process_id}}"

ROUTES = [
    Route(f"{_BASE}/exec", exec_process, methods=["POST"]),
    Route(f"{_BASE}/processes", start_process, methods=["POST"]),
    Route(f"{_BASE}/processes", list_processes, methods=["GET"]),
    Route(_ONE, get_process, methods=["GET"]),
    Route(_ONE, kill_process, methods=["DELETE"]),
    Route(f"{_ONE}/wait", wait_process, methods=["POST"]),
    Route(f"{_ONE}/stream", stream_process, methods=["GET"]),
    Route(f"{_ONE}/stdin", write_stdin, methods=["POST"]),
    Route(f"{_ONE}/signal", signal_process, methods=["POST"]),
    *(
        Route(f"{_BASE}/{part}{rest}", refuse_unsupported, methods=_ALL)
        for part in ("files", "pty", "terminal")
        for rest in ("", "/{rest:path}")
    ),
]
