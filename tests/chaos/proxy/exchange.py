"""HTTP/1.1 as far as a proxy needs it: requests and answers off a socket, and frames of an event stream."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

_SEQ = re.compile(rb'"seq": ?(\d+)')
_HOP_BY_HOP = (b"connection", b"transfer-encoding", b"content-length", b"keep-alive")

Headers = list[tuple[bytes, bytes]]


@dataclass
class Head:
    """The first line of a message, and its headers."""

    first: bytes
    headers: Headers

    def get(self, name: bytes) -> bytes:
        return next((value for key, value in self.headers if key.lower() == name), b"")


@dataclass
class Request:
    """What a client asked for.

    :param number: how many it asked for before.
    """

    method: str
    target: str
    head: Head = field(repr=False)
    body: bytes = field(repr=False)
    number: int = 0

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class Answer:
    """What the server said, as far as it was read.

    :param status: its status code.
    """

    def __init__(self, head: Head, reader: asyncio.StreamReader) -> None:
        self.head = head
        self.status = int(head.first.split()[1])
        self._reader = reader

    @property
    def is_stream(self) -> bool:
        return b"text/event-stream" in self.head.get(b"content-type")

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes."""
        if b"chunked" in self.head.get(b"transfer-encoding"):
            while size := int(await self._reader.readline() or b"0", 16):
                yield (await self._reader.readexactly(size + 2))[:-2]
            return
        length = self.head.get(b"content-length")
        if length:
            if int(length):
                yield await self._reader.readexactly(int(length))
            return
        while piece := await self._reader.read(65536):
            yield piece

    async def body(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield an event stream's frames, each with the empty line that ends it."""
        held = b""
        async for piece in self.pieces():
            *whole, held = (held + piece).split(b"\n\n")
            for frame in whole:
                yield frame + b"\n\n"
        if held:
            yield held

    def passed_on(self, *framing: tuple[bytes, bytes]) -> bytes:
        """Return the head for the client, which may be sent another body than the server's."""
        kept = [(key, value) for key, value in self.head.headers if key.lower() not in _HOP_BY_HOP]
        return head_bytes(self.head.first, [*kept, *framing])


def seq_of(frame: bytes) -> int | None:
    """Return the sequence number of an `output` frame; None for any other."""
    if not frame.startswith(b"event: output"):
        return None
    found = _SEQ.search(frame)
    return int(found[1]) if found else None


def is_done(frame: bytes) -> bool:
    return frame.startswith(b"event: done")


def head_bytes(first: bytes, headers: Headers) -> bytes:
    return b"\r\n".join([first, *(b"%s: %s" % header for header in headers), b"", b""])


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """Read a head; None where the other side has left instead."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = raw[:-4].split(b"\r\n")
    headers = [(key, value.strip()) for key, _, value in (line.partition(b":") for line in lines)]
    return Head(first, headers)


async def read_request(reader: asyncio.StreamReader, number: int) -> Request | None:
    """Read a request, whole."""
    head = await read_head(reader)
    if head is None:
        return None
    method, target, _ = head.first.decode("latin-1").split(" ", 2)
    length = head.get(b"content-length")
    if b"chunked" in head.get(b"transfer-encoding"):
        body = await Answer(Head(b"x 200", head.headers), reader).body()
        await reader.readline()
    else:
        body = await reader.readexactly(int(length)) if length else b""
    return Request(method, target, head, body, number)


def request_bytes(request: Request) -> bytes:
    """Return a request for the server: the same, on a connection of its own."""
    kept = [(key, value) for key, value in request.head.headers if key.lower() not in _HOP_BY_HOP]
    framing = [(b"connection", b"close")]
    if request.body or request.method in ("POST", "PUT"):
        framing.append((b"content-length", b"%d" % len(request.body)))
    return head_bytes(request.head.first, [*kept, *framing]) + request.body
