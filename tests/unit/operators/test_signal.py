"""Signals to a process of another task, over a service that stands where the network would."""

import json
from datetime import timedelta

import httpx
import pytest
from airflow.exceptions import AirflowFailException
from airflow.sdk import DAG

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.operators.process import SandboxProcessOperator, SandboxSignalOperator
from tests.unit.builders import PROCESS, SANDBOX, process_body, result_body

P = f"/sandbox/processes/{PROCESS}"
GET, SIGNAL, WAIT, KILL = ("GET", P), ("POST", f"{P}/signal"), ("POST", f"{P}/wait"), ("DELETE", P)
GONE = httpx.Response(409, json={"error": "x", "code": "sandbox_not_running"})
EXITED = httpx.Response(409, json={"message": "it has exited", "code": "process_not_running"})


def operator(**options):
    return SandboxSignalOperator(
        **{"task_id": "signal", "sandbox_id": SANDBOX, "process_id": PROCESS} | options
    )


def refused(**options):
    with pytest.raises(errors.InvalidParameterError) as caught:
        operator(**options)
    return caught.value.parameter


def running(**changes):
    return {"process": process_body(**changes)}


def sent(network):
    return [json.loads(r.content)["signal"] for r in network.requests if (r.method, r.url.path) == SIGNAL]


# --- a signal --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name"),
    [("TERM", "TERM"), ("sigusr1", "USR1"), ("SIGHUP", "HUP"), (2, "INT"), (9, "KILL"), ("15", "TERM")],
)
def test_a_signal_is_sent_by_its_name_however_it_was_given(network, context_of, given, name):
    network.queue(*GET, running())
    network.queue(*SIGNAL, running())

    result = operator(signal=given).execute(context_of())

    assert sent(network) == [name]
    assert result == {"sandbox_id": SANDBOX, "process_id": PROCESS, "status": "running"}


def test_the_process_may_be_named_by_the_result_of_the_task_that_started_it(network, context_of):
    network.queue(*GET, running())
    network.queue(*SIGNAL, running())
    started = {"sandbox_id": SANDBOX, "process_id": PROCESS}

    assert operator(process=started, process_id=None).execute(context_of())["process_id"] == PROCESS


def test_the_connection_may_name_the_sandbox(network, context_of, monkeypatch):
    own = {"conn_type": "sbx", "password": "k", "extra": {"sandbox_id": SANDBOX}}
    monkeypatch.setenv("AIRFLOW_CONN_MINE", json.dumps(own))
    network.queue(*GET, running())
    network.queue(*SIGNAL, running())

    assert operator(sandbox_id=None, sbx_conn_id="mine").execute(context_of())["sandbox_id"] == SANDBOX


# --- to one that has ended -------------------------------------------------------------------


def test_a_process_that_has_ended_needs_no_signal(network, context_of):
    network.queue(*GET, running(status="exited", exit_code=0))

    assert operator().execute(context_of())["status"] == "exited"
    assert sent(network) == []


def test_nor_does_one_that_ends_just_before_it(network, context_of):
    network.queue(*GET, running(), running(status="exited", exit_code=0))
    network.queue(*SIGNAL, EXITED)

    assert operator().execute(context_of())["status"] == "exited"


@pytest.mark.parametrize("grace", [None, 1])
def test_nor_does_one_whose_sandbox_was_stopped(network, context_of, grace):
    network.queue(*GET, GONE)

    assert operator(kill_grace=grace).execute(context_of())["status"] == "killed"


def test_a_refusal_by_one_that_runs_is_meant(network, context_of):
    network.queue(*GET, running(), running())
    network.queue(*SIGNAL, EXITED)

    with pytest.raises(AirflowFailException, match="it has exited"):
        operator().execute(context_of())


@pytest.mark.parametrize("grace", [None, 1])
def test_a_process_that_nobody_knows_is_a_mistake(network, context_of, grace):
    network.queue(*GET, httpx.Response(404, json={"error": "no such process"}))

    with pytest.raises(AirflowFailException, match=r"p-1.*Check the id"):
        operator(kill_grace=grace).execute(context_of())


# --- to the end ------------------------------------------------------------------------------


