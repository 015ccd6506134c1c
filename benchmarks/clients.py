"""The clients that are compared, behind one face.

`ours` does all that the provider does: it follows the stream by `follow()`, decodes it and puts lines
together. `sdk` is the vendor's, used as its documentation shows. `floor` is the least that a client on
aiohttp can do: it reads lines and parses their JSON, and neither checks nor repeats anything.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Awaitable
from typing import Any, Protocol

API_KEY = "hb-benchmark"
MAX_STREAMS = 100_000  # what is measured is the stream, not what the provider does where it has too many


class Client(Protocol):
    """What a client must do."""

    async def open(self) -> None:
        """Make ready, on the loop."""

    async def status(self, process_id: str) -> None:
        """Read a process."""

    async def stream(self, process_id: str) -> int:
        """Read a process's output to its end; return its `completed_at`."""

    async def wait(self, process_id: str) -> int:
        """Wait for a process by long-polls; return its `completed_at`."""

    async def close(self) -> None:
        """Close the connections."""


def sandbox_of(process_id: str) -> str:
    """Return the sandbox of a process: 50 share one, and 100 of those called `many`."""
    number = int(process_id.rpartition("-")[2])
    return f"sc-{number // 100}" if process_id.startswith("many") else f"sb-{number // 50}"


class OurClient:
    """The provider's."""

    def __init__(self, port: int) -> None:
        self._base_url = f"https://localhost:{port}"

    async def open(self) -> None:
        """Make the client."""
        from airflow_provider_sbx.api import calls
        from airflow_provider_sbx.client import AsyncSandboxClient
        from airflow_provider_sbx.sharing import limit_streams

        self._calls = calls
        self._client = await AsyncSandboxClient.make(API_KEY, self._base_url)
        limit_streams(self._client, MAX_STREAMS)

    async def status(self, process_id: str) -> None:
        """Read a process, with the retries that an operator has."""
        await self._client.send(self._calls.get_process(process_id), sandbox_of(process_id))

    async def stream(self, process_id: str) -> int:
        """Follow as a trigger does."""
        return await self._follow(process_id, "stream")

    async def wait(self, process_id: str) -> int:
        """Follow as a trigger with `wait_strategy="wait"` does."""
        return await self._follow(process_id, "wait")

    async def poll(self, process_id: str, seconds: float) -> int:
        """Follow as a trigger with `wait_strategy="poll"` does: one look a sandbox."""
        return await self._follow(process_id, "poll", poll_seconds=seconds)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _follow(self, process_id: str, strategy: str, **options: Any) -> int:
        from airflow_provider_sbx.api.following import Following
        from airflow_provider_sbx.api.steps import WaitStrategy
        from airflow_provider_sbx.follow import follow

        machine = Following(
            process_id, strategy=WaitStrategy(strategy), output_bytes=0, log_bytes=1 << 30, **options
        )
        outcome = await follow(self._client, sandbox_of(process_id), machine, lambda _: None)
        assert outcome is not None
        assert outcome.completed_at is not None
        return outcome.completed_at


class SdkClient:
    """The vendor's."""

    def __init__(self, port: int) -> None:
        self._base_url = f"https://localhost:{port}"
        self._boxes: dict[str, Awaitable[Any]] = {}

    async def open(self) -> None:
        """Make the client."""
        from hyperbrowser import AsyncHyperbrowser  # type: ignore[import-not-found]

        self._client = AsyncHyperbrowser(api_key=API_KEY, base_url=self._base_url)

    async def status(self, process_id: str) -> None:
        """Read a process."""
        await self._process(process_id)

    async def stream(self, process_id: str) -> int:
        """Read the events; its `stream` puts no lines together."""
        process = await self._process(process_id)
        completed_at = 0
        async for event in process.stream():
            if event.type == "exit":
                completed_at = event.result.completed_at
        return completed_at

    async def wait(self, process_id: str) -> int:
        """Hold one long-poll after another; their time being up is an error to it."""
        from hyperbrowser.exceptions import HyperbrowserError  # type: ignore[import-not-found]

        process = await self._process(process_id)
        while True:
            try:
                completed_at: int = (await process.wait(timeout_sec=25)).completed_at
            except HyperbrowserError as error:
                if error.status_code != 408:
                    raise
            else:
                return completed_at

    async def close(self) -> None:
        """Close what it has."""
        await self._client.close()

    async def _process(self, process_id: str) -> Any:
        import asyncio

        sandbox_id = sandbox_of(process_id)
        if sandbox_id not in self._boxes:
            self._boxes[sandbox_id] = asyncio.ensure_future(self._client.sandboxes.get(sandbox_id))
        return await (await self._boxes[sandbox_id]).get_process(process_id)


class FloorClient:
    """As little as can be done."""

    def __init__(self, port: int) -> None:
        self._base_url = f"https://localhost:{port}"

    async def open(self) -> None:
        """Make the session."""
        import aiohttp

        context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=context, keepalive_timeout=60),
            headers={"Authorization": f"Bearer token-{'t' * 300}"},
            timeout=aiohttp.ClientTimeout(sock_read=60),
        )

    async def status(self, process_id: str) -> None:
        """Read a process."""
        async with self._session.get(self._url(process_id)) as response:
            json.loads(await response.read())

    async def stream(self, process_id: str) -> int:
        """Read lines and parse what they hold."""
        data: Any = None
        async with self._session.get(self._url(process_id, "/stream")) as response:
            async for line in response.content:
                if line.startswith(b"data:"):
                    data = json.loads(line[5:])
        return int(data["completed_at"])

    async def wait(self, process_id: str) -> int:
        """Hold one long-poll after another."""
        while True:
            url = self._url(process_id, "/wait")
            async with self._session.post(url, json={"timeoutMs": 25_000}) as response:
                answer = json.loads(await response.read())
                if response.status == 200:
                    return int(answer["result"]["completed_at"])

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    def _url(self, process_id: str, what: str = "") -> str:
        return f"{self._base_url}/sandbox/{sandbox_of(process_id)}/processes/{process_id}{what}"


CLIENTS: dict[str, type[OurClient] | type[SdkClient] | type[FloorClient]] = {
    "ours": OurClient,
    "sdk": SdkClient,
    "floor": FloorClient,
}
