"""What tests of all rooms need: answers of the service, events, and a short form of log entries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_sbx.api.events import Done, Output
from airflow_provider_sbx.api.models import ProcessResult, ProcessSummary
from airflow_provider_sbx.api.output import Line
from airflow_provider_sbx.api.steps import Entry

SANDBOX = "sb-1"
PROCESS = "p-1"
API_KEY = "hb_secret_key_123"
CONTROL = "https://control.test"
OWN_HOST = "https://sb-1.region.test"
SHARED_HOST = "https://region.test/sandbox/sb-1"
PAGE = "https://app.test/sb-1"
T0_MS = 1_700_000_000_000


def process_body(**changes: Any) -> dict[str, Any]:
    return {
        "id": PROCESS,
        "status": "running",
        "command": "sleep 1",
        "cwd": "/home/ubuntu",
        "pid": 42,
        "started_at": T0_MS,
    } | changes


def result_body(**changes: Any) -> dict[str, Any]:
    return {
        "id": PROCESS,
        "status": "exited",
        "exit_code": 0,
        "stdout": "",
        "stderr": "",
        "started_at": T0_MS,
        "completed_at": T0_MS + 1_000,
        "output_truncated": False,
        "last_seq": 0,
    } | changes


def sandbox_body(token: str = "token-1", *, lasts_seconds: float = 3600.0, **changes: Any) -> dict[str, Any]:
    ends = datetime.now(UTC) + timedelta(seconds=lasts_seconds)
    return {
        "id": SANDBOX,
        "status": "active",
        "runtime": {"transport": "regional_proxy", "host": "sb-1.region.test", "baseUrl": OWN_HOST},
        "token": token,
        "tokenExpiresAt": ends.isoformat(),
        "sessionUrl": PAGE,
    } | changes


def summary(**changes: Any) -> ProcessSummary:
    return ProcessSummary.model_validate(process_body(**changes))


def result(**changes: Any) -> ProcessResult:
    return ProcessResult.model_validate(result_body(**changes))


def output(seq: int, data: str, *, stream: str = "stdout", at_ms: int = T0_MS, encoding: str | None = None):
    return Output(seq=seq, stream=stream, data=data, timestamp=at_ms, encoding=encoding)


def done(**changes: Any) -> Done:
    return Done(result=result(**changes))


def sse(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def sse_output(seq: int, data: str, *, stream: str = "stdout", at_ms: int = T0_MS) -> bytes:
    return sse("output", {"seq": seq, "stream": stream, "data": data, "timestamp": at_ms})


def texts(entries: Iterable[Entry]) -> list[str]:
    return [entry.text for entry in entries]


def lines_of(entries: Iterable[Entry]) -> list[str]:
    return [entry.text for entry in entries if isinstance(entry, Line)]


async def until(holds: Callable[[], object]) -> None:
    """Wait until something holds, however slow the machine."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  # what is waited for tells nobody
            await asyncio.sleep(0.001)


def notices_of(entries: Iterable[Entry]) -> list[str]:
    return [entry.text for entry in entries if not isinstance(entry, Line)]
