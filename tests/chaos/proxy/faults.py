"""What can go wrong, one class a kind. A rule says to which requests; several may hit the same one."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from typing import Any

from tests.chaos.proxy.exchange import Answer, Request, is_done, seq_of

# --- how an exchange may end other than by its answer ------------------------------------------


class ResetConnection(Exception):
    """The connection breaks with a reset."""


class CloseStream(Exception):
    """The connection is closed in the midst of an answer."""


class EndStream(Exception):
    """The answer ends as if it were whole."""


class Hang(Exception):
    """Nothing more comes, until the client gives up."""


class Reply(Exception):
    """Another answer comes instead."""

    def __init__(self, status: int, body: Any = None, **headers: str) -> None:
        self.status = status
        html = isinstance(body, str)
        self.body = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.headers = {"content-type": "text/html" if html else "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }

    def raw(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Chaos", f"content-length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def gateway_error(status: int) -> Reply:
    """What a load balancer says when what is behind it does not answer."""
    page = f"<html><head><title>{status} Bad Gateway</title></head><body>nginx</body></html>"
    return Reply(status, page)


Ending = type[Exception] | Exception


def _raise(ending: Ending) -> None:
    raise ending


# --- faults ------------------------------------------------------------------------------------


class Fault:
    """Nothing goes wrong; subclasses override what they spoil."""

    async def before(self, request: Request) -> None:
        """Act before the server hears of the request."""

    async def answered(self, request: Request, answer: Answer) -> None:
        """Act once the server has done what was asked for, before the client hears of it."""

    def body(self, answer: Answer, body: bytes) -> bytes:
        """Return what the client is sent instead of a body."""
        return body

    def stream(self, request: Request, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Return what the client is sent instead of a stream's frames."""
        return frames


class Refuse(Fault):
    """The server never hears of it."""

    def __init__(self, ending: Ending) -> None:
        self._ending = ending

    async def before(self, request: Request) -> None:
        _raise(self._ending)


class LoseAnswer(Fault):
    """The server does it, and the client does not hear of it."""

    def __init__(self, ending: Ending) -> None:
        self._ending = ending

    async def answered(self, request: Request, answer: Answer) -> None:
        _raise(self._ending)


class Delay(Fault):
    """The request, or its answer, takes its time.

    :param seconds: how long.
    """

    def __init__(self, seconds: float, *, before: bool = True) -> None:
        self._seconds, self._before = seconds, before

    async def before(self, request: Request) -> None:
        if self._before:
            await asyncio.sleep(self._seconds)

    async def answered(self, request: Request, answer: Answer) -> None:
        if not self._before:
            await asyncio.sleep(self._seconds)


class Act(Fault):
    """Something else happens at that moment, such as that the sandbox is stopped."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action

    async def before(self, request: Request) -> None:
        await asyncio.to_thread(self._action)


class ExchangeKey(Fault):
    """The API key is exchanged: the old one serves so many requests and is refused then, the new one serves.

    :param serves: how many.
    :param exchange: called at the exchange, to name the new one in the connection.
    :param new: the new key, which the server itself does not know.
    """

    def __init__(self, serves: int, exchange: Callable[[], object], new: str) -> None:
        self._serves, self._exchange, self._new = serves, exchange, new.encode()
        self._old: bytes | None = None

    async def before(self, request: Request) -> None:
        key = request.head.get(b"x-api-key")
        self._old = self._old or key
        if key == self._new:
            headers = request.head.headers
            headers[:] = [(name, self._old if value == key else value) for name, value in headers]
            return
        self._serves -= 1
        if self._serves < 0:
            self._exchange()
            raise Reply(401, {"message": "The API key was revoked"})


class WearTokens(Fault):
    """Each token opens the runtime plane so many times, then it has expired."""

    def __init__(self, uses: int) -> None:
        self._uses, self._used = uses, Counter[bytes]()

    async def before(self, request: Request) -> None:
        token = request.head.get(b"authorization")
        self._used[token] += 1
        if self._used[token] > self._uses:
            raise Reply(401, {"message": "The sandbox token has expired", "code": "unauthorized"})


class SpoilBody(Fault):
    """The body arrives otherwise than it was sent: cut off, empty, a page of HTML."""

    def __init__(self, spoil: Callable[[bytes], bytes]) -> None:
        self._spoil = spoil

    def body(self, answer: Answer, body: bytes) -> bytes:
        return self._spoil(body)


# --- faults of a stream ------------------------------------------------------------------------


class CutAfter(Fault):
    """The stream ends after so many events of output, and some bytes of what follows.

    :param events: how many; a fresh number for each stream where it is a function.
    :param ending: how it ends.
    :param spare_bytes: how much of the next frame still arrives.
    """

    def __init__(
        self, events: int | Callable[[], int], ending: Ending, *, spare_bytes: Callable[[], int] = lambda: 0
    ) -> None:
        self._events = events if callable(events) else lambda: events
        self._ending, self._spare = ending, spare_bytes

    async def stream(self, request: Request, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        left = self._events()
        async for frame in frames:
            if seq_of(frame) is not None or is_done(frame):
                if left == 0:
                    if spare := self._spare():
                        yield frame[: min(spare, len(frame) - 1)]
                    _raise(self._ending)
                left -= 1
            yield frame


class Drop(Fault):
    """Events of output get lost on the way.

    :param lost: says of a sequence number how often it does.
    """

    def __init__(self, lost: Callable[[int], int]) -> None:
        self._lost, self._dropped = lost, Counter[int]()

    async def stream(self, request: Request, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for frame in frames:
            seq = seq_of(frame)
            if seq is not None and self._dropped[seq] < self._lost(seq):
                self._dropped[seq] += 1
                continue
            yield frame


class Repeat(Fault):
    """Events come more than once, at once or later."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    async def stream(self, request: Request, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        past: list[bytes] = []
        async for frame in frames:
            yield frame
            if seq_of(frame) is not None:
                past.append(frame)
            while past and self._rng.random() < 0.4:
                yield self._rng.choice(past)


