"""Tasks a minute and CPU seconds a task on a real Airflow, by each way to run a command; prints JSON.

All tasks run `echo hello` in one sandbox, BashOperator's on the worker and SSHRemoteJobOperator's by a local
sshd. CPU is that of Airflow's own processes (not of the sandbox server's or sshd's), less what they take when
idle: `worker` is the executor's and the tasks', `rest` is api-server, scheduler, dag-processor and triggerer.
On PostgreSQL where its driver is installed (`make bench-airflow`), else on SQLite; by SSH only where
there are both Airflow's provider (`make bench-airflow SSH=1`) and sshd.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from airflow_provider_sbx.client import SandboxClient
from dev.airflow_stack import COMPONENTS, AirflowStack
from dev.sbx_local import SbxLocal
from dev.services import PostgreSQL, Sshd, find_program

HERE = Path(__file__).parent
BY_SSH = "ssh_remote_job"
HAS_SSH = bool(importlib.util.find_spec("airflow.providers.ssh") and find_program("sshd"))
ALL = ("bash", *([BY_SSH] if HAS_SSH else []), "worker", "deferrable", "ended_in_triggerer", "workerless")
WAYS = tuple(os.environ.get("SBX_BENCH_WAYS", " ".join(ALL)).split())
TASKS = int(os.environ.get("SBX_BENCH_TASKS", "100"))
PARALLELISM = int(os.environ.get("SBX_BENCH_PARALLELISM", "4"))
IDLE_SECONDS = 15
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run each way once and print the figures."""
    if unknown := set(WAYS) - set(ALL):
        raise SystemExit(f"there is no way {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        (home / "dags").mkdir()
        (home / "logs").mkdir()
        for name in (*WAYS, "warm_up"):
            shutil.copy(HERE / "dags_airflow.py", home / "dags" / f"{name}.py")
        logs = home / "logs"
        with SbxLocal(home / "sbx") as server, database(logs) as url, ssh(logs) as ssh_variables:
            with SandboxClient(server.api_key, server.url) as client:
                sandbox = client.create_sandbox({"image_name": "python", "timeout_minutes": 120})
            connection = json.loads(server.connection) | {"extra": {"sandbox_id": sandbox.id}}
            with AirflowStack(
                home / "airflow",
                home / "dags",
                env={
                    "AIRFLOW_CONN_SBX_DEFAULT": json.dumps(connection),
                    "SBX_BENCH_TASKS": str(TASKS),
                    **ssh_variables,
                },
                database_url=url,
                parallelism=PARALLELISM,
            ) as airflow:
                airflow.wait_for_dags((*WAYS, "warm_up"))
                # A triggerer's first request to Airflow takes 6 s, once: it makes an API server of its own.
                airflow.wait_for_run("warm_up", airflow.trigger("warm_up"), timeout=300)
                idle = idle_rates(airflow)
                figures = {way: measured(airflow, way, idle) for way in WAYS}
    print(
        json.dumps({"tasks": TASKS, "parallelism": PARALLELISM, "postgresql": bool(url), **figures}, indent=2)
    )


@contextmanager
def database(logs: Path) -> Iterator[str | None]:
    """Give the address of an empty PostgreSQL database, or None for SQLite."""
    if importlib.util.find_spec("psycopg2") is None:
        yield None
        return
    with PostgreSQL(logs) as server:
        yield server.url


@contextmanager
def ssh(logs: Path) -> Iterator[dict[str, str]]:
    """Give the environment variables of the way by SSH, none where it isn't measured."""
    if BY_SSH not in WAYS:
        yield {}
        return
    with Sshd(logs) as server:
        yield {"AIRFLOW_CONN_SSH_DEFAULT": server.connection, "SBX_BENCH_SSH_JOBS": str(server.jobs)}


def cpu(airflow: AirflowStack) -> dict[str, float]:
    """Return the CPU seconds that Airflow took so far, by `worker` and `rest`."""
    taken = {"worker": 0.0, "rest": 0.0}
    for name in COMPONENTS:
        service = airflow.process(name)
        for pid in service.members():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except FileNotFoundError:
                continue
            own, children = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
            if name == "scheduler" and pid != service.pid:
                # The LocalExecutor's processes and the tasks below them.
                taken["worker"] += (own + children) / TICKS
            else:
                taken["rest"] += (own + (0 if name == "scheduler" else children)) / TICKS
    return taken


def idle_rates(airflow: AirflowStack) -> dict[str, float]:
    """Return what an idle Airflow takes, in CPU seconds a second."""
    before = cpu(airflow)
    time.sleep(IDLE_SECONDS)
    return {part: (after - before[part]) / IDLE_SECONDS for part, after in cpu(airflow).items()}


def measured(airflow: AirflowStack, way: str, idle: dict[str, float]) -> dict[str, object]:
    """Run a DAG and return its figures."""
    before, began = cpu(airflow), time.monotonic()
    run_id = airflow.trigger(way)
    state = airflow.wait_for_run(way, run_id, timeout=1800)
    seconds = time.monotonic() - began
    parts = {
        f"{part}_cpu_a_task": round((after - before[part] - idle[part] * seconds) / TASKS, 3)
        for part, after in cpu(airflow).items()
    }
    failed = sum(task.state != "success" for task in airflow.task_instances(way, run_id))
    figures = {"state": state, "failed": failed, "tasks_a_minute": round(TASKS / seconds * 60), **parts}
    print(way, figures, flush=True)
    return figures


if __name__ == "__main__":
    main()
