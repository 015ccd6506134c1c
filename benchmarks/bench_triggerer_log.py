"""How fast a deferred task's output gets into its log, and what that costs the triggerer; prints JSON.

A process writes lines while its task is deferred: `whole_path`. Beside it two bare triggers, that log the
same lines and do nothing else: `self_log` by `self.log.info`, `emitter` by what ours logs with. `seconds` are
those from the first line to the last in the file that Airflow shows as the task's log. CPU is that of the
triggerer's two processes, less what they take when idle: `runner` runs the triggers, `supervisor` reads what
they log and writes it down. On PostgreSQL where its driver is installed
(`.venvs/cluster/bin/python -m benchmarks.bench_triggerer_log`), else on SQLite. `SBX_BENCH_LINES` is 20,000,
`SBX_BENCH_REPEATS` 3.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from airflow_provider_sbx.client import SandboxClient
from benchmarks.bench_airflow import database
from dev.airflow_stack import AirflowStack
from dev.sbx_local import SbxLocal

HERE = Path(__file__).parent
ROWS = ("self_log", "emitter", "whole_path")
REPEATS = int(os.environ.get("SBX_BENCH_REPEATS", "3"))
LINES = int(os.environ.get("SBX_BENCH_LINES", "20000"))
LINE = "line %06.0f of a process that writes fast, with about as much text as a line has"
"""As both `seq` and Python format a number."""

TASK_ID = "write"
WAITING = "waiting"
"""What is logged again and again until the lines may come: so one sees in the log that a trigger runs."""

IDLE_SECONDS = 15
LOOK_SECONDS = 0.05
SILENT_SECONDS = 60
READ_BYTES = 4096
"""What the supervisor reads of the log in each turn of its loop."""

TICKS = os.sysconf("SC_CLK_TCK")

Figures = dict[str, float]


class Gate:
    """Lets the lines of a row come, once its trigger waits for that.

    :param folder: where the bare triggers look for a file.
    :param client: the embedded server's.
    :param sandbox_id: where the process looks for one.
    """

    def __init__(self, folder: Path, client: SandboxClient, sandbox_id: str) -> None:
        self._folder = folder
        self._client = client
        self._sandbox_id = sandbox_id

    def open(self, row: str) -> None:
        """Let the lines come."""
        if row == "whole_path":
            self._client.exec(self._sandbox_id, "touch go")
        else:
            (self._folder / row).touch()

    def close(self, row: str) -> None:
        """Let a bare trigger end."""
        (self._folder / row).unlink(missing_ok=True)


class TriggerLog:
    """The file that the triggerer writes a task's log into, read as it grows.

    :param logs: Airflow's folder of logs.
    :param dag_id: the DAG, of one task.
    :param run_id: its run.
    """

    def __init__(self, logs: Path, dag_id: str, run_id: str) -> None:
        self._pattern = f"dag_id={dag_id}/run_id={run_id}/task_id={TASK_ID}/*.trigger.*.log"
        self._logs = logs
        self._start = LINE.partition("%")[0].encode()
        self._rest = b""
        self._offset = 0
        self.lines: list[bytes] = []
        """The records of the process's lines."""

    def read(self) -> bytes:
        """Return what was written since the last time, whole records only."""
        file = next(self._logs.glob(self._pattern), None)
        if file is None:
            return b""
        with file.open("rb") as log:
            log.seek(self._offset)
            data = log.read()
        self._offset += len(data)
        records, end, self._rest = (self._rest + data).rpartition(b"\n")
        self.lines += [record for record in records.split(b"\n") if self._start in record]
        return records + end

    def check(self) -> None:
        """See that each line stands there once, in order.

        :raises RuntimeError: it does not.
        """
        events = [json.loads(record)["event"] for record in self.lines]
        if events != [LINE % n for n in range(1, LINES + 1)]:
            raise RuntimeError(f"{len(events)} lines of {LINES} in the trigger's log, or not in order")