class Swap(Fault):
    """Some events come before the one that they follow; each does so once."""

    def __init__(self, rng: random.Random, share: float = 0.1) -> None:
        self._rng, self._share, self._swapped = rng, share, set[int]()

    async def stream(self, request: Request, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        held: bytes | None = None
        async for frame in frames:
            seq = seq_of(frame)
            if held is not None:
                yield frame
                yield held
                held = None
            elif seq is not None and seq not in self._swapped and self._rng.random() < self._share:
                self._swapped.add(seq)
                held = frame
            else:
                yield frame
        if held is not None:
            yield held


class Shred(Fault):
    """The bytes arrive in pieces of any size, cut anywhere: in a line, a character, an escape."""

    def __init__(self, rng: random.Random, longest: int = 40) -> None:
        self._rng, self._longest = rng, longest

    async def stream(self, request: Request, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for frame in frames:
            at = 0
            while at < len(frame):
                size = self._rng.randint(1, self._longest)
                yield frame[at : at + size]
                at += size
                # Else the pieces would share a packet.
                await asyncio.sleep(0)


class Utf8(Fault):
    """Frames hold characters as they are, not as escapes, so that a cut can go through one."""

    async def stream(self, request: Request, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for frame in frames:
            name, _, data = frame.partition(b"\ndata: ")
            if data:
                text = json.dumps(json.loads(data), ensure_ascii=False)
                frame = name + b"\ndata: " + text.encode() + b"\n\n"
            yield frame


class Intersperse(Fault):
    """Frames come in between that are none of the service's, or of a later version of it."""

    def __init__(self, rng: random.Random, frames: Iterable[bytes]) -> None:
        self._rng, self._others = rng, list(frames)

    async def stream(self, request: Request, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for frame in frames:
            while self._rng.random() < 0.4:
                yield self._rng.choice(self._others)
            yield frame


class Break(Fault):
    """Frames arrive spoilt.

    :param hit: says of a frame how often it does.
    :param spoil: what becomes of its `data`.
    """

    def __init__(
        self, hit: Callable[[bytes], int], spoil: Callable[[bytes], bytes] = lambda data: data[:-7]
    ) -> None:
        self._hit, self._spoil, self._spoilt = hit, spoil, Counter[bytes]()

    async def stream(self, request: Request, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for frame in frames:
            seq = seq_of(frame)
            key = frame.split(b"\n")[0] if seq is None else b"%d" % seq
            if self._spoilt[key] < self._hit(frame):
                self._spoilt[key] += 1
                name, _, data = frame.partition(b"\ndata: ")
                frame = name + b"\ndata: " + self._spoil(data.removesuffix(b"\n\n")) + b"\n\n"
            yield frame


def numbered(*seqs: int, times: int = 1) -> Callable[[bytes], int]:
    """For `Break`: the output events of these numbers."""
    return lambda frame: times if seq_of(frame) in seqs else 0


def named(name: str, times: int = 1) -> Callable[[bytes], int]:
    """For `Break`: the events of this name."""
    return lambda frame: times if frame.startswith(f"event: {name}\n".encode()) else 0


class Fail(Fault):
    """The service says in the stream that it can't go on, after so many events; each stream once."""

    def __init__(self, events: Callable[[], int], body: dict[str, Any]) -> None:
        self._events, self._frame = events, f"event: error\ndata: {json.dumps(body)}\n\n".encode()

    async def stream(self, request: Request, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        left = self._events()
        async for frame in frames:
            if seq_of(frame) is not None or is_done(frame):
                if left == 0:
                    yield self._frame
                    raise EndStream
                left -= 1
            yield frame


STRANGERS: Collection[bytes] = (
    b": a comment\n\n",
    b":\n\n",
    b"\n",
    b'event: checkpoint\ndata: {"at": 5}\n\n',
    b"event: output.v2\ndata: not JSON at all\n\n",
    b"data: an event without a name\n\n",
    b'event: resources\nid: 7\nretry: 50\ndata: {\ndata: "cpu": 1}\n\n',
)
"""What a later version of the service, or a proxy, may put into a stream."""
