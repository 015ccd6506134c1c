"""A server that speaks just enough of the wire, and costs as little as it can.

It runs in a process of its own, so that what is measured is the client. A process's id says what it
does: `still-7` writes a line now and then until it is told to end; `burst-1000-80-7` writes 1,000 events of
80 bytes as fast as they are read and ends; `paced-1000-80-7` has each arrive by itself; `flood-100-80-7`
writes 100 MB in lines of 80 bytes. A second port takes orders without TLS; see `control.py`.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import gc
import json
import os
import random
import ssl
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.control import raise_open_files

HEARTBEAT_SECONDS = 15.0
LINE_SECONDS = float(os.environ.get("SBX_BENCH_LINE_SECONDS", "5"))
PACE_SECONDS = 0.0005
"""Between two events that arrive one by one; longer than the slowest client takes for one."""

BURST_BYTES = 64 * 1024
"""What a burst sends at once, so that the server is never slower than its client."""

FLOOD_EVENT_BYTES = 32 * 1024

HEARTBEAT = b": heartbeat\n\n"
LINE = "tick of a process that is quiet otherwise, with about as much text as a line has\n"


class State:
    """What waits, and how much of it."""

    def __init__(self) -> None:
        self.port = 0
        self.held: set[Held] = set()
        self.is_over = False  # what comes late to the end ends at once
        self.ended: set[str] = set()  # processes that were ended by name
        self.requests = 0


class Held:
    """A stream or a long-poll that waits for the end of its process."""

    def __init__(self, connection: Connection, process_id: str, *, streams: bool) -> None:
        self.connection = connection
        self.process_id = process_id
        self.streams = streams
        self.seq = 0
        self.timers: list[asyncio.TimerHandle] = []

    def hold(self, wait_seconds: float) -> None:
        """Write as a quiet process does, from a random moment on; or answer late."""
        self.connection.state.held.add(self)
        self.connection.held = self
        if self.connection.state.is_over or self.process_id in self.connection.state.ended:
            self.end()
            return
        if self.streams:
            self._repeat(self._write_heartbeat, HEARTBEAT_SECONDS)
            self._repeat(self._write_line, LINE_SECONDS)
        else:
            loop = asyncio.get_running_loop()
            self.timers.append(loop.call_later(wait_seconds, self._time_out))

    def leave(self) -> None:
        """Wait no more."""
        for timer in self.timers:
            timer.cancel()
        self.connection.state.held.discard(self)
        self.connection.held = None

    def end(self) -> None:
        """End the process; the time of it, in microseconds, is what the client compares its clock with."""
        self.leave()
        result = process_result(self.process_id, self.seq)
        if self.streams:
            self.connection.chunk(event("done", result))
            self.connection.end_chunks()
        else:
            self.connection.answer({"result": result})

    def _time_out(self) -> None:
        self.leave()
        self.connection.answer({"message": "timed out"}, status="408 Request Timeout")

    def _write_heartbeat(self) -> None:
        self.connection.chunk(HEARTBEAT)

    def _write_line(self) -> None:
        self.seq += 1
        self.connection.chunk(output(self.seq, LINE))

    def _repeat(self, write: Any, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        index = len(self.timers)

        def turn() -> None:
            write()
            self.timers[index] = loop.call_later(seconds, turn)

        self.timers.append(loop.call_later(random.random() * seconds, turn))


class Connection(asyncio.Protocol):
    """One connection: requests come one after another."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.held: Held | None = None
        self._writing: asyncio.Task[None] | None = None
        self._may_write = asyncio.Event()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._may_write.set()

    def connection_lost(self, _: Exception | None) -> None:
        """Drop what waits on it."""
        self._may_write.set()
        if self.held is not None:
            self.held.leave()
        if self._writing is not None:
            self._writing.cancel()

    def pause_writing(self) -> None:
        """Wait for a client that reads too slowly."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        """Answer each whole request."""
        self._received += data
        while True:
            head, found, rest = self._received.partition(b"\r\n\r\n")
            if not found:
                return
            length = 0
            lines = head.split(b"\r\n")
            for line in lines[1:]:
                if line[:15].lower() == b"content-length:":
                    length = int(line[15:])
            if len(rest) < length:
                return
            body, self._received = rest[:length], rest[length:]
            method, target, _ = lines[0].decode().split(" ", 2)
            self._handle(method, target.partition("?")[0], body)

    def answer(self, payload: dict[str, Any], status: str = "200 OK") -> None:
        """Answer with JSON."""
        body = json.dumps(payload).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)

    def begin_chunks(self) -> None:
        """Begin an event stream."""
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )

    def chunk(self, data: bytes) -> None:
        """Write a piece of an event stream."""
        self._transport.write(chunked(data))

    def end_chunks(self) -> None:
        """End it."""
        self._transport.write(b"0\r\n\r\n")

    def _handle(self, method: str, path: str, body: bytes) -> None:
        parts = path.strip("/").split("/")
        self.state.requests += 1
        match (method, *parts):
            case ("GET", "api", "sandbox", sandbox_id):
                self.answer(sandbox_detail(sandbox_id, self.state.port))
            case ("GET", "sandbox", sandbox_id, "processes"):
                processes = [self._summary(process_id) for process_id in processes_of(sandbox_id)]
                self.answer({"data": processes, "next_cursor": None})
            case ("GET", "sandbox", _, "processes", process_id):
                self.answer({"process": self._summary(process_id)})
            case ("POST", "sandbox", _, "processes", process_id, "wait"):
                asked = json.loads(body or b"{}")
                seconds = (asked.get("timeoutMs") or 0) / 1000 or asked.get("timeout_sec") or 30.0
                Held(self, process_id, streams=False).hold(float(seconds))
            case ("GET", "sandbox", _, "processes", process_id, "stream"):
                self.begin_chunks()
                kind, *numbers = process_id.split("-")
                if kind == "still":
                    Held(self, process_id, streams=True).hold(0.0)
                else:
                    count, size, *_ = map(int, numbers)
                    write = {
                        "burst": self._write_burst,
                        "paced": self._write_paced,
                        "flood": self._write_flood,
                    }[kind]
                    self._writing = asyncio.ensure_future(write(process_id, count, size))
            case _:
                self.answer({"message": "not here"}, status="404 Not Found")

    def _summary(self, process_id: str) -> dict[str, Any]:
        summary = process_summary(process_id)
        return summary | {"status": "exited", "exit_code": 0} if process_id in self.state.ended else summary

    async def _write_burst(self, process_id: str, count: int, size: int) -> None:
        text, events = "x" * (size - 1) + "\n", list[bytes]()
        for seq in range(1, count + 1):
            events.append(chunked(output(seq, text)))
            if len(events) * size >= BURST_BYTES or seq == count:
                # A TLS record each, as if each were written by itself, but sent together.
                self._transport.writelines(events)
                events = []
                await self._may_write.wait()
        self._finish(process_id, count)

    async def _write_paced(self, process_id: str, count: int, size: int) -> None:
        text = "x" * (size - 1) + "\n"
        for seq in range(1, count + 1):
            self.chunk(output(seq, text))
            await asyncio.sleep(PACE_SECONDS)
            await self._may_write.wait()
        self._finish(process_id, count)

    async def _write_flood(self, process_id: str, megabytes: int, line_bytes: int) -> None:
        data = ("x" * (line_bytes - 1) + "\n") * (FLOOD_EVENT_BYTES // line_bytes)
        count = megabytes * 1_000_000 // len(data)
        for seq in range(1, count + 1):
            self.chunk(output(seq, data))
            await self._may_write.wait()
            await asyncio.sleep(0)
        self._finish(process_id, count)

    def _finish(self, process_id: str, last_seq: int) -> None:
        self._writing = None
        self.chunk(event("done", process_result(process_id, last_seq)))
        self.end_chunks()


def chunked(data: bytes) -> bytes:
    """Return a piece of a body as HTTP/1.1 has it."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def sandbox_detail(sandbox_id: str, port: int) -> dict[str, Any]:
    """Return what the control plane says of a sandbox, in the fields that the clients need."""
    now = datetime.now(UTC)
    address = f"https://localhost:{port}/sandbox/{sandbox_id}"
    return {
        "id": sandbox_id,
        "teamId": "team",
        "status": "active",
        "region": "us-west",
        "createdAt": now.isoformat(),
        "updatedAt": now.isoformat(),
        "startTime": str(int(now.timestamp() * 1000)),
        "endTime": None,
        "timeoutMinutes": 600,
        "duration": 1,
        "dataConsumed": 0,
        "proxyDataConsumed": 0,
        "usageType": "sandbox",
        "jobId": None,
        "closeReason": None,
        "sessionUrl": "https://localhost/",
        "vcpus": 2,
        "memMiB": 2048,
        "diskSizeMiB": 8192,
        "runtime": {"transport": "regional_proxy", "host": "localhost", "baseUrl": address},
        "exposedPorts": [],
        "token": "token-" + "t" * 300,
        "tokenExpiresAt": (now + timedelta(days=1)).isoformat(),
        "containsSecrets": False,
    }


