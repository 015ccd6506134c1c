"""``make demo``: each example DAG on a real Airflow against the embedded sandbox server, task by task.

Everything is written below ``.demo`` in the checkout, a fresh Airflow each time; only an empty database is
kept between runs. Ends with ``demo: ok`` and exit code 0, or says what went wrong and exits with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from dev.airflow_api import AirflowApiError, TaskInstance, render_log
from dev.airflow_stack import AirflowStack, DagImportError
from dev.processes import ServiceError
from dev.sbx_local import SbxLocal

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".demo"
EXAMPLES = ROOT / "example_dags"

RUN_SECONDS = 120
GOOD_STATES = ("success", "skipped")
# More of an XCom than this many characters is cut in the output.
XCOM_WIDTH = 400

EXPECTED_ERRORS = (ServiceError, DagImportError, AirflowApiError, TimeoutError, httpx.HTTPError, OSError)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the UI up until Ctrl-C")
    parser.add_argument("--dags", type=Path, default=EXAMPLES, help="another folder of DAGs")
    arguments = parser.parse_args()
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _exit)
    # A shell starts background jobs with SIGINT ignored; ask for it, so that it ends the demo there too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begin = time.monotonic()
    try:
        problems = demo(arguments.dags, arguments.keep)
    except EXPECTED_ERRORS as error:
        problems = [f"{type(error).__name__}: {error}"]
    except KeyboardInterrupt:
        say("demo: stopped, nothing is left running")
        return 130
    for problem in problems:
        say(f"demo: FAILED: {problem}")
    if problems:
        say(f"demo: the logs of all components are in {HOME}")
        return 1
    say(f"demo: ok ({time.monotonic() - begin:.0f} s)")
    return 0


def demo(dags: Path, keep: bool) -> list[str]:
    """Run every DAG of a folder and return what went wrong, one line each."""
    shutil.rmtree(HOME / "server", ignore_errors=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_temporary_files(HOME / "tmp"))
        say("demo: starting sbx-local, the embedded sandbox server")
        server = stack.enter_context(SbxLocal(HOME / "server"))
        say(f"demo: sbx-local is at {server.url}; starting Airflow (some 20 s)")
        airflow = stack.enter_context(
            AirflowStack(
                HOME / "airflow",
                dags,
                env={"AIRFLOW_CONN_SBX_DEFAULT": server.connection},
                cache=HOME / "cache",
            )
        )
        say(f"demo: Airflow is at {airflow.url}")
        problems = run_all(airflow)
        if keep:
            say(f"demo: Airflow's UI: {airflow.url}  user: {airflow.username}  password: {airflow.password}")
            say(f"demo: sbx-local: {server.url}  key: {server.api_key}")
            for problem in problems:
                say(f"demo: FAILED: {problem}")
            say("demo: Ctrl-C ends both")
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
    return problems


def run_all(airflow: AirflowStack) -> list[str]:
    """Trigger all DAGs at once, show each as it ends, and return what went wrong."""
    dag_ids = airflow.wait_for_dags()
    if not dag_ids:
        return [f"there is no DAG in {airflow.dags_folder}"]
    runs = {dag_id: airflow.trigger(dag_id) for dag_id in dag_ids}
    say(f"demo: triggered {', '.join(dag_ids)}")
    problems = []
    deadline = time.monotonic() + RUN_SECONDS
    for dag_id, run_id in runs.items():
        state = airflow.wait_for_run(dag_id, run_id, max(1.0, deadline - time.monotonic()))
        say(f"\n=== {dag_id}: {state}")
        tasks = airflow.task_instances(dag_id, run_id)
        for task in tasks:
            show_task(airflow, dag_id, run_id, task)
        bad = [f"{task.label} {task.state}" for task in tasks if task.state not in GOOD_STATES]
        if bad or state != "success":
            problems.append(f"{dag_id} ended {state}: {', '.join(bad) or 'no task failed'}")
    say("")
    return problems


def show_task(airflow: AirflowStack, dag_id: str, run_id: str, task: TaskInstance) -> None:
    """Print one task's state, its log as the REST API gives it, and its XComs."""
    seconds = task.raw["duration"]
    took = f" in {seconds:.1f} s" if seconds and seconds > 0 else ""
    say(f"\n--- {dag_id}.{task.label}: {task.state}{took} (try {task.try_number}, {task.raw['operator']})")
    if task.try_number > 0:
        lines = airflow.task_log(dag_id, run_id, task.task_id, task.try_number, task.map_index)
        say(render_log(lines))
    for key, value in airflow.xcoms(dag_id, run_id, task.task_id, task.map_index).items():
        say(f"xcom {key} = {_short(value)}")


def say(text: str) -> None:
    print(text, flush=True)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= XCOM_WIDTH else f"{text[:XCOM_WIDTH]}... ({len(text)} characters)"


@contextlib.contextmanager
def _temporary_files(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exit(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
