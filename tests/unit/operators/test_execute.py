"""A task's try on a worker, over a service that stands where the network would."""

import json
from datetime import timedelta

import httpx
import pytest
from airflow.exceptions import AirflowFailException, AirflowSkipException

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.operators.process import SandboxExecOperator, SandboxProcessOperator
from airflow_provider_sbx.runs import running
from airflow_provider_sbx.runs.attempt import Attempt
from tests.unit.builders import (
    PAGE,
    PROCESS,
    SANDBOX,
    process_body,
    result_body,
    sandbox_body,
    sse,
    sse_output,
)
from tests.unit.client.twins import event_stream, held_stream

P = "/sandbox/processes"
START, LIST, GET = ("POST", P), ("GET", P), ("GET", f"{P}/{PROCESS}")
STREAM, STDIN = ("GET", f"{P}/{PROCESS}/stream"), ("POST", f"{P}/{PROCESS}/stdin")
CUT = httpx.ReadError("the line was cut")
CLOSED = httpx.Response(409, json={"error": "its input is closed", "code": "stdin_closed"})


def operator(kind=SandboxExecOperator, **options):
    return kind(**{"task_id": "task", "command": "echo x", "sandbox_id": SANDBOX} | options)


def events(*pieces, **changes):
    last = len(pieces)
    outputs = [sse_output(seq, text) for seq, text in enumerate(pieces, 1)]
    return [*outputs, sse("done", result_body(last_seq=last, **changes))]


@pytest.fixture
def ends(network):
    """Let the next start stream some output and end."""

    def queue(*pieces, **changes):
        network.queue(*START, event_stream(sse("started", process_body()), *events(*pieces, **changes)))
        network.queue(*STDIN, {"success": True})

    return queue


def starts(network):
    return [json.loads(r.content) for r in network.requests if (r.method, r.url.path) == START]


# --- a try that goes well --------------------------------------------------------------------


def test_a_task_runs_its_command_once_and_returns_its_result(network, ends, context_of):
    ends("a\n", "b\n")
    context = context_of()

    result = operator().execute(context)

    assert (result["stdout"], result["exit_code"], result["status"]) == ("a\nb\n", 0, "exited")
    assert (result["sandbox_id"], result["process_id"]) == (SANDBOX, PROCESS)
    assert context["ti"].pushed == {"sandbox_id": SANDBOX, "process_id": PROCESS, "session_url": PAGE}
    assert len(starts(network)) == 1


def test_without_xcom_nothing_is_pushed(ends, context_of):
    ends()
    context = context_of()
    operator(do_xcom_push=False).execute(context)

    assert context["ti"].pushed == {}


def test_the_command_goes_out_under_its_key_with_all_that_was_asked_for(network, ends, context_of):
    ends()
    operator(cwd="/w", env={"N": 1}, run_as="root", timeout=timedelta(minutes=1)).execute(context_of())

    (sent,) = starts(network)
    mark, command = sent["command"].split("\n")
    assert (mark[:6], mark.partition(" ")[2].partition(" ")[2]) == ("# sbx-", "dag/task run run try 1")
    assert command == "echo x"
    assert (sent["cwd"], sent["runAs"], sent["timeoutMs"]) == ("/w", "root", 60_000)
    assert sent["env"]["N"] == "1"


def test_what_is_left_of_the_execution_timeout_limits_the_process(network, ends, context_of):
    ends()
    operator(execution_timeout=timedelta(seconds=50), timeout=3600).execute(context_of())

    # Somewhat later than the task itself ends it, and gives it its grace.
    assert 70_000 < starts(network)[0]["timeoutMs"] <= 75_000


def test_what_the_output_processor_returns_is_the_result(ends, context_of):
    ends("17\n")

    assert operator(output_processor=lambda result: int(result["stdout"])).execute(context_of()) == 17


def test_the_input_is_closed_for_a_one_shot_command_and_written_for_a_process(network, ends, context_of):
    ends()
    operator().execute(context_of())
    ends()
    operator(SandboxProcessOperator, stdin="hello", deferrable=False).execute(context_of(with_store=False))

    written = [json.loads(r.content) for r in network.requests if (r.method, r.url.path) == STDIN]
    assert written == [{"eof": True}, {"data": "hello", "encoding": "utf8", "eof": True}]


