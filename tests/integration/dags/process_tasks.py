"""DAGs for the integration tests, each made for every way to wait: see `MODES`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_sbx.compat import renders_in_triggerer
from airflow_provider_sbx.operators.process import SandboxExecOperator, SandboxProcessOperator

SANDBOX = {"image_name": "python"}


def _tail(result: dict[str, Any]) -> Any:
    return [result["stdout"], result["stdout_truncated"]]


# Deferred at once: what is tested is the wait in the triggerer.
MODES: dict[str, dict[str, Any]] = {
    "worker": {"deferrable": False},
    "triggerer": {"defer_after": 0},
    "ending": {"defer_after": 0, "end_from_trigger": True},
}
if renders_in_triggerer():
    MODES["workerless"] = {"start_from_trigger": True}

for mode, wait in MODES.items():
    how: dict[str, Any] = {**wait, "sandbox": SANDBOX}
    # Where no worker resumes the task, nothing can be made of its result.
    takes_result = mode in ("worker", "triggerer")

    with DAG(f"ends_{mode}"):
        SandboxProcessOperator(task_id="fails", command="echo out; echo why 1>&2; exit 3", **how)
        SandboxProcessOperator(task_id="skips", command="exit 99", **how)
        SandboxProcessOperator(
            task_id="succeeds",
            command='printf "%s\\n" "$FOO" "$AIRFLOW_CTX_TASK_ID"; whoami; pwd; cat; echo more 1>&2',
            env={"FOO": "{{ task.task_id }} {{ params.get('x', 1) }}"},
            cwd="/tmp",
            run_as="root",
            stdin="typed\n",
            **how,
        )
        SandboxProcessOperator(task_id="times_out", command="echo began; sleep 60", timeout=4, **how)
        SandboxProcessOperator(
            task_id="runs_out_of_execution_timeout",
            command="trap 'echo asked to end; sleep 3; echo cleaned up; exit 0' TERM; "
            "echo began; while :; do sleep 0.1; done",
            # A triggerer that has just begun has its first requests answered after some 10 s.
            execution_timeout=timedelta(seconds=45 if mode == "workerless" else 15),
            **how,
        )
        SandboxProcessOperator(task_id="keeps_nothing", command="echo x", do_xcom_push=False, **how)
        SandboxProcessOperator(
            task_id="keeps_a_tail",
            command="seq 1 2000",
            max_output_bytes=10,
            output_processor=_tail if takes_result else None,
            **how,
        )
        SandboxProcessOperator(
            task_id="retries",
            command='echo "try $TRY"; test "$TRY" -gt 1',
            env={"TRY": "{{ ti.try_number }}"},
            retries=1,
            # Airflow 3.0 fails a task that is queued again before its worker's exit was seen.
            retry_delay=timedelta(seconds=3),
            **how,
        )

    with DAG(f"scripts_{mode}", params={"who": "you"}):
        SandboxProcessOperator(task_id="shell", command="scripts/hello.sh", stdin="from stdin\n", **how)
        SandboxProcessOperator(task_id="python", command="scripts/hello.py", stdin="from stdin\n", **how)

    with DAG(f"long_{mode}"):
        SandboxProcessOperator(
            task_id="count",
            command="trap 'echo asked to end; exit 0' TERM; "
            "for n in $(seq 700); do echo line $n; sleep 0.2; done",
            kill_grace=5,
            **how,
        )

    with DAG(f"bad_input_{mode}"):
        retries: dict[str, Any] = {"retries": 3, "retry_delay": timedelta(seconds=0)}
        SandboxProcessOperator(
            task_id="nowhere", command="true", sandbox_id="{{ '' }}", **{**how, "sandbox": None}, **retries
        )
        SandboxProcessOperator(
            task_id="no_such_sandbox",
            command="true",
            sandbox_id="no-such-sandbox",
            **{**how, "sandbox": None},
            **retries,
        )
        SandboxProcessOperator(task_id="no_such_user", command="true", run_as="whoever", **how, **retries)
        SandboxProcessOperator(task_id="no_such_place", command="true", cwd="/not/there", **how, **retries)
        SandboxProcessOperator(
            # Airflow says so as well of one that it could not read: a retry may mend it.
            task_id="no_such_connection",
            command="true",
            sbx_conn_id="nobody_made_it",
            **how,
        )
        SandboxProcessOperator(
            task_id="wrong_key", command="true", sbx_conn_id="sbx_wrong_key", **how, **retries
        )
        SandboxProcessOperator(task_id="empty_command", command="{{ '' }}", **how, **retries)
        SandboxProcessOperator(
            task_id="odd_timeout", command="true", timeout="{{ 'soon' }}", **how, **retries
        )

with DAG("floods"):
    # Its log takes all of a worker's time: a kill finds it in the middle of a line.
    SandboxExecOperator(task_id="flood", command="yes", sandbox=SANDBOX)

with DAG("no_sandbox_named"):
    SandboxExecOperator(task_id="nowhere", command="true")

with DAG("left_running"):
    started = SandboxProcessOperator(
        task_id="start",
        command="sleep 300",
        sandbox_id="{{ params.sandbox_id }}",
        params={"sandbox_id": ""},
        wait_for_completion=False,
    )

with DAG("survives"):
    # What dies while these run is up to the test; each must end with its whole output, once, and not before
    # the test lets it go on.
    HELD = "until [ -e /tmp/go ]; do sleep 0.2; done"
    RAN = "echo ran >> /tmp/runs; wc -l < /tmp/runs"
    COUNT = f"for n in $(seq 400); do echo line $n; sleep 0.2; done; {HELD}; {RAN}"
    SandboxProcessOperator(task_id="triggerer", command=COUNT, sandbox=SANDBOX, defer_after=1)
    SandboxProcessOperator(
        task_id="worker",
        command=COUNT,
        sandbox=SANDBOX,
        deferrable=False,
        retries=1,
        retry_delay=timedelta(seconds=0),
    )
    if renders_in_triggerer():
        SandboxProcessOperator(task_id="workerless", command=COUNT, sandbox=SANDBOX, start_from_trigger=True)
        # The variable is deleted while it runs: what takes over can't render it any more.
        SandboxProcessOperator(
            task_id="unrendered",
            command=COUNT.replace("line", "{{ var.value.sbx_word }}"),
            sandbox=SANDBOX,
            start_from_trigger=True,
        )
    # More than the service keeps for a later reader, between the deferral and a triggerer's death.
    PAD = "x" * 5600
    SandboxProcessOperator(
        task_id="noisy",
        command=f"for n in $(seq 520); do echo line $n {PAD}; sleep 0.1; done; {HELD}; "
        f"for n in $(seq 521 700); do echo line $n {PAD}; sleep 0.1; done; {RAN}",
        sandbox=SANDBOX,
        defer_after=0,
    )

with DAG("survives_a_freeze"):
    COUNT = f"for n in $(seq 800); do echo line $n; sleep 0.1; done; {HELD}; {RAN}"
    SandboxProcessOperator(task_id="count", command=COUNT, sandbox=SANDBOX, defer_after=0)
    if renders_in_triggerer():
        SandboxProcessOperator(task_id="workerless", command=COUNT, sandbox=SANDBOX, start_from_trigger=True)

with DAG("around_the_deferral", params={"sandbox_id": "", "tasks": 4}, max_active_tasks=64):

    @task
    def commands(params: dict[str, Any] | None = None) -> list[str]:
        """Processes that end at any moment before and after their task's deferral."""
        assert params is not None
        return [f"sleep {n % 25 / 2}; echo {n}" for n in range(params["tasks"])]

    around: dict[str, Any] = {"sandbox_id": "{{ params.sandbox_id }}", "defer_after": 1}
    SandboxProcessOperator.partial(task_id="resumed", **around).expand(command=commands())
    SandboxProcessOperator.partial(task_id="ended", end_from_trigger=True, **around).expand(
        command=commands.override(task_id="more")()
    )

with DAG("fails_deferred"):
    SandboxProcessOperator(
        task_id="fail",
        command="echo x; exit 1",
        sandbox_id="{{ params.sandbox_id }}",
        params={"sandbox_id": ""},
        defer_after=0,
    )

if renders_in_triggerer():
    # What a triggerer can't render starts on a worker all the same.
    with DAG("workerless_mapped", params={"sandbox_id": ""}):
        inside = {"sandbox_id": "{{ params.sandbox_id }}", "start_from_trigger": True}
        first = SandboxProcessOperator(task_id="first", command="echo one", **inside)
        SandboxProcessOperator(
            task_id="pulls", command="echo {{ ti.xcom_pull(task_ids='first')['stdout'] }}", **inside
        ).set_upstream(first)
        SandboxProcessOperator.partial(task_id="mapped", **inside).expand(command=["echo a", "echo b"])