def processes_of(sandbox_id: str) -> list[str]:
    """Return the processes of a sandbox; see `clients.sandbox_of`."""
    kind, number = sandbox_id.split("-")
    name, size = ("many", 100) if kind == "sc" else ("still", 50)
    return [f"{name}-{int(number) * size + n}" for n in range(size)]


def process_summary(process_id: str) -> dict[str, Any]:
    """Return what the runtime plane says of a running process."""
    return {
        "id": process_id,
        "status": "running",
        "command": "python train.py --epochs 3",
        "cwd": "/home/ubuntu",
        "pid": 42,
        "started_at": 1_700_000_000_000,
    }


def process_result(process_id: str, last_seq: int) -> dict[str, Any]:
    """Return the result of a process that has just ended; `completed_at` is in microseconds here."""
    return process_summary(process_id) | {
        "status": "exited",
        "exit_code": 0,
        "stdout": "",
        "stderr": "",
        "completed_at": time.time_ns() // 1000,
        "last_seq": last_seq,
        "output_truncated": False,
    }


def output(seq: int, data: str) -> bytes:
    """Return an event with a piece of output."""
    at = time.time_ns() // 1_000_000
    return event("output", {"seq": seq, "stream": "stdout", "data": data, "timestamp": at})


def event(name: str, data: dict[str, Any]) -> bytes:
    """Return an event as it goes over the wire."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


async def take_orders(state: State, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve the control port, whose answers are numbers.

    `held` tells how many wait, `end 250` ends so many a second, `finish still-1 still-2` ends these at once;
    `requests` tells how many there were, `pid` who serves.
    """
    while order := (await reader.readline()).split():
        state.is_over = order[0] == b"end"
        answer = None
        match order:
            case [b"end", per_second]:
                await end_all(state, float(per_second))
                state.ended.clear()
            case [b"finish", *process_ids]:
                finish(state, {process_id.decode() for process_id in process_ids})
            case [b"requests"]:
                answer = state.requests
            case [b"pid"]:
                answer = os.getpid()
        writer.write(b"%d\n" % (len(state.held) if answer is None else answer))
        await writer.drain()
    writer.close()


