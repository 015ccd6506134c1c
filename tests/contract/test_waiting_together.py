"""Many waits over one client, against the embedded server: what they ask for, and what they hold."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx

from airflow_provider_sbx.api.errors import NotFoundError
from airflow_provider_sbx.api.following import Following
from airflow_provider_sbx.api.steps import Entry, Notice, WaitStrategy
from airflow_provider_sbx.client import AsyncSandboxClient
from airflow_provider_sbx.follow import follow
from airflow_provider_sbx.sharing import limit_streams


class Recording(httpx.AsyncBaseTransport):
    """Sends over real sockets, and counts what is asked for and which streams are open."""

    def __init__(self) -> None:
        self._sent = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None))
        self.asked: Counter[str] = Counter()
        self.answered: Counter[tuple[str, int]] = Counter()
        self.open = self.most_open = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.partition("/processes")[2]
        kind = path.rpartition("/")[2] if path.count("/") > 1 else "get" if path else "list"
        self.asked[f"{request.method} {kind}"] += 1
        response = await self._sent.handle_async_request(request)
        self.answered[f"{request.method} {kind}", response.status_code] += 1
        if kind == "stream":
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            response.stream = Counted(response.stream, self)
        return response

    async def aclose(self) -> None:
        await self._sent.aclose()


class Counted(httpx.AsyncByteStream):
    """A stream that says when it is closed."""

    def __init__(self, stream: Any, recording: Recording) -> None:
        self._stream, self._recording = stream, recording

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        self._recording.open -= 1
        await self._stream.aclose()


def texts(entries: Sequence[Entry], *, notices: bool = False) -> list[str]:
    return [entry.text for entry in entries if isinstance(entry, Notice) == notices]


async def test_sixty_processes_of_a_sandbox_are_polled_for_by_a_list_an_interval(
    sbx_local: Any, box_of: Callable[..., Any]
) -> None:
    box, wire = box_of(sbx_local), Recording()
    ids = [box.start(f"read; echo of {n}; exit {n % 3}") for n in range(60)]

    async def wait(client: AsyncSandboxClient, process_id: str) -> tuple[int | None, list[str]]:
        entries: list[Entry] = []
        machine = Following(process_id, strategy=WaitStrategy.POLL, poll_seconds=0.5)
        outcome = await follow(client, box.id, machine, entries.extend)
        assert outcome is not None
        return outcome.exit_code, texts(entries)

    async with AsyncSandboxClient(sbx_local.api_key, sbx_local.url, transport=wire) as client:
        tasks = [asyncio.create_task(wait(client, each)) for each in ids]
        lost = asyncio.create_task(wait(client, "proc-none"))
        await asyncio.wait((lost,))
        clock, before = asyncio.get_running_loop().time, wire.asked["GET list"]
        began, lasted, looks = clock(), 0.0, 0
        async with asyncio.timeout(60):
            while lasted < 2.0 or looks < 2:
                await asyncio.sleep(0.05)
                lasted, looks = clock() - began, wire.asked["GET list"] - before
        quiet = wire.asked.copy()
        for each in ids:
            await asyncio.to_thread(box.stdin, each, data="\n")
        ends = await asyncio.gather(*tasks)

    assert isinstance(lost.exception(), NotFoundError)
    assert ends == [(n % 3, [f"of {n}"]) for n in range(60)]
    assert looks <= lasted / 0.45 + 1
    assert (quiet["GET get"], quiet["POST wait"]) == (1, 0)  # the one that there is not
    assert wire.answered["POST wait", 200] == 60  # one whose time was over before is asked again


async def test_twelve_waits_over_four_streams_lose_nothing_and_double_nothing(
    sbx_local: Any, box_of: Callable[..., Any]
) -> None:
    box, wire = box_of(sbx_local), Recording()
    script = "for i in $(seq 1 40); do echo {n}-$i; sleep 0.03; done; echo {n}-end >&2"
    ids = [box.start(script.format(n=n)) for n in range(12)]
    logs: list[list[Entry]] = [[] for _ in ids]

    async with AsyncSandboxClient(sbx_local.api_key, sbx_local.url, transport=wire) as client:
        limit_streams(client, 4)
        outcomes = await asyncio.gather(
            *(
                follow(client, box.id, Following(each, poll_seconds=0.5), log.extend)
                for each, log in zip(ids, logs, strict=True)
            )
        )

    for n, (outcome, log) in enumerate(zip(outcomes, logs, strict=True)):
        lines = [f"{n}-{i}" for i in range(1, 41)]
        assert [text for text in texts(log) if not text.endswith("end")] == lines
        assert texts(log).count(f"{n}-end") == 1
        assert outcome is not None
        assert (outcome.stdout, outcome.output_lost) == ("\n".join(lines) + "\n", False)
    told = [[text for text in texts(log, notices=True) if "max_streams" in text] for log in logs]
    assert [len(each) for each in told] == [0] * 4 + [1] * 8
    assert wire.most_open <= 4 + 1  # one for the output of those that have ended
    assert wire.asked["GET stream"] == 12
