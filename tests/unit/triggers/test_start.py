"""The trigger that starts a task's process: once a try, whatever was lost; and ends the task."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx
import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse

from airflow_provider_sbx.compat import renders_in_triggerer
from airflow_provider_sbx.runs.attempt import Attempt
from airflow_provider_sbx.triggers import start
from airflow_provider_sbx.triggers.event import ProcessEvent
from airflow_provider_sbx.triggers.start import SandboxStartTrigger
from tests.unit.builders import (
    API_KEY,
    PROCESS,
    SANDBOX,
    process_body,
    result_body,
    sandbox_body,
    sse,
    sse_output,
)
from tests.unit.client.twins import event_stream, held_stream

pytestmark = pytest.mark.skipif(not renders_in_triggerer(), reason="Airflow starts tasks on workers only")

P = "/sandbox/processes"
LIST, START, STDIN = ("GET", P), ("POST", P), ("POST", f"{P}/{PROCESS}/stdin")
STREAM, WAIT = ("GET", f"{P}/{PROCESS}/stream"), ("POST", f"{P}/{PROCESS}/wait")
STOP = ("PUT", f"/api/sandbox/{SANDBOX}/stop")
STARTED_AT = datetime(2026, 1, 1, tzinfo=UTC)
ENDS = {"output_bytes": 65536, "skip_on_exit_code": [99], "pushes": True, "fails": True}


@pytest.fixture(autouse=True)
def _connection(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_SBX_DEFAULT", f'{{"conn_type": "sbx", "password": "{API_KEY}"}}')


class TaskInstance(SimpleNamespace):
    """What the triggerer makes for a task that starts there."""

    def get_template_context(self):
        return {"ti": self, "dag_run": SimpleNamespace(start_date=STARTED_AT)}


def trigger(*, try_number=1, **options):
    options = {"command": "true", "sandbox_id": SANDBOX, "ends": ENDS, "append_airflow_env": False} | options
    made = SandboxStartTrigger(**options)
    made.task_instance = TaskInstance(
        dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=try_number, max_tries=3
    )
    return made


def key(try_number=1):
    return Attempt(trigger(try_number=try_number).task_instance.get_template_context()).key


def pages(*processes):
    return {"data": list(processes), "nextCursor": None}


def begins(network, *events, found=(), **result):
    """Queue a start of a process that ends with a result."""
    network.queue(*LIST, pages(*found))
    done = sse("done", result_body(last_seq=len(events) or None, **result))
    network.queue(*START, {"process": process_body()})
    network.queue(*STREAM, event_stream(*events, done))
    network.queue(*STDIN, {"success": True})
    network.queue(*WAIT, {"result": result_body(**result)})


def asked(network):
    return [(request.method, request.url.path) for request in network.requests]


async def fired(made):
    (event,) = [event async for event in made.run()]
    return event


def ended(event):
    return str(event.task_instance_state)


# --- the way without trouble -----------------------------------------------------------------


async def test_a_process_is_started_and_the_task_ended_with_its_result_in_xcom(network, supervisor):
    begins(network, sse_output(1, "hello\n"), exit_code=0, stdout="hello\n")

    event = await fired(trigger(command="echo hello"))

    assert ended(event) == "success"
    assert supervisor.xcom["return_value"]["stdout"] == "hello\n"
    assert (supervisor.xcom["sandbox_id"], supervisor.xcom["process_id"]) == (SANDBOX, PROCESS)
    assert network.asked().count(f"POST {P}") == 1


async def test_what_is_started_bears_the_trys_key_and_the_rendered_fields(network, supervisor):
    begins(network, exit_code=0)
    made = trigger(command="echo x", cwd="/tmp", env={"A": "b"}, run_as="root", timeout="30")

    await fired(made)

    (sent,) = [json.loads(r.content) for r in network.requests if (r.method, r.url.path) == START]
    assert sent["command"].startswith(f"# {key()} d/t run r try 1\necho x")
    assert (sent["cwd"], sent["env"], sent["runAs"], sent["timeoutMs"]) == (
        "/tmp",
        {"A": "b"},
        "root",
        30_000,
    )


@pytest.mark.parametrize(("code", "state"), [(3, "failed"), (99, "skipped")])
async def test_other_ends_end_the_task_as_well_and_its_ids_are_told(network, supervisor, code, state):
    begins(network, exit_code=code)

    assert ended(await fired(trigger())) == state
    assert supervisor.xcom["process_id"] == PROCESS
    assert "return_value" not in supervisor.xcom


async def test_nothing_is_pushed_where_the_task_pushes_nothing(network, supervisor):
    begins(network, exit_code=0)

    assert ended(await fired(trigger(ends=ENDS | {"pushes": False}))) == "success"
    assert supervisor.xcom == {}


async def test_an_xcom_that_can_not_be_written_leaves_the_end_to_a_worker(network, supervisor):
    begins(network, exit_code=0)
    supervisor.broken = True

    event = await fired(trigger())

    assert ProcessEvent.read(event.payload).status == "exited"


async def test_a_process_that_is_not_waited_for_ends_the_task_at_its_start(network, supervisor):
    network.queue(*LIST, pages())
    network.queue(*START, {"process": process_body()})

    assert ended(await fired(trigger(wait_for_completion=False))) == "success"
    assert supervisor.xcom["return_value"] == {"sandbox_id": SANDBOX, "process_id": PROCESS}


async def test_a_process_is_ended_when_the_execution_timeout_is_over(network, supervisor):
    network.queue(*LIST, pages())
    network.queue(*START, {"process": process_body()})
    network.queue(*STDIN, {"success": True})
    network.queue("GET", f"{P}/{PROCESS}", {"process": process_body(status="exited")})
    network.queue(*STREAM, held_stream(), event_stream(sse("done", result_body())))
    made = trigger()
    made.timeout_after = datetime.now(UTC) + timedelta(seconds=0.2)

    assert ended(await fired(made)) == "failed"


async def test_rendered_values_stand_in_no_repr(supervisor):
    made = trigger(env={"PASSWORD": "{{ conn.db.password }}"})
    made.env = {"PASSWORD": "hunter2"}

    assert "hunter2" not in repr(made)
    assert made.serialize()[1]["env"] == {"PASSWORD": "{{ conn.db.password }}"}


# --- what no retry can mend ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"command": ""}, "command"),
        ({"timeout": "soon"}, "timeout"),
        ({"sandbox_id": ""}, "sandbox_id"),
    ],
)
async def test_a_wrong_parameter_has_a_worker_fail_the_task_for_good(network, supervisor, options, word):
    event = ProcessEvent.read((await fired(trigger(**options))).payload)

    assert event.failure == "lasting"
    assert word in event.error
    assert network.asked() == []


async def test_a_connection_that_is_not_there_may_be_mended_by_a_retry(network, supervisor):
    event = ProcessEvent.read((await fired(trigger(sbx_conn_id="there-is-none"))).payload)

    assert event.failure == "service"
    assert "there-is-none" in event.error


async def test_a_refusal_of_the_service_has_a_worker_fail_the_task_for_good(network, supervisor):
    network.queue(*LIST, pages())
    network.queue(*START, httpx.Response(400, json={"error": "no such user", "code": "bad_request"}))

    event = ProcessEvent.read((await fired(trigger(run_as="whoever"))).payload)

    assert event.failure == "lasting"
    assert "no such user" in event.error


# --- once a try ------------------------------------------------------------------------------


def of_try(number, **fields):
    return process_body(command=f"# {key(number)} d/t run r try {number}\ntrue", **fields)


async def test_a_triggerer_that_takes_over_finds_the_process_and_starts_none(network, supervisor):
    network.queue(*LIST, pages(of_try(1)))
    network.queue(*STDIN, {"success": True})
    network.queue(*STREAM, event_stream(sse("done", result_body(exit_code=0))))
    network.queue(*WAIT, {"result": result_body(exit_code=0)})

    assert ended(await fired(trigger())) == "success"
    assert not network.asked("POST").count(f"POST {P}")


async def test_it_takes_the_result_of_one_that_has_ended_meanwhile(network, supervisor):
    network.queue(*LIST, pages(of_try(1, status="exited", exitCode=0)))
    network.queue(*STDIN, httpx.Response(409, json={"error": "x", "code": "process_exited"}))
    network.queue(*STREAM, event_stream(sse("done", result_body(exit_code=0))))
    network.queue(*WAIT, {"result": result_body(exit_code=0)})

    assert ended(await fired(trigger())) == "success"
    assert not network.asked("POST").count(f"POST {P}")


async def test_it_looks_no_further_back_than_the_run_has_begun(network, supervisor):
    begins(network, exit_code=0)

    await fired(trigger())

    (asked,) = [a for a in network.asked("GET") if a.startswith(f"GET {P}?")]
    since = int((STARTED_AT - timedelta(hours=1)).timestamp() * 1000)
    assert f"created_after={since}" in asked


async def test_a_retry_follows_a_process_that_the_try_before_left_running(network, supervisor):
    network.queue(*LIST, pages(of_try(1)))
    network.queue(*STDIN, {"success": True})
    network.queue(*STREAM, event_stream(sse("done", result_body(exit_code=0))))
    network.queue(*WAIT, {"result": result_body(exit_code=0)})

    assert ended(await fired(trigger(try_number=2))) == "success"


async def test_a_retry_takes_no_result_of_the_try_before(network, supervisor):
    begins(network, found=[of_try(1, status="exited", exitCode=1)], exit_code=0)

    assert ended(await fired(trigger(try_number=2))) == "success"
    assert network.asked().count(f"POST {P}") == 1


@pytest.mark.parametrize("status", ["killed", "exited"])
async def test_a_process_that_was_ended_since_its_try_was_cleared_is_no_result(network, supervisor, status):
    if status == "exited":  # as one may that heeds TERM
        supervisor.xcom["sbx_killed"] = PROCESS
    network.queue(*LIST, pages(of_try(1)))
    network.queue(*STDIN, {"success": True}, {"success": True})
    done = sse("done", result_body(exit_code=0))
    ended_before = sse("done", result_body(status=status, exit_code=0))
    network.queue(*STREAM, event_stream(ended_before), event_stream(done))
    network.queue(*START, {"process": process_body()})
    network.queue(*WAIT, {"result": result_body(exit_code=0)})

    assert ended(await fired(trigger(try_number=2))) == "success"
    assert network.asked().count(f"POST {P}") == 1


async def test_what_is_known_of_such_a_process_does_not_hold_of_the_one_started_anew(network, supervisor):
    long_ago = int(time.time() * 1000) - 3_000_000
    network.queue(*LIST, pages(of_try(1, id="p-old", started_at=long_ago)))
    old = f"{P}/p-old"
    network.queue("POST", f"{old}/stdin", {"success": True})
    network.queue("GET", f"{old}/stream", event_stream(sse("done", result_body(id="p-old", status="killed"))))
    now = int(time.time() * 1000)
    network.queue(*START, {"process": process_body(started_at=now)})
    network.queue(*STREAM, event_stream(sse("done", result_body(exit_code=0))))
    network.queue(*STDIN, {"success": True})
    network.queue(*WAIT, {"result": result_body(exit_code=0)})
    made = trigger(try_number=2, timeout=3600)
    made._told = {"sandbox_id", "process_id"}  # as after some seconds with the old one

    assert ended(await fired(made)) == "success"
    assert made.deadline == pytest.approx(now / 1000 + 3600 + 15, abs=1)
    assert supervisor.xcom["process_id"] == PROCESS


# --- a process that nobody waits for ---------------------------------------------------------


async def test_a_process_that_nobody_waits_for_ends_the_task_with_its_ids(network, supervisor):
    begins(network)

    assert ended(await fired(trigger(wait_for_completion=False))) == "success"
    assert supervisor.xcom["return_value"] == {"sandbox_id": SANDBOX, "process_id": PROCESS}
    assert STREAM not in [(r.method, r.url.path) for r in network.requests]


async def test_a_task_that_is_cleared_after_it_had_started_its_process_starts_another(network, supervisor):
    begins(network)
    await fired(trigger(wait_for_completion=False))
    for number in (2, 3):
        before = [of_try(n, id=f"p-{n}") for n in range(1, number)]
        network.queue(*LIST, pages(*before))
        network.queue(*START, {"process": process_body(id=f"p-{number}")})

        assert ended(await fired(trigger(try_number=number, wait_for_completion=False))) == "success"
        assert supervisor.xcom["return_value"]["process_id"] == f"p-{number}"


async def test_a_retry_of_a_task_that_could_not_say_so_takes_the_process_that_was_started(
    network, supervisor
):
    network.queue(*LIST, pages(of_try(1)))

    assert ended(await fired(trigger(try_number=2, wait_for_completion=False))) == "success"
    assert supervisor.xcom["return_value"]["process_id"] == PROCESS
    assert f"POST {P}" not in network.asked()


# --- a sandbox of its own --------------------------------------------------------------------

OWN = {"sandbox_id": None, "sandbox": {"image_name": "python"}}


async def test_a_sandbox_is_made_noted_and_stopped(network, supervisor):
    network.queue("POST", "/api/sandbox", sandbox_body())
    network.queue(*STOP, {"success": True})
    begins(network, exit_code=0)

    assert ended(await fired(trigger(**OWN))) == "success"
    note = supervisor.xcom["sbx_process"]
    assert (note["sandbox_id"], note["try_number"], note["owns_sandbox"]) == (SANDBOX, 1, True)
    assert network.asked("PUT") == [f"PUT /api/sandbox/{SANDBOX}/stop"]


async def test_a_failed_wait_stops_it_too(network, supervisor):
    network.queue("POST", "/api/sandbox", sandbox_body())
    network.queue(*LIST, pages())
    network.queue(*START, httpx.Response(400, json={"error": "x"}))
    network.queue(*STOP, {"success": True})

    await fired(trigger(**OWN))

    assert network.asked("PUT") == [f"PUT /api/sandbox/{SANDBOX}/stop"]


async def test_a_sandbox_that_can_not_be_noted_is_stopped_and_nothing_runs_in_it(network, supervisor):
    network.queue("POST", "/api/sandbox", sandbox_body())
    network.queue(*LIST, pages())
    network.queue(*STOP, {"success": True})
    made, asend = trigger(**OWN), supervisor.asend

    async def refuse(message):
        supervisor.broken = message.type == "SetXCom"
        return await asend(message)

    supervisor.asend = refuse
    with pytest.raises(start.AirflowRuntimeError):
        await fired(made)
    assert network.asked("PUT") == [f"PUT /api/sandbox/{SANDBOX}/stop"]
    assert f"POST {P}" not in network.asked()


async def test_who_takes_over_after_the_sandbox_was_stopped_ends_the_task_by_the_note(network, supervisor):
    network.queue("POST", "/api/sandbox", sandbox_body())
    network.queue(*STOP, {"success": True})
    begins(network, exit_code=0, stdout="all of it")
    await fired(trigger(**OWN))
    del supervisor.xcom["return_value"]
    network.queue(
        "GET", f"{P}/{PROCESS}", httpx.Response(409, json={"error": "x", "code": "sandbox_not_running"})
    )
    network.queue(*STOP, {"success": True})

    assert ended(await fired(trigger(**OWN))) == "success"
    assert supervisor.xcom["return_value"]["stdout"] == "all of it"


async def test_a_retry_makes_a_sandbox_of_its_own_where_the_one_before_is_stopped(network, supervisor):
    supervisor.xcom["sbx_process"] = {
        "follower": "x",
        "try_number": 1,
        "sandbox_id": SANDBOX,
        "owns_sandbox": True,
    }
    network.queue(*LIST, httpx.Response(409, json={"error": "x", "code": "sandbox_not_running"}))
    network.queue(*STOP, {"success": True}, {"success": True})
    network.queue("POST", "/api/sandbox", sandbox_body())
    network.queue(*START, {"process": process_body()})
    network.queue(*STREAM, event_stream(sse("done", result_body(exit_code=0))))
    network.queue(*STDIN, {"success": True})
    network.queue(*WAIT, {"result": result_body(exit_code=0)})

    assert ended(await fired(trigger(try_number=2, **OWN))) == "success"
    assert network.asked().count("POST /api/sandbox") == 1


# --- killing ---------------------------------------------------------------------------------


@pytest.fixture
def running(network, supervisor):
    """A trigger whose process runs, and what ending it takes."""
    made = trigger()
    made._attempt = Attempt(made.task_instance.get_template_context())
    made.process_id = PROCESS
    network.queue("GET", f"{P}/{PROCESS}", {"process": process_body()})
    network.queue("POST", f"{P}/{PROCESS}/signal", {"process": process_body()})
    network.queue(*WAIT, {"result": result_body(status="killed")})
    return made


def note(try_number, follower="another"):
    return {"follower": follower, "try_number": try_number, "sandbox_id": SANDBOX, "process_id": PROCESS}


async def test_a_task_that_was_marked_has_its_process_ended_and_says_so_to_later_tries(
    network, supervisor, running
):
    supervisor.state = "failed"

    await running.on_kill()

    assert f"POST {P}/{PROCESS}/signal" in network.asked()
    assert supervisor.xcom["sbx_killed"] == PROCESS


async def test_a_cleared_task_that_waits_in_its_next_try_has_its_process_ended(network, supervisor, running):
    supervisor.xcom["sbx_process"] = note(2)

    await running.on_kill()

    assert f"POST {P}/{PROCESS}/signal" in network.asked()


async def test_a_trigger_whose_try_another_triggerer_follows_ends_nothing(network, supervisor, running):
    supervisor.xcom["sbx_process"] = note(1)

    await running.on_kill()

    assert network.asked() == []


async def test_while_it_can_not_be_told_nothing_is_ended(network, supervisor, running, monkeypatch):
    monkeypatch.setattr(start, "_LOOK_SECONDS", 0.0)
    supervisor.xcom["sbx_process"] = note(1, running._follower)

    await running.on_kill()

    assert network.asked() == []


async def test_an_airflow_that_takes_no_word_of_it_does_not_keep_the_process_alive(
    network, supervisor, running
):
    asend = supervisor.asend
    supervisor.state = "failed"

    async def refuse(message):
        supervisor.broken = message.type == "SetXCom"
        return await asend(message)

    supervisor.asend = refuse
    await running.on_kill()

    assert f"POST {P}/{PROCESS}/signal" in network.asked()


async def test_a_start_whose_answer_is_not_there_yet_is_found_by_its_key(network, supervisor, running):
    supervisor.state = "failed"
    running.process_id = ""
    network.queue(*LIST, pages(of_try(1)))

    await running.on_kill()

    assert f"POST {P}/{PROCESS}/signal" in network.asked()


async def test_a_start_that_is_still_on_its_way_is_looked_for_again(
    network, supervisor, running, monkeypatch
):
    supervisor.state = "failed"
    running.process_id, running._is_starting = "", True
    network.queue(*LIST, pages(), pages(of_try(1)))

    await running.on_kill()

    assert f"POST {P}/{PROCESS}/signal" in network.asked()


async def test_the_process_is_ended_also_where_airflow_takes_word_of_it_late(
    network, supervisor, running, monkeypatch
):
    monkeypatch.setattr(start, "_WORD_SECONDS", 0.0)
    asend, is_signalled = supervisor.asend, asyncio.Event()
    supervisor.state = "failed"

    async def late(message):
        if message.type == "SetXCom":
            await is_signalled.wait()
        return await asend(message)

    supervisor.asend = late
    killing = asyncio.create_task(running.on_kill())
    async with asyncio.timeout(5):
        while f"POST {P}/{PROCESS}/signal" not in network.asked():  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.001)
    is_signalled.set()
    await killing

    assert supervisor.xcom["sbx_killed"] == PROCESS


async def test_starts_are_counted_and_so_are_those_that_are_found_again(network, supervisor, monkeypatch):
    told = []
    monkeypatch.setattr(start.Meter, "started", lambda *_: told.append("started"))
    monkeypatch.setattr(start.Meter, "attached", lambda *_: told.append("attached"))
    begins(network, exit_code=0)
    await fired(trigger())
    network.queue(*LIST, pages(of_try(1)))
    network.queue(*STDIN, {"success": True})
    network.queue(*STREAM, event_stream(sse("done", result_body(exit_code=0))))
    network.queue(*WAIT, {"result": result_body(exit_code=0)})
    await fired(trigger())

    assert told == ["started", "attached"]


# --- rendering -------------------------------------------------------------------------------


def rendered(made, **context):
    made.template_fields = ("command", "env")
    made.render_template_fields(context)
    return made


async def test_its_fields_are_rendered_as_on_a_worker(network, supervisor):
    begins(network, exit_code=0)
    made = rendered(trigger(command="echo {{ word }}\n", env={"A": "{{ word }}"}), word="hello")

    await fired(made)

    (sent,) = [json.loads(r.content) for r in network.requests if (r.method, r.url.path) == START]
    assert sent["command"].endswith("\necho hello\n")
    assert sent["env"] == {"A": "hello"}


@pytest.mark.parametrize(
    "command", ["rm -r /data/{{ ds }}", "x {{ params.typo }}", "{{ ds", "{{ 1 | nobody }}"]
)
async def test_nothing_is_run_where_a_name_is_missing_and_it_is_said(network, supervisor, command):
    made = rendered(trigger(command=command), params={"x": 1})

    assert ended(await fired(made)) == "failed"  # which Airflow may retry, as on a worker
    assert network.requests == []


async def test_an_image_that_is_not_there_fails_the_task_for_good(network, supervisor):
    network.queue("POST", "/api/sandbox", httpx.Response(404, json={"message": "no image nope"}))

    event = ProcessEvent.read((await fired(trigger(**OWN))).payload)

    assert event.failure == "lasting"
    assert "no image nope" in event.error


class Broken:
    """A variable or connection that Airflow can't tell, or whose use goes wrong."""

    def __init__(self, error):
        self.error = error

    def __getattr__(self, name):
        raise self.error


