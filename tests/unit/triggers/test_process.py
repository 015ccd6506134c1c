"""The trigger, over a service that stands where the network would."""

import asyncio
import inspect
import json
import time
from importlib import import_module
from types import SimpleNamespace

import httpx
import pytest
from airflow.exceptions import AirflowNotFoundException
from airflow.sdk.exceptions import ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.compat import AirflowRuntimeError, tells_triggers_of_kills
from airflow_provider_sbx.hooks.sandbox import SandboxAsyncHook
from airflow_provider_sbx.triggers.event import ProcessEvent
from airflow_provider_sbx.triggers.process import SandboxProcessTrigger, failure_of
from tests.unit.builders import (
    API_KEY,
    PROCESS,
    SANDBOX,
    process_body,
    result_body,
    sse,
    sse_output,
    until,
)
from tests.unit.client.twins import event_stream, held_stream
from tests.unit.triggers.conftest import of_a_task

P = f"/sandbox/processes/{PROCESS}"
needs_3_3 = pytest.mark.skipif(
    not tells_triggers_of_kills(), reason="before Airflow 3.3 a trigger is only cancelled"
)
STREAM = ("GET", f"{P}/stream")
EVERY = {
    "sandbox_id": SANDBOX,
    "process_id": PROCESS,
    "sbx_conn_id": "mine",
    "wait_strategy": "poll",
    "poll_interval": 2.5,
    "max_log_bytes": 17,
    "state": {"next_seq": 4, "lines": None},
    "deadline": 1_800_000_000.5,
    "kill_grace": 3.0,
    "owns_sandbox": True,
    "deferred_at": 1_700_000_000.5,
    "checkpoints": False,
    "ends_process": False,
    "ends": {"output_bytes": 9, "skip_on_exit_code": [99], "pushes": True, "fails": False},
}


@pytest.fixture(autouse=True)
def _connection(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_SBX_DEFAULT", f'{{"conn_type": "sbx", "password": "{API_KEY}"}}')


def trigger(**options):
    return SandboxProcessTrigger(sandbox_id=SANDBOX, process_id=PROCESS, **options)


async def fired(found):
    events = [event.payload async for event in found.run()]
    assert len(events) == 1
    return ProcessEvent.read(json.loads(json.dumps(events[0])))


# --- serialization ---------------------------------------------------------------------------


def test_a_trigger_is_built_again_from_what_it_serializes_to():
    path, kwargs = SandboxProcessTrigger(**EVERY).serialize()
    module, _, name = path.rpartition(".")

    again = getattr(import_module(module), name)(**json.loads(json.dumps(kwargs)))

    assert again.serialize() == (path, EVERY)


def test_every_argument_is_serialized():
    arguments = set(inspect.signature(SandboxProcessTrigger.__init__).parameters) - {"self"}

    assert set(trigger().serialize()[1]) == arguments == set(EVERY)


def test_no_argument_can_hold_a_key_a_token_or_an_environment():
    names = " ".join(EVERY)

    assert not any(word in names for word in ("key", "token", "env", "password", "command", "stdin"))


def test_making_a_trigger_reads_no_connection():
    trigger(sbx_conn_id="there-is-none")


# --- running ---------------------------------------------------------------------------------


async def test_it_follows_the_process_and_fires_one_event(network):
    network.queue(
        *STREAM, event_stream(sse_output(1, "a\n"), sse("done", result_body(exit_code=3, last_seq=1)))
    )

    event = await fired(trigger())

    assert (event.status, event.exit_code, event.failure) == ("exited", 3, None)
    assert not event.output_lost


async def test_a_key_that_was_exchanged_while_it_waited_is_used_from_then_on(network, monkeypatch):
    answer = network.answer

    def revoked(request):
        response = answer(request)
        if response.status_code == 401:
            monkeypatch.setenv("AIRFLOW_CONN_SBX_DEFAULT", '{"conn_type": "sbx", "password": "another"}')
        return response

    monkeypatch.setattr(network, "answer", revoked)
    network.queue("GET", f"/api/sandbox/{SANDBOX}", httpx.Response(401, json={"error": "revoked"}))
    network.queue(*STREAM, event_stream(sse_output(1, "a\n"), sse("done", result_body(last_seq=1))))

    event = await fired(trigger())

    assert (event.status, event.failure) == ("exited", None)
    assert [each.headers["x-api-key"] for each in network.requests if each.url.path.startswith("/api")] == [
        API_KEY,
        "another",
    ]


async def test_a_refused_key_is_told_where_airflow_can_not_be_asked_for_another(network, monkeypatch):
    async def broken(_):
        raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR))

    monkeypatch.setattr(SandboxAsyncHook, "has_new_key", broken)
    network.queue("GET", f"/api/sandbox/{SANDBOX}", httpx.Response(401, json={"error": "revoked"}))

    assert (await fired(trigger())).failure == "refused"


