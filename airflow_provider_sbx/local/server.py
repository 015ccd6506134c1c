"""Running the application: uvicorn on one socket, ready line, orderly end."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from airflow_provider_sbx.local.agent import linux
from airflow_provider_sbx.local.answers import answer_error, new_request_id
from airflow_provider_sbx.local.app import create_app
from airflow_provider_sbx.local.errors import invalid
from airflow_provider_sbx.local.isolation.choosing import IsolationUnavailableError, choose
from airflow_provider_sbx.local.settings import Settings

log = logging.getLogger("sbx-local")

_KEEP_ALIVE_SECONDS = 75
_END_SECONDS = 5


class Protocol(H11Protocol):
    """Refuses what is no HTTP as everything else is refused: in JSON, with a request id."""

    def send_400_response(self, msg: str) -> None:
        """Answer, and close the connection: where the next request would begin can't be told."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = answer_error(invalid(msg, "invalid_http"))
            headers = [
                *answer.raw_headers,
                (b"x-request-id", new_request_id().encode()),
                (b"connection", b"close"),
            ]
            for event in (
                h11.Response(status_code=answer.status_code, headers=headers),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        # Else an answer has begun, and can't be taken back.
        self.transport.close()


class Server(uvicorn.Server):
    """Says when it listens, and ends streams by ending what they follow."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets=sockets)
        if self.started:
            for server in self.servers:
                for listening in server.sockets:
                    host, port = listening.getsockname()[:2]
                    print(f"ready: http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
                    return

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop every sandbox first: uvicorn waits for open answers, and they for their processes."""
        await self.lifespan.shutdown()
        await super().shutdown(sockets=sockets)


def serve(settings: Settings, host: str, port: int) -> int:
    """Serve until SIGTERM or SIGINT.

    :param port: 0 for a free one.
    :return: the exit code: 0, or 3 where it could not start.
    """
    # The key is in this process's environment for as long as it lives.
    linux.hide_process()
    _raise_open_files()
    try:
        isolation = asyncio.run(choose(settings.isolation))
    except IsolationUnavailableError as error:
        log.error("the isolation asked for can't be had: %s", error)
        return 3
    config = uvicorn.Config(
        create_app(settings, isolation),
        host=host,
        port=port,
        loop="asyncio",
        http=Protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_END_SECONDS,
    )
    server = Server(config)
    # uvicorn ends in order and then raises the signal once more, for whoever was there before it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server.run()
    return 0 if server.started else 3


def _raise_open_files() -> None:
    """Open as many files as the machine allows: a process takes four, a stream one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