NO_VARIABLE = AirflowRuntimeError(ErrorResponse(error=ErrorType.VARIABLE_NOT_FOUND, detail={"key": "target"}))


@pytest.mark.parametrize(
    ("error", "word"), [(NO_VARIABLE, "target"), (ValueError("no number: 'hunter2'"), "ValueError")]
)
async def test_whatever_a_template_raises_fails_the_try_with_no_secret_in_its_words(
    network, supervisor, error, word
):
    made = rendered(trigger(command="cp x {{ v.target }}", ends=ENDS | {"fails": False}), v=Broken(error))

    event = ProcessEvent.read((await fired(made)).payload)

    assert (event.failure, network.requests) == ("service", [])
    assert word in event.error
    assert "hunter2" not in event.error


async def test_a_connection_whose_name_can_not_be_rendered_fails_the_try_by_that(network, supervisor):
    made = trigger(sbx_conn_id="{{ v.target }}", ends=ENDS | {"fails": False})
    made.template_fields = ("sbx_conn_id", "command")
    made.render_template_fields({"v": Broken(NO_VARIABLE)})

    event = ProcessEvent.read((await fired(made)).payload)

    assert (event.failure, network.requests) == ("service", [])
    assert "target" in event.error


def takes_over_unrendered(supervisor, note, **options):
    supervisor.xcom["sbx_process"] = {"follower": "lost", "try_number": 1, "sandbox_id": SANDBOX} | note
    return rendered(trigger(command="cp x {{ v.target }}", **options), v=Broken(NO_VARIABLE))


