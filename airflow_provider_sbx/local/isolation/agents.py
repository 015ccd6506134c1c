"""The server's side of an agent: start one in a room, have it start commands."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import airflow_provider_sbx
from airflow_provider_sbx.local.agent.wire import HEADER, frame
from airflow_provider_sbx.local.isolation.rooms import Room

log = logging.getLogger("sbx-local")

_READY_SECONDS = 30.0
_END_SECONDS = 10.0


class AgentError(Exception):
    """An agent could not be started, or is gone."""


class Command:
    """The server's channel to a command's supervisor.

    :param started: the answer to the start: `{"started": pid}` or `{"failed": {...}}`.
    :param on_end: called with the wait status, or None where the supervisor has gone without one.
    """

    def __init__(self, channel: socket.socket, on_end: Callable[[int | None], None]) -> None:
        self._channel = channel
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._pending = b""
        self._has_ended = False
        self.started: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        channel.setblocking(False)
        self._loop.add_reader(channel, self._read)

    def signal(self, number: int) -> None:
        """Send a signal to the command and whatever shares its process group."""
        self._tell({"signal": number})

    def kill(self) -> None:
        """Kill the command and all its descendants."""
        self._tell({"kill": True})

    def _tell(self, order: dict[str, Any]) -> None:
        if self._has_ended:
            return
        try:
            self._channel.send(json.dumps(order).encode("ascii") + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            return  # it has ended; the reader will hear of it

    def _read(self) -> None:
        try:
            data = self._channel.recv(4096)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if "ended" in message:
                self._end(message["ended"])
            elif not self.started.done():
                self.started.set_result(message)
        if not data:
            self._loop.remove_reader(self._channel)
            self._channel.close()
            if not self.started.done():
                self.started.set_result({"failed": {"step": "agent", "errno": None}})
            elif "started" in self.started.result():
                self._end(None)

    def _end(self, status: int | None) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._on_end(status)


class Agent:
    """A sandbox's agent, running."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket, room: Room) -> None:
        self._process = process
        self._room = room
        self._control = control
        self._sending = asyncio.Lock()

    @classmethod
    async def start(cls, room: Room) -> Agent:
        """Start an agent and have it prepare the sandbox.

        :raises AgentError: it can't.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            source = Path(airflow_provider_sbx.__file__).parent.parent
            code = (
                f"import sys; sys.path.append({str(source)!r}); "
                f"from airflow_provider_sbx.local.agent.main import main; main({theirs.fileno()})"
            )
            # -I -S: no environment, no site-packages; it starts in a few ms and trusts nothing else.
            argv = [*room.prefix, sys.executable, "-I", "-S", "-c", code]
            try:
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                    pass_fds=(theirs.fileno(),),
                    env={"PATH": os.environ.get("PATH", os.defpath)},
                )
            except OSError as error:
                ours.close()
                room.remove()
                raise AgentError(str(error)) from error
        ours.setblocking(False)
        agent = cls(process, ours, room)
        try:
            await agent._send(room.config)
            async with asyncio.timeout(_READY_SECONDS):
                answer = await agent._receive()
        except (OSError, EOFError, TimeoutError) as error:
            await agent.end()
            raise AgentError(f"the sandbox's first process did not come up: {error}") from error
        if "ready" not in answer:
            await agent.end()
            raise AgentError(str(answer.get("failed")))
        return agent

    async def spawn(
        self, request: dict[str, Any], stdio: Sequence[int], on_end: Callable[[int | None], None]
    ) -> Command:
        """Start a command; its channel tells how that went.

        :param request: `command`, `env`, `cwd`, `user`.
        :param stdio: its standard input, output and error; the caller's to close.
        :raises AgentError: the agent is gone.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            command = Command(ours, on_end)
            try:
                await self._send(request | {"nofile": SOFT_NOFILE}, (*stdio, theirs.fileno()))
            except OSError as error:
                raise AgentError("the sandbox is gone") from error
        return command

    async def end(self) -> None:
        """End the agent and with it every process of the sandbox."""
        self._control.close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            log.warning("a sandbox's first process had to be killed")
            self._process.kill()
            await self._process.wait()
        # The agent has done so, unless somebody killed it.
        await asyncio.to_thread(self._room.remove)

    async def wait(self) -> None:
        """Return when the agent has ended, whatever the reason."""
        await self._process.wait()

    async def _send(self, message: Any, descriptors: Sequence[int] = ()) -> None:
        loop = asyncio.get_running_loop()
        data = frame(message)
        async with self._sending:
            sent = 0
            while descriptors and not sent:
                try:
                    sent = socket.send_fds(self._control, [data], list(descriptors))
                except BlockingIOError:
                    await _writable(loop, self._control)
            await loop.sock_sendall(self._control, data[sent:])

    async def _receive(self) -> dict[str, Any]:
        (length,) = HEADER.unpack(await self._exactly(HEADER.size))
        answer: dict[str, Any] = json.loads(await self._exactly(length))
        return answer

    async def _exactly(self, count: int) -> bytes:
        loop = asyncio.get_running_loop()
        data = b""
        while len(data) < count:
            part = await loop.sock_recv(self._control, count - len(data))
            if not part:
                raise EOFError("it ended")
            data += part
        return data


async def _writable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready = loop.create_future()
    loop.add_writer(sock, ready.set_result, None)
    try:
        await ready
    finally:
        loop.remove_writer(sock)


SOFT_NOFILE = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
"""How many files a command may open, before the server raised that limit for itself."""
