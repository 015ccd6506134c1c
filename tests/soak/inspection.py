"""What must hold after a soak, of each task and of what is left."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow_provider_sbx.hooks.sandbox import SandboxHook
from dev.airflow_api import AirflowApiError, TaskInstance, render_log
from dev.cluster import TRIGGERERS, Cluster
from tests.soak.report import Report

DAG = "soak"
LINES = [f"line {n}" for n in range(1, 101)]
ERRORS = [f"err {n}" for n in range(20, 101, 20)]

# What Airflow notes when it ends a try itself; the first two, of a task that did nothing wrong.
_ENDED = (
    "state mismatch",
    "heartbeat timeout",
    "stuck in queued reschedule",
    "stuck in queued tries exceeded",
)
# Those by which it ends tasks that did nothing wrong, retries or not.
_UNFAIR = ("state mismatch", "stuck in queued tries exceeded")
_TAKEN_OVER = re.compile(r"Process \S+ ended in try (\d+), whose log has its output")
_STATE = re.compile(r"state attribute is (\w+)")
_ASTRAY = re.compile(
    r"\] ((?:line|err) \d+) .* map_index=(\S+) .*run_id='?([^\s']+)'? .*task_id='?([^\s']+)'?", re.MULTILINE
)
_MADE = re.compile(r"Made sandbox (\S+) for this task")

Log = Sequence[Mapping[str, Any]]


class Inspection:
    """Looks at runs that have ended, and puts what it finds into a report.

    counts: how often each command told that it began and ended.
    evidence: a folder for the logs of tasks with problems.
    """

    def __init__(self, cluster: Cluster, counts: Counter[str], report: Report, evidence: Path) -> None:
        self._cluster = cluster
        self._counts = counts
        self._report = report
        self._evidence = evidence
        self._named_sandboxes: set[str] = set()
        self._astray = _astray(cluster)

    def run(self, run_id: str) -> None:
        """Look at each task of a run."""
        report = self._report
        instances = self._cluster.task_instances(DAG, run_id)
        events = [event for event in self._cluster.event_logs(DAG, run_id) if event["event"] in _ENDED]
        report.runs += 1
        report.tasks += len(instances)
        report.tries += sum(ti.try_number for ti in instances)
        report.tries_ended_by_airflow.update(_reason(event) for event in events)
        for ti in instances:
            about = [e for e in events if (e["task_id"], e["map_index"]) == (ti.task_id, ti.map_index)]
            self._task(run_id, ti, about)

    def _task(self, run_id: str, ti: TaskInstance, events: Sequence[Mapping[str, Any]]) -> None:
        logs = {number: self._log(run_id, ti, number) for number in range(1, ti.try_number + 1)}
        ended = [_exception(log) for log in logs.values()]
        self._report.tries_failed_by_exception.update(name for name in ended if name is not None)
        self._named_sandboxes.update(
            found[1] for log in logs.values() for record in log if (found := _MADE.match(_text(record)))
        )
        problems = self._commands(run_id, ti)
        if ti.state != "success":
            self._report.failed_tasks += 1
            unfair = [e["event"] for e in events if e["event"] in _UNFAIR]
            sentence = f"{ti.label} (try {ti.try_number}): it is {ti.state}, exception: {ended[-1]}, {unfair}"
            (self._report.airflow_problems if unfair and ended[-1] is None else problems).append(sentence)
        else:
            problems += self._output(run_id, ti, logs) + self._result(run_id, ti)
        if problems:
            self._report.problems += [f"{ti.label} (try {ti.try_number}): {problem}" for problem in problems]
            self._keep(ti, logs, events)

    def _commands(self, run_id: str, ti: TaskInstance) -> list[str]:
        name = f"{ti.task_id}/{ti.map_index}/{run_id}"
        began, ended = self._counts[f"began {name}"], self._counts[f"ended {name}"]
        # One that fails the first time is to run once more, in another try.
        wanted = 2 if ti.task_id.startswith("again_") else 1
        if began == ended == wanted:
            return []
        self._report.processes_doubled += max(0, began - wanted)
        self._report.processes_missing += max(0, wanted - ended)
        return [f"its command began {began} times and ended {ended} times, not {wanted}"]

    def _output(self, run_id: str, ti: TaskInstance, logs: Mapping[int, Log]) -> list[str]:
        log = logs[ti.try_number]
        if taken := next(filter(None, (_TAKEN_OVER.match(_text(record)) for record in log)), None):
            self._report.results_taken_over += 1
            log = logs[int(taken[1])]
        stdout = [_text(record) for record in log if _text(record).startswith("line ")]
        stderr = [_text(record) for record in log if record.get("stream") == "stderr"]
        astray = self._astray.get((run_id, ti.task_id, str(ti.map_index)), Counter())
        found = []
        for stream, got, wanted in (("stdout", stdout, LINES), ("stderr", stderr, ERRORS)):
            lost, doubled = Counter(wanted) - Counter(got), Counter(got) - Counter(wanted)
            if lost and lost <= astray and got == [line for line in wanted if line not in lost]:
                self._report.lines_astray += lost.total()
                sentence = f"{stream}: {_some(lost)} stand in the triggerer's own log"
                self._report.airflow_problems.append(f"{ti.label} (try {ti.try_number}): {sentence}")
            elif got != wanted:
                self._report.lines_lost += lost.total()
                self._report.lines_doubled += doubled.total()
                self._report.lines_out_of_order += not (lost or doubled)
                order = "" if lost or doubled else ", out of order"
                found.append(
                    f"{stream}: {len(got)} lines, lost {_some(lost)}, doubled {_some(doubled)}{order}"
                )
        return found

    def _result(self, run_id: str, ti: TaskInstance) -> list[str]:
        try:
            result = self._cluster.xcom(DAG, run_id, ti.task_id, map_index=ti.map_index)
        except AirflowApiError as error:
            result = {"error": str(error)}
        right = {
            "status": "exited",
            "exit_code": 0,
            "output_lost": False,
            "stdout": "".join(f"{line}\n" for line in LINES),
            "stderr": "".join(f"{line}\n" for line in ERRORS),
        }
        wrong = {
            name: str(result.get(name))[:200] for name, value in right.items() if result.get(name) != value
        }
        self._report.wrong_results += bool(wrong)
        return [f"its result has {wrong}"] if wrong else []

    def _log(self, run_id: str, ti: TaskInstance, try_number: int) -> Log:
        try:
            return self._cluster.task_log(DAG, run_id, ti.task_id, try_number, ti.map_index)
        except AirflowApiError:
            return []  # its worker was lost before it wrote a line

    def _keep(self, ti: TaskInstance, logs: Mapping[int, Log], events: Sequence[Mapping[str, Any]]) -> None:
        for number, log in logs.items():
            text = render_log(log, sources=True)
            (self._evidence / f"{ti.label}.try-{number}.log").write_text(text)
        notes = [f"{e['when']} try {e['try_number']} {e['event']}: {e['extra']}" for e in events]
        (self._evidence / f"{ti.label}.events").write_text("\n".join(notes))

    def leftovers(self, hook: SandboxHook, shared_sandbox: str) -> None:
        """Look for processes that still run, and for sandboxes."""
        report = self._report
        for process in hook.iterate_processes(shared_sandbox):
            if not process.status.is_terminal:
                report.processes_left += 1
                report.problems.append(f"process {process.id} still runs: {process.command[:100]!r}")
        for sandbox in hook.list_sandboxes(status="active", limit=100).sandboxes:
            if sandbox.id == shared_sandbox:
                continue
            processes = list(hook.iterate_processes(sandbox.id))
            if not processes and sandbox.id not in self._named_sandboxes:
                report.sandboxes_never_known += 1
            else:
                report.sandboxes_left += 1
                report.problems.append(f"sandbox {sandbox.id} is left, with {len(processes)} processes")
                report.processes_left += sum(not process.status.is_terminal for process in processes)
            hook.stop_sandbox(sandbox.id)


def _astray(cluster: Cluster) -> dict[tuple[str, str, str], Counter[str]]:
    """Return the lines of tasks that stand in the triggerers' own logs, by run, task and map index.

    Airflow closes a trigger's log when it hears of the trigger's end, on one socket, although lines of it
    are still unread in another (`TriggerRunnerSupervisor._handle_request`).
    """
    found: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for name in TRIGGERERS:
        text = cluster.process(name).log_file.read_text(errors="replace")
        for line, map_index, run_id, task_id in _ASTRAY.findall(text):
            found[run_id, task_id, map_index][line] += 1
    return found


def _reason(event: Mapping[str, Any]) -> str:
    """Return what Airflow noted, with the task's state where that was not what it expected.

    One that is `running` was killed; one that is `queued` or `scheduled` was resumed too early.
    """
    found = _STATE.search(str(event["extra"]))
    return f"{event['event']} ({found[1]})" if found else str(event["event"])


def _text(record: Mapping[str, Any]) -> str:
    return str(record.get("event", ""))


def _exception(log: Log) -> str | None:
    """Return the type of the exception that ended a try, None where none did."""
    types = [record["error_detail"][0].get("exc_type") for record in log if record.get("error_detail")]
    return types[-1] if types else None


def _some(lines: Counter[str]) -> str:
    names = list(lines)
    return f"{names[:5]}{'...' if len(names) > 5 else ''}"
