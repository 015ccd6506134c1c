"""Waiting for a process of another task, over a service that stands where the network would."""

import json
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from airflow.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.compat import TaskDeferralTimeout
from airflow_provider_sbx.sensors import process
from airflow_provider_sbx.sensors.process import SandboxProcessSensor
from airflow_provider_sbx.triggers.process import SETTLE_SECONDS
from tests.unit.builders import (
    PAGE,
    PROCESS,
    SANDBOX,
    process_body,
    result_body,
    sse,
    sse_output,
)
from tests.unit.client.twins import event_stream, held_stream

P = f"/sandbox/processes/{PROCESS}"
GET, STREAM, WAIT = ("GET", P), ("GET", f"{P}/stream"), ("POST", f"{P}/wait")
ENDED = {"sandbox_id": SANDBOX, "process_id": PROCESS, "status": "exited", "exit_code": 0}
GONE = httpx.Response(409, json={"error": "x", "code": "sandbox_not_running"})
UNKNOWN = httpx.Response(404, json={"error": "no such process"})


def sensor(**options):
    names = {"task_id": "wait", "sandbox_id": SANDBOX, "process_id": PROCESS}
    return SandboxProcessSensor(**names | options)


def events(*pieces, **changes):
    last = len(pieces)
    outputs = [sse_output(seq, text) for seq, text in enumerate(pieces, 1)]
    return event_stream(*outputs, sse("done", result_body(last_seq=last, **changes)))


def body(status="running", **changes):
    return {"process": process_body(status=status, **changes)}


@pytest.fixture
def logged(monkeypatch):
    """Gather the lines that a sensor logs of its process."""
    lines = []

    def emitter(_):
        return lambda entries: lines.extend(entry.text for entry in entries)

    monkeypatch.setattr(process, "emitter", emitter)
    return lines


@pytest.fixture
def rescheduled(context_of):
    context = context_of()
    context["ti"].get_first_reschedule_date = lambda _: None
    return context


def only_reads(network):
    return all(r.method == "GET" or r.url.path.endswith("/wait") for r in network.requests)


# --- in the worker ---------------------------------------------------------------------------


def test_it_logs_the_output_and_returns_the_result_of_the_process(network, context_of, logged):
    network.queue(*GET, body())
    network.queue(*STREAM, events("a\n", "b\n"))
    context = context_of()

    result = sensor().execute(context)

    assert logged == ["a", "b"]
    assert (result["stdout"], result["exit_code"], result["status"]) == ("a\nb\n", 0, "exited")
    assert context["ti"].pushed == {"sandbox_id": SANDBOX, "process_id": PROCESS, "session_url": PAGE}


def test_without_xcom_nothing_is_pushed(network, context_of):
    network.queue(*GET, body())
    network.queue(*STREAM, events())
    context = context_of()
    sensor(do_xcom_push=False).execute(context)

    assert context["ti"].pushed == {}


@pytest.mark.parametrize("named", [{"process": dict(list(ENDED.items())[:2])}, {"process": ENDED}])
def test_the_process_may_be_named_by_the_result_of_the_task_that_started_it(network, context_of, named):
    network.queue(*GET, body("exited"))
    network.queue(*STREAM, events())

    assert sensor(**named, process_id=None).execute(context_of())["process_id"] == PROCESS


def test_what_the_output_processor_returns_is_the_result(network, context_of):
    network.queue(*GET, body())
    network.queue(*STREAM, events("17\n"))

    assert sensor(output_processor=lambda result: int(result["stdout"])).execute(context_of()) == 17


def test_without_output_in_the_log_it_only_waits(network, context_of, logged):
    network.queue(*GET, body())
    network.queue(*WAIT, {"result": result_body(stdout="a\n")})

    assert sensor(log_output=False).execute(context_of())["stdout"] == "a\n"
    assert logged == []


