"""A whole cluster whose parts are killed at random: each command runs once, and each line stands once."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from airflow_provider_sbx.hooks.sandbox import SandboxHook
from dev.cluster import SCHEDULERS, TRIGGERERS, WORKERS, Cluster

LINES = [f"line {n}" for n in range(1, 101)]
DRAIN_SECONDS = 1500


@dataclass
class Report:
    """What came of it."""

    seed: int
    seconds: float
    tasks: int = 0
    tries: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    lines_lost: int = 0
    lines_doubled: int = 0
    lines_out_of_order: int = 0
    commands_doubled: int = 0
    commands_not_run: int = 0
    processes_left: int = 0
    sandboxes_left: int = 0
    wrong_results: int = 0
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        rows = {name: value for name, value in asdict(self).items() if name != "problems"}
        rows["kills"] = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        table = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in rows.items())
        return "\n".join([f"| soak | |\n| --- | --- |\n{table}", *self.problems])


class Killer:
    """Kills parts of a cluster at random and starts them again."""

    def __init__(self, cluster: Cluster, chance: random.Random, report: Report) -> None:
        self._cluster = cluster
        self._chance = chance
        self._report = report
        self._down: dict[str, float] = {}

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self._chance.uniform(3, 10))
            self._start_again()
            kind = self._chance.choice(["worker", "task", "task", "triggerer", "scheduler"])
            if kind == "task":
                self._kill_a_task()
            else:
                names = {"worker": WORKERS, "triggerer": TRIGGERERS, "scheduler": SCHEDULERS}[kind]
                self._lose(kind, self._chance.choice(names))
        self.heal()

    def heal(self) -> None:
        """Start all that is down."""
        while self._down:
            time.sleep(0.5)
            self._start_again()

    def _lose(self, kind: str, name: str) -> None:
        if name in self._down:
            return
        self._cluster.lose(name)
        self._report.kills[kind] += 1
        self._down[name] = time.monotonic() + self._chance.uniform(1, 8)

    def _kill_a_task(self) -> None:
        pids = sorted(self._cluster.task_processes())
        if pids:
            try:
                os.kill(self._chance.choice(pids), signal.SIGKILL)
            except ProcessLookupError:
                return
            self._report.kills["task"] += 1

    def _start_again(self) -> None:
        for name, at in list(self._down.items()):
            if time.monotonic() >= at:
                del self._down[name]
                self._cluster.start_component(name)


def test_whatever_dies_each_command_runs_once_and_each_line_stands_once(
    cluster: Cluster, told: Any, shared_sandbox: str, seed: int
) -> None:
    seconds = float(os.environ.get("SBX_SOAK_SECONDS", "300"))
    report = Report(seed, seconds)
    print(f"\nseed {seed}: SBX_SOAK_SEED={seed} makes the same choices", flush=True)
    run_id = cluster.trigger("soak", timeout=180)
    killer = Killer(cluster, random.Random(seed), report)
    killer.run(seconds)
    state = cluster.wait_for_run("soak", run_id, timeout=DRAIN_SECONDS)

    instances = cluster.task_instances("soak", run_id)
    report.tasks, report.tries = len(instances), sum(ti.try_number for ti in instances)
    for ti in instances:
        for problem in _problems(cluster, told.counts, run_id, ti, report):
            report.problems.append(f"{ti.label} (try {ti.try_number}): {problem}")
    _look_for_leftovers(shared_sandbox, report)
    print(report.text(), flush=True)
    if path := os.environ.get("SBX_SOAK_JSON"):
        Path(path).write_text(json.dumps(asdict(report), indent=2))
    assert state == "success", cluster.process("scheduler").log_tail()
    assert not report.problems


def _problems(
    cluster: Cluster, counts: Counter[str], run_id: str, ti: Any, report: Report
) -> Iterator[str]:
    name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}_{ti.map_index}"
    if ti.state != "success":
        yield f"it ended {ti.state}"
    began, ended = counts[f"began {name}"], counts[f"ended {name}"]
    if began != 1 or ended != 1:
        report.commands_doubled += max(0, began - 1)
        report.commands_not_run += int(ended == 0)
        yield f"its command began {began} times and ended {ended} times"
    log = cluster.task_log("soak", run_id, ti.task_id, ti.try_number, ti.map_index)
    lines = [record["event"] for record in log if record["event"].startswith("line ")]
    if lines != LINES:
        wanted, got = Counter(LINES), Counter(lines)
        lost, doubled = wanted - got, got - wanted
        report.lines_lost += lost.total()
        report.lines_doubled += doubled.total()
        report.lines_out_of_order += not (lost or doubled)
        yield f"lines lost {list(lost)[:5]}, doubled {list(doubled)[:5]}, of {len(lines)}"
    result = cluster.xcom("soak", run_id, ti.task_id, map_index=ti.map_index) or {}
    if (result.get("exit_code"), result.get("output_lost")) != (0, False) or result["stdout"].split("\n")[
        :-1
    ] != LINES:
        report.wrong_results += 1
        yield f"its result is {result}"


def _look_for_leftovers(shared_sandbox: str, report: Report) -> None:
    with SandboxHook("sbx_soak") as hook:
        for process in hook.list_processes(shared_sandbox).data:
            if not process.status.is_terminal:
                report.processes_left += 1
                report.problems.append(f"process {process.id} still runs: {process.command[:100]}")
        for sandbox in hook.list_sandboxes(status="active").sandboxes:
            if sandbox.id != shared_sandbox:
                report.sandboxes_left += 1
                report.problems.append(f"sandbox {sandbox.id} is left")


def test_restarts_of_what_no_process_needs_have_no_effect(
    cluster: Cluster, told: Any, shared_sandbox: str, seed: int
) -> None:
    """The database is restarted, the api-server, and both schedulers are killed, while tasks run."""
    before = told.counts.copy()
    run_id = cluster.trigger("soak_restarts", timeout=180)
    for task in ("worker", "triggerer"):
        cluster.wait_for(
            lambda task=task: told.counts[f"began {task}"] > before[f"began {task}"], 120, f"{task} to begin"
        )
    cluster.wait_for_task("soak_restarts", run_id, "triggerer", {"deferred"}, timeout=120)
    cluster.database.restart()
    time.sleep(2)
    cluster.restart("api-server", timeout=120)
    for name in SCHEDULERS:
        cluster.lose(name)
    for name in SCHEDULERS:
        cluster.start_component(name)

    assert cluster.wait_for_run("soak_restarts", run_id, timeout=300) == "success"
    for ti in cluster.task_instances("soak_restarts", run_id):
        log = cluster.task_log("soak_restarts", run_id, ti.task_id, ti.try_number)
        assert [r["event"] for r in log if r["event"].startswith("line ")] == [
            f"line {n}" for n in range(1, 301)
        ]
        assert ti.try_number == 1
        assert told.counts[f"began {ti.task_id}"] - before[f"began {ti.task_id}"] == 1


