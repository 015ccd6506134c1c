"""One task's run through a proxy that spoils its traffic, and what must hold of it whatever happens."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import random
import re
import secrets
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import httpx
import structlog
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_sbx.operators.process import SandboxProcessOperator
from airflow_provider_sbx.triggers.process import SETTLE_SECONDS
from tests.chaos.proxy import ChaosProxy, Rule
from tests.chaos.tally import TALLY

PATHS = ("worker", "trigger")
SECRET = "hunter2-is-in-no-log"
STORED_SECRET = "correct-horse-battery-staple"
_MOST_NOTICES = 14
_UNKEMPT = "cannot be called outside of the Task Runner"  # Airflow's, and true of these tests
_NAMED = re.compile(r"Output events? (\d+)(?: to (\d+))?: ")
# Plain HTTP: without `verify`, each client would read the certificates of all authorities.
_CHEAP: dict[str, Any] = {"timeout": 30, "verify": False, "trust_env": False}
_numbers = itertools.count(1)


def all_seeds() -> list[int]:
    """Return the seeds to run each row with: `SBX_CHAOS_SEEDS` many, or the one of `SBX_CHAOS_SEED`."""
    if (one := os.environ.get("SBX_CHAOS_SEED")) is not None:
        return [int(one)]
    return list(range(1, 1 + int(os.environ.get("SBX_CHAOS_SEEDS", "5"))))


class Log:
    """A task's log, kept."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.logger = structlog.wrap_logger(
            None, processors=[self._keep], wrapper_class=structlog.make_filtering_bound_logger(0)
        )

    def _keep(self, _: Any, level: str, record: Any) -> Any:
        self.records.append({**record, "level": level})
        raise structlog.DropEvent

    def lines(self, stream: str = "stdout") -> list[str]:
        """What the process wrote."""
        return [r["event"] for r in self.records if _is_output(r) and r.get("stream", "stdout") == stream]

    @property
    def notices(self) -> list[str]:
        """What was said beside it."""
        return [r["event"] for r in self.records if not _is_output(r) and _UNKEMPT not in r["event"]]

    @property
    def named(self) -> set[int]:
        """The sequence numbers that it says are lost."""
        numbers: set[int] = set()
        for notice in self.notices:
            if found := _NAMED.match(notice):
                numbers.update(range(int(found[1]), int(found[2] or found[1]) + 1))
        return numbers


def _is_output(record: dict[str, Any]) -> bool:
    return "timestamp" in record and not record["event"].startswith("Started process ")


_logs: dict[str, Log] = {}


class _Task(SandboxProcessOperator):
    """Logs to where its run looks. By a property, since Airflow drops an operator's logger with each copy."""

    @property
    def log(self) -> Any:
        return _logs[self.task_id].logger


class _TaskInstance(SimpleNamespace):
    """What a task sees of its task instance, with XCom as a dict."""

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, key: str, **_: Any) -> Any:
        return self.pushed.get(key)


class _Store(dict[str, Any]):
    def set(self, key: str, value: Any) -> None:
        self[key] = value


class Box:
    """A sandbox of a server, asked past all proxies."""

    def __init__(self, server: Any) -> None:
        self._control = httpx.Client(
            base_url=f"{server.url}/api", headers={"x-api-key": server.api_key}, **_CHEAP
        )
        answer = self._control.post("/sandbox", json={"imageName": "python"})
        answer.raise_for_status()
        self.id: str = answer.json()["id"]

    def _runtime(self) -> httpx.Client:
        detail = self._control.get(f"/sandbox/{self.id}").json()
        return httpx.Client(
            base_url=detail["runtime"]["baseUrl"],
            headers={"authorization": f"Bearer {detail['token']}"},
            **_CHEAP,
        )

    def exec(self, command: str) -> str:
        with self._runtime() as runtime:
            stdout: str = runtime.post("/exec", json={"command": command}).json()["result"]["stdout"]
            return stdout

    def wait_for_file(self, name: str) -> None:
        """Wait until it is in the home directory."""
        self.exec(f"cd; for i in $(seq 600); do [ ! -e {name} ] || break; sleep 0.05; done")

    def processes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        with self._runtime() as runtime:
            cursor: str | None = ""
            while cursor is not None:
                page = runtime.get(
                    "/processes", params={"limit": 1000} | ({"cursor": cursor} if cursor else {})
                )
                found += page.json()["data"]
                cursor = page.json()["next_cursor"]
        return found

    def kill(self, process_id: str) -> None:
        with self._runtime() as runtime:
            runtime.delete(f"/processes/{process_id}")

    def stop(self) -> None:
        self._control.put(f"/sandbox/{self.id}/stop")

    def close(self) -> None:
        self.stop()
        self._control.close()


