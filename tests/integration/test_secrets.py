"""What must not be found in anything that Airflow keeps: the API key and the sandboxes' tokens."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sbx.client import SandboxClient

pytestmark = pytest.mark.airflow


def test_no_log_and_no_row_of_the_database_holds_the_key_or_a_token(airflow: Any, sbx_local: Any) -> None:
    with SandboxClient(sbx_local.api_key, sbx_local.url) as service:
        sandbox = service.create_sandbox({"image_name": "python"})
        tokens = {sandbox.token, service.get_sandbox(sandbox.id).token}
        run_id = airflow.trigger("fails_deferred", {"sandbox_id": sandbox.id})
        assert airflow.wait_for_run("fails_deferred", run_id, timeout=60) == "failed"
        tokens.add(service.get_sandbox(sandbox.id).token)
        service.stop_sandbox(sandbox.id)
    forbidden = [secret.encode() for secret in (sbx_local.api_key, *tokens)]

    files = [path for path in airflow.home.rglob("*") if path.is_file()]
    contents = {path: path.read_bytes() for path in files}
    # The scan does see what was run: the sandbox's id stands in the database and in the log.
    assert sum(sandbox.id.encode() in content for content in contents.values()) >= 2
    found = [str(path) for path, content in contents.items() if any(s in content for s in forbidden)]
    assert found == []