@pytest.mark.parametrize("owns", [False, True])
async def test_a_process_that_runs_is_followed_though_its_fields_can_not_be_rendered_any_more(
    network, supervisor, owns
):
    network.queue(*STREAM, event_stream(sse_output(1, "a\n"), sse("done", result_body(exit_code=0))))
    network.queue(*WAIT, {"result": result_body(exit_code=0, stdout="a\n")})
    network.queue(*STOP, {"success": True})
    made = takes_over_unrendered(supervisor, {"process_id": PROCESS, "owns_sandbox": owns})

    assert ended(await fired(made)) == "success"
    assert supervisor.xcom["return_value"]["stdout"] == "a\n"
    assert {START, STDIN}.isdisjoint(asked(network))
    assert (STOP in asked(network)) is owns


async def test_an_own_sandbox_without_a_process_is_stopped_where_the_fields_can_not_be_rendered(
    network, supervisor
):
    network.queue(*STOP, {"success": True})
    made = takes_over_unrendered(supervisor, {"owns_sandbox": True})

    assert ended(await fired(made)) == "failed"
    assert asked(network) == [STOP]


async def test_nothing_is_ended_where_neither_the_fields_nor_the_note_can_be_had(network, supervisor):
    made = takes_over_unrendered(supervisor, {"process_id": PROCESS}, ends=ENDS | {"fails": False})
    supervisor.broken = True

    event = ProcessEvent.read((await fired(made)).payload)

    assert (event.failure, network.requests) == ("service", [])


