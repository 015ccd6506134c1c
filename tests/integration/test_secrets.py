"""What must not be found in anything that Airflow keeps: the API key and the sandboxes' tokens."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import pytest

from airflow_provider_sbx.client import SandboxClient

pytestmark = pytest.mark.airflow

# Each answer brings another token, so that they are looked for by their form.
TOKEN = re.compile(rb"sbxt\.\d{13}\.[0-9a-f]{64}")


def test_no_log_and_no_row_of_the_database_holds_the_key_or_a_token(airflow: Any, sbx_local: Any) -> None:
    with SandboxClient(sbx_local.api_key, sbx_local.url) as service:
        sandbox = service.create_sandbox({"image_name": "python"})
        assert TOKEN.fullmatch(sandbox.token.encode())
        run_id = airflow.trigger("fails_deferred", {"sandbox_id": sandbox.id})
        assert airflow.wait_for_run("fails_deferred", run_id, timeout=60) == "failed"
        service.stop_sandbox(sandbox.id)
    key = sbx_local.api_key.encode()
    files = [path for path in airflow.home.rglob("*") if path.is_file()]
    contents = {}
    for path in files:
        with suppress(FileNotFoundError):  # a temporary one of Airflow's
            contents[path] = path.read_bytes()
    # The scan does see what was run: the sandbox's id stands in the database and in the log.
    assert sum(sandbox.id.encode() in content for content in contents.values()) >= 2
    found = [str(path) for path, content in contents.items() if key in content or TOKEN.search(content)]
    assert found == []
