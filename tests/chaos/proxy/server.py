"""The proxy itself: one listening socket, rules, and a thread with an event loop for all proxies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.chaos.proxy.exchange import (
    Answer,
    Request,
    read_head,
    read_request,
    request_bytes,
    seq_of,
)
from tests.chaos.proxy.faults import CloseStream, EndStream, Fault, Hang, Reply, ResetConnection

_START = re.compile(r"(/sandbox/[^/]+|/api/sandbox/[^/]+)/processes")
_LINGER_ZERO = struct.pack("ii", 1, 0)  # closing then sends a reset


def starts(request: Request) -> bool:
    """Whether it starts a process."""
    return request.method == "POST" and _START.fullmatch(request.path) is not None


def lists(request: Request) -> bool:
    """Whether it lists processes."""
    return request.method == "GET" and request.path.endswith("/processes")


def streams(request: Request) -> bool:
    """Whether its answer is an event stream: of a start, or of a process that runs."""
    return request.path.endswith("/stream") or starts(request)


def writes_input(request: Request) -> bool:
    return request.path.endswith("/stdin")


def asks_control(request: Request) -> bool:
    """Whether it goes to the control plane."""
    return request.path.startswith("/api/")


@dataclass
class Rule:
    """When to do what.

    :param when: for which requests.
    :param fault: what to do to them.
    :param skip: how many of them pass unharmed first.
    :param times: how many are harmed then; None for all.
    """

    when: Callable[[Request], bool]
    fault: Fault
    skip: int = 0
    times: int | None = None
    _seen: int = 0

    def takes(self, request: Request) -> bool:
        if not self.when(request):
            return False
        self._seen += 1
        return self._seen > self.skip and (self.times is None or self._seen <= self.skip + self.times)


class ChaosProxy:
    """One proxy, in front of a server; use it as a context manager.

    What the client sends as Host is passed on, and the server makes its runtime addresses from that:
    so a client that came to the control plane this way comes to the runtime plane this way as well.

    :param upstream: the server's address.
    :param rules: all that take a request harm it, in this order.
    """

    def __init__(self, upstream: str, rules: Sequence[Rule] = ()) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self.rules = list(rules)
        self.requests: list[Request] = []
        self.tokens: set[str] = set()
        """Every runtime token that passed, to look for where none may be."""
        self.last_seq = 0
        """The highest sequence number that the server sent, whether it arrived or not."""
        self._port = 0
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    def __enter__(self) -> ChaosProxy:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def up(self) -> None:
        """Listen; at the same port where it did before."""
        _run(self._up())

    def down(self) -> None:
        """Refuse connections, and reset those that are open."""
        _run(self._down())

    def down_for(self, seconds: float) -> None:
        """Be down for so long, beginning soon; returns at once."""

        async def fall_and_rise() -> None:
            await self._down()
            await asyncio.sleep(seconds)
            while True:
                try:
                    await self._up()
                    return
                except OSError:  # another has its port just now
                    await asyncio.sleep(0.2)

        asyncio.run_coroutine_threadsafe(fall_and_rise(), _loop())

    async def _up(self) -> None:
        # The longest frame that is read as one is that of a start's body or of a head.
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, backlog=256)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _down(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        clients = list(self._clients)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except asyncio.CancelledError:
            _reset(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has left, or the server has
        finally:
            self._clients.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Pass one request on; return whether the connection takes another."""
        request = await read_request(reader, len(self.requests))
        if request is None:
            return False
        self.requests.append(request)
        faults = [rule.fault for rule in self.rules if rule.takes(request)]
        try:
            for fault in faults:
                await fault.before(request)
            async with self._ask(request) as answer:
                for fault in faults:
                    await fault.answered(request, answer)
                if answer.is_stream:
                    await self._pass_stream(request, answer, faults, writer)
                else:
                    await self._pass_answer(answer, faults, writer)
        except Reply as reply:
            await _send(writer, reply.raw())
        except ResetConnection:
            _reset(writer)
            return False
        except CloseStream:
            return False
        except Hang:
            await reader.read()  # until the client has had enough
            return False
        return True

    @contextlib.asynccontextmanager
    async def _ask(self, request: Request) -> AsyncIterator[Answer]:
        reader, writer = await asyncio.open_connection(*self._upstream, limit=2**22)
        try:
            await _send(writer, request_bytes(request))
            head = await read_head(reader)
            if head is None:
                raise CloseStream
            yield Answer(head, reader)
        finally:
            writer.close()

    async def _pass_answer(
        self, answer: Answer, faults: Sequence[Fault], writer: asyncio.StreamWriter
    ) -> None:
        body = await answer.body()
        self._note_token(body)
        for fault in faults:
            body = fault.body(answer, body)
        await _send(writer, answer.passed_on((b"content-length", b"%d" % len(body))) + body)

    async def _pass_stream(
        self, request: Request, answer: Answer, faults: Sequence[Fault], writer: asyncio.StreamWriter
    ) -> None:
        await _send(writer, answer.passed_on((b"transfer-encoding", b"chunked")))
        pieces = self._noted(answer.frames())
        for fault in faults:
            pieces = fault.stream(request, pieces)
        with contextlib.suppress(EndStream):
            async for piece in pieces:
                await _send(writer, b"%x\r\n%s\r\n" % (len(piece), piece))
        await _send(writer, b"0\r\n\r\n")

    async def _noted(self, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for frame in frames:
            self.last_seq = max(self.last_seq, seq_of(frame) or 0)
            yield frame

    def _note_token(self, body: bytes) -> None:
        if b'"token"' in body:
            with contextlib.suppress(ValueError):
                self.tokens.add(json.loads(body)["token"])


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    writer.transport.abort()


# --- one loop for all proxies ------------------------------------------------------------------

_the_loop: list[asyncio.AbstractEventLoop] = []
_starting = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    with _starting:
        if not _the_loop:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="chaos-proxy", daemon=True).start()
            _the_loop.append(loop)
        return _the_loop[0]


def _run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run_coroutine_threadsafe(work, _loop()).result(20)