def test_the_connection_may_name_the_sandbox(network, ends, context_of, monkeypatch):
    extra = {"conn_type": "sbx", "password": "key-of-mine", "extra": {"sandbox_id": SANDBOX}}
    monkeypatch.setenv("AIRFLOW_CONN_MINE", json.dumps(extra))
    ends()

    result = operator(sandbox_id=None, sbx_conn_id="mine").execute(context_of())

    assert result["sandbox_id"] == SANDBOX
    assert network.requests[0].headers["x-api-key"] == "key-of-mine"


# --- a try that does not ---------------------------------------------------------------------


def test_an_exit_code_to_skip_on_skips_the_task(ends, context_of):
    ends(exit_code=99)

    with pytest.raises(AirflowSkipException):
        operator().execute(context_of())


@pytest.mark.parametrize("skip", [None, 3, [3, 4]])
def test_any_other_exit_code_fails_the_task(ends, context_of, skip):
    ends(exit_code=99)

    with pytest.raises(errors.ProcessFailedError, match="exit code 99"):
        operator(skip_on_exit_code=skip).execute(context_of())


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            httpx.Response(400, json={"message": "unknown user bob"}, headers={"x-request-id": "r-5"}),
            "bob.*r-5",
        ),
        (httpx.Response(403, json={"message": "scope"}), "right scope"),
        (httpx.Response(409, json={"error": "x", "code": "sandbox_not_running"}), "timeout_minutes"),
        (httpx.Response(404, json={"error": "no such sandbox"}), "Check the id"),
    ],
)
def test_what_a_retry_can_not_mend_fails_the_task_for_good(network, context_of, answer, says):
    network.queue(*START, answer)

    with pytest.raises(AirflowFailException, match=says):
        operator().execute(context_of())


def test_no_sandbox_at_all_is_told_before_anything_is_started(network, context_of):
    with pytest.raises(AirflowFailException, match="sandbox_id: neither it nor sandbox is given"):
        operator(sandbox_id=None).execute(context_of())
    assert network.requests == []


def test_a_template_that_renders_to_nothing_is_told_before_anything_is_started(network, context_of):
    task = operator(command="{{ x }}", cwd="{{ y }}")
    task.command = ""

    with pytest.raises(AirflowFailException, match="command: it is empty"):
        task.execute(context_of())
    assert network.requests == []


# --- once, whatever happens ------------------------------------------------------------------


def lose_the_answer(network):
    """Let a start happen without its answer arriving; return what the listing shows from then on."""
    network.queue(*START, CUT)

    def listing():
        return {"data": [process_body(command=starts(network)[0]["command"])]}

    return listing


def test_a_start_whose_answer_is_lost_is_found_by_its_key_and_not_repeated(network, context_of):
    listing = lose_the_answer(network)
    network.queue_late(*LIST, listing)
    network.queue(*STDIN, CLOSED)
    network.queue(*STREAM, event_stream(*events("a\n")))

    result = operator().execute(context_of())

    assert result["stdout"] == "a\n"
    assert len(starts(network)) == 1


def test_a_start_that_surely_did_not_happen_is_made_again_under_the_same_key(
    network, ends, context_of, monkeypatch
):
    monkeypatch.setattr(running, "LOOKUPS", 1)
    network.queue(*START, CUT)
    network.queue(*LIST, {"data": [process_body(command="# sbx-other x\necho")]})
    ends("a\n")

    operator().execute(context_of())

    first, second = starts(network)
    assert first == second


def test_a_process_whose_input_may_be_lost_is_ended_and_is_not_taken_for_a_start_in_doubt(
    network, context_of
):
    network.queue(*START, held_stream(sse("started", process_body())))
    network.queue(*STDIN, CUT)
    network.queue(*GET, {"process": process_body()})
    network.queue("DELETE", GET[1], {"process": process_body(status="killed")})
    network.queue("POST", f"{GET[1]}/wait", {"result": result_body(status="killed")})

    with pytest.raises(errors.OutcomeUnknownError, match="write to process"):
        operator(SandboxProcessOperator, stdin="x", deferrable=False).execute(context_of())
    assert len(starts(network)) == 1
    assert f"DELETE {GET[1]}" in network.asked()


ONE_PASSWORD = {"token": "op", "vault": "v", "fields": {"TOKEN": {"item": "i", "field": "f"}}}
SOURCES = [{"secrets": {"TOKEN": "n"}}, {"vault": "v"}, {"one_password": ONE_PASSWORD}]


