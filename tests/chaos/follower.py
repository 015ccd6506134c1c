"""A process of its own that follows others with very much output, and measures itself: its memory, its pace.

    python -m tests.chaos.follower PATH CONN_ID SANDBOX_ID < JOBS

`JOBS` is a JSON object: name of a job -> the operator's options for it. It prints one of name -> what
was seen.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import statistics
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import structlog
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_sbx.hooks.sandbox import SandboxHook
from airflow_provider_sbx.operators.process import SandboxProcessOperator
from airflow_provider_sbx.triggers.process import SETTLE_SECONDS, SandboxProcessTrigger

QUIET_TRIGGERS = 20


class Sink:
    """A task's log that keeps no line, only what they come to."""

    def __init__(self) -> None:
        self.lines = self.characters = self.longest = 0
        self.notices: list[str] = []
        self._hash = hashlib.sha256()
        self.logger = structlog.wrap_logger(
            None, processors=[self._take], wrapper_class=structlog.make_filtering_bound_logger(0)
        )

    def _take(self, _: Any, __: str, record: Any) -> Any:
        text: str = record["event"]
        if "timestamp" in record and not text.startswith("Started process "):
            self.lines += 1
            self.characters += len(text)
            self.longest = max(self.longest, len(text))
            self._hash.update(text.encode("utf-8", "replace"))
        else:
            self.notices.append(text)
        raise structlog.DropEvent

    def seen(self) -> dict[str, Any]:
        return {
            "lines": self.lines,
            "characters": self.characters,
            "longest": self.longest,
            "sha256": self._hash.hexdigest(),
            "notices": self.notices,
        }


sinks: dict[str, Sink] = {}


class Task(SandboxProcessOperator):
    """Logs into a sink."""

    @property
    def log(self) -> Any:
        return sinks[self.task_id].logger


class Memory:
    """The most memory that this process held while it was entered, in bytes."""

    def __enter__(self) -> Memory:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, resident_bytes())


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def context(name: str) -> Any:
    ti = SimpleNamespace(
        dag_id="volume",
        task_id=name,
        run_id="run",
        map_index=-1,
        try_number=1,
        max_tries=0,
        start_date=datetime.now(UTC),
        xcom_push=lambda key, value: None,
    )
    return {"ti": ti, "dag_run": SimpleNamespace(start_date=None)}


def task(name: str, job: dict[str, Any], where: dict[str, str], *, deferrable: bool) -> Task:
    sinks[name] = Sink()
    return Task(
        task_id=name,
        append_airflow_env=False,
        deferrable=deferrable,
        defer_after=0.0,
        **job,
        **where,
    )


def work(name: str, job: dict[str, Any], where: dict[str, str]) -> dict[str, Any]:
    """Run a job as a worker does that waits for it."""
    operator = task(name, job, where, deferrable=False)
    with Memory() as memory:
        began = time.monotonic()
        result = operator.execute(context(name))
        seconds = time.monotonic() - began
    kept = len(json.dumps(result))
    return {"peak": memory.peak, "seconds": seconds, "kept": kept, **sinks[name].seen()}


def deferred(name: str, job: dict[str, Any], where: dict[str, str]) -> SandboxProcessTrigger:
    # Between worker and triggerer nobody reads, and a full-speed writer outruns what the service keeps.
    waits = f"until [ -e ~/go-{name} ]; do sleep 0.05; done; {job['command']}"
    try:
        task(name, job | {"command": waits}, where, deferrable=True).execute(context(name))
    except TaskDeferred as handed_over:
        kwargs = json.loads(json.dumps(handed_over.trigger.serialize()[1]))
    kwargs["deferred_at"] -= SETTLE_SECONDS
    trigger = SandboxProcessTrigger(**kwargs)
    trigger._log = sinks[name].logger
    return trigger


def let_go(name: str, where: dict[str, str]) -> None:
    with SandboxHook(where["sbx_conn_id"]) as hook:
        hook.exec(where["sandbox_id"], f"touch ~/go-{name}")


async def fired(trigger: SandboxProcessTrigger) -> dict[str, Any]:
    (event,) = [event.payload async for event in trigger.run()]
    return dict(event)


async def lags(into: list[float]) -> None:
    """Note how much later than asked for the event loop comes back."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.01)
        into.append(time.monotonic() - began - 0.01)


def trigger(jobs: dict[str, Any], where: dict[str, str]) -> dict[str, Any]:
    """Run the jobs one after the other as a triggerer does, beside quiet ones."""
    quiet = [deferred(f"quiet-{n}", {"command": "sleep 600"}, where) for n in range(QUIET_TRIGGERS)]
    seen: dict[str, Any] = {}

    async def run() -> None:
        beside = [asyncio.create_task(fired(one)) for one in quiet]
        await asyncio.sleep(0.5)
        for name, job in jobs.items():
            late: list[float] = []
            # Its worker's part is not the triggerer's: off the loop.
            loud = await asyncio.to_thread(deferred, name, job, where)
            watching = asyncio.create_task(lags(late))
            with Memory() as memory:
                following = asyncio.create_task(fired(loud))
                await asyncio.sleep(0.5)
                await asyncio.to_thread(let_go, name, where)
                began = time.monotonic()
                event = await following
                seconds = time.monotonic() - began
            watching.cancel()
            # A short job has few samples: the last hundredth is its longest, which may be the machine's.
            counted = sorted(late)[:-1]
            p99 = statistics.quantiles(counted, n=100)[98] if len(counted) > 1 else 0.0
            seen[name] = {
                "peak": memory.peak,
                "seconds": seconds,
                "kept": len(json.dumps(event)),
                "lag_p99": p99,
                **sinks[name].seen(),
            }
        assert not any(one.done() for one in beside), "a quiet one ended"
        for one in beside:
            one.cancel()
        await asyncio.gather(*beside, return_exceptions=True)

    asyncio.run(run())
    return seen


def main() -> None:
    path, conn_id, sandbox_id = sys.argv[1:]
    where = {"sbx_conn_id": conn_id, "sandbox_id": sandbox_id}
    jobs: dict[str, Any] = json.load(sys.stdin)
    work("warm-up", {"command": "echo warm"}, where)  # all that is loaded at the first task counts as idle
    idle = resident_bytes()
    seen = (
        trigger(jobs, where) if path == "trigger" else {name: work(name, jobs[name], where) for name in jobs}
    )
    for job in seen.values():
        job["over_idle"] = job.pop("peak") - idle
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
