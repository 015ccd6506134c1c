"""A run that is failed while many tasks wait: Airflow gives all their triggers the same half minute."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest

from airflow_provider_sbx.client import SandboxClient
from airflow_provider_sbx.compat import renders_in_triggerer

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.skipif(not renders_in_triggerer(), reason="Airflow starts tasks on workers only"),
]

TASKS = int(os.environ.get("SBX_KILL_TASKS", "40"))


def test_each_process_of_a_run_that_is_failed_gets_term_and_then_kill(airflow: Any, sbx_local: Any) -> None:
    dag_id = "killed_together"
    with SandboxClient(sbx_local.api_key, sbx_local.url) as service:
        sandbox = service.create_sandbox({"image_name": "python", "timeout_minutes": 60})

        def ends() -> Counter[str]:
            return Counter(process.status.value for process in service.iterate_processes(sandbox.id))

        run_id = airflow.trigger(dag_id, {"sandbox_id": sandbox.id})
        airflow.wait_for(lambda: ends()["running"] == TASKS, 60 + TASKS, "all processes to run")
        airflow.set_run_state(dag_id, run_id, "failed")
        airflow.wait_for(lambda: not ends()["running"], 90, "all processes to be ended")
        found = ends()
        service.stop_sandbox(sandbox.id)
    assert found == {"killed": TASKS}
