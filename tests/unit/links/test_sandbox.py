"""The link from a task instance to its sandbox's page."""

import importlib
from types import SimpleNamespace

import httpx
import pytest
from airflow.providers.common.compat.sdk import DAG, XCom
from airflow.sdk.exceptions import ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse

from airflow_provider_sbx.api.models import Sandbox
from airflow_provider_sbx.compat import AirflowRuntimeError
from airflow_provider_sbx.get_provider_info import get_provider_info
from airflow_provider_sbx.links.sandbox import SandboxLink
from airflow_provider_sbx.operators.process import (
    SandboxExecOperator,
    SandboxProcessOperator,
    SandboxSignalOperator,
)
from airflow_provider_sbx.operators.sandbox import SandboxCreateOperator, SandboxStopOperator
from airflow_provider_sbx.sensors.process import SandboxProcessSensor
from tests.unit.builders import PAGE, PROCESS, SANDBOX, process_body, result_body, sandbox_body, sse
from tests.unit.client.twins import event_stream

P = "/sandbox/processes"
TI = SimpleNamespace(dag_id="dag", task_id="task", run_id="run", map_index=-1)


def all_kinds(**options):
    there = {"sandbox_id": SANDBOX, "process_id": PROCESS}
    return [
        SandboxExecOperator(task_id="exec", command="true", sandbox_id=SANDBOX, **options),
        SandboxProcessOperator(task_id="process", command="true", sandbox_id=SANDBOX, **options),
        SandboxSignalOperator(task_id="signal", **there, **options),
        SandboxCreateOperator(task_id="create", image_name="python", **options),
        SandboxStopOperator(task_id="stop", sandbox_id=SANDBOX, **options),
        SandboxProcessSensor(task_id="sensor", **there, **options),
    ]


@pytest.fixture
def kept(monkeypatch):
    """What Airflow has in XCom, or fails with."""
    kept = {}

    def get_one(cls, *, key, **_):
        if isinstance(found := kept.get(key), Exception):
            raise found
        return found

    monkeypatch.setattr(XCom, "get_one", classmethod(get_one))
    return kept


def page_after(task, context):
    task.execute(context)
    assert SandboxLink().get_link(task, ti_key=TI) == context["ti"].pushed["session_url"]
    return context["ti"].pushed["session_url"]


def details_read(network):
    return sum(request.url.path == f"/api/sandbox/{SANDBOX}" for request in network.requests)


def test_airflow_reads_it_from_the_xcom_that_the_task_pushes():
    with DAG("dag", schedule=None):
        for task in all_kinds():
            (link,) = task.operator_extra_links
            assert (link.name, link.xcom_key) == ("Sandbox", "session_url")


def test_the_provider_names_it():
    (path,) = get_provider_info()["extra-links"]
    module, _, name = path.rpartition(".")

    assert getattr(importlib.import_module(module), name) is SandboxLink


def test_a_task_that_pushes_nothing_has_no_link():
    assert [task.operator_extra_links for task in all_kinds(do_xcom_push=False)] == [()] * 6


def test_a_process_links_to_its_sandbox_without_a_request_of_its_own(network, context_of):
    network.queue("POST", P, event_stream(sse("started", process_body()), sse("done", result_body())))
    network.queue("POST", f"{P}/{PROCESS}/stdin", {"success": True})
    task = SandboxExecOperator(task_id="task", command="true", sandbox_id=SANDBOX)

    assert page_after(task, context_of()) == PAGE
    assert details_read(network) == 1


def test_so_does_one_with_secrets_as_soon_as_its_output_is_read(network, context_of):
    network.queue("POST", f"/api/sandbox/{SANDBOX}/processes", {"process": process_body()})
    network.queue("GET", f"{P}/{PROCESS}/stream", event_stream(sse("done", result_body())))
    network.queue("POST", f"{P}/{PROCESS}/stdin", {"success": True})
    task = SandboxExecOperator(task_id="task", command="true", sandbox_id=SANDBOX, secrets={"KEY": "key"})

    assert page_after(task, context_of()) == PAGE
    assert details_read(network) == 1


def test_a_signal_a_sensor_and_a_made_sandbox_link_to_it(network, context_of):
    _, _, signal, create, stop, sensor = all_kinds()
    network.queue("GET", f"{P}/{PROCESS}", *[{"process": process_body(status="exited", exit_code=0)}] * 2)
    network.queue("GET", f"{P}/{PROCESS}/stream", event_stream(sse("done", result_body())))
    network.queue("POST", "/api/sandbox", sandbox_body())
    network.queue("PUT", f"/api/sandbox/{SANDBOX}/stop", {"success": True})

    assert [page_after(task, context_of()) for task in (signal, create, stop, sensor)] == [PAGE] * 4


def test_a_sandbox_is_stopped_also_where_its_page_can_not_be_had(network, context_of):
    network.queue("GET", f"/api/sandbox/{SANDBOX}", httpx.Response(503))
    network.queue("PUT", f"/api/sandbox/{SANDBOX}/stop", {"success": True})
    context = context_of()
    SandboxStopOperator(task_id="stop", sandbox_id=SANDBOX).execute(context)

    assert context["ti"].pushed == {}
    assert network.asked("PUT") == [f"PUT /api/sandbox/{SANDBOX}/stop"]


def test_a_resumed_task_gives_again_what_it_pushed_before_its_deferral(kept):
    task = all_kinds()[1]
    assert SandboxLink().get_link(task, ti_key=TI) == ""
    kept["session_url"] = PAGE
    assert SandboxLink().get_link(task, ti_key=TI) == PAGE


def test_an_airflow_that_can_not_be_asked_is_no_failure_of_the_task(kept):
    kept["session_url"] = AirflowRuntimeError(ErrorResponse(error=ErrorType.GENERIC_ERROR))

    assert SandboxLink().get_link(all_kinds()[0], ti_key=TI) == ""


@pytest.mark.parametrize(
    "url", [None, "", "javascript:alert(1)", "https://app.test/sb-1?token=token-1", "ftp://app.test"]
)
def test_an_address_that_is_no_page_or_holds_the_token_is_no_link(url):
    assert Sandbox.model_validate(sandbox_body(sessionUrl=url)).page is None
