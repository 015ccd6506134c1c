"""A task that waits in the triggerer: what is handed over, and what is made of the event."""

import logging
import threading
import time
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import pytest
from airflow.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred
from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.api.models import ProcessSummary
from airflow_provider_sbx.compat import TaskDeferralError
from airflow_provider_sbx.operators.process import SandboxProcessOperator
from airflow_provider_sbx.runs.attempt import Attempt
from airflow_provider_sbx.runs.running import Begun
from tests.unit.builders import (
    PAGE,
    PROCESS,
    SANDBOX,
    T0_MS,
    lines_of,
    process_body,
    result_body,
    sandbox_body,
    sse,
    sse_output,
)
from tests.unit.client.twins import event_stream, held_stream

P = "/sandbox/processes"
START, STDIN = ("POST", P), ("POST", f"{P}/{PROCESS}/stdin")
GET, SIGNAL = ("GET", f"{P}/{PROCESS}"), ("POST", f"{P}/{PROCESS}/signal")
WAIT = ("POST", f"{P}/{PROCESS}/wait")
STOP = ("PUT", f"/api/sandbox/{SANDBOX}/stop")
STREAM = ("GET", f"{P}/{PROCESS}/stream")
STARTED = sse("started", process_body())
ENDED = {
    "sandbox_id": SANDBOX,
    "process_id": PROCESS,
    "status": "exited",
    "exit_code": 0,
    "started_at": T0_MS,
    "completed_at": T0_MS + 1_000,
}


def operator(**options):
    return SandboxProcessOperator(
        **{"task_id": "task", "command": "sleep 9", "sandbox_id": SANDBOX} | options
    )


def defer(network, context, **options):
    """Run a task whose process goes on, and return what it deferred with."""
    network.queue(*START, held_stream(STARTED, sse_output(1, "a\nhalf")))
    network.queue(*STDIN, {"success": True})
    with pytest.raises(TaskDeferred) as caught:
        operator(**{"defer_after": 0.05} | options).execute(context)
    return caught.value


def complete(context, event=None, *, owns_sandbox=False, attached=False, **options):
    kwargs = {"owns_sandbox": owns_sandbox, "attached": attached}
    return operator(**options).execute_complete(context, event, **kwargs)


# --- handing over ----------------------------------------------------------------------------


def test_a_process_that_goes_on_is_handed_to_the_triggerer_with_what_was_read_of_it(network, context_of):
    context = context_of()

    deferred = defer(network, context, wait_strategy="stream", kill_grace=3, max_log_bytes=5000)

    assert deferred.method_name == "execute_complete"
    assert deferred.kwargs == {"owns_sandbox": False, "attached": False, "try_number": 1}
    trigger = deferred.trigger
    assert (trigger.sandbox_id, trigger.process_id) == (SANDBOX, PROCESS)
    assert (trigger.wait_strategy, trigger.kill_grace, trigger.max_log_bytes) == ("stream", 3, 5000)
    assert trigger.state["next_seq"] == 2
    assert abs(trigger.deferred_at - time.time()) < 5
    assert context["ti"].pushed == {"sandbox_id": SANDBOX, "process_id": PROCESS, "session_url": PAGE}


def test_a_process_that_ends_soon_needs_no_triggerer(network, context_of):
    network.queue(*START, event_stream(STARTED, sse("done", result_body(exit_code=0))))
    network.queue(*STDIN, {"success": True})

    assert operator(defer_after=60).execute(context_of())["exit_code"] == 0


def noisy(network, *more, **options):
    """Queue a process that writes much in the worker's time, and what its next streams bring."""
    network.queue(*START, held_stream(STARTED, sse_output(1, "x" * 99 + "\n"), sse_output(2, LOUD)))
    network.queue(*STDIN, {"success": True})
    for stream in more:
        network.queue("GET", f"{P}/{PROCESS}/stream", stream)
    return operator(**{"defer_after": 0.05} | options)


LOUD = ("x" * 99 + "\n") * 3_000