def test_with_a_grace_the_process_is_waited_for(network, context_of):
    network.queue(*GET, running(), running(), running(status="exited", exit_code=0))
    network.queue(*SIGNAL, running())
    network.queue(*WAIT, {"result": result_body()})

    assert operator(signal="INT", kill_grace=5).execute(context_of())["status"] == "exited"
    assert sent(network) == ["INT"]


def test_and_killed_where_it_does_not_end(network, context_of):
    network.queue(*GET, running(), running(), running(status="killed"))
    network.queue(*SIGNAL, running())
    network.queue(*WAIT, httpx.Response(408, json={"error": "timed out"}), {"result": result_body()})
    network.queue(*KILL, running())

    assert operator(kill_grace=timedelta(seconds=1)).execute(context_of())["status"] == "killed"


def test_a_process_whose_end_is_not_seen_is_a_failure(network, context_of):
    network.queue(*GET, running(), running())
    network.queue(*SIGNAL, running())
    network.queue(*WAIT, *[httpx.Response(408, json={"error": "timed out"})] * 2)
    network.queue(*KILL, running())

    with pytest.raises(errors.SandboxError, match=r"p-1 in sandbox sb-1: KILL was sent.* retried"):
        operator(kill_grace=1).execute(context_of())


# --- what is refused at parse time -----------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"signal": "PARDON"}, "signal"),
        ({"signal": 0}, "signal"),
        ({"signal": 64}, "signal"),
        ({"signal": "11"}, "signal"),
        ({"signal": None}, "signal"),
        ({"signal": True}, "signal"),
        ({"kill_grace": 0}, "kill_grace"),
        ({"kill_grace": "soon"}, "kill_grace"),
        ({"process_id": None}, "process, process_id"),
        ({"process": {"sandbox_id": SANDBOX, "process_id": PROCESS}}, "process, process_id"),
        ({"process_id": " "}, "process_id"),
        ({"process_id": 5}, "process_id"),
        ({"process_id": None, "process": {"sandbox_id": SANDBOX}}, "process['process_id']"),
        ({"process_id": None, "process": "p-1"}, "process"),
        (
            {"process_id": None, "process": {"sandbox_id": "sb-2", "process_id": "p"}},
            "process, sandbox_id",
        ),
    ],
)
def test_what_can_not_be_right_is_refused_by_its_name(options, parameter):
    assert refused(**options) == parameter


def test_a_refused_number_is_told_with_those_that_serve():
    with pytest.raises(errors.InvalidParameterError, match=r"11 is not a signal\. Use one of 1 \(HUP\)"):
        operator(signal=11)


def test_what_is_not_known_yet_is_checked_when_it_is(context_of):
    with DAG("d"):
        start = SandboxProcessOperator(task_id="start", command="x", sandbox_id=SANDBOX)
        operator(process=start.output, process_id=None, signal="{{ x }}", kill_grace="{{ x }}")
    task = operator(signal="{{ x }}")
    task.signal = "PARDON"

    with pytest.raises(AirflowFailException, match="PARDON"):
        task.execute(context_of())


def test_a_result_that_is_missing_is_told(context_of):
    task = operator(process="{{ x }}", process_id=None, sandbox_id=None)
    task.process = None

    with pytest.raises(AirflowFailException, match="process_id: None is not an id"):
        task.execute(context_of())


def test_no_sandbox_at_all_is_told(network, context_of):
    with pytest.raises(AirflowFailException, match="sandbox_id: it is not given"):
        operator(sandbox_id=None).execute(context_of())
    assert network.requests == []


@pytest.mark.parametrize("bad", [None, ""])
def test_a_connection_without_a_name_is_refused(bad):
    assert refused(sbx_conn_id=bad) == "sbx_conn_id"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"process_id": None}, "process, process_id: neither is given"),
        ({"signal": "FOO"}, "signal: "),
        ({"kill_grace": 0}, "kill_grace: 0 is not above 0"),
    ],
)
def test_what_is_refused_names_the_task(options, says):
    with pytest.raises(errors.InvalidParameterError, match=f"^Task 'signal': {says}"):
        operator(**options)
