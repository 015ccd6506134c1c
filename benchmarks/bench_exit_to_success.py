"""From a process's exit to its task's success, on a real Airflow; prints JSON, in seconds.

`worker`: waited for by the worker. `triggerer`: deferred for longer than the trigger's settling
time. `triggerer_soon`: ended within it, so that the event is held back (`SETTLE_SECONDS`).
Both ends are read from the machine's one clock: the sandbox's `completed_at` and Airflow's `end_date`.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
from datetime import datetime
from pathlib import Path

from dev.airflow_stack import AirflowStack
from dev.sbx_local import SbxLocal

HERE = Path(__file__).parent
DAG_ID = "exit_to_success"


def main() -> None:
    """Run the DAG once and print the figures."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        (home / "dags").mkdir()
        shutil.copy(HERE / "dags_exit_to_success.py", home / "dags")
        with (
            SbxLocal(home / "sbx") as server,
            AirflowStack(
                home / "airflow", home / "dags", env={"AIRFLOW_CONN_SBX_DEFAULT": server.connection}
            ) as airflow,
        ):
            run_id = airflow.trigger(DAG_ID)
            state = airflow.wait_for_run(DAG_ID, run_id, timeout=600)
            seconds: dict[str, list[float]] = {}
            for ti in airflow.task_instances(DAG_ID, run_id):
                completed = datetime.fromisoformat(airflow.xcom(DAG_ID, run_id, ti.task_id)["completed_at"])
                ended = datetime.fromisoformat(ti.raw["end_date"])
                seconds.setdefault(ti.task_id.rpartition("_")[0], []).append(
                    (ended - completed).total_seconds()
                )
    figures = {
        mode: {"median": round(statistics.median(values), 2), "worst": round(max(values), 2)}
        for mode, values in seconds.items()
    }
    print(json.dumps({"state": state, "tasks": sum(map(len, seconds.values())), **figures}, indent=2))


if __name__ == "__main__":
    main()
