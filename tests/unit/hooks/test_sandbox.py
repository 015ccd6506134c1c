"""The hooks over their clients: one client a process, one client an event loop."""

import httpx
import pytest

from airflow_provider_sbx.client import SandboxClient
from airflow_provider_sbx.hooks.sandbox import SandboxAsyncHook, SandboxHook
from tests.unit.builders import API_KEY, PROCESS, SANDBOX, process_body, result_body, sse, sse_output
from tests.unit.client.twins import event_stream


@pytest.fixture
def mine(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_MINE", f'{{"conn_type": "sbx", "password": "{API_KEY}"}}')
    return "mine"


# --- the synchronous hook --------------------------------------------------------------------


def test_making_a_hook_reads_nothing():
    assert SandboxHook("there-is-none").sbx_conn_id == "there-is-none"
    assert SandboxAsyncHook("there-is-none").sbx_conn_id == "there-is-none"


def test_a_hook_has_one_client_and_makes_another_once_it_was_closed(mine):
    with SandboxHook(mine) as hook:
        first = hook.get_conn()
        assert isinstance(first, SandboxClient)
        assert hook.get_conn() is first
        hook.close()
        assert hook.get_conn() is not first


def test_a_client_of_ones_own_is_not_the_hooks(mine):
    with SandboxHook(mine) as hook, hook.new_client() as own:
        assert own is not hook.get_conn()


def test_a_client_is_not_shared_over_a_fork(mine, monkeypatch):
    with SandboxHook(mine) as hook:
        parents = hook.get_conn()
        monkeypatch.setattr("os.getpid", lambda: -1)
        assert hook.get_conn() is not parents
        hook.close()
        assert not parents._http.is_closed


def test_a_hook_is_found_by_its_connections_type():
    assert (SandboxHook.conn_type, SandboxHook.conn_name_attr) == ("sbx", "sbx_conn_id")
    assert SandboxHook.default_conn_name == "sbx_default"


def test_testing_a_connection_that_is_not_there_or_half_filled_says_so(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_HALF", '{"conn_type": "sbx", "host": "https://h.test"}')

    for conn_id, says in [("half", "password"), ("none", "there is no connection 'none'")]:
        ok, message = SandboxHook(conn_id).test_connection()
        assert not ok
        assert says in message


def test_a_hook_has_the_operations_of_the_service(mine, network):
    network.queue("GET", f"/sandbox/processes/{PROCESS}", {"process": process_body()})
    network.queue(
        "GET",
        f"/sandbox/processes/{PROCESS}/stream",
        event_stream(sse_output(1, "a\n"), sse("done", result_body(last_seq=1))),
    )

    with SandboxHook(mine) as hook:
        assert hook.get_process(SANDBOX, PROCESS).id == PROCESS
        with hook.stream(SANDBOX, PROCESS) as events:
            assert len(list(events)) == 2
    assert network.requests[0].headers["x-api-key"] == API_KEY


@pytest.mark.parametrize(
    ("answer", "ok", "says"),
    [
        ({"sandboxes": []}, True, "https://api.hyperbrowser.ai accepted the API key"),
        (
            httpx.Response(401, json={"message": "bad"}),
            False,
            "https://api.hyperbrowser.ai refused the API key",
        ),
        (httpx.Response(403, json={"message": "scope"}), False, "refused the API key"),
        (httpx.ConnectError("no route"), False, "https://api.hyperbrowser.ai can't be reached"),
        (httpx.ReadTimeout("slow"), False, "can't be reached"),
        (httpx.Response(200, html="<title>Sign in</title>"), False, "does not answer as the sandbox service"),
        (httpx.Response(404, html="<h1>nginx"), False, "does not answer as the sandbox service"),
        (httpx.Response(503), False, "does not answer as the sandbox service"),
    ],
    ids=str,
)
def test_testing_a_connection_tells_a_wrong_key_a_wrong_host_and_success_apart(
    mine, network, answer, ok, says
):
    network.queue("GET", "/api/sandboxes", answer)

    found, message = SandboxHook(mine).test_connection()

    assert (found, says in message) == (ok, True)
    assert API_KEY not in message
    assert len(network.requests) == 1


# --- the asynchronous hook -------------------------------------------------------------------


async def test_the_async_hook_uses_the_shared_client(mine):
    async with SandboxAsyncHook(mine) as first, SandboxAsyncHook(mine) as second:
        client = first.client
        assert second.client is client
        assert second.settings is first.settings
    with pytest.raises(RuntimeError, match="async with"):
        _ = first.client


async def test_a_key_that_was_exchanged_is_for_whoever_comes_next(mine, monkeypatch):
    async with SandboxAsyncHook(mine) as before:
        monkeypatch.setenv("AIRFLOW_CONN_MINE", '{"conn_type": "sbx", "password": "another"}')
        assert await before.has_new_key()
        async with SandboxAsyncHook(mine) as after:
            assert (before.settings.api_key, after.settings.api_key) == (API_KEY, "another")
            assert not await after.has_new_key()
            async with SandboxAsyncHook(mine) as later:
                assert later.client is after.client
