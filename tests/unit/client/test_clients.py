"""What goes out and what comes back, for both twins."""

import json
import logging
import re
import time

import httpx
import pytest

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.api.calls import list_sandboxes
from airflow_provider_sbx.api.conversations import find_process, terminate
from airflow_provider_sbx.api.retrying import NO_RETRIES, RetryPolicy
from airflow_provider_sbx.client import AsyncSandboxClient, SandboxClient
from tests.unit.builders import (
    API_KEY,
    CONTROL,
    OWN_HOST,
    PROCESS,
    SANDBOX,
    SHARED_HOST,
    process_body,
    result_body,
    sandbox_body,
)
from tests.unit.client.twins import QUICK, Service

P = "/sandbox/processes"
CUT = httpx.ReadError("the line was cut")
REFUSED = httpx.ConnectError("refused")


def test_both_planes_are_asked_with_their_own_credentials(twin, service):
    service.queue("GET", f"{P}/{PROCESS}", {"process": process_body()})

    assert twin.call("get_process", SANDBOX, PROCESS).pid == 42

    control, runtime = service.requests
    assert str(control.url) == f"{CONTROL}/api/sandbox/{SANDBOX}"
    assert control.headers["x-api-key"] == API_KEY
    assert "authorization" not in control.headers
    assert str(runtime.url) == f"{OWN_HOST}{P}/{PROCESS}"
    assert runtime.headers["authorization"] == "Bearer token-1"
    assert "x-api-key" not in runtime.headers
    assert {request.headers["user-agent"][:20] for request in service.requests} == {"airflow-provider-sbx"}


def test_a_shared_runtime_host_has_the_id_in_its_path(connect):
    service = Service(runtime={"baseUrl": SHARED_HOST})
    service.queue("GET", f"/sandbox/{SANDBOX}/processes/{PROCESS}", {"process": process_body()})

    assert connect(service).call("get_process", SANDBOX, PROCESS).id == PROCESS
    assert service.requests[-1].url.host == "region.test"


def test_every_operation_is_one_request(twin, service):
    service.queue("POST", "/sandbox/exec", {"result": result_body(stdout="hi")})
    service.queue("POST", P, {"process": process_body()})
    service.queue("GET", P, {"data": [process_body()], "next_cursor": None})
    service.queue("POST", f"{P}/{PROCESS}/wait", {"result": result_body()})
    service.queue("POST", f"{P}/{PROCESS}/stdin", {"success": True})
    service.queue("POST", f"{P}/{PROCESS}/signal", {"process": process_body()})
    service.queue("DELETE", f"{P}/{PROCESS}", {"process": process_body(status="killed")})
    service.queue("POST", "/api/sandbox", sandbox_body(id="sb-2"))
    service.queue("GET", "/api/sandboxes", {"sandboxes": [sandbox_body()], "totalCount": 1})
    service.queue("PUT", f"/api/sandbox/{SANDBOX}/stop", {"success": True})
    service.queue("GET", "/api/images", {"images": [{"id": "i", "imageName": "python"}]})
    service.queue("GET", "/api/snapshots", {"snapshots": []})

    assert twin.call("exec", SANDBOX, "echo hi").stdout == "hi"
    assert twin.call("start", SANDBOX, "sleep 9").id == PROCESS
    assert len(twin.call("list_processes", SANDBOX).data) == 1
    assert twin.call("wait", SANDBOX, PROCESS, timeout_seconds=2).exit_code == 0
    assert twin.call("write_stdin", SANDBOX, PROCESS, "x", eof=True) is None
    assert twin.call("signal", SANDBOX, PROCESS, "SIGHUP").id == PROCESS
    assert twin.call("kill", SANDBOX, PROCESS).status == "killed"
    assert twin.call("create_sandbox", {"image_name": "python"}).id == "sb-2"
    assert twin.call("list_sandboxes", limit=1).total_count == 1
    assert twin.call("stop_sandbox", SANDBOX) is None
    assert twin.call("list_images").images[0].image_name == "python"
    assert twin.call("list_snapshots").snapshots == []
    assert twin.call("get_sandbox", SANDBOX).id == SANDBOX
    assert len(service.asked()) == 12
    assert service.token_reads == 2


def test_a_body_is_json_and_a_query_is_a_query(twin, service):
    service.queue("POST", "/sandbox/exec", {"result": result_body()})
    service.queue("GET", P, {"data": []})

    twin.call("exec", SANDBOX, "x", env={"N": 1}, timeout_ms=5)
    twin.call("list_processes", SANDBOX, status=["queued", "running"], limit=2)

    assert json.loads(service.requests[1].content) == {"command": "x", "env": {"N": "1"}, "timeoutMs": 5}
    assert service.asked("GET") == [f"GET {P}?status=queued%2Crunning&limit=2"]