def test_a_process_that_writes_much_is_left_to_the_triggerer_once_it_writes_less(
    network, context_of, monkeypatch
):
    monkeypatch.setattr("airflow_provider_sbx.runs.running._PACE_SECONDS", 0.05)
    task = noisy(network, held_stream(sse_output(3, LOUD)), held_stream(sse_output(4, "calm\n")))

    with pytest.raises(TaskDeferred) as caught:
        task.execute(context_of())

    assert caught.value.trigger.state["next_seq"] == 5
    streams = [asked for asked in network.asked() if "/stream" in asked]
    assert len(streams) == 2


def test_a_process_that_writes_much_and_ends_meanwhile_needs_no_triggerer(network, context_of, monkeypatch):
    monkeypatch.setattr("airflow_provider_sbx.runs.running._PACE_SECONDS", 0.05)
    task = noisy(network, event_stream(sse_output(3, "end\n"), sse("done", result_body(exit_code=0))))

    result = task.execute(context_of())

    assert result["stdout"].endswith("x\nend\n")


def test_a_process_that_is_logged_no_more_is_left_to_the_triggerer_however_much_it_writes(
    network, context_of, monkeypatch
):
    monkeypatch.setattr("airflow_provider_sbx.runs.running._PACE_SECONDS", 0.05)
    task = noisy(network, held_stream(sse_output(3, LOUD)), max_log_bytes=200_000)

    with pytest.raises(TaskDeferred) as caught:
        task.execute(context_of())

    assert caught.value.trigger.state["next_seq"] == 4


def test_a_wait_without_a_limit_has_none_in_the_triggerer_either(network, context_of):
    deferred = defer(network, context_of())

    assert deferred.trigger.deadline is None
    assert deferred.timeout is None


@pytest.mark.parametrize("name", ["timeout", "execution_timeout"])
def test_the_triggers_deadline_is_absolute_and_comes_before_airflows(network, context_of, name):
    deferred = defer(network, context_of(), **{name: timedelta(seconds=300)})

    left = deferred.trigger.deadline - time.time()
    assert 290 < left < 320
    assert deferred.timeout.total_seconds() > left + 60


def test_a_process_that_is_started_anew_has_all_of_its_time(network, context_of):
    Attempt(context_of(1)).remember(SANDBOX, "p-old")
    old = f"{P}/p-old"
    network.queue("GET", old, {"process": process_body(id="p-old")})
    network.queue("POST", f"{old}/stdin", lambda: time.sleep(0.2) or {"success": True})
    done = sse("done", result_body(id="p-old", status="killed"))
    network.queue("GET", f"{old}/stream", event_stream(done))
    began = time.time()

    deferred = defer(network, context_of(2), timeout=3600)

    assert deferred.trigger.deadline >= began + 0.2 + 3600 + 15, "from its own start on"


def test_a_sandbox_made_for_the_task_outlives_the_worker(network, context_of):
    network.queue("POST", "/api/sandbox", sandbox_body())

    deferred = defer(network, context_of(), sandbox_id=None, sandbox={"image_name": "python"})

    assert deferred.trigger.owns_sandbox
    assert deferred.kwargs["owns_sandbox"]
    assert not any(asked.startswith("PUT") for asked in network.asked())


def test_nothing_that_is_handed_over_is_secret(network, context_of):
    deferred = defer(network, context_of(), env={"PASSWORD": "hunter2"}, stdin="hunter2")

    shown = repr(deferred.trigger.serialize()) + repr(deferred.kwargs)
    assert "hunter2" not in shown
    assert "hb_secret" not in shown
    assert "token-1" not in shown


def test_a_process_that_nobody_waits_for_ends_the_task_at_once(network, context_of):
    network.queue(*START, {"process": process_body()})
    network.queue("GET", f"{P}/{PROCESS}/stream", held_stream())

    result = operator(wait_for_completion=False).execute(context_of())

    assert result == {"sandbox_id": SANDBOX, "process_id": PROCESS}
    assert network.asked("POST") == [f"POST {P}"]  # its input stays open


# --- coming back -----------------------------------------------------------------------------


def test_the_result_is_that_of_a_task_that_waited_in_the_worker(network, context_of):
    network.queue(*WAIT, {"result": result_body(stdout="a\nb\n", stderr="e\n")})

    result = complete(context_of(), ENDED)

    assert (result["status"], result["exit_code"]) == ("exited", 0)
    assert (result["stdout"], result["stderr"], result["output_lost"]) == ("a\nb\n", "e\n", False)
    assert result["completed_at"] == "2023-11-14T22:13:21.000+00:00"


