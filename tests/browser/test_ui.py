"""What a person does on Airflow's pages: a connection, a run, its log, its result, its end."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from airflow_provider_sbx.api.models import ProcessStatus
from airflow_provider_sbx.client import SandboxClient

pytestmark = pytest.mark.airflow

Picture = Callable[[Page | Locator, str], None]


def fill_connection(page: Page, name: str, address: str, key: str) -> Locator:
    """Fill the form of a new connection, and return it."""
    page.goto("/connections")
    page.get_by_role("button", name="Add Connection").click()
    form = page.get_by_role("dialog")
    form.locator("input[name=connection_id]").fill(name)
    form.get_by_role("combobox").click()
    page.keyboard.type("Sandbox")
    page.keyboard.press("Enter")
    # Airflow 3.3 refuses to test a stored connection without a port.
    host, _, port = address.rpartition(":")
    form.locator("input[name=host]").fill(host)
    form.locator("input[name=port]").fill(port)
    form.locator("input[name=password]").fill(key)
    return form


def pressed_test(page: Page, name: str) -> dict[str, Any]:
    """Press the button that tests a connection, and return what Airflow answered."""
    row = page.get_by_role("row").filter(has_text=name)
    with page.expect_response(re.compile("/connections/test")) as answer:
        row.get_by_role("button", name="Test Connection").click()
    said: dict[str, Any] = answer.value.json()
    return said


def trigger(page: Page, dag_id: str) -> str:
    """Trigger a DAG by its buttons, and return the run."""
    page.goto(f"/dags/{dag_id}")
    # The button bears an icon beside its name, which some versions read out as well.
    page.get_by_role("button", name=re.compile("Trigger")).first.click()
    page.get_by_role("dialog").get_by_role("button", name=re.compile("Trigger")).last.click()
    page.wait_for_url(re.compile("/runs/"))
    return page.url.split("/runs/")[1].split("/")[0].split("?")[0]


def is_deferred(airflow: Any, dag_id: str, run_id: str, task: str) -> None:
    airflow.wait_for_task(dag_id, run_id, task, {"deferred"}, timeout=60)


def test_the_form_of_a_connection_is_filled_and_its_button_tests_it(
    page: Page, sbx_local: Any, picture: Picture
) -> None:
    form = fill_connection(page, "sbx_by_form", sbx_local.url, sbx_local.api_key)
    for label in ("API address", "API key"):
        expect(form.get_by_text(label, exact=True)).to_be_visible()
    expect(form.get_by_text("Login", exact=True)).to_have_count(0)
    expect(form.locator("input[name=password]")).to_have_attribute("placeholder", "hb_...")
    expect(form.locator("input[name=password]")).to_have_attribute("type", "password")
    page.set_viewport_size({"width": 1200, "height": 1000})
    picture(form, "connection")
    form.get_by_role("button", name="Extra Fields", exact=True).click()
    for label in ("Default sandbox", "Request timeout (seconds)", "Patience (seconds)", "Streams at once"):
        expect(form.get_by_text(label, exact=True)).to_be_visible()
    expect(form.get_by_text("Sandbox for tasks that name none")).to_be_visible()
    form.get_by_role("button", name="Save").click()

    assert pressed_test(page, "sbx_by_form") == {
        "status": True,
        "message": f"{sbx_local.url} accepted the API key",
    }


def test_a_wrong_key_is_told_by_the_button(page: Page, sbx_local: Any) -> None:
    form = fill_connection(page, "sbx_wrong_by_form", sbx_local.url, "not-the-key")
    form.get_by_role("button", name="Save").click()
    said = pressed_test(page, "sbx_wrong_by_form")
    assert said["status"] is False
    assert "refused the API key" in said["message"]
    assert "not-the-key" not in said["message"]
    # And by the page, not only to it.
    expect(page.get_by_text("refused the API key").first).to_be_visible()


def test_a_deferred_tasks_log_is_live_and_its_result_readable(
    page: Page, airflow: Any, sbx_local: Any, picture: Picture
) -> None:
    dag_id, task = "nightly_report", "report"
    run_id = trigger(page, dag_id)
    is_deferred(airflow, dag_id, run_id, task)

    page.goto(f"/dags/{dag_id}/runs/{run_id}/tasks/{task}")
    deferred = page.get_by_text("Deferred", exact=True)
    # While it is deferred its output comes, line after line, with no reload; stderr's are marked.
    expect(page.get_by_text("table 3 has no rows")).to_be_visible()
    expect(page.get_by_text("stream=stderr").first).to_be_visible()
    expect(page.get_by_text("table 7 of 30: done")).to_be_visible()
    expect(deferred).to_be_visible()
    picture(page, "log")
    sandbox_id, process_id = (airflow.xcom(dag_id, run_id, task, key) for key in ("sandbox_id", "process_id"))
    with SandboxClient(sbx_local.api_key, sbx_local.url) as service:
        assert service.get_process(sandbox_id, process_id).status is ProcessStatus.RUNNING
        # It is held while the other pages are looked at, however long they take.
        service.signal(sandbox_id, process_id, "STOP")

    page.get_by_role("link", name="Details", exact=True).click()
    link = page.get_by_role("link", name="Sandbox", exact=True)
    expect(link).to_be_visible()
    assert urlsplit(link.get_attribute("href") or "").path == f"/sessions/{sandbox_id}"

    page.get_by_role("link", name="Rendered Templates", exact=True).click()
    expect(page.get_by_text('for step in $(seq "$STEPS")')).to_be_visible()

    page.goto(f"/dags/{dag_id}/runs/{run_id}")
    for name, state in (("fetch", "Success"), (task, "Deferred")):
        row = page.get_by_role("row").filter(has_text=name).filter(has_text=state)
        expect(row).to_be_visible()
    picture(page, "grid")

    with SandboxClient(sbx_local.api_key, sbx_local.url) as service:
        service.signal(sandbox_id, process_id, "CONT")
    assert airflow.wait_for_run(dag_id, run_id, timeout=120) == "success"
    page.goto(f"/dags/{dag_id}/runs/{run_id}/tasks/{task}")
    page.get_by_role("link", name="Storage", exact=True).click()
    page.get_by_role("link", name="XCom", exact=True).click()
    for text in ("return_value", "session_url", process_id):
        expect(page.get_by_text(text).first).to_be_visible()
    page.get_by_role("button", name="Expand all extra JSON").click()
    for text in ('"exit_code"', "report of ubuntu on 30"):
        expect(page.get_by_text(text).first).to_be_visible()
    picture(page, "xcom")


def test_marking_a_deferred_task_failed_ends_its_process(page: Page, airflow: Any, sbx_local: Any) -> None:
    with SandboxClient(sbx_local.api_key, sbx_local.url) as service:
        sandbox_id = service.create_sandbox({"image_name": "python"}).id
        run_id = airflow.trigger("endless", {"sandbox_id": sandbox_id})
        is_deferred(airflow, "endless", run_id, "wait")
        # Before the triggerer has picked it up, Airflow tells nobody of a kill.
        airflow.wait_for(
            lambda: " starting" in airflow.task_log_text("endless", run_id, "wait", 1), 60, "the trigger"
        )
        process_id = airflow.xcom("endless", run_id, "wait", "process_id")
        assert service.get_process(sandbox_id, process_id).status is ProcessStatus.RUNNING

        page.goto(f"/dags/endless/runs/{run_id}/tasks/wait")
        page.get_by_role("button", name="Mark Task Instance as...").click()
        page.get_by_role("menuitem", name=re.compile("failed", re.IGNORECASE)).click()
        page.get_by_role("dialog").get_by_role("button", name="Confirm").click()

        airflow.wait_for(
            lambda: service.get_process(sandbox_id, process_id).status.is_terminal, 30, "the process's end"
        )
        airflow.wait_for(
            lambda: "Ending process" in airflow.task_log_text("endless", run_id, "wait", 1), 30, "word of it"
        )
        service.stop_sandbox(sandbox_id)
    page.goto(f"/dags/endless/runs/{run_id}/tasks/wait")
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible()
    expect(page.get_by_text(f"Ending process {process_id}")).to_be_visible()
