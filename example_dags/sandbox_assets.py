"""Assets: a job that updates one, tells what it wrote, and so starts the DAG that waits for it."""

from __future__ import annotations

import json
from typing import Any

from airflow.sdk import DAG, Asset, task

from airflow_provider_sbx.operators.process import SandboxExecOperator

RAW = Asset("sandbox_example_raw")
REPORT = Asset("sandbox_example_report")


def last_line_as_json(result: dict[str, Any]) -> Any:
    return json.loads(result["stdout"].splitlines()[-1])


# --8<-- [start:producer]
@task(outlets=[REPORT])
def publish(written: Any, *, outlet_events: Any = None) -> None:
    outlet_events[REPORT].extra = {"rows": written["rows"]}


with DAG("sandbox_asset_producer", tags=["sandbox"]):
    # Its event says only that it succeeded.
    extract = SandboxExecOperator(
        task_id="extract",
        command="echo extracted",
        sandbox={"image_name": "python"},
        outlets=[RAW],
    )
    # The event of `publish` says what the job wrote.
    load = SandboxExecOperator(
        task_id="load",
        command="""echo loading; echo '{"rows": 42}'""",
        sandbox={"image_name": "python"},
        inlets=[RAW],
        output_processor=last_line_as_json,
    )
    extract >> load
    publish(load.output)
# --8<-- [end:producer]


# --8<-- [start:consumer]
with DAG("sandbox_asset_consumer", schedule=[REPORT], catchup=False, tags=["sandbox"]):
    SandboxExecOperator(
        task_id="mail",
        command='echo "$ROWS rows"',
        # One list of events for each asset that started the run; none where a person did.
        env={
            "ROWS": "{% for them in triggering_asset_events.values() %}{{ them[-1].extra.rows }}{% endfor %}"
        },
        sandbox={"image_name": "python"},
    )
# --8<-- [end:consumer]