@pytest.mark.parametrize("source", SOURCES)
def test_stored_secrets_are_named_to_the_control_plane_which_starts_the_process(network, context_of, source):
    network.queue("POST", f"/api/sandbox/{SANDBOX}/processes", {"process": process_body()})
    network.queue(*STREAM, event_stream(*events("a\n")))
    network.queue(*STDIN, {"success": True})

    assert operator(**source).execute(context_of())["stdout"] == "a\n"
    (sent,) = (
        json.loads(r.content) for r in network.requests if r.url.path.startswith("/api/sandbox/sb-1/p")
    )
    wire = {"secrets": "secrets", "vault": "vault", "one_password": "onePassword"}
    assert {wire[name] for name in source} == {name for name in wire.values() if name in sent}


@pytest.mark.parametrize("source", SOURCES)
def test_a_start_with_secrets_is_never_made_again_in_doubt(network, context_of, monkeypatch, source):
    monkeypatch.setattr(running, "LOOKUPS", 1)
    network.queue("POST", f"/api/sandbox/{SANDBOX}/processes", CUT)
    network.queue(*LIST, {"data": []})

    with pytest.raises(errors.OutcomeUnknownError):
        operator(**source).execute(context_of())
    assert len(network.asked("POST")) == 1


def test_a_try_after_a_lost_worker_goes_on_with_the_process_that_runs(network, context_of):
    Attempt(context_of(1)).remember(SANDBOX, PROCESS)
    network.queue(*GET, {"process": process_body()})
    network.queue(*STDIN, CLOSED)
    network.queue(*STREAM, event_stream(*events("a\n")))

    assert operator().execute(context_of(2))["stdout"] == "a\n"
    assert starts(network) == []


def a_lost_start(network, attempt, **changes):
    """A worker that was lost between its start and its word of it."""
    command = f"# {attempt.key} {attempt.label}\necho x"
    listed = process_body(command=command, **changes)
    network.queue(*LIST, {"data": [listed], "next_cursor": None})


@pytest.mark.parametrize("answer", [CLOSED, {"success": True}, httpx.Response(400, json={"error": "closed"})])
def test_a_worker_lost_before_it_wrote_the_input_is_made_up_for(network, context_of, answer):
    Attempt(context_of(1)).remember(SANDBOX, PROCESS)
    network.queue(*GET, {"process": process_body()})
    network.queue(*STDIN, answer)
    network.queue(*STREAM, event_stream(*events("a\n")))

    operator(SandboxProcessOperator, stdin="word\n", deferrable=False).execute(context_of(2))

    assert [json.loads(r.content)["data"] for r in network.requests if r.url.path == STDIN[1]] == ["word\n"]


@pytest.mark.parametrize("try_number", [2, 3])
def test_a_worker_lost_before_it_left_word_is_made_up_for_by_the_key(network, context_of, try_number):
    a_lost_start(network, Attempt(context_of(1)))
    network.queue(*STDIN, CLOSED)
    network.queue(*STREAM, event_stream(*events("a\n")))

    assert operator().execute(context_of(try_number))["stdout"] == "a\n"
    assert starts(network) == []


def test_what_such_a_process_came_to_is_taken_where_word_would_have_been_left(network, context_of):
    a_lost_start(network, Attempt(context_of(1)), status="exited", exit_code=0)
    network.queue(*STDIN, CLOSED)
    network.queue(*STREAM, event_stream(*events("a\n")))

    assert operator().execute(context_of(2))["stdout"] == "a\n"
    assert starts(network) == []


def test_without_a_store_an_ended_process_may_have_been_taken_already(network, ends, context_of):
    a_lost_start(network, Attempt(context_of(1)), status="exited", exit_code=0)
    ends("new\n")

    assert operator().execute(context_of(2, with_store=False))["stdout"] == "new\n"


def test_two_workers_lost_in_a_row_start_no_second_process(network, context_of):
    Attempt(context_of(1)).remember(SANDBOX, PROCESS)
    network.queue(*LIST, {"data": [], "next_cursor": None})
    network.queue(*GET, {"process": process_body()})
    network.queue(*STDIN, CLOSED)
    network.queue(*STREAM, event_stream(*events("a\n")))

    assert operator().execute(context_of(3))["stdout"] == "a\n"
    assert starts(network) == []


@pytest.mark.parametrize("status", ["killed", "timed_out"])
def test_a_process_that_was_ended_with_the_try_before_is_not_this_trys_result(
    network, ends, context_of, status
):
    Attempt(context_of(1)).remember(SANDBOX, PROCESS)
    network.queue(*GET, {"process": process_body(status=status)})
    ends("new\n")

    assert operator().execute(context_of(2))["stdout"] == "new\n"


