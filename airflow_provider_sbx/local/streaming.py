"""A process's output as server-sent events."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.types import Receive, Scope, Send

from airflow_provider_sbx.local.output import OutputEvent, OutputReader
from airflow_provider_sbx.local.processes import Process

_HEARTBEAT = b": heartbeat\n\n"
_CONNECTED = b": connected\n\n"


class EventStream:
    """An ASGI response that follows a process to its end.

    :param reader: where in its output; closed when the response ends, whoever ends it.
    :param heartbeat_seconds: how often a quiet stream carries a comment, in seconds.
    :param announces: whether it begins with `started`, as the answer to a start does.
    """

    def __init__(
        self, process: Process, reader: OutputReader, *, heartbeat_seconds: float, announces: bool
    ) -> None:
        self._process = process
        self._reader = reader
        self._heartbeat_seconds = heartbeat_seconds
        self._announces = announces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all, or as much as the client stays for."""
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # At once, not when the garbage collector comes: a reader that is gone holds the process.
            self._reader.close()
            leaving.cancel()
            sending.cancel()
        if not sending.cancelling():
            await sending

    async def _send(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        # A stream from the start has everything, whatever has been dropped from the replay since.
        truncated = False if self._reader.next_seq == 1 else None
        # Something at once, so that a client knows that it is connected however quiet the process.
        await _pass_on(send, _frame("started", self._process.summary()) if self._announces else _CONNECTED)
        async for batch in _batches(self._reader, self._heartbeat_seconds):
            if not batch:
                await _pass_on(send, _HEARTBEAT)
                continue
            await _pass_on(send, b"".join(map(_output_frame, batch)))
            # Only now is its place free: the client's side has taken it.
            self._reader.took(batch[-1].seq)
        await _pass_on(send, _frame("done", self._process.result(truncated=truncated)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _pass_on(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _batches(reader: OutputReader, heartbeat_seconds: float) -> AsyncIterator[list[OutputEvent]]:
    """Yield events as they come, and nothing whenever a heartbeat is due."""
    while True:
        try:
            async with asyncio.timeout(heartbeat_seconds):
                batch = await reader.read()
        except TimeoutError:
            yield []
            continue
        if not batch:
            return
        yield batch


def _output_frame(event: OutputEvent) -> bytes:
    body: dict[str, Any] = {"seq": event.seq, "stream": event.stream, "timestamp": event.timestamp}
    if event.is_text:
        body["data"] = event.data.decode("utf-8")
    else:
        body |= {"data": base64.b64encode(event.data).decode("ascii"), "encoding": "base64"}
    return _frame("output", body)


def _frame(name: str, body: dict[str, Any]) -> bytes:
    # ASCII only: the vendor's clients split lines at every character that Unicode calls a line's
    # end, and would cut an event at a U+2028 or U+0085 in its data.
    return f"event: {name}\ndata: {json.dumps(body)}\n\n".encode("ascii")
