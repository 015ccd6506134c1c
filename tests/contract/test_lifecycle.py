"""Making, using and stopping a sandbox by tasks, and waiting for and signalling what runs in it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.exceptions import AirflowFailException, AirflowSensorTimeout

from airflow_provider_sbx.api.events import Output
from airflow_provider_sbx.api.models import ProcessStatus, SandboxStatus
from airflow_provider_sbx.client import SandboxClient
from airflow_provider_sbx.operators.process import SandboxProcessOperator, SandboxSignalOperator
from airflow_provider_sbx.operators.sandbox import SandboxCreateOperator, SandboxStopOperator
from airflow_provider_sbx.sensors import process as sensor_module
from airflow_provider_sbx.sensors.process import SandboxProcessSensor
from tests.unit.operators.conftest import context_of, store

__all__ = ["context_of", "store"]  # fixtures

Context = Callable[[], dict[str, Any]]


@pytest.fixture(autouse=True)
def _connection(monkeypatch: pytest.MonkeyPatch, sbx_local: Any) -> None:
    fields = {"conn_type": "sbx", "host": sbx_local.url, "password": sbx_local.api_key}
    monkeypatch.setenv("AIRFLOW_CONN_SBX_DEFAULT", json.dumps(fields))


@pytest.fixture(scope="module")
def service(sbx_local: Any) -> Iterator[SandboxClient]:
    with SandboxClient(sbx_local.api_key, sbx_local.url) as client:
        yield client


@pytest.fixture
def sandbox(service: SandboxClient) -> Iterator[str]:
    made = service.create_sandbox({"image_name": "python"})
    yield made.id
    service.stop_sandbox(made.id)


@pytest.fixture
def start(context_of: Context, sandbox: str) -> Callable[[str], dict[str, str]]:
    def run(command: str) -> dict[str, str]:
        task = SandboxProcessOperator(
            task_id="start", command=command, sandbox_id=sandbox, wait_for_completion=False
        )
        started: dict[str, str] = task.execute(context_of())
        return started

    return run


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []

    def emitter(_: Any) -> Callable[[Any], None]:
        return lambda entries: lines.extend(entry.text for entry in entries)

    monkeypatch.setattr(sensor_module, "emitter", emitter)
    return lines


def wait(process: dict[str, str], **options: Any) -> SandboxProcessSensor:
    return SandboxProcessSensor(task_id="wait", process=process, **options)


# --- sandboxes -------------------------------------------------------------------------------


def test_a_sandbox_is_made_used_and_stopped(service: SandboxClient, context_of: Context) -> None:
    context = context_of()
    create = SandboxCreateOperator(
        task_id="create", image_name="python", timeout_minutes=5, cpu=2, memory_mib=512, region="us-east"
    )
    sandbox_id = create.execute(context)
    made = service.get_sandbox(sandbox_id)
    assert (made.status, made.timeout_minutes, made.cpu, made.memory_mib) == ("active", 5, 2, 512)
    pushed = context["ti"].pushed
    assert pushed["session_url"] == made.session_url
    assert made.token is not None
    assert made.token not in json.dumps(pushed)

    run = SandboxProcessOperator(task_id="run", command="echo hi", sandbox_id=sandbox_id, deferrable=False)
    assert run.execute(context_of())["stdout"] == "hi\n"

    stop = SandboxStopOperator(task_id="stop", sandbox_id=sandbox_id)
    stop.execute(context_of())
    assert service.get_sandbox(sandbox_id).status is SandboxStatus.CLOSED
    stop.execute(context_of())


def test_a_sandbox_that_never_was_is_as_good_as_stopped(context_of: Context) -> None:
    SandboxStopOperator(task_id="stop", sandbox_id="no-such-sandbox").execute(context_of())


def test_what_the_service_can_not_make_fails_for_good(context_of: Context) -> None:
    create = SandboxCreateOperator(task_id="create", snapshot_name="no-such-snapshot")
    with pytest.raises(AirflowFailException, match="no-such-snapshot"):
        create.execute(context_of())


def test_a_retry_takes_the_sandbox_of_the_lost_try(service: SandboxClient, context_of: Any) -> None:
    create = SandboxCreateOperator(task_id="create", image_name="python")
    first = create.execute(context_of(1))
    assert create.execute(context_of(2)) == first
    service.stop_sandbox(first)
    second = create.execute(context_of(3))
    assert second != first
    service.stop_sandbox(second)


# --- waiting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["stream", "wait", "poll"])
def test_a_process_of_another_task_is_waited_for(
    start: Any, context_of: Context, logged: list[str], strategy: str
) -> None:
    started = start("for n in 1 2 3; do echo line $n; sleep 0.3; done; echo why 1>&2")

    result = wait(started, wait_strategy=strategy, poke_interval=1).execute(context_of())

    assert {"line 1", "line 2", "line 3", "why"} <= set(logged)
    assert len(logged) == 4
    assert (result["stdout"], result["stderr"], result["exit_code"]) == (
        "line 1\nline 2\nline 3\n",
        "why\n",
        0,
    )


def test_one_that_has_ended_long_ago_has_its_output_in_the_log_as_well(
    start: Any, service: SandboxClient, context_of: Context, logged: list[str]
) -> None:
    started = start("echo early; exit 4")
    service.wait(started["sandbox_id"], started["process_id"], timeout_seconds=10)

    for mode in ("poke", "reschedule"):
        context = context_of()
        context["ti"].get_first_reschedule_date = lambda _: None
        with pytest.raises(AirflowFailException, match="failed with exit code 4"):
            wait(started, mode=mode).execute(context)
    assert logged == ["early", "early"]


def test_a_sensor_whose_time_is_up_leaves_the_process_running(
    start: Any, service: SandboxClient, context_of: Context
) -> None:
    started = start("echo begun; sleep 60")
    began = time.monotonic()

    with pytest.raises(AirflowSensorTimeout):
        wait(started, timeout=1, poke_interval=0.1).execute(context_of())

    assert time.monotonic() - began < 10
    process = service.get_process(started["sandbox_id"], started["process_id"])
    assert process.status is ProcessStatus.RUNNING


def test_a_process_that_never_was_is_told(sandbox: str, context_of: Context) -> None:
    never = {"sandbox_id": sandbox, "process_id": "no-such-process"}
    with pytest.raises(AirflowFailException, match="no-such-process"):
        wait(never).execute(context_of())
    with pytest.raises(AirflowFailException, match="no-such-process"):
        SandboxSignalOperator(task_id="signal", process=never).execute(context_of())


# --- signals ---------------------------------------------------------------------------------


def see(service: SandboxClient, started: dict[str, str], text: str) -> None:
    """Read a process's events until it has written this."""
    with service.stream(started["sandbox_id"], started["process_id"]) as events:
        assert any(isinstance(event, Output) and text in event.data for event in events)