def test_a_process_that_is_ended_while_a_later_try_follows_it_is_started_anew(network, ends, context_of):
    Attempt(context_of(1)).remember(SANDBOX, PROCESS)
    network.queue(*GET, {"process": process_body()})
    network.queue(*STDIN, CLOSED)
    network.queue(*STREAM, event_stream(*events(status="killed", exit_code=None)))
    ends("new\n")

    assert operator().execute(context_of(2))["stdout"] == "new\n"


def test_a_try_after_a_failed_process_starts_anew(network, ends, context_of):
    ends(exit_code=1)
    with pytest.raises(errors.ProcessFailedError):
        operator().execute(context_of(1))
    ends("second\n")

    assert operator().execute(context_of(2))["stdout"] == "second\n"
    first, second = (sent["command"].split()[1] for sent in starts(network))
    assert first != second


# --- a sandbox of the task's own -------------------------------------------------------------

OWN = {"sandbox_id": None, "sandbox": {"image_name": "python"}}
STOP = f"PUT /api/sandbox/{SANDBOX}/stop"


@pytest.fixture
def makes(network):
    network.queue("POST", "/api/sandbox", sandbox_body())
    network.queue("PUT", f"/api/sandbox/{SANDBOX}/stop", {"success": True})
    return network


def test_a_sandbox_made_for_the_task_is_stopped_at_its_end(makes, ends, context_of):
    ends()
    operator(**OWN).execute(context_of())

    assert makes.asked()[0] == "POST /api/sandbox"
    assert makes.asked()[-1] == STOP


def test_it_is_stopped_as_well_when_the_process_fails_or_is_refused(makes, ends, context_of):
    ends(exit_code=1)
    with pytest.raises(errors.ProcessFailedError):
        operator(**OWN).execute(context_of())
    assert makes.asked()[-1] == STOP


def test_it_is_stopped_as_well_when_the_start_is_refused(makes, context_of):
    makes.queue(*START, httpx.Response(400, json={"message": "no such user"}))

    with pytest.raises(AirflowFailException):
        operator(**OWN).execute(context_of())
    assert makes.asked()[-1] == STOP


def test_a_success_whose_worker_was_lost_before_airflow_knew_is_taken_and_its_sandbox_stopped(
    makes, ends, context_of
):
    ends("out\n")
    first = operator(**OWN).execute(context_of(1))
    before = len(makes.asked())
    makes.queue("PUT", f"/api/sandbox/{SANDBOX}/stop", {"success": True})

    again = operator(**OWN).execute(context_of(2))

    assert again == first
    # The worker may have been lost before it stopped it, too.
    assert makes.asked()[before:] == [STOP]


@pytest.mark.parametrize(
    "options", [{"do_xcom_push": False}, {"max_output_bytes": 400_000}], ids=["no xcom", "large"]
)
def test_output_that_is_not_for_airflows_database_is_not_kept_there(makes, ends, context_of, store, options):
    ends("x" * 300_000 + "\n")
    operator(**OWN, **options).execute(context_of(1))

    assert "xxx" not in repr(dict(store))


def test_a_sandbox_that_can_not_be_stopped_fails_no_task(network, ends, context_of):
    network.queue("POST", "/api/sandbox", sandbox_body())
    network.queue("PUT", f"/api/sandbox/{SANDBOX}/stop", httpx.Response(404, json={"error": "gone"}))
    ends()

    assert operator(**OWN).execute(context_of())["exit_code"] == 0


def test_it_lives_somewhat_longer_than_its_process_may(makes, ends, context_of):
    ends()
    operator(**OWN, timeout=timedelta(minutes=10)).execute(context_of())

    made = next(r for r in makes.requests if r.url.path == "/api/sandbox")
    assert json.loads(made.content) == {"imageName": "python", "timeoutMinutes": 15}


@pytest.mark.parametrize(
    ("options", "strategy"),
    [
        ({}, "wait"),
        ({"max_output_bytes": 2**20}, "stream"),
        ({"max_output_bytes": 2**20, "deferrable": True}, "wait"),
    ],
)
def test_without_a_log_output_is_streamed_only_where_that_gathers_a_larger_result(options, strategy):
    task = operator(log_output=False, **options)

    assert task._options(deferrable=task.deferrable).wait_strategy == strategy