async def end_all(state: State, per_second: float) -> None:
    """End all that waits, evenly."""
    begun, count = time.monotonic(), 0
    while state.held:
        next(iter(state.held)).end()
        count += 1
        await asyncio.sleep(max(0.0, begun + count / per_second - time.monotonic()))


def finish(state: State, process_ids: set[str]) -> None:
    """End some processes at once; who asks for them later finds them ended."""
    state.ended |= process_ids
    for held in [held for held in state.held if held.process_id in process_ids]:
        held.end()


def ports(servers: Iterator[asyncio.Server]) -> list[int]:
    """Return where servers listen."""
    return [server.sockets[0].getsockname()[1] for server in servers]


async def serve(certificate: str) -> None:
    """Serve until the process is ended; print the two ports first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    state = State()
    loop = asyncio.get_running_loop()
    service = await loop.create_server(lambda: Connection(state), "127.0.0.1", 0, ssl=context, backlog=1000)
    orders = await asyncio.start_server(
        lambda reader, writer: take_orders(state, reader, writer), "127.0.0.1", 0
    )
    state.port, control_port = ports(iter((service, orders)))
    print(json.dumps({"port": state.port, "control_port": control_port}), flush=True)
    gc.freeze()
    await asyncio.gather(service.serve_forever(), orders.serve_forever())


if __name__ == "__main__":
    raise_open_files()
    # The server's memory isn't measured, and 5,000 connections would take 1.3 GB of it otherwise.
    asyncio.sslproto.SSLProtocol.max_size = 16 * 1024
    asyncio.run(serve(sys.argv[1]))
