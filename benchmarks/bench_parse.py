"""What a DAG file with our tasks costs the dag-processor, beside one of BashOperators; prints JSON.

Each measurement is a process of its own; CPU, and the median of some.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

TASKS = 1000
REPEATS = int(os.environ.get("SBX_BENCH_REPEATS", "3"))

OPERATORS = {
    "BashOperator": ("airflow.providers.standard.operators.bash", "bash_command='true'"),
    "SandboxProcessOperator": ("airflow_provider_sbx.operators.process", "command='true', sandbox_id='sb-1'"),
    "SandboxExecOperator": ("airflow_provider_sbx.operators.process", "command='true', sandbox_id='sb-1'"),
}
MODULES = [module for module, _ in OPERATORS.values()] + [
    "airflow_provider_sbx.sensors.process",
    "airflow_provider_sbx.decorators",
    "airflow_provider_sbx.operators.sandbox",
    "airflow_provider_sbx.operators.sandbox_group",
]

_TIMED = """
import time
from airflow.sdk import DAG
from airflow.sdk.bases.operator import BaseOperator
begun = time.process_time()
{code}
print((time.process_time() - begun) * 1000)
"""

_TASKS = """
from {module} import {name}
begun = time.process_time()
with DAG("many"):
    for n in range({count}):
        {name}(task_id=f"task_{{n}}", {arguments})
"""


def cpu_ms(code: str) -> float:
    """Return the CPU of code in an interpreter of its own that has Airflow loaded, in milliseconds."""
    taken = [
        float(
            subprocess.check_output([sys.executable, "-c", _TIMED.format(code=code)], text=True).split()[-1]
        )
        for _ in range(REPEATS)
    ]
    return round(statistics.median(taken), 1)


def main() -> None:
    """Print the figures."""
    imports = {module: cpu_ms(f"import {module}") for module in MODULES}
    tasks = {
        name: cpu_ms(_TASKS.format(module=module, name=name, count=TASKS, arguments=arguments))
        for name, (module, arguments) in OPERATORS.items()
    }
    ratios = {name: round(taken / tasks["BashOperator"], 2) for name, taken in tasks.items()}
    print(
        json.dumps({"import_cpu_ms": imports, f"cpu_ms_of_{TASKS}_tasks": tasks, "ratio": ratios}, indent=2)
    )


if __name__ == "__main__":
    main()