def test_output_that_can_not_be_fetched_any_more_fails_no_task(network, context_of):
    network.queue(*WAIT, httpx.Response(404, json={"error": "gone"}))

    result = complete(context_of(), ENDED)

    assert (result["exit_code"], result["stdout"], result["output_lost"]) == (0, "", True)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"exit_code": 99}, AirflowSkipException),
        ({"exit_code": 3}, errors.ProcessFailedError),
        ({"exit_code": None}, errors.ProcessFailedError),
        ({"status": "killed", "exit_code": None}, errors.ProcessKilledError),
        ({"status": "timed_out", "exit_code": None}, errors.ProcessTimedOutError),
        ({"status": "brand-new"}, errors.ProcessFailedError),
        ({"status": None, "deadline_passed": True, "error": "it was killed"}, errors.ProcessTimedOutError),
        ({"status": None}, errors.ProcessTimedOutError),
        ({"failure": "sandbox_not_running", "error": "stopped"}, AirflowFailException),
        ({"failure": "refused"}, AirflowFailException),
        ({"failure": "not_found"}, AirflowFailException),
        ({"failure": "invalid"}, AirflowFailException),
        ({"failure": "unavailable", "error": "out of reach"}, errors.ServiceError),
        ({"failure": "service"}, errors.ServiceError),
    ],
)
def test_each_other_end_is_told_apart_as_in_the_worker(network, context_of, changes, kind):
    network.queue(*WAIT, {"result": result_body(stderr="the end of it")})

    with pytest.raises(kind) as caught:
        complete(context_of(), ENDED | changes)
    assert isinstance(caught.value, AirflowFailException) is (kind is AirflowFailException)


def test_a_process_that_nobody_waits_for_and_whose_ids_only_a_worker_can_push_is_a_success(context_of):
    event = ENDED | {"status": None, "exit_code": None}

    result = complete(context_of(), event, wait_for_completion=False)

    assert result == {"sandbox_id": SANDBOX, "process_id": PROCESS}


@pytest.mark.parametrize("odd", [None, {}, "done", {"status": "success"}, ENDED | {"exit_code": "zero"}])
def test_a_missing_or_odd_event_is_a_failure_and_never_a_success(network, context_of, odd):
    with pytest.raises(errors.SandboxError, match="without a readable event"):
        complete(context_of(), odd)


@pytest.mark.parametrize("changes", [{}, {"exit_code": 1}, {"failure": "not_found"}, {"status": None}])
def test_a_sandbox_made_for_the_task_is_stopped_whatever_the_end(network, context_of, changes):
    network.queue(*WAIT, {"result": result_body()})
    network.queue(*STOP, {"success": True})

    try:
        complete(context_of(), ENDED | changes, owns_sandbox=True)
    except (errors.SandboxError, AirflowFailException):
        assert changes
    assert network.asked()[-1] == f"PUT {STOP[1]}"


def test_it_is_stopped_as_well_where_the_event_can_not_be_read(network, context_of):
    network.queue(*GET, {"process": process_body(status="exited")})
    network.queue(*STOP, {"success": True})
    context = context_of()
    context["ti"].pushed.update(sandbox_id=SANDBOX, process_id=PROCESS)

    with pytest.raises(errors.SandboxError):
        complete(context, None, owns_sandbox=True)
    assert f"PUT {STOP[1]}" in network.asked()


def test_a_process_that_a_clear_had_killed_is_started_anew_by_the_try_that_had_attached(network, context_of):
    network.queue(*START, event_stream(STARTED, sse_output(1, "new\n"), sse("done", result_body(last_seq=1))))
    network.queue(*STDIN, {"success": True})

    result = complete(context_of(), ENDED | {"status": "killed", "exit_code": None}, attached=True)

    assert result["stdout"] == "new\n"


def test_a_retry_that_is_resumed_with_the_end_of_the_try_before_runs_its_command(network, context_of):
    network.queue("GET", P, {"data": []})
    network.queue(*START, event_stream(STARTED, sse("done", result_body(exit_code=0))))
    network.queue(*STDIN, {"success": True})

    task = operator(defer_after=60)
    result = task.execute_complete(context_of(try_number=2), ENDED | {"exit_code": 1}, try_number=1)

    assert result["exit_code"] == 0
    assert network.asked().count(f"POST {P}") == 1


