"""What server and clients share: the orders to the server, and the limit of open files.

Neither the vendor's environment nor the server has more than the standard library for it.
"""

from __future__ import annotations

import asyncio
import resource


def raise_open_files() -> None:
    """Allow as many open files as the machine lets: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Control:
    """The control port of the server.

    :param port: where it listens.
    """

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Control:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def held(self) -> int:
        """Return how many streams and long-polls wait."""
        return await self._ask("held")

    async def end_all(self, per_second: float) -> None:
        """End all that waits, so many a second; return when all is ended."""
        await self._ask(f"end {per_second}")

    async def _ask(self, order: str) -> int:
        self._writer.write(f"{order}\n".encode())
        return int(await self._reader.readline())
