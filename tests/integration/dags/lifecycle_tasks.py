"""DAGs for the tests of sandboxes that several tasks share, and of what waits for processes in them."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, TaskGroup, task_group

from airflow_provider_sbx.operators.process import (
    SandboxExecOperator,
    SandboxProcessOperator,
    SandboxSignalOperator,
)
from airflow_provider_sbx.operators.sandbox import SandboxCreateOperator, SandboxStopOperator
from airflow_provider_sbx.operators.sandbox_group import sandbox_group
from airflow_provider_sbx.sensors.process import SandboxProcessSensor

with DAG("group_that_fails"), sandbox_group("box", image_name="python", timeout_minutes=30):
    # `last` is done as soon as `fails` is, and `works` goes on in the sandbox.
    fails = SandboxExecOperator(task_id="fails", command="echo why 1>&2; exit 3")
    works = SandboxExecOperator(task_id="works", command="sleep 8; echo worked")
    last = SandboxExecOperator(task_id="last", command="true")
    [fails, works] >> last

with DAG("group_that_skips"):
    with sandbox_group("box", image_name="python", timeout_minutes=30) as box:
        SandboxExecOperator(task_id="skips", command="exit 99") >> SandboxExecOperator(
            task_id="skipped", command="true"
        )
    box >> SandboxExecOperator(
        task_id="after",
        command="true",
        sandbox={"image_name": "python"},
        trigger_rule="none_failed",
    )

with DAG("group_given_up"), sandbox_group("box", image_name="python", timeout_minutes=30):
    SandboxExecOperator(task_id="works", command="echo begun; sleep 120") >> SandboxExecOperator(
        task_id="never", command="true"
    )

with DAG("group_with_groups"):
    with sandbox_group("box", image_name="python", timeout_minutes=30):
        begin = SandboxExecOperator(task_id="begin", command="echo here > mark")
        with TaskGroup("inner") as inner:
            SandboxExecOperator(task_id="reads", command="cat mark")
            SandboxExecOperator.partial(task_id="each").expand(command=["cat mark", "wc -l < mark"])
        begin >> inner

    @task_group
    def region(name: str) -> None:
        with sandbox_group("own", image_name="python", timeout_minutes=30):
            SandboxExecOperator(task_id="work", command="echo $REGION", env={"REGION": name})

    region.expand(name=["north", "south"])

with DAG("setup_that_fails"):
    create = SandboxCreateOperator(task_id="create", snapshot_name="there-is-none")
    work = SandboxExecOperator(task_id="work", command="true", sandbox_id=create.output)
    stop = SandboxStopOperator(task_id="stop", sandbox_id=create.output)
    create >> work >> stop.as_teardown(setups=create)

with DAG("stops_what_is_gone"):
    SandboxStopOperator(task_id="stop", sandbox_id="no-such-sandbox")

MODES: dict[str, dict[str, Any]] = {
    "poke": {},
    "reschedule": {"mode": "reschedule", "poke_interval": 3},
    "deferrable": {"deferrable": True},
}

with DAG("sensors"), sandbox_group("box", image_name="python", timeout_minutes=30):
    for mode, how in MODES.items():
        good = SandboxProcessOperator(
            task_id=f"start_good_{mode}",
            command="for n in $(seq 6); do echo line $n; sleep 1; done; echo more 1>&2",
            wait_for_completion=False,
        )
        good >> SandboxProcessSensor(task_id=f"good_{mode}", process=good.output, **how)
        bad = SandboxProcessOperator(
            task_id=f"start_bad_{mode}", command="sleep 4; echo why 1>&2; exit 3", wait_for_completion=False
        )
        bad >> SandboxProcessSensor(task_id=f"bad_{mode}", process=bad.output, retries=3, **how)
        SandboxProcessSensor(task_id=f"unknown_{mode}", process_id="no-such-process", retries=3, **how)

with DAG("sensors_that_give_up"), sandbox_group("box", image_name="python", timeout_minutes=30):
    start = SandboxProcessOperator(task_id="start", command="sleep 600", wait_for_completion=False)
    # Airflow fails a task that is queued again before its worker's exit was seen: see `SETTLE_SECONDS`.
    limits = {"timeout": 10, "poke_interval": 8}
    for mode, how in MODES.items():
        wait = SandboxProcessSensor(task_id=f"wait_{mode}", process=start.output, **{**how, **limits})
        soft = SandboxProcessSensor(
            task_id=f"soft_{mode}",
            process=start.output,
            soft_fail=True,
            **{**how, **limits},
        )
        still = SandboxExecOperator(
            task_id=f"still_{mode}",
            command="pgrep -f 'sleep 60[0]'",
            trigger_rule="all_done",
        )
        [wait, soft] >> still

with DAG("sensor_that_is_killed"):
    SandboxProcessSensor(
        task_id="wait",
        sandbox_id="{{ params.sandbox_id }}",
        process_id="{{ params.process_id }}",
        deferrable=True,
        params={"sandbox_id": "", "process_id": ""},
    )

with DAG("signals"), sandbox_group("box", image_name="python", timeout_minutes=30):
    heeds = SandboxProcessOperator(
        task_id="heeds",
        command="trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.2; done",
        wait_for_completion=False,
    )
    ignores = SandboxProcessOperator(
        task_id="ignores",
        command="trap '' TERM; while :; do sleep 0.2; done",
        wait_for_completion=False,
    )
    term = SandboxSignalOperator(task_id="term", process=heeds.output)
    check = SandboxProcessSensor(task_id="check", process=term.output)
    kill = SandboxSignalOperator(task_id="kill", process=ignores.output, kill_grace=1)
    again = SandboxSignalOperator(task_id="again", process=kill.output)
    term >> check
    kill >> again