# --- a wait that breaks, and a task that is killed -------------------------------------------


def test_a_task_whose_trigger_never_ran_ends_its_process(network, context_of):
    network.queue(*GET, {"process": process_body()})
    network.queue(*SIGNAL, {"process": process_body()})
    network.queue(*WAIT, {"result": result_body(status="killed")})
    context = context_of()
    context["ti"].pushed.update(sandbox_id=SANDBOX, process_id=PROCESS)

    with pytest.raises(TaskDeferralError):
        operator().resume_execution("__fail__", {"error": "Trigger failure"}, context)
    assert network.asked() == [f"GET {GET[1]}", f"POST {SIGNAL[1]}", f"POST {WAIT[1]}"]


def test_a_process_that_was_ended_so_is_no_later_trys_result(network, context_of):
    Attempt(context_of(1)).remember(SANDBOX, PROCESS)
    assert Attempt(context_of(2)).left_over is not None
    network.queue(*GET, {"process": process_body()})
    network.queue(*SIGNAL, {"process": process_body()})
    network.queue(*WAIT, {"result": result_body(exit_code=0)})  # as of one that heeds TERM
    context = context_of(1)
    context["ti"].pushed.update(sandbox_id=SANDBOX, process_id=PROCESS)

    with pytest.raises(TaskDeferralError):
        operator().resume_execution("__fail__", {"error": "Trigger failure"}, context)
    assert Attempt(context_of(2)).left_over is None


@pytest.mark.parametrize("is_reached", [True, False])
def test_a_process_whose_task_ran_out_of_time_is_no_later_trys_result_once_it_has_ended(
    network, context_of, monkeypatch, is_reached
):
    network.queue(*START, held_stream(STARTED))
    network.queue(*STDIN, {"success": True})
    task = operator(deferrable=False)

    async def runs_out_of_time(*_, **__):
        raise AirflowTaskTimeout

    monkeypatch.setattr("airflow_provider_sbx.operators.worker.feed_and_follow", runs_out_of_time)
    with pytest.raises(AirflowTaskTimeout):
        task.execute(context_of(1))
    assert Attempt(context_of(2)).left_over is not None, "not before it has ended"
    answer = {"process": process_body()} if is_reached else httpx.Response(400, json={"error": "x"})
    network.queue(*GET, answer)
    network.queue(*SIGNAL, {"process": process_body()})
    network.queue(*WAIT, {"result": result_body(exit_code=0)})
    network.queue(*STREAM, event_stream(sse_output(1, "bye\n"), sse("done", result_body(exit_code=0))))
    shown = []
    task._run._emit = shown.extend

    task.on_kill()

    assert (Attempt(context_of(2)).left_over is None) is is_reached
    assert network.asked().count(f"POST {SIGNAL[1]}") == is_reached, "it gets TERM once, and its whole grace"
    assert lines_of(shown) == (["bye"] if is_reached else []), "what it writes meanwhile is logged"


def deferred_in_its_own_sandbox(network, context_of):
    network.queue("POST", "/api/sandbox", sandbox_body())
    network.queue(*START, held_stream(STARTED))
    network.queue(*STDIN, {"success": True})
    task = operator(defer_after=0.05, sandbox_id=None, sandbox={"image_name": "python"})
    with pytest.raises(TaskDeferred):
        task.execute(context_of())
    return task


def test_a_sandbox_made_for_the_task_is_stopped_also_where_its_process_can_not_be_reached(
    network, context_of
):
    task = deferred_in_its_own_sandbox(network, context_of)
    network.queue(*GET, httpx.Response(400, json={"error": "x"}))
    network.queue(*STOP, {"success": True})

    task.on_kill()

    assert network.asked()[-1] == f"PUT {STOP[1]}"


class HeldLog:
    """A log that the task was writing to when a signal came: nobody else can, before it goes on."""

    def __init__(self):
        self.lock, self.words = threading.Lock(), []

    def log(self, level, text):
        with self.lock:
            self.words.append((level, text))