def test_a_start_with_secrets_goes_over_the_control_plane(twin, service):
    service.queue(
        "POST", f"/api/sandbox/{SANDBOX}/processes", {"process": {"processId": "p-7", "status": "running"}}
    )

    assert twin.call("start", SANDBOX, "x", secrets={"TOKEN": "my-token"}).id == "p-7"
    assert service.requests[-1].headers["x-api-key"] == API_KEY


def test_pages_are_read_one_after_another(twin, service):
    service.queue(
        "GET",
        P,
        {"data": [process_body(id="p-1")], "next_cursor": "c1"},
        {"data": [], "next_cursor": "c2"},
        {"data": [process_body(id="p-2")], "next_cursor": None},
    )

    found = twin.iterate("iterate_processes", SANDBOX, status="running")

    assert [process.id for process in found] == ["p-1", "p-2"]
    assert service.asked() == [
        f"GET {P}?status=running",
        f"GET {P}?status=running&cursor=c1",
        f"GET {P}?status=running&cursor=c2",
    ]


def test_a_conversation_is_held_answers_and_errors_alike(twin, service):
    service.queue("GET", P, {"data": [process_body(command="# k x\nsleep")]})
    service.queue("GET", f"{P}/{PROCESS}", httpx.Response(404, json={"error": "no such process"}))

    assert twin.call("converse", SANDBOX, find_process("k")).id == PROCESS
    assert twin.call("converse", SANDBOX, terminate(PROCESS, grace_seconds=1)).ended


def test_a_call_of_the_runtime_plane_needs_a_sandbox(twin, service):
    with pytest.raises(errors.InvalidParameterError, match="sandbox_id"):
        twin.call("get_process", "", PROCESS)
    assert service.requests == []


# --- what came instead of an answer ----------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (httpx.Response(200, html="<title>Sign in</title>"), r"HTML page \(Sign in\)"),
        (httpx.Response(200, content=b""), "an empty body"),
        (httpx.Response(200, content=b'{"process": {"id": "p'), "cut off"),
        (httpx.Response(200, json={"other": 1}), "can't be read"),
    ],
)
def test_a_success_that_is_no_answer_says_what_came_instead(twin, service, answer, says):
    service.queue("GET", f"{P}/{PROCESS}", answer)

    with pytest.raises(errors.DecodeError, match=says):
        twin.call("get_process", SANDBOX, PROCESS)
    assert len(service.asked()) == 1


def test_an_error_carries_status_code_and_request_id(twin, service):
    service.queue(
        "GET",
        f"{P}/{PROCESS}",
        httpx.Response(404, json={"message": "no such", "code": "nf"}, headers={"X-Request-Id": "r-9"}),
    )

    with pytest.raises(errors.NotFoundError) as caught:
        twin.call("get_process", SANDBOX, PROCESS)
    assert (caught.value.status_code, caught.value.code, caught.value.request_id) == (404, "nf", "r-9")


@pytest.mark.parametrize(
    "cause", [httpx.ReadTimeout("slow"), CUT, httpx.RemoteProtocolError("hung up"), OSError("x")]
)
def test_a_lost_answer_is_an_error_that_says_what_was_asked(connect, service, cause):
    twin = connect(service, policy=NO_RETRIES)
    service.queue("GET", f"{P}/{PROCESS}", cause)

    with pytest.raises(errors.TransportError, match=f"Could not read process {PROCESS}") as caught:
        twin.call("get_process", SANDBOX, PROCESS)
    assert not caught.value.surely_unsent
    assert caught.value.__cause__ is cause


# --- repeats ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [CUT, REFUSED, httpx.ReadTimeout("x"), *[httpx.Response(code) for code in (429, 502, 503, 504)]],
    ids=str,
)
def test_a_read_is_repeated_after_what_may_pass(twin, service, failure):
    service.queue("GET", f"{P}/{PROCESS}", failure, failure, {"process": process_body()})

    assert twin.call("get_process", SANDBOX, PROCESS).id == PROCESS
    assert len(service.asked()) == 3


@pytest.mark.parametrize("status", [400, 404, 409, 500])
def test_nothing_is_repeated_after_what_lasts(twin, service, status):
    service.queue("GET", f"{P}/{PROCESS}", httpx.Response(status, json={"error": "x"}))

    with pytest.raises(errors.ResponseError):
        twin.call("get_process", SANDBOX, PROCESS)
    assert len(service.asked()) == 1


WRITES = {
    "start": ("POST", P, ("x",)),
    "exec": ("POST", "/sandbox/exec", ("x",)),
    "write_stdin": ("POST", f"{P}/{PROCESS}/stdin", (PROCESS, "x")),
}


@pytest.mark.parametrize("failure", [CUT, *[httpx.Response(code) for code in (502, 503, 504)]], ids=str)
@pytest.mark.parametrize("name", WRITES)
def test_what_changes_something_is_not_repeated_in_doubt(twin, service, name, failure):
    method, path, args = WRITES[name]
    service.queue(method, path, failure)

    with pytest.raises(errors.ServiceError):
        twin.call(name, SANDBOX, *args)
    assert len(service.asked()) == 1


