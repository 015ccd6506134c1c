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

Picture = Callable[[Page, str], None]


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
    picture(page, "connection")
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


def test_a_deferred_tasks_log_is_live_and_its_result_readable(
    page: Page, airflow: Any, picture: Picture
) -> None:
    run_id = trigger(page, "nightly_report")
    is_deferred(airflow, "nightly_report", run_id, "report")
    task = f"/dags/nightly_report/runs/{run_id}/tasks/report"

    page.goto(task)
    expect(page.get_by_text("Deferred", exact=True)).to_be_visible()
    # While it is deferred its output comes, line after line, with no reload.
    expect(page.get_by_text("table 3 has no rows")).to_be_visible()
    expect(page.get_by_text("table 7 of 30: done")).to_be_visible()
    expect(page.get_by_text("Deferred", exact=True)).to_be_visible()
    picture(page, "log")

    page.goto(f"{task}/rendered_templates")
    expect(page.get_by_text('for step in $(seq "$STEPS")')).to_be_visible()
    expect(page.locator("code.language-bash, pre span.hljs-keyword, code span").first).to_be_visible()

    page.goto(f"{task}/details")
    link = page.get_by_role("link", name="Sandbox", exact=True)
    expect(link).to_be_visible()
    address = link.get_attribute("href") or ""
    assert (
        urlsplit(address).path
        == f"/sessions/{airflow.xcom('nightly_report', run_id, 'report', 'sandbox_id')}"
    )

    assert airflow.wait_for_run("nightly_report", run_id, timeout=120) == "success"
    page.goto(f"{task}/xcom")
    for text in ("return_value", "session_url"):
        expect(page.get_by_text(text).first).to_be_visible()
    page.get_by_role("button", name="Expand all extra JSON").click()
    expect(page.get_by_text('"exit_code"').first).to_be_visible()
    picture(page, "xcom")

    page.goto("/dags/nightly_report")
    for name in ("fetch", "report", "publish"):
        expect(page.get_by_role("link", name=name).first).to_be_visible()
    picture(page, "grid")


def test_marking_a_deferred_task_failed_ends_its_process(page: Page, airflow: Any, sbx_local: Any) -> None:
    run_id = trigger(page, "endless")
    is_deferred(airflow, "endless", run_id, "wait")
    # Before the triggerer has picked it up, Airflow tells nobody of a kill.
    airflow.wait_for(
        lambda: " starting" in airflow.task_log_text("endless", run_id, "wait", 1), 60, "the trigger"
    )
    sandbox_id = airflow.xcom("endless", run_id, "wait", "sandbox_id")
    process_id = airflow.xcom("endless", run_id, "wait", "process_id")
    with SandboxClient(sbx_local.api_key, sbx_local.url) as service:
        assert service.get_process(sandbox_id, process_id).status is ProcessStatus.RUNNING

        page.goto(f"/dags/endless/runs/{run_id}/tasks/wait")
        page.get_by_role("button", name="Mark Task Instance as...").click()
        page.get_by_role("menuitem", name=re.compile("failed", re.IGNORECASE)).click()
        page.get_by_role("dialog").get_by_role("button", name="Confirm").click()

        airflow.wait_for(
            lambda: service.get_sandbox(sandbox_id).status == "closed", 30, "the process to be ended"
        )
    page.goto(f"/dags/endless/runs/{run_id}/tasks/wait")
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible()
    expect(page.get_by_text(f"Process {process_id} was to be ended")).to_be_visible()