def test_an_exit_code_skips(network, context_of):
    network.queue(*GET, body())
    network.queue(*STREAM, events(exit_code=99))

    with pytest.raises(AirflowSkipException, match="99"):
        sensor().execute(context_of())


def test_a_failure_is_final_and_says_the_end_of_stderr(network, context_of):
    network.queue(*GET, body())
    network.queue(
        *STREAM,
        event_stream(
            sse_output(1, "why\n", stream="stderr"), sse("done", result_body(exit_code=3, last_seq=1))
        ),
    )

    with pytest.raises(AirflowFailException, match=r"p-1 in sandbox sb-1 failed with exit code 3(.|\n)*why"):
        sensor().execute(context_of())


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("mode", ["poke", "reschedule"])
@pytest.mark.parametrize(("answer", "says"), [(UNKNOWN, "p-1.*Check the id"), (GONE, "was stopped")])
def test_what_is_not_there_fails_at_once_and_for_good(
    network, context_of, rescheduled, deferrable, mode, answer, says
):
    network.queue(*GET, answer)

    with pytest.raises(AirflowFailException, match=says):
        sensor(deferrable=deferrable, mode=mode).execute(rescheduled)


def test_a_service_that_does_not_answer_is_left_to_retries(network, context_of):
    network.queue(*GET, httpx.Response(500, json={"error": "oh"}))

    with pytest.raises(errors.ServiceError) as caught:
        sensor().execute(context_of())
    assert not isinstance(caught.value, AirflowException)


# --- as any sensor ---------------------------------------------------------------------------


def test_at_its_timeout_it_fails_and_leaves_the_process_alone(network, context_of):
    network.queue(*GET, body(), body())
    network.queue(*STREAM, held_stream(sse_output(1, "a\n")))

    began = time.monotonic()
    with pytest.raises(AirflowSensorTimeout):
        sensor(timeout=0.3, poke_interval=0.05).execute(context_of())
    assert time.monotonic() - began < 10
    assert only_reads(network)


def test_with_soft_fail_it_skips_at_its_timeout(network, context_of):
    network.queue(*GET, body(), body())
    network.queue(*STREAM, held_stream())

    with pytest.raises(AirflowSkipException):
        sensor(timeout=0.3, poke_interval=0.05, soft_fail=True).execute(context_of())


@pytest.mark.parametrize("lenient", ["soft_fail", "never_fail"])
@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("answer", [UNKNOWN, body("exited")])
def test_with_soft_fail_a_failed_or_unknown_process_skips_as_well(
    network, context_of, lenient, deferrable, answer
):
    network.queue(*GET, answer)
    network.queue(*STREAM, events(exit_code=3))

    with pytest.raises(AirflowSkipException):
        sensor(deferrable=deferrable, **{lenient: True}).execute(context_of())


def test_with_silent_fail_it_looks_again_after_an_error_and_repeats_no_output(
    network, context_of, logged, monkeypatch
):
    impatient = {"conn_type": "sbx", "password": "k", "extra": {"patience_seconds": 0.001}}
    monkeypatch.setenv("AIRFLOW_CONN_SBX_DEFAULT", json.dumps(impatient))
    network.queue(*GET, *[body()] * 4)
    network.queue(*STREAM, event_stream(sse_output(1, "a\n"), httpx.ReadError("cut")))
    network.queue(*STREAM, httpx.Response(503, json={"error": "away"}))
    network.queue(
        *STREAM, event_stream(sse_output(2, "b\n"), sse("done", result_body(last_seq=2, exit_code=0)))
    )

    result = sensor(silent_fail=True, poke_interval=0.05).execute(context_of())

    assert [line for line in logged if line in ("a", "b")] == ["a", "b"]
    assert result["stdout"] == "a\nb\n"


def test_rescheduling_it_looks_and_goes(network, rescheduled):
    network.queue(*GET, body())

    with pytest.raises(AirflowRescheduleException):
        sensor(mode="reschedule").execute(rescheduled)
    assert network.asked() == [f"GET {P}"]


