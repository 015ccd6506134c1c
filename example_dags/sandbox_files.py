"""Files by standard input and output: one goes in as text, another comes back as bytes, written to a disk."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_sbx.operators.process import SandboxProcessOperator


@task
def orders() -> str:
    return "id,amount\n1,20\n2,22\n"


def to_file(result: dict[str, Any]) -> str:
    """Write what came by stdout to a disk that the workers share; XCom has the path, not the bytes."""
    if result["stdout_truncated"] or result["output_lost"]:
        raise ValueError("the file did not come whole")
    path = Path(gettempdir()) / f"orders-{result['process_id']}.csv.gz"
    path.write_bytes(base64.b64decode(result["stdout"]))
    return str(path)


@task
def total(path: Any) -> int:
    rows = gzip.decompress(Path(path).read_bytes()).decode().splitlines()[1:]
    Path(path).unlink()
    return sum(int(row.split(",")[1]) for row in rows)


with DAG("sandbox_files", tags=["sandbox"]):
    text = orders()
    packed = SandboxProcessOperator(
        task_id="pack",
        # What is not text goes through base64; messages go to stderr.
        command="gzip -c | base64 && echo packed >&2",
        stdin="{{ ti.xcom_pull(task_ids='orders') }}",
        sandbox={"image_name": "python"},
        # stdout is a file here: nothing for the log, and none of it may be cut off. So it is waited for on a
        # worker, which gathers all of it as it comes; for a triggerer the service keeps but the last of it.
        log_output=False,
        deferrable=False,
        max_output_bytes=16 * 1024 * 1024,
        output_processor=to_file,
    )
    text >> packed
    total(packed.output)
