"""What a DAG file with our tasks costs the dag-processor, beside one of BashOperators; prints JSON.

Each measurement is a process of its own; CPU, and the median of some.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TASKS = 1000
REPEATS = int(os.environ.get("SBX_BENCH_REPEATS", "5"))

_PROCESS = "airflow_provider_sbx.operators.process"
_ARGUMENTS = "command='true', sandbox_id='sb-1'"

OPERATORS = {
    "BashOperator": ("airflow.providers.standard.operators.bash", "BashOperator", "bash_command='true'"),
    "SandboxExecOperator": (_PROCESS, "SandboxExecOperator", _ARGUMENTS),
    "SandboxProcessOperator": (_PROCESS, "SandboxProcessOperator", _ARGUMENTS),
    "SandboxProcessOperator, workerless": (
        _PROCESS,
        "SandboxProcessOperator",
        f"{_ARGUMENTS}, start_from_trigger=True",
    ),
}
MODULES = [
    "airflow.providers.standard.operators.bash",
    _PROCESS,
    "airflow_provider_sbx.sensors.process",
    "airflow_provider_sbx.decorators",
    "airflow_provider_sbx.operators.sandbox",
    "airflow_provider_sbx.operators.sandbox_group",
]

_IMPORT = """
import time
from airflow.sdk import DAG
from airflow.sdk.bases.operator import BaseOperator
begun = time.process_time()
import {module}
print(json.dumps([(time.process_time() - begun) * 1000]))
"""

_DAG = """
from airflow.sdk import DAG
from {module} import {name}
with DAG("many"):
    for n in range({count}):
        {name}(task_id=f"task_{{n}}", {arguments})
"""

# As the DAG processor does: the file is loaded and checked, and what Airflow keeps of the DAG is made.
_PARSE = """
import gc, time
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
import {module}
{collecting}
times = [time.process_time()]
bag = DagBag({folder!r}, safe_mode=False)
assert not bag.import_errors, bag.import_errors
times.append(time.process_time())
DagSerialization.to_dict(bag.dags["many"])
times.append(time.process_time())
print(json.dumps([(after - before) * 1000 for before, after in zip(times, times[1:])]))
"""


def cpu_ms(code: str) -> list[float]:
    """Return what CPU code says that it took, in an interpreter of its own, in milliseconds."""
    command, taken = [sys.executable, "-c", "import json\n" + code], []
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "AIRFLOW_HOME": home}
        for _ in range(REPEATS):
            said = subprocess.check_output(command, text=True, env=env)
            taken.append(json.loads(said.splitlines()[-1]))
    return [round(statistics.median(times), 1) for times in zip(*taken, strict=True)]


def parse_ms(module: str, name: str, arguments: str, collecting: str) -> dict[str, float]:
    """Return what CPU a DAG of many tasks takes, in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        dag = _DAG.format(module=module, name=name, count=TASKS, arguments=arguments)
        Path(folder, "many.py").write_text(dag)
        load, serialize = cpu_ms(_PARSE.format(module=module, folder=folder, collecting=collecting))
    return {"load": load, "serialize": serialize}


def main() -> None:
    """Print the figures."""
    imports = {module: cpu_ms(_IMPORT.format(module=module))[0] for module in MODULES}
    figures: dict[str, Any] = {"import_cpu_ms": imports}
    # Where Python's garbage collector runs, it looks through all of Airflow: a tenth of a second of either.
    for title, collecting in (("as in life", "pass"), ("without garbage collection", "gc.disable()")):
        tasks = {name: parse_ms(*dag, collecting) for name, dag in OPERATORS.items()}
        whole = {name: sum(times.values()) for name, times in tasks.items()}
        ratios = {name: round(taken / whole["BashOperator"], 2) for name, taken in whole.items()}
        figures[title] = {f"cpu_ms_of_{TASKS}_tasks": tasks, "ratio": ratios}
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
