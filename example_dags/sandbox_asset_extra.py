"""An asset's event that says what the sandbox job found, without a task of its own for it.

Airflow calls `post_execute` with the result after the task's success, also where it was deferred; what
it puts into `outlet_events` goes out with the event.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Asset, Context

from airflow_provider_sbx.operators.process import SandboxProcessOperator

sales = Asset("sandbox_example_sales")


def tell_what_it_found(context: Context, result: dict[str, Any]) -> None:
    context["outlet_events"][sales].extra = {
        "rows": int(result["stdout"]),
        "process_id": result["process_id"],
    }


with DAG("sandbox_asset_extra", tags=["sandbox"]):
    SandboxProcessOperator(
        task_id="export_sales",
        command="printf 'north,120\\nsouth,80\\n' | wc -l",
        sandbox={"image_name": "python"},
        defer_after=0,
        outlets=[sales],
        post_execute=tell_what_it_found,
    )