def signal(started: dict[str, str], context: Any, **options: Any) -> str:
    task = SandboxSignalOperator(task_id="signal", process=started, **options)
    status: str = task.execute(context)["status"]
    return status


def test_a_signal_reaches_the_process_and_what_it_makes_of_it_is_seen(
    start: Any, service: SandboxClient, context_of: Context, logged: list[str]
) -> None:
    started = start(
        "trap 'echo reload' HUP; trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    )
    see(service, started, "ready")
    assert signal(started, context_of(), signal="HUP") == "running"
    see(service, started, "reload")
    signal(started, context_of(), signal=15)

    assert wait(started).execute(context_of())["exit_code"] == 0
    # Beside what its shell says of the `sleep` that the signal reached as well.
    assert [line for line in logged if line in ("ready", "reload", "bye")] == ["ready", "reload", "bye"]
    assert signal(started, context_of()) == "exited"


def test_with_a_grace_one_that_ignores_the_signal_is_killed(
    start: Any, service: SandboxClient, context_of: Context
) -> None:
    started = start("trap '' TERM; echo ready; while :; do sleep 0.1; done")
    see(service, started, "ready")
    assert signal(started, context_of(), kill_grace=0.5) == "killed"
    assert service.get_process(started["sandbox_id"], started["process_id"]).exit_code == 137


def test_one_whose_sandbox_was_stopped_needs_no_signal_and_can_not_be_waited_for(
    start: Any, service: SandboxClient, context_of: Context
) -> None:
    started = start("sleep 60")
    service.stop_sandbox(started["sandbox_id"])
    assert signal(started, context_of()) == "killed"
    with pytest.raises(AirflowFailException, match="was stopped or reached its timeout_minutes"):
        wait(started).execute(context_of())
