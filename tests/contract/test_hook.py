"""The hook's connection test against the embedded server: what each kind of mistake is told as."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_sbx.api.conversations import marked, process_key
from airflow_provider_sbx.api.models import ProcessParameters
from airflow_provider_sbx.api.validation import MOST_COMMAND_BYTES, check_command
from airflow_provider_sbx.hooks.sandbox import SandboxAsyncHook, SandboxHook


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Any:
    def define(**fields: Any) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_SBX_DEFAULT", json.dumps({"conn_type": "sbx", **fields}))

    return define


def test_a_good_connection_is_told(connection: Any, sbx_local: Any) -> None:
    connection(host=sbx_local.url, password=sbx_local.api_key)
    ok, message = SandboxHook().test_connection()
    assert ok, message
    assert "accepted the API key" in message


def test_a_wrong_key_is_told_from_an_unreachable_host(connection: Any, sbx_local: Any) -> None:
    connection(host=sbx_local.url, password="a-key-of-somebody-else")
    ok, message = SandboxHook().test_connection()
    assert not ok
    assert "refused the API key" in message
    assert "a-key-of-somebody-else" not in message

    connection(host="http://127.0.0.1:9", password=sbx_local.api_key)
    ok, message = SandboxHook().test_connection()
    assert not ok
    assert "can't be reached" in message


def test_a_half_filled_connection_is_told(connection: Any, sbx_local: Any) -> None:
    connection(host=sbx_local.url)
    ok, message = SandboxHook().test_connection()
    assert not ok
    assert "password" in message


def test_without_a_connection_the_environment_of_the_vendors_clients_serves(
    monkeypatch: pytest.MonkeyPatch, sbx_local: Any
) -> None:
    monkeypatch.setenv("HYPERBROWSER_API_KEY", sbx_local.api_key)
    monkeypatch.setenv("HYPERBROWSER_BASE_URL", f"{sbx_local.url}/api")
    with SandboxHook() as hook:
        assert hook.list_sandboxes(limit=1).sandboxes is not None


def test_the_hook_runs_a_command(connection: Any, sbx_local: Any) -> None:
    connection(host=sbx_local.url, password=sbx_local.api_key)
    with SandboxHook() as hook:
        sandbox = hook.create_sandbox({"image_name": "python"})
        assert hook.exec(sandbox.id, "echo hi").stdout == "hi\n"
        hook.stop_sandbox(sandbox.id)


async def test_hooks_of_one_loop_share_a_client(connection: Any, sbx_local: Any) -> None:
    connection(host=sbx_local.url, password=sbx_local.api_key)
    async with SandboxAsyncHook() as one, SandboxAsyncHook() as other:
        assert one.client is other.client
        assert (await one.list_sandboxes(limit=1)).page == 1


def test_the_longest_command_that_is_let_through_can_be_run(connection: Any, sbx_local: Any) -> None:
    connection(host=sbx_local.url, password=sbx_local.api_key)
    command = "echo x; : ".ljust(MOST_COMMAND_BYTES, "y")
    # The operators send it under a line that names the task; three names of 250 characters stand there.
    marked_command = marked(check_command(command), process_key("k"), "n" * 800)
    with SandboxHook() as hook:
        sandbox = hook.create_sandbox({"image_name": "python"})
        try:
            parameters = ProcessParameters(command=marked_command)
            assert hook.get_conn().exec(sandbox.id, parameters).stdout == "x\n"
        finally:
            hook.stop_sandbox(sandbox.id)