async def test_what_an_earlier_try_noted_is_not_followed_by_one_that_can_not_be_rendered(network, supervisor):
    made = takes_over_unrendered(supervisor, {"process_id": PROCESS}, try_number=2)

    assert ended(await fired(made)) == "failed"
    assert network.requests == []


async def test_a_sandbox_id_that_is_rendered_to_nothing_is_not_the_connections(
    network, supervisor, monkeypatch
):
    connection = {"conn_type": "sbx", "password": API_KEY, "extra": {"sandbox_id": SANDBOX}}
    monkeypatch.setenv("AIRFLOW_CONN_SBX_DEFAULT", json.dumps(connection))
    made = trigger(sandbox_id="{{ '' }}")
    made.template_fields = ("sandbox_id",)
    made.render_template_fields({})

    event = ProcessEvent.read((await fired(made)).payload)

    assert (event.failure, network.requests) == ("lasting", [])
    assert "sandbox_id" in event.error


async def test_a_new_try_leaves_nothing_of_an_earlier_ones_to_who_comes_after(network, supervisor):
    supervisor.xcom |= {"return_value": {"stdout": "old"}, "process_id": "p-old"}
    begins(network, exit_code=99)

    assert ended(await fired(trigger(try_number=2))) == "skipped"
    assert "return_value" not in supervisor.xcom
    assert supervisor.xcom["process_id"] == PROCESS


async def test_who_takes_over_leaves_what_was_pushed_in_this_try(network, supervisor):
    supervisor.xcom["return_value"] = {"stdout": "of this try"}
    network.queue(*LIST, pages(of_try(2)))
    network.queue(*STDIN, {"success": True})
    network.queue(*STREAM, event_stream(sse("done", result_body(exit_code=0))))
    network.queue(*WAIT, {"result": result_body(exit_code=0)})

    await fired(trigger(try_number=2))
    assert "DeleteXCom" not in supervisor.asked


async def test_a_failure_that_a_worker_is_to_end_may_be_retried_there(network, supervisor):
    network.queue(*LIST, httpx.Response(500, json={"error": "x"}))

    event = ProcessEvent.read((await fired(trigger(ends=ENDS | {"fails": False}))).payload)

    assert event.failure == "service"