def main() -> None:
    """Run all rows by turns and print the medians."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        for folder in ("dags", "logs", "go"):
            (home / folder).mkdir()
        shutil.copy(HERE / "dags_triggerer_log.py", home / "dags")
        with (
            SbxLocal(home / "sbx") as server,
            SandboxClient(server.api_key, server.url) as client,
            database(home / "logs") as url,
        ):
            sandbox = client.create_sandbox({"image_name": "python", "timeout_minutes": 120})
            connection = json.loads(server.connection) | {"extra": {"sandbox_id": sandbox.id}}
            with AirflowStack(
                home / "airflow",
                home / "dags",
                env={
                    "AIRFLOW_CONN_SBX_DEFAULT": json.dumps(connection),
                    "SBX_BENCH_LINES": str(LINES),
                    "SBX_BENCH_GO": str(home / "go"),
                    "PYTHONPATH": str(HERE.parent),
                },
                database_url=url,
            ) as airflow:
                airflow.wait_for_dags(ROWS)
                gate = Gate(home / "go", client, sandbox.id)
                # A triggerer's first request to Airflow takes 6 s, once.
                measured(airflow, "whole_path", gate, {"runner": 0.0, "supervisor": 0.0})
                idle = idle_rates(airflow)
                runs: dict[str, list[Figures]] = {row: [] for row in ROWS}
                for _ in range(REPEATS):
                    for row in ROWS:
                        runs[row].append(measured(airflow, row, gate, idle))
    print_medians(runs, {"lines": LINES, "repeats": REPEATS, "postgresql": bool(url), "idle": idle})


def print_medians(runs: dict[str, list[Figures]], setting: dict[str, object]) -> None:
    """Print the medians of all rows, and what part of the runner's CPU is ours."""
    figures = {
        row: {name: round(statistics.median(run[name] for run in several), 4) for name in several[0]}
        for row, several in runs.items()
    }
    whole = figures["whole_path"]["runner_cpu_ms"]
    ours = {
        f"beyond_{row}": round(1 - figures[row]["runner_cpu_ms"] / whole, 3)
        for row in ("self_log", "emitter")
    }
    for row, medians in figures.items():
        print_line(f"{row}, median", medians)
    print(json.dumps({**setting, **figures, "our_share_of_the_runner": ours}, indent=2))


def print_line(name: str, figures: Figures) -> None:
    """Print a row for people."""
    print(f"{name:20}", ", ".join(f"{key} {value:.4g}" for key, value in figures.items()), flush=True)


def measured(airflow: AirflowStack, row: str, gate: Gate, idle: dict[str, float]) -> Figures:
    """Run a DAG and return its figures, CPU in milliseconds a 1,000 lines.

    :param idle: what the processes take without that, in CPU seconds a second.
    """
    run_id = airflow.trigger(row)
    log = TriggerLog(airflow.home / "logs", row, run_id)
    airflow.wait_for(lambda: WAITING.encode() in log.read(), 60, f"the trigger of {row} to wait")
    before, began = cpu(airflow), time.monotonic()
    gate.open(row)
    first, last = 0.0, began
    while len(log.lines) < LINES:
        time.sleep(LOOK_SECONDS)
        if log.read():
            last = time.monotonic()
            first = first or (last if log.lines else 0.0)
        elif time.monotonic() - last > SILENT_SECONDS:
            raise TimeoutError(f"after {len(log.lines)} lines of {row} no more came")
    after, whole = cpu(airflow), last - began
    gate.close(row)
    state = airflow.wait_for_run(row, run_id, timeout=120)
    log.read()
    log.check()
    if state != "success":
        raise RuntimeError(f"the run of {row} ended as {state}")
    seconds = last - first
    thousands = LINES / 1000
    figures = {"lines_a_second": LINES / seconds, "seconds": seconds}
    for name, taken in after.items():
        used = taken - before[name] - idle[name] * whole
        figures[f"{name}_cpu_ms"] = used * 1000 / thousands
        figures[f"{name}_busy"] = (taken - before[name]) / whole
    figures["turn_ms"] = seconds * 1000 * READ_BYTES / sum(len(record) + 1 for record in log.lines)
    print_line(row, figures)
    return figures


def cpu(airflow: AirflowStack) -> dict[str, float]:
    """Return the CPU seconds that the triggerer took so far, by `runner` and `supervisor`."""
    supervisor = airflow.process("triggerer").pid
    (runner,) = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    taken = {}
    for name, pid in (("runner", runner), ("supervisor", supervisor)):
        # Field 3 of stat stands after the command's name, which may itself hold spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        taken[name] = sum(map(int, fields[11:13])) / TICKS
    return taken


def idle_rates(airflow: AirflowStack) -> dict[str, float]:
    """Return what an idle triggerer takes, in CPU seconds a second."""
    before = cpu(airflow)
    time.sleep(IDLE_SECONDS)
    return {name: (after - before[name]) / IDLE_SECONDS for name, after in cpu(airflow).items()}


if __name__ == "__main__":
    main()
