"""One measurement of one client, in a process of its own; prints JSON.

`python -m benchmarks.measure '{"client": "ours", "row": "status", ...}'`. CPU is this process's, so
that a busy machine makes a measurement longer but hardly dearer.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.clients import CLIENTS, Client, OurClient
from benchmarks.control import Control, raise_open_files

_LAG_SECONDS = 0.01
_OPENING_AT_ONCE = 32
_ENDS_PER_SECOND = 250.0

Figures = dict[str, float]


async def status(client: Client, _: Control, *, in_flight: int, requests: int) -> Figures:
    """Return the CPU of a status request where so many are under way at a time."""
    process_ids = [f"still-{n}" for n in range(in_flight)]
    await asyncio.gather(*map(client.status, process_ids))  # opens the connections
    left = requests

    async def ask(process_id: str) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await client.status(process_id)

    begun = time.process_time()
    await asyncio.gather(*map(ask, process_ids))
    return {"cpu_ms_each": (time.process_time() - begun) * 1000 / requests}


async def events(client: Client, _: Control, *, kind: str, bytes_each: int, count: int) -> Figures:
    """Return the CPU of the events of a stream.

    :param kind: `burst` or `paced`; see `server.py`.
    """
    await client.stream(f"{kind}-50-{bytes_each}-0")
    begun = time.process_time()
    await client.stream(f"{kind}-{count}-{bytes_each}-0")
    return {"cpu_ms_per_1000": (time.process_time() - begun) * 1e6 / count}


async def hold(client: Client, control: Control, *, how: str, count: int, seconds: float) -> Figures:
    """Return what it costs to hold quiet streams or long-polls, and how late their ends are seen."""
    await client.status("still-0")
    read = client.stream if how == "stream" else client.wait
    delays: list[float] = []

    async def follow(process_id: str) -> None:
        completed_at = await read(process_id)
        delays.append((time.time_ns() // 1000 - completed_at) / 1000)

    gc.collect()
    memory, cpu, wall = _memory_kb(), time.process_time(), time.monotonic()
    tasks = await _open(follow, control, count)
    opening_cpu, opening_wall = time.process_time() - cpu, time.monotonic() - wall
    await asyncio.sleep(1.0)
    gc.collect()
    memory = _memory_kb() - memory
    cpu, wall = time.process_time(), time.monotonic()
    lags = await _lags(asyncio.sleep(seconds))
    held_cpu, held_wall = time.process_time() - cpu, time.monotonic() - wall
    await control.end_all(_ENDS_PER_SECOND)
    await asyncio.gather(*tasks)
    return {
        "open_cpu_ms_each": opening_cpu * 1000 / count,
        "open_seconds": opening_wall,
        "memory_kb_each": memory / count,
        "cpu_percent": 100 * held_cpu / held_wall,
        "lag_ms_p99": _percentile(lags, 99),
        "notice_ms_median": statistics.median(delays),
        "notice_ms_p99": _percentile(delays, 99),
    }


async def noisy(client: Client, control: Control, *, quiet: int, megabytes: int, line_bytes: int) -> Figures:
    """Return what a process that writes very much does to quiet ones."""
    tasks = await _open(client.stream, control, quiet)
    cpu, wall = time.process_time(), time.monotonic()
    lags = await _lags(client.stream(f"flood-{megabytes}-{line_bytes}-0"))
    figures = {
        "seconds": time.monotonic() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "lag_ms_p99": _percentile(lags, 99),
        "lag_ms_worst": max(lags),
    }
    await control.end_all(_ENDS_PER_SECOND)
    await asyncio.gather(*tasks)
    return figures


async def poll(
    client: OurClient, _: Control, *, count: int, per_sandbox: int, every: float, seconds: float
) -> Figures:
    """Return what it costs to poll quiet processes, of which so many share a sandbox."""
    name = "many" if per_sandbox == 100 else "still"
    await client.status("still-0")
    gc.collect()
    memory = _memory_kb()
    tasks = [asyncio.ensure_future(client.poll(f"{name}-{n}", every)) for n in range(count)]
    await asyncio.sleep(2 * every)
    gc.collect()
    memory = _memory_kb() - memory
    cpu, wall = time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    held_cpu, held_wall = time.process_time() - cpu, time.monotonic() - wall
    # Apart: to look at the loop a hundred times a second takes about as much as the polls.
    lags = await _lags(asyncio.sleep(2 * every))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "cpu_us_a_check": 1e6 * held_cpu * every / held_wall / count,
        "memory_kb_each": memory / count,
        "cpu_percent": 100 * held_cpu / held_wall,
        "lag_ms_p99": _percentile(lags, 99),
    }


ROWS: dict[str, Callable[..., Awaitable[Figures]]] = {
    "status": status,
    "events": events,
    "hold": hold,
    "noisy": noisy,
    "poll": poll,
}


async def measure(client: str, row: str, port: int, control_port: int, **options: Any) -> Figures:
    """Return the figures of one row of one client."""
    made = CLIENTS[client](port)
    await made.open()
    try:
        async with Control(control_port) as control:
            return await ROWS[row](made, control, **options)
    finally:
        await made.close()


async def _open(
    follow: Callable[[str], Awaitable[Any]], control: Control, count: int
) -> Sequence[asyncio.Future[Any]]:
    """Begin to follow so many, some at a time: TLS handshakes all at once would make all of them late."""
    tasks: list[asyncio.Future[Any]] = []
    ended: list[asyncio.Future[Any]] = []
    held = await control.held()
    # Not all: at any moment some long-polls stand between two turns.
    while len(tasks) < count or held < 0.99 * count:
        while len(tasks) < min(count, held + _OPENING_AT_ONCE):
            task = asyncio.ensure_future(follow(f"still-{len(tasks)}"))
            task.add_done_callback(ended.append)
            tasks.append(task)
        await asyncio.sleep(0.01)
        if ended:
            raise RuntimeError("a wait ended before it was told to") from ended[0].exception()
        held = await control.held()
    return tasks


async def _lags(awaited: Awaitable[Any]) -> list[float]:
    """Return by how many milliseconds the loop was late, while something was awaited."""
    lags = []
    task = asyncio.ensure_future(awaited)
    while not task.done():
        begun = time.monotonic()
        await asyncio.sleep(_LAG_SECONDS)
        lags.append((time.monotonic() - begun - _LAG_SECONDS) * 1000)
    await task
    return lags


def _percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _memory_kb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1000


if __name__ == "__main__":
    raise_open_files()
    print(json.dumps(asyncio.run(measure(**json.loads(sys.argv[1])))))
