"""A process's result, passed to the next task by XCom."""

from __future__ import annotations

import json
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_sbx.operators.process import SandboxExecOperator

SCRIPT = """
import json, platform
print(json.dumps({"python": platform.python_version(), "squares": [n * n for n in range(5)]}))
"""


def last_line_as_json(result: dict[str, Any]) -> Any:
    return json.loads(result["stdout"].splitlines()[-1])


@task
def add_up(answer: Any) -> int:
    return sum(answer["squares"])


with DAG("sandbox_result_to_next_task", tags=["sandbox"]):
    answer = SandboxExecOperator(
        task_id="compute",
        command=f"python3 - <<'EOF'\n{SCRIPT}EOF\n",
        sandbox={"image_name": "python"},
        output_processor=last_line_as_json,
    )
    add_up(answer.output)