async def test_it_goes_on_where_the_worker_left_off(network):
    network.queue(*STREAM, event_stream(sse("done", result_body(last_seq=4))))

    await fired(trigger(state={"next_seq": 5, "logged_bytes": 9, "output_lost": True}))

    assert network.asked() == [f"GET {P}/stream?from_seq=5"]


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (httpx.Response(404, json={"error": "x"}), "not_found"),
        (httpx.Response(403, json={"error": "x"}), "refused"),
        (httpx.Response(409, json={"error": "x", "code": "sandbox_not_running"}), "sandbox_not_running"),
        (httpx.Response(400, json={"error": "x"}), "service"),
    ],
)
async def test_what_ends_the_wait_is_told_by_a_word_and_no_event_is_missing(network, answer, failure):
    network.queue(*STREAM, answer)

    event = await fired(trigger())

    assert (event.failure, event.status) == (failure, None)
    assert event.error


async def test_a_connection_that_stays_away_is_told_and_a_retry_may_mend_it(network, monkeypatch):
    monkeypatch.setattr("airflow_provider_sbx.triggers.connecting._PATIENCE_SECONDS", 0.0)
    event = await fired(trigger(sbx_conn_id="there-is-none"))

    assert event.failure == "service"
    assert "there-is-none" in event.error


async def test_a_process_is_followed_once_its_connection_can_be_read_again(network, monkeypatch):
    """Airflow says of a busy secrets backend that there is no such connection."""
    monkeypatch.setattr("airflow_provider_sbx.triggers.connecting._FIRST_PAUSE_SECONDS", 0.001)
    network.queue(*STREAM, event_stream(sse("done", result_body(exit_code=0))))
    enter, left = SandboxAsyncHook.__aenter__, [AirflowNotFoundException("there is none")] * 3

    async def busy(self):
        if left:
            raise left.pop()
        return await enter(self)

    monkeypatch.setattr(SandboxAsyncHook, "__aenter__", busy)

    assert (await fired(trigger())).exit_code == 0


async def test_a_process_whose_time_is_up_is_ended(network):
    network.queue(
        *STREAM, held_stream(), event_stream(sse_output(1, "bye\n"), sse("done", result_body(last_seq=1)))
    )
    network.queue("GET", P, {"process": process_body()})
    network.queue("POST", f"{P}/signal", {"process": process_body()})
    network.queue("POST", f"{P}/wait", {"result": result_body(status="killed")})

    event = await fired(trigger(deadline=time.time() + 0.05))

    assert event.deadline_passed
    assert (event.status, event.failure, event.error) == (None, None, "it ended after TERM")


async def test_no_event_is_fired_before_the_worker_can_have_left(network, monkeypatch):
    naps = []

    async def nap(seconds):
        naps.append(seconds)

    network.queue(*STREAM, event_stream(sse("done", result_body())))
    found = trigger(deferred_at=time.time())
    monkeypatch.setattr("airflow_provider_sbx.triggers.process.asyncio.sleep", nap)

    await fired(found)

    assert 5 < naps[-1] < 10


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (errors.SandboxNotRunningError("x", status_code=409), "sandbox_not_running"),
        (errors.AuthenticationError("x", status_code=401), "refused"),
        (errors.NotFoundError("x", status_code=404), "not_found"),
        (errors.ServiceUnavailableError("x"), "unavailable"),
        (errors.InvalidParameterError("a", "b", "c"), "invalid"),
        (AirflowNotFoundException("x"), "service"),
        (errors.ResponseError("x", status_code=500), "service"),
        (errors.TransportError("x", surely_unsent=False), "service"),
    ],
)
def test_each_error_has_its_word(error, word):
    assert failure_of(error) == word


# --- being killed ----------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["failed", "success", "scheduled", None])
async def test_being_killed_ends_the_process(network, supervisor, state):
    supervisor.state = state
    lets_be_killed(network)

    await of_a_task().on_kill()

    assert network.asked() == [f"GET {P}", f"POST {P}/signal", f"POST {P}/wait"]


def lets_be_killed(network):
    network.queue("GET", P, {"process": process_body()})
    network.queue("POST", f"{P}/signal", {"process": process_body()})
    network.queue("POST", f"{P}/wait", {"result": result_body(status="killed")})


async def test_a_trigger_that_was_only_frozen_kills_nothing(network, supervisor):
    await of_a_task().on_kill()

    assert network.requests == []


async def test_a_task_that_waits_for_its_next_trys_process_was_cleared(network, supervisor):
    supervisor.xcom["process_id"] = "the next try's"
    lets_be_killed(network)

    await of_a_task().on_kill()

    assert f"POST {P}/signal" in network.asked()


async def test_an_airflow_that_can_not_be_asked_leaves_the_process_to_its_timeout(network, supervisor):
    supervisor.broken = True

    await of_a_task().on_kill()

    assert network.requests == []


@pytest.mark.parametrize(("state", "ends"), [("failed", True), ("deferred", False)])
async def test_an_airflow_that_only_cancels_is_asked_whether_somebody_killed(
    network, supervisor, monkeypatch, state, ends
):
    monkeypatch.setattr("airflow_provider_sbx.triggers.process.tells_triggers_of_kills", lambda: False)
    supervisor.state = state
    network.queue(*STREAM, held_stream())
    lets_be_killed(network)
    running = asyncio.create_task(fired(of_a_task()))
    await until(network.asked)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert (f"POST {P}/signal" in network.asked()) is ends