@pytest.mark.parametrize(("given", "waits"), [(1, SETTLE_SECONDS), (30, 30)])
def test_rescheduling_it_is_not_queued_before_its_worker_was_seen_to_exit(network, rescheduled, given, waits):
    network.queue(*GET, body())
    began = datetime.now(UTC)

    with pytest.raises(AirflowRescheduleException) as raised:
        sensor(mode="reschedule", poke_interval=given).execute(rescheduled)
    assert waits <= (raised.value.reschedule_date - began).total_seconds() < waits + 10


def test_rescheduling_it_logs_what_is_kept_at_the_end(network, rescheduled, logged):
    network.queue(*GET, body("exited"))
    network.queue(*STREAM, events("a\n", "b\n"))

    assert sensor(mode="reschedule").execute(rescheduled)["stdout"] == "a\nb\n"
    assert logged == ["a", "b"]


def test_killing_it_leaves_the_process_alone(network):
    sensor().on_kill()

    assert network.requests == []


# --- in the triggerer ------------------------------------------------------------------------


def defer(network, context, **options):
    network.queue(*GET, body())
    with pytest.raises(TaskDeferred) as caught:
        sensor(**{"deferrable": True} | options).execute(context)
    return caught.value


def complete(context, event, **options):
    task = sensor(**{"deferrable": True} | options)
    return task.resume_execution("execute_complete", {"event": event}, context)


def test_it_is_handed_to_the_triggerer_which_is_not_to_end_the_process(network, context_of):
    context = context_of()

    deferred = defer(
        network, context, timeout=60, poke_interval=7, wait_strategy="poll", max_log_bytes=50, retries=1
    )

    trigger = deferred.trigger
    assert (trigger.sandbox_id, trigger.process_id) == (SANDBOX, PROCESS)
    assert (trigger.wait_strategy, trigger.poll_interval, trigger.max_log_bytes) == ("poll", 7, 50)
    assert (trigger.ends_process, trigger.deadline, trigger.owns_sandbox) == (False, None, False)
    assert deferred.timeout == timedelta(seconds=60)
    assert abs(trigger.deferred_at - time.time()) < 5
    assert context["ti"].pushed == {"sandbox_id": SANDBOX, "process_id": PROCESS, "session_url": PAGE}


def test_the_execution_timeout_limits_the_wait_there_too(network, context_of):
    deferred = defer(network, context_of(), timeout=60, execution_timeout=timedelta(seconds=9))

    assert deferred.timeout == timedelta(seconds=9)


def test_one_that_has_ended_needs_no_triggerer(network, context_of, logged):
    network.queue(*GET, body("exited"))
    network.queue(*STREAM, events("a\n"))

    assert sensor(deferrable=True).execute(context_of())["stdout"] == "a\n"
    assert logged == ["a"]


def test_it_waits_in_the_worker_by_default():
    assert not sensor().deferrable


@pytest.mark.usefixtures("deferring_by_default")
def test_where_it_waits_is_told_by_the_configuration():
    assert sensor().deferrable


def test_the_result_is_that_of_a_wait_in_the_worker(network, context_of):
    network.queue(*WAIT, {"result": result_body(stdout="a\n", stderr="e\n")})

    result = complete(context_of(), ENDED)

    assert (result["status"], result["exit_code"]) == ("exited", 0)
    assert (result["stdout"], result["stderr"]) == ("a\n", "e\n")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"exit_code": 99}, AirflowSkipException),
        ({"exit_code": 3}, AirflowFailException),
        ({"status": "killed", "exit_code": None}, AirflowFailException),
        ({"failure": "not_found"}, AirflowFailException),
        ({"failure": "sandbox_not_running"}, AirflowFailException),
        ({"failure": "refused"}, AirflowFailException),
        ({"failure": "unavailable"}, errors.ServiceError),
        ({"status": None}, errors.SandboxError),
    ],
)
def test_each_other_end_is_told_apart_as_in_the_worker(network, context_of, changes, kind):
    network.queue(*WAIT, {"result": result_body()})

    with pytest.raises(kind):
        complete(context_of(), ENDED | changes)