def test_a_kill_amid_a_line_of_the_log_ends_all_before_it_says_so(network, context_of, caplog):
    task = deferred_in_its_own_sandbox(network, context_of)
    # The client's own words would be in the way as well.
    network.queue(*GET, httpx.Response(503), {"process": process_body()})
    network.queue(*SIGNAL, {"process": process_body()})
    network.queue(*WAIT, {"result": result_body(status="killed")})
    network.queue(*STOP, {"success": True})
    task._run._log = held = HeldLog()
    caplog.set_level(logging.DEBUG, "airflow_provider_sbx.client")

    with held.lock:
        task.on_kill()
        assert network.asked()[-1] == f"PUT {STOP[1]}"
        assert held.words == []
    deadline = time.monotonic() + 20
    while len(held.words) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)

    assert [text for _, text in held.words] == [
        f"Process {PROCESS}: it ended after TERM.",
        f"Stopped sandbox {SANDBOX}.",
    ]
    assert not [record for record in caplog.records if record.name.startswith("airflow_provider_sbx.client")]


def test_a_task_that_is_resumed_with_the_event_alone_stops_the_sandbox_of_its_own(network, context_of):
    """As by `DAG.test`."""
    network.queue(*WAIT, {"result": result_body(exit_code=0)})
    network.queue(*STOP, {"success": True})

    operator(sandbox_id=None, sandbox={"image_name": "python"}).execute_complete(context_of(), ENDED)

    assert network.asked()[-1] == f"PUT {STOP[1]}"


def test_an_image_that_is_not_there_fails_the_task_for_good(network, context_of):
    network.queue("POST", "/api/sandbox", httpx.Response(404, json={"message": "no image nope"}))

    with pytest.raises(AirflowFailException, match=r"sandbox: .*no image nope"):
        operator(sandbox_id=None, sandbox={"image_name": "nope"}).execute(context_of())


def test_killing_a_task_that_has_not_begun_asks_for_nothing(network):
    operator().on_kill()

    assert network.requests == []


def test_killing_a_task_ends_its_process(network, context_of):
    task, context = operator(defer_after=0.05), context_of()
    network.queue(*START, held_stream(STARTED))
    network.queue(*STDIN, {"success": True})
    with pytest.raises(TaskDeferred):
        task.execute(context)
    before = len(network.asked())
    network.queue(*GET, {"process": process_body()})
    network.queue(*SIGNAL, {"process": process_body()})
    network.queue(*WAIT, {"result": result_body(status="killed")})

    task.on_kill()

    assert network.asked()[before:] == [f"GET {GET[1]}", f"POST {SIGNAL[1]}", f"POST {WAIT[1]}"]


def test_a_kill_while_the_end_of_a_timeout_is_waited_for_is_a_kill_as_any_other(network, context_of):
    network.queue(*START, held_stream(STARTED))
    network.queue(*STDIN, {"success": True})
    task = operator(defer_after=0.05)
    with pytest.raises(TaskDeferred):
        task.execute(context_of())
    graces = []

    async def end_overdue(**_):
        task.on_kill()
        return True

    task._run.end_overdue = end_overdue
    task._run.kill = lambda *, grace_seconds: graces.append(grace_seconds)
    task._is_overdue = True

    task.on_kill()

    assert graces == [2.0]


def test_a_task_that_is_killed_before_its_process_is_started_starts_none(network, context_of, monkeypatch):
    task = operator(deferrable=False)

    async def killed_meanwhile(*_):
        task.on_kill()

    monkeypatch.setattr("airflow_provider_sbx.operators.worker.left_over", killed_meanwhile)

    with pytest.raises(errors.ProcessKilledError, match="about to be started when the task was killed"):
        task.execute(context_of())
    assert network.asked("POST") == []