@needs_3_3
async def test_a_restart_of_the_triggerer_ends_nothing(network, supervisor):
    network.queue(*STREAM, held_stream())
    running = asyncio.create_task(fired(of_a_task()))
    await until(network.asked)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert "GetTaskStates" not in supervisor.asked
    assert network.asked() == [f"GET {P}/stream"]


async def test_being_killed_leaves_a_process_that_is_another_tasks(network):
    await trigger(ends_process=False).on_kill()

    assert network.requests == []


@pytest.mark.parametrize(("status", "stops"), [("running", True), ("exited", False)])
async def test_a_sandbox_made_for_the_task_is_stopped_with_it_unless_its_result_may_be_read(
    network, supervisor, status, stops
):
    supervisor.state = "failed"
    network.queue("GET", P, {"process": process_body(status=status)})
    network.queue("POST", f"{P}/signal", {"process": process_body()})
    network.queue("POST", f"{P}/wait", {"result": result_body(status="killed")})
    network.queue("PUT", f"/api/sandbox/{SANDBOX}/stop", {"success": True})

    await of_a_task(owns_sandbox=True).on_kill()

    assert (f"PUT /api/sandbox/{SANDBOX}/stop" in network.asked()) is stops


async def test_a_kill_that_was_asked_for_late_gives_the_process_a_shorter_grace(
    network, supervisor, monkeypatch
):
    asend, graces = supervisor.asend, []

    async def late(message):
        await asyncio.sleep(0.5)
        return await asend(message)

    async def end(self, *, grace_seconds):
        graces.append(grace_seconds)

    supervisor.asend, supervisor.state = late, "failed"
    monkeypatch.setattr("airflow_provider_sbx.triggers.process.trigger_kill_seconds", lambda: 15.0)
    monkeypatch.setattr(SandboxProcessTrigger, "_end", end)

    began = time.monotonic()
    await of_a_task(kill_grace=10.0).on_kill()
    over = time.monotonic() - began

    assert 4.99 - over <= graces[0] <= 4.5, "of 15 s, 10 are kept for KILL, and half a second is over"


async def test_a_service_that_can_not_be_reached_breaks_no_triggerer(network, supervisor):
    supervisor.state = "failed"
    network.queue("GET", P, httpx.Response(404, json={"error": "x"}))
    await of_a_task().on_kill()

    network.queue("GET", P, httpx.Response(400, json={"error": "x"}))
    await of_a_task().on_kill()


async def test_a_kill_that_could_not_be_decided_leaves_the_process_alone_and_says_so(
    network, supervisor, monkeypatch
):
    supervisor.held = asyncio.Event()
    monkeypatch.setattr("airflow_provider_sbx.triggers.process.trigger_kill_seconds", lambda: 1.01)
    found, said = of_a_task(), []
    monkeypatch.setattr(type(found), "log", SimpleNamespace(warning=lambda text, *_: said.append(text)))

    await found.on_kill()

    assert network.requests == []
    assert "left alone" in said[0]


# --- ending the task -------------------------------------------------------------------------

ENDS = {"output_bytes": 5, "skip_on_exit_code": [99], "pushes": True, "fails": False}


def ends_with(network, **result):
    network.queue(*STREAM, event_stream(sse("done", result_body(**result))))
    network.queue("POST", f"{P}/wait", {"result": result_body(**result)})


async def task_end(**options):
    (event,) = [event async for event in of_a_task(ends=ENDS, **options).run()]
    return event


async def test_a_success_ends_the_task_at_once_with_its_result_in_xcom(network, supervisor):
    ends_with(network, exit_code=0, stdout="0123456789")

    event = await task_end(deferred_at=time.time())

    assert event.task_instance_state == "success"
    assert supervisor.xcom["return_value"]["stdout"] == "56789"
    # Airflow would encode it twice.
    assert event.xcoms is None


async def test_a_skip_ends_the_task(network, supervisor):
    ends_with(network, exit_code=99)

    assert (await task_end()).task_instance_state == "skipped"


async def test_a_failure_is_left_to_a_worker_which_leaves_word_for_the_next_try(network, supervisor):
    ends_with(network, exit_code=3)

    event = await task_end()

    assert ProcessEvent.read(event.payload).exit_code == 3
    assert "return_value" not in supervisor.xcom


async def test_a_sandbox_of_the_task_is_stopped_at_its_end_and_the_end_noted_before(network, supervisor):
    ends_with(network, exit_code=0)
    network.queue("PUT", f"/api/sandbox/{SANDBOX}/stop", {"success": True})

    await task_end(owns_sandbox=True)

    assert supervisor.xcom["sbx_process"]["outcome"]["exit_code"] == 0
    network.queue(*STREAM, httpx.Response(409, json={"error": "x", "code": "sandbox_not_running"}))
    assert (await task_end(owns_sandbox=True)).task_instance_state == "success"