@pytest.mark.parametrize("failure", [REFUSED, httpx.ConnectTimeout("x"), httpx.Response(429)], ids=str)
def test_what_changes_something_is_repeated_where_it_surely_did_not_happen(twin, service, failure):
    service.queue("POST", P, failure, {"process": process_body()})

    assert twin.call("start", SANDBOX, "x").id == PROCESS
    assert len(service.asked()) == 2


def test_a_create_is_not_repeated_even_where_the_service_would_allow_it(twin, service):
    service.queue("POST", "/api/sandbox", httpx.Response(503, json={"message": "x", "retryable": True}))

    with pytest.raises(errors.ResponseError):
        twin.call("create_sandbox", {"image_name": "python"})
    assert len(service.asked()) == 1


def test_a_start_is_repeated_where_only_its_token_could_not_be_read(twin, service):
    service.queue("GET", f"/api/sandbox/{SANDBOX}", CUT, httpx.Response(503))
    service.queue("POST", P, {"process": process_body()})

    assert twin.call("start", SANDBOX, "x").id == PROCESS
    assert len(service.asked()) == 1
    assert service.token_reads == 3


def test_repeats_end_when_patience_does(connect, service):
    twin = connect(service, policy=RetryPolicy(patience_seconds=0.5, first_delay_seconds=0.1))
    service.queue("GET", f"{P}/{PROCESS}", *[httpx.Response(503)] * 50)

    with pytest.raises(errors.ResponseError, match=r", after \d s of trying$"):
        twin.call("get_process", SANDBOX, PROCESS)
    assert 2 <= len(service.asked()) <= 12


def test_an_outage_is_one_line_in_the_log_and_its_end_another(twin, service, caplog):
    caplog.set_level(logging.INFO, "airflow_provider_sbx")
    service.queue("POST", "/api/sandbox", *[REFUSED] * 6, sandbox_body())

    assert twin.call("create_sandbox", {"image_name": "python"}).id == SANDBOX

    # Airflow 3.0 lets httpx tell of each request as well.
    first, last = (record for record in caplog.records if record.name == "airflow_provider_sbx.client.wire")
    assert (first.levelname, last.levelname) == ("WARNING", "INFO")
    assert first.getMessage().endswith("the connection failed (refused). Trying again.")
    assert re.fullmatch(r"The service answers again, after \d+\.\d s\.", last.getMessage())


def test_what_is_not_repeated_says_nothing_of_trying(connect, service, caplog):
    twin = connect(service, policy=NO_RETRIES)
    service.queue("POST", "/api/sandbox", REFUSED)

    with pytest.raises(errors.TransportError, match=r"\(refused\)$"):
        twin.call("create_sandbox", {"image_name": "python"})
    assert caplog.text == ""


def test_a_retry_after_is_obeyed_and_capped(twin, service):
    service.queue(
        "GET",
        f"{P}/{PROCESS}",
        httpx.Response(429, headers={"Retry-After": "86400"}),
        {"process": process_body()},
    )

    began = time.monotonic()
    twin.call("get_process", SANDBOX, PROCESS)

    assert time.monotonic() - began >= QUICK.longest_retry_after_seconds


def test_without_retry_a_call_is_sent_once(twin, service):
    service.queue("GET", "/api/sandboxes", httpx.Response(503))

    with pytest.raises(errors.ResponseError):
        twin.call("send", list_sandboxes(), retry=False)
    assert len(service.asked()) == 1


# --- the client itself -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SandboxClient, AsyncSandboxClient])
@pytest.mark.parametrize("key", ["", " ", None, "two words", "line\nend", "k\u00e9y"])
def test_what_can_not_be_a_key_is_refused_and_not_repeated(kind, key):
    with pytest.raises(errors.InvalidParameterError, match="api_key") as caught:
        kind(key)
    assert not key or not key.strip() or key not in str(caught.value)


@pytest.mark.parametrize("kind", [SandboxClient, AsyncSandboxClient])
def test_a_wrong_address_is_refused_before_anything_is_sent(kind):
    with pytest.raises(errors.InvalidParameterError, match="host"):
        kind(API_KEY, "ftp://h")


def test_no_secret_reaches_a_repr_a_message_or_a_log(twin, service, caplog):
    caplog.set_level(logging.DEBUG)
    secrets = [API_KEY, "token-1", "hunter2"]
    service.queue("POST", "/sandbox/exec", httpx.Response(429), httpx.Response(500, json={"error": "x"}))

    with pytest.raises(errors.ServiceError) as caught:
        twin.call("exec", SANDBOX, "echo hunter2", env={"PASSWORD": "hunter2"})

    shown = repr(caught.value) + str(caught.value) + repr(twin.client) + repr(vars(caught.value))
    shown += "".join(record.getMessage() for record in caplog.records)
    assert [secret for secret in secrets if secret in shown] == []