def test_a_process_that_was_started_amid_a_kill_is_ended_with_the_sandbox_of_its_own(
    network, context_of, monkeypatch
):
    network.queue("POST", "/api/sandbox", sandbox_body())
    network.queue("GET", P, {"data": []})
    network.queue(*STOP, {"success": True}, {"success": True})
    network.queue(*GET, {"process": process_body()})
    network.queue(*SIGNAL, {"process": process_body()})
    network.queue(*WAIT, {"result": result_body(status="killed")})
    task = operator(sandbox_id=None, sandbox={"image_name": "python"}, deferrable=False)

    @asynccontextmanager
    async def killed_meanwhile(*_, **__):
        task.on_kill()
        yield Begun(ProcessSummary.model_validate(process_body()))

    monkeypatch.setattr("airflow_provider_sbx.operators.worker.begin", killed_meanwhile)

    with pytest.raises(errors.ProcessKilledError, match=f"{PROCESS} was just started"):
        task.execute(context_of())
    assert f"POST {SIGNAL[1]}" in network.asked()
    assert network.asked()[-1] == f"PUT {STOP[1]}"


def test_a_timeout_amid_a_new_start_is_not_taken_for_the_end_of_the_process_before(
    network, context_of, monkeypatch
):
    Attempt(context_of(1)).remember(SANDBOX, PROCESS)
    network.queue(*GET, {"process": process_body()})
    network.queue(*STDIN, {"success": True})
    network.queue(*STREAM, event_stream(sse("done", result_body(status="killed", exit_code=None))))
    network.queue("GET", P, *[{"data": []}] * 4)
    monkeypatch.setattr("airflow_provider_sbx.operators.killing.LOOKUPS", 1)

    @asynccontextmanager
    async def out_of_time(*_, **__):
        raise AirflowTaskTimeout
        yield

    monkeypatch.setattr("airflow_provider_sbx.operators.worker.begin", out_of_time)
    task = operator(deferrable=False)
    with pytest.raises(AirflowTaskTimeout):
        task.execute(context_of(2))
    before = len(network.asked())

    task.on_kill()

    assert network.asked()[before:] == [f"GET {P}?limit=100"], "by its key, now or in the next try"
    assert not Attempt(context_of(3))._last_word.finished


def killed(network, context_of, *stops, answer=None):
    """Kill a deferred task with a sandbox of its own; return what its log says."""
    task = deferred_in_its_own_sandbox(network, context_of)
    network.queue(*GET, *([] if answer is None else [answer]), {"process": process_body()})
    network.queue(*SIGNAL, {"process": process_body()})
    network.queue(*WAIT, {"result": result_body(status="killed")})
    network.queue(*STOP, *stops)
    task._run._log = log = HeldLog()
    task.on_kill()
    with log.lock:
        return [text for _, text in log.words]


def test_a_sandbox_that_is_gone_is_no_reason_to_think_that_its_process_runs(network, context_of):
    gone = httpx.Response(409, json={"error": "x", "code": "sandbox_not_running"})

    assert killed(network, context_of, gone) == [f"Process {PROCESS}: it ended after TERM."]


def test_a_sandbox_that_can_not_be_stopped_is_told_of_by_itself(network, context_of):
    ended, stopped = killed(network, context_of, httpx.Response(400, json={"error": "x"}))

    assert ended == f"Process {PROCESS}: it ended after TERM."
    assert stopped.startswith(f"Sandbox {SANDBOX} could not be stopped; it ends at its timeout_minutes.")


def test_a_kill_does_not_wait_for_as_long_as_a_busy_service_asks_for(network, context_of):
    busy = httpx.Response(429, headers={"retry-after": "30"}, json={"error": "x"})
    began = time.monotonic()

    killed(network, context_of, {"success": True}, answer=busy)

    assert time.monotonic() - began < 20


def test_airflows_own_alarm_comes_before_the_wait_on_a_worker_ends_by_itself(context_of, monkeypatch):
    context = context_of()
    context["ti"].start_date -= timedelta(seconds=30)  # as where the DAG took long to parse
    untils = []

    class Run:
        def __init__(self, *_, deadline, **__):
            untils.append(deadline - time.time())

        async def run(self, *_):
            raise errors.ProcessKilledError("enough")

    monkeypatch.setattr("airflow_provider_sbx.operators.task.WorkerRun", Run)
    for deferrable in (False, True):
        task = operator(execution_timeout=timedelta(seconds=60), deferrable=deferrable)
        with pytest.raises(errors.ProcessKilledError):
            task.execute(context)

    assert untils == [pytest.approx(65, abs=1), pytest.approx(30, abs=1)]
