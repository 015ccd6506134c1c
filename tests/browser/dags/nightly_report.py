"""DAGs for the tests in a browser: what a newcomer would write, long enough to be looked at while it runs."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_provider_sbx.operators.process import SandboxExecOperator, SandboxProcessOperator

SANDBOX = {"image_name": "python"}

with DAG("nightly_report", tags=["sandbox"], params={"steps": 30}):
    fetch = SandboxExecOperator(
        task_id="fetch",
        command="echo 3 tables fetched",
        sandbox=SANDBOX,
    )
    report = SandboxProcessOperator(
        task_id="report",
        command="""\
echo "report of $(whoami) on $STEPS tables"
for step in $(seq "$STEPS"); do
  echo "table $step of $STEPS: done"
  [ "$step" -ne 3 ] || echo "table 3 has no rows" >&2
  sleep 1
done
""",
        sandbox=SANDBOX,
        env={"STEPS": "{{ params.steps }}"},
    )
    publish = SandboxExecOperator(
        task_id="publish",
        command="echo published",
        sandbox=SANDBOX,
    )
    fetch >> report >> publish

with DAG("endless", tags=["sandbox"], params={"sandbox_id": ""}):
    SandboxProcessOperator(
        task_id="wait",
        command='echo "waiting, until somebody ends it"; while :; do sleep 1; done',
        sandbox_id="{{ params.sandbox_id }}",
        kill_grace=2,
    )