@dataclass
class Script:
    """What the process of a run does: it writes numbered lines, as a person would watch them.

    :param lines: how many.
    :param pause: seconds between two of them.
    :param body: a shell command instead; with `expected`, what it writes to stdout. `$RUN` is its run's
        `Run.counter`.
    :param ending: the last command; its exit code is the process's.
    """

    lines: int = 24
    pause: float = 0.02
    body: str | None = None
    expected: list[str] | None = None
    ending: str = "exit 0"
    also_stderr: tuple[str, ...] = ()

    @property
    def stdout(self) -> list[str]:
        if self.expected is not None:
            return self.expected
        return [f"line {n} äöü € 𝄞" for n in range(1, self.lines + 1)]

    @property
    def stderr(self) -> list[str]:
        own = [] if self.body is not None else [f"err {n}" for n in range(6, self.lines + 1, 6)]
        return [*own, *self.also_stderr]

    def command(self, counter: str) -> str:
        body = self.body or (
            f'i=0; while [ $i -lt {self.lines} ]; do i=$((i+1)); echo "line $i äöü € 𝄞"; '
            f'[ $((i%6)) -ne 0 ] || echo "err $i" >&2; sleep {self.pause}; done'
        )
        return f"RUN={counter}\necho ran >> ~/$RUN\n{body}\n{self.ending}"


@dataclass
class Run:
    """One run of a row: what it is made of, and what came of it."""

    row: str
    path: str
    seed: int
    box: Box
    script: Script
    proxy: ChaosProxy
    options: dict[str, Any]
    log: Log = field(default_factory=Log)
    result: Any = None
    pushed: dict[str, Any] = field(default_factory=dict)
    error: BaseException | None = None
    shown: list[str] = field(default_factory=list)
    """All that Airflow keeps of it, to look for secrets in."""

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.row} {self.seed}")
        self.task_id = f"run-{next(_numbers)}-{secrets.token_hex(3)}"
        _logs[self.task_id] = self.log
        self.conn_id = f"chaos_{self.task_id.replace('-', '_')}"

    def __str__(self) -> str:
        return f"{self.path}, seed {self.seed}"

    @property
    def counter(self) -> str:
        return f"count-{self.task_id}"

    def operator(self, *, deferrable: bool) -> SandboxProcessOperator:
        options = {
            "task_id": self.task_id,
            "command": self.script.command(self.counter),
            "sandbox_id": self.box.id,
            "sbx_conn_id": self.conn_id,
            "env": {"PASSWORD": SECRET},
            "append_airflow_env": False,
            "deferrable": deferrable,
            "defer_after": self.rng.choice([0.0, 0.1, 0.2]),
            "kill_grace": 0.5,
        }
        return _Task(**(options | self.options))

    def existing(self, seqs: set[int]) -> set[int]:
        """Return those of some sequence numbers that there were: a busy machine makes fewer events."""
        return {seq for seq in seqs if seq <= self.proxy.last_seq}

    def wait_for_end(self) -> None:
        """Return once the process has ended."""
        mark = f"chaos/{self.task_id} "
        while any(p["status"] == "running" and mark in p["command"] for p in self.box.processes()):
            time.sleep(0.1)

    def later(self, action: Callable[[], object]) -> None:
        """Do something while the run goes on."""
        threading.Thread(target=action, daemon=True).start()

    def go(self) -> None:
        """Run the task on its path, to its end."""
        ti = _TaskInstance(
            dag_id="chaos",
            task_id=self.task_id,
            run_id="run",
            map_index=-1,
            try_number=1,
            max_tries=0,
            start_date=datetime.now(UTC),
            pushed=self.pushed,
        )
        context: Any = {"ti": ti, "dag_run": SimpleNamespace(start_date=None), "task_state_store": _Store()}
        try:
            self.result = self._worker(context) if self.path == "worker" else self._trigger(context)
        except Exception as error:  # noqa: BLE001 - whatever a task fails with is looked at
            self.error = error
            self.shown += [repr(error), *traceback.format_exception(error)]
        self.shown += [repr(self.log.records), repr(ti.pushed), repr(context["task_state_store"])]
        self.shown.append(repr(self.result))

    def _worker(self, context: Any) -> Any:
        return self.operator(deferrable=False).execute(context)

    def _trigger(self, context: Any) -> Any:
        try:
            return self.operator(deferrable=True).execute(context)
        except TaskDeferred as deferred:
            path, kwargs = deferred.trigger.serialize()
            self.shown += [repr(kwargs), repr(deferred.kwargs)]
            resume = deferred.kwargs or {}
        # As a triggerer does, but for the seconds that an event waits for the scheduler.
        kwargs = json.loads(json.dumps(kwargs))
        kwargs["deferred_at"] -= SETTLE_SECONDS
        module, _, name = path.rpartition(".")
        trigger = getattr(import_module(module), name)(**kwargs)
        trigger._log = self.log.logger
        (event,) = asyncio.run(_fired(trigger))
        self.shown.append(repr(event))
        return self.operator(deferrable=True).execute_complete(context, event, **resume)