@pytest.mark.parametrize("odd", [None, {}, "done", {"status": "success"}])
def test_a_missing_or_odd_event_is_a_failure(context_of, odd):
    with pytest.raises(errors.SandboxError, match="without a readable event"):
        complete(context_of(), odd)


def test_with_soft_fail_a_failed_process_skips(network, context_of):
    network.queue(*WAIT, {"result": result_body()})

    with pytest.raises(AirflowSkipException):
        complete(context_of(), ENDED | {"exit_code": 3}, soft_fail=True)


def test_with_never_fail_any_trouble_skips(network, context_of):
    def breaks(result):
        raise KeyError("count")

    network.queue(*WAIT, {"result": result_body()})

    with pytest.raises(AirflowSkipException):
        complete(context_of(), ENDED, never_fail=True, output_processor=breaks)
    with pytest.raises(AirflowSkipException):
        complete(
            context_of(),
            ENDED | {"status": None, "failure": "unavailable", "error": "out of reach"},
            never_fail=True,
        )


@pytest.mark.parametrize(("soft", "kind"), [(False, AirflowSensorTimeout), (True, AirflowSkipException)])
def test_the_end_of_its_time_in_the_triggerer_is_that_of_any_sensor(
    network, context_of, monkeypatch, soft, kind
):
    def late(self, context, event=None):
        raise TaskDeferralTimeout("the trigger timed out")

    monkeypatch.setattr(SandboxProcessSensor, "execute_complete", late)

    with pytest.raises(kind):
        complete(context_of(), None, soft_fail=soft)
    assert network.requests == []


# --- what is refused at parse time -----------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"process_id": None}, "process, process_id"),
        ({"process": ENDED}, "process, process_id"),
        ({"process_id": None, "process": ENDED | {"sandbox_id": "sb-2"}}, "process, sandbox_id"),
        ({"process_id": None, "process": {"sandbox_id": SANDBOX}}, "process['process_id']"),
        ({"process_id": None, "process": "p-1"}, "process"),
        ({"process_id": ""}, "process_id"),
        ({"sandbox_id": ""}, "sandbox_id"),
        ({"wait_strategy": "guess"}, "wait_strategy"),
        ({"skip_on_exit_code": "99"}, "skip_on_exit_code"),
        ({"max_output_bytes": -1}, "max_output_bytes"),
        ({"max_log_bytes": 0}, "max_log_bytes"),
        ({"skip_on_exit_code": 256}, "skip_on_exit_code"),
        ({"skip_on_exit_code": [1, -1]}, "skip_on_exit_code"),
        ({"deferrable": "yes"}, "deferrable"),
        ({"default_args": {"deferrable": "yes"}}, "deferrable"),
        ({"log_output": "no"}, "log_output"),
        ({"output_processor": "len"}, "output_processor"),
        ({"sbx_conn_id": None}, "sbx_conn_id"),
        ({"sbx_conn_id": ""}, "sbx_conn_id"),
    ],
)
def test_what_can_not_be_right_is_refused_by_its_name_and_the_tasks(options, parameter):
    with pytest.raises(errors.InvalidParameterError) as caught:
        sensor(**options)
    assert caught.value.parameter == parameter
    assert str(caught.value).startswith(f"Task 'wait': {parameter}: ")


def test_no_word_on_deferring_means_what_the_configuration_says():
    assert sensor(deferrable=None).deferrable is False


def test_a_result_that_was_made_text_by_a_template_is_told_with_the_remedy(network, context_of):
    task = sensor(process="{{ ti.xcom_pull('start') }}", process_id=None)
    task.process = json.dumps(ENDED)

    with pytest.raises(AirflowFailException, match=r"^process: a str.*Give start\.output"):
        task.execute(context_of())
    assert network.requests == []
