"""Messages between the server and an agent: a length, JSON, and file descriptors beside it."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

HEADER = struct.Struct("!I")
MOST_DESCRIPTORS = 8


def frame(message: Mapping[str, Any]) -> bytes:
    """Return a message as bytes, with its length before it."""
    body = json.dumps(message).encode("ascii")
    return HEADER.pack(len(body)) + body


def send(channel: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send one message over a blocking socket.

    :raises OSError: nobody reads it any more.
    """
    data = frame(message)
    # Descriptors travel with the first byte, so that they can't arrive after their message.
    sent = socket.send_fds(channel, [data], list(descriptors)) if descriptors else 0
    channel.sendall(data[sent:])


def receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Return the next message of a blocking socket and its descriptors; None once it is closed."""
    header, descriptors, _, _ = socket.recv_fds(
        channel, HEADER.size, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
    )
    if not header:
        return None
    header += _exactly(channel, HEADER.size - len(header))
    (length,) = HEADER.unpack(header)
    return json.loads(_exactly(channel, length)), descriptors


def _exactly(channel: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = channel.recv(min(count - len(parts), 1 << 20))
        if not part:
            raise EOFError("the channel closed within a message")
        parts += part
    return bytes(parts)