async def _fired(trigger: Any) -> list[Any]:
    return [json.loads(json.dumps(event.payload)) async for event in trigger.run()]


Plan = Callable[[Run], Sequence[Rule]]


class Chaos:
    """Runs one row with all seeds and on both paths, at once, and holds them to what must hold.

    :param row: its name, a sentence.
    :param server: where the processes run.
    :param box: their sandbox.
    """

    def __init__(self, row: str, server: Any, box: Box) -> None:
        self.row = row
        self.server = server
        self.box = box
        self._host: str | None = None

    def at(self, host: str) -> Chaos:
        """Let the clients call the proxy by a name."""
        self._host = host
        return self

    def __call__(
        self,
        plan: Plan,
        script: Script | None = None,
        *,
        patience: float = 60.0,
        request_timeout: float = 10.0,
        own_boxes: bool = False,
        succeeds: bool = True,
        may_lose: bool = False,
        whole_lines: bool = True,
        starts: int = 1,
        leaves_running: bool = False,
        seeds: Sequence[int] | None = None,
        host: str | None = None,
        **options: Any,
    ) -> list[Run]:
        """Run it.

        :param plan: the rules for a run's proxy.
        :param patience: how long the service may be out of reach, in seconds.
        :param request_timeout: longest wait for an answer, in seconds.
        :param own_boxes: a sandbox for each run.
        :param succeeds: the task must succeed, with all output.
        :param may_lose: some lines may be lost, by name.
        :param whole_lines: each line stands in one record; else it may be cut in two.
        :param starts: how many processes there must be.
        :param leaves_running: the process may run on; it is ended here.
        :param seeds: which; by default as many as `all_seeds` says.
        :param host: the service's address; by default each run's proxy.
        :param options: for the operator.
        """
        runs = []
        for seed in all_seeds() if seeds is None else seeds:
            for path in PATHS:
                box = Box(self.server) if own_boxes else self.box
                script = script or Script()
                runs.append(Run(self.row, path, seed, box, script, ChaosProxy(self.server.url), options))
        watch = _Watch()
        logging.getLogger().addHandler(watch)
        try:
            for run in runs:
                run.proxy.up()
                run.proxy.rules += plan(run)
                self._connect(run, host, patience, request_timeout)
            with ThreadPoolExecutor(len(runs)) as pool:
                list(pool.map(Run.go, runs))
        finally:
            logging.getLogger().removeHandler(watch)
            for run in runs:
                run.proxy.down()
        problems = []
        boxes = {run.box.id: run.box for run in runs}.values()
        seen = _Seen.at(boxes, leaves_running=leaves_running, stopped=own_boxes)
        for run in runs:
            found = list(
                self._problems(
                    run, seen, succeeds=succeeds, may_lose=may_lose, whole_lines=whole_lines, starts=starts
                )
            )
            leaked = self._leaks(run, watch.messages)
            if found or leaked:
                problems.append(self._told(run, [*found, *leaked]))
        if own_boxes:
            for box in boxes:
                box.close()
        assert not problems, "\n\n".join(problems)
        return runs

    def _connect(self, run: Run, host: str | None, patience: float, request_timeout: float) -> None:
        host = host or f"http://{self._host}:{run.proxy.port}" if self._host else host or run.proxy.url
        extra = {"patience_seconds": patience, "request_timeout_seconds": request_timeout}
        os.environ[f"AIRFLOW_CONN_{run.conn_id.upper()}"] = json.dumps(
            {"conn_type": "sbx", "host": host, "password": self.server.api_key, "extra": extra}
        )

    def _problems(
        self, run: Run, seen: _Seen, *, succeeds: bool, may_lose: bool, whole_lines: bool, starts: int
    ) -> Any:
        count = TALLY.of(self.row, run.path)
        count.seeds.append(run.seed)
        processes = seen.of(run)
        ran = seen.counts.get(run.counter, 0)
        count.processes_doubled += max(0, len(processes) - starts, ran - starts)
        left = [p for p in processes if p["status"] in ("running", "queued")]
        count.processes_left += len(left)
        if len(processes) != starts and seen.is_whole:
            yield f"{len(processes)} processes instead of {starts}"
        if ran != starts and seen.is_whole:
            yield f"the command ran {ran} times instead of {starts}"
        if left:
            yield f"{len(left)} processes still run"
        if succeeds and run.error is not None:
            yield f"it failed: {run.error!r}"
        if not succeeds and run.error is None:
            yield f"it succeeded: {run.result!r}"
        for stream, wanted in (("stdout", run.script.stdout), ("stderr", run.script.stderr)):
            got = run.log.lines(stream)
            if not whole_lines:
                wanted, got = ["".join(wanted)], ["".join(got)]
            missing, extra = Counter(wanted) - Counter(got), Counter(got) - Counter(wanted)
            count.doubled += extra.total()
            named = bool(run.log.named)
            if may_lose and named:
                count.named += missing.total()
            elif succeeds:
                count.lost += missing.total()
            if extra:
                yield f"{stream}: doubled or strange: {list(extra)[:5]}"
            if missing and succeeds and not (may_lose and named):
                yield f"{stream}: missing: {list(missing)[:5]} of {len(wanted)}"
            order = [line for line in wanted if line in set(got)]
            if not extra and got != order:
                yield f"{stream}: out of order: {got[:10]}"
        if succeeds and isinstance(run.result, dict):
            if not may_lose and run.result["output_lost"]:
                yield "the result says that output was lost"
            if not may_lose and run.result["stdout"].splitlines() != run.script.stdout:
                yield f"the result's stdout is {run.result['stdout'][-200:]!r}"
            if may_lose and run.log.named and not run.result["output_lost"]:
                yield "output was lost, and the result does not say so"
        if len(run.log.notices) > _MOST_NOTICES:
            yield f"the log is flooded with {len(run.log.notices)} notices"

    def _leaks(self, run: Run, messages: list[str]) -> list[str]:
        needles = {
            self.server.api_key: "the API key",
            SECRET: "a secret value",
            STORED_SECRET: "a stored secret",
        }
        needles |= dict.fromkeys(run.proxy.tokens, "a token")
        text = "\n".join([*run.shown, *messages])
        return [f"{what} is shown" for needle, what in needles.items() if needle in text]

    def _told(self, run: Run, problems: list[str]) -> str:
        asked = "\n    ".join(f"{r.method} {r.target[:90]}" for r in run.proxy.requests[-40:])
        notices = "\n    ".join(run.log.notices)
        return (
            f"{self.row} ({run}; replay with SBX_CHAOS_SEED={run.seed}):\n  "
            + "\n  ".join(problems)
            + f"\n  notices:\n    {notices}\n  asked:\n    {asked}"
        )


class _Watch(logging.Handler):
    """Keeps what all other loggers say."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@dataclass
class _Seen:
    """What the server and the sandboxes say of all runs."""

    processes: list[dict[str, Any]]
    counts: dict[str, int]
    is_whole: bool

    @classmethod
    def at(cls, boxes: Any, *, leaves_running: bool, stopped: bool) -> _Seen:
        processes: list[dict[str, Any]] = []
        counts: dict[str, int] = {}
        is_whole = True
        for box in boxes:
            try:
                found = box.processes()
                if leaves_running:
                    for process in found:
                        if process["status"] in ("running", "queued"):
                            box.kill(process["id"])
                    found = [process | {"status": "killed"} for process in found]
                processes += found
                for line in box.exec("cd; wc -l count-* 2>/dev/null").splitlines():
                    number, name = line.split()
                    counts[name] = int(number)
            except (KeyError, httpx.HTTPError):
                # It was stopped in the row's course, and all its processes with it.
                assert stopped
                is_whole = False
        return cls(processes, counts, is_whole)

    def of(self, run: Run) -> list[dict[str, Any]]:
        mark = f"chaos/{run.task_id} "
        return [p for p in self.processes if mark in p["command"]]
