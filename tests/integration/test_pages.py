"""What Airflow's pages show of a task with a sandbox."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

pytestmark = pytest.mark.airflow

TASKS = ("sync", "deferred", "unlinked")


@pytest.fixture(scope="module")
def run(airflow: Any) -> str:
    run_id: str = airflow.trigger("pages")
    airflow.wait_for_task("pages", run_id, "deferred", {"deferred"}, timeout=90)
    assert links(airflow, run_id, "deferred")["Sandbox"].startswith("http")
    assert airflow.wait_for_run("pages", run_id, timeout=120) == "success"
    return run_id


def instance(airflow: Any, run_id: str, task_id: str, more: str = "") -> dict[str, Any]:
    path = f"/dags/pages/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}{more}"
    answer: dict[str, Any] = airflow.request("GET", path)
    return answer


def links(airflow: Any, run_id: str, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = instance(airflow, run_id, task_id, "/links")["extra_links"]
    return found


def test_a_task_links_to_its_sandboxs_page_while_it_waits_and_after_its_end(airflow: Any, run: str) -> None:
    for task_id in ("sync", "deferred"):
        url = airflow.xcom("pages", run, task_id, "session_url")
        assert airflow.xcom("pages", run, task_id, "sandbox_id") in url
        assert links(airflow, run, task_id) == {"Sandbox": url}


def test_a_task_without_xcom_has_no_link_and_pushes_nothing(airflow: Any, run: str) -> None:
    assert not any(links(airflow, run, "unlinked").values())
    assert airflow.xcoms("pages", run, "unlinked") == {}


def test_values_under_sensitive_names_are_hidden_where_env_is_shown(airflow: Any, run: str) -> None:
    for task_id in TASKS:
        env = instance(airflow, run, task_id)["rendered_fields"]["env"]
        assert env == {"DB_PASSWORD": "***", "REGION": "north"}


def test_and_where_the_process_prints_them(airflow: Any, run: str) -> None:
    text = airflow.task_log_text("pages", run, "sync")

    assert "pass *** to north" in text
    assert "open-sesame" not in text
