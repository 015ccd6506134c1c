"""Tokens of the runtime plane: read once, renewed in time, renewed once where refused; for both twins."""

import asyncio

import httpx
import pytest

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.client import AsyncSandboxClient, wire
from tests.unit.builders import (
    API_KEY,
    CONTROL,
    PROCESS,
    SANDBOX,
    process_body,
    result_body,
    sandbox_body,
    sse,
    sse_output,
)
from tests.unit.client.twins import Service, event_stream

GET = ("GET", f"/sandbox/processes/{PROCESS}")
STREAM = ("GET", f"/sandbox/processes/{PROCESS}/stream")
OK = {"process": process_body()}
REFUSED = httpx.Response(401, json={"error": "token expired"})


def bearers(service):
    return [r.headers["authorization"] for r in service.requests if "authorization" in r.headers]


def test_a_token_is_read_once_and_used_again(twin, service):
    service.queue(*GET, OK, OK, OK)

    for _ in range(3):
        twin.call("get_process", SANDBOX, PROCESS)

    assert service.token_reads == 1
    assert bearers(service) == ["Bearer token-1"] * 3


@pytest.mark.parametrize(("lasts", "reads"), [(30, 2), (59, 2), (120, 1)])
def test_a_token_with_less_than_a_minute_left_is_renewed_before_it_is_used(connect, lasts, reads):
    service = Service(lasts_seconds=lasts)
    service.queue(*GET, OK, OK)
    twin = connect(service)

    twin.call("get_process", SANDBOX, PROCESS)
    twin.call("get_process", SANDBOX, PROCESS)

    assert service.token_reads == reads


@pytest.mark.parametrize("ends", [None, ""])
def test_a_token_without_an_end_is_used_until_it_is_refused(connect, ends):
    service = Service(tokenExpiresAt=ends)
    service.queue(*GET, OK, OK)
    twin = connect(service)

    twin.call("get_process", SANDBOX, PROCESS)
    twin.call("get_process", SANDBOX, PROCESS)

    assert service.token_reads == 1


def test_a_refused_token_is_renewed_and_the_request_repeated_once(twin, service):
    service.queue(*GET, REFUSED, OK)

    assert twin.call("get_process", SANDBOX, PROCESS).id == PROCESS
    assert bearers(service) == ["Bearer token-1", "Bearer token-2"]


def test_a_token_that_is_refused_again_is_an_error(twin, service):
    service.queue(*GET, REFUSED, REFUSED)

    with pytest.raises(errors.AuthenticationError, match="even after it had been renewed") as caught:
        twin.call("get_process", SANDBOX, PROCESS)
    assert caught.value.status_code == 401
    assert len(service.asked()) == 2


def test_a_start_is_repeated_after_a_refused_token_since_it_did_not_happen(twin, service):
    service.queue("POST", "/sandbox/processes", REFUSED, OK)

    assert twin.call("start", SANDBOX, "x").id == PROCESS
    assert service.requests[-1].content == service.requests[1].content


def test_a_forbidden_request_renews_nothing(twin, service):
    service.queue(*GET, httpx.Response(403, json={"message": "scope"}))

    with pytest.raises(errors.AuthenticationError):
        twin.call("get_process", SANDBOX, PROCESS)
    assert service.token_reads == 1


def test_a_stream_renews_its_token_once_as_well(twin, service):
    service.queue(*STREAM, REFUSED, event_stream(sse_output(1, "a\n"), sse("done", result_body())))

    with twin.reading("stream", SANDBOX, PROCESS) as (_, events):
        assert len(list(events)) == 2
    assert bearers(service) == ["Bearer token-1", "Bearer token-2"]


def test_a_stream_whose_token_is_refused_again_is_an_error(twin, service):
    service.queue(*STREAM, REFUSED, REFUSED)

    with pytest.raises(errors.AuthenticationError), twin.reading("stream", SANDBOX, PROCESS):
        pass


def test_a_wrong_api_key_is_told_at_once_and_asked_once(twin, service):
    service.queue("GET", f"/api/sandbox/{SANDBOX}", httpx.Response(401, json={"message": "bad key"}))

    with pytest.raises(errors.AuthenticationError, match="Check the API key"):
        twin.call("get_process", SANDBOX, PROCESS)
    assert service.token_reads == 1


@pytest.mark.parametrize("status", ["closed", "error", "starting"])
def test_a_sandbox_without_a_token_is_not_running(twin, service, status):
    gone = {"id": SANDBOX, "status": status, "closeReason": "idle"}
    service.queue("GET", f"/api/sandbox/{SANDBOX}", gone)

    with pytest.raises(errors.SandboxNotRunningError, match=r"sb-1 is .*\(idle\)") as caught:
        twin.call("get_process", SANDBOX, PROCESS)
    assert caught.value.code == "sandbox_not_running"


def test_a_sandbox_that_was_stopped_meanwhile_is_found_out_by_its_refused_token(twin, service):
    service.queue("GET", f"/api/sandbox/{SANDBOX}", sandbox_body(), {"id": SANDBOX, "status": "closed"})
    service.queue(*GET, REFUSED)

    with pytest.raises(errors.SandboxNotRunningError):
        twin.call("get_process", SANDBOX, PROCESS)


async def test_many_at_once_renew_a_token_once():
    service = Service()
    service.queue(*GET, *[OK] * 20)

    async def answer(request):
        await asyncio.sleep(0)  # as a network would, so that the others come meanwhile
        return service.answer(request)

    transport = httpx.MockTransport(answer)
    async with AsyncSandboxClient(API_KEY, CONTROL, transport=transport) as client:
        await asyncio.gather(*[client.get_process(SANDBOX, PROCESS) for _ in range(20)])

    assert service.token_reads == 1


async def test_a_client_that_lives_for_long_does_not_keep_all_sandboxes_that_it_saw(monkeypatch):
    monkeypatch.setattr(wire, "_TIDY_AT", 4)
    lasts = {f"old-{n}": 30 for n in range(10)} | {f"new-{n}": 3600 for n in range(10)}

    async def answer(request):
        sandbox_id = request.url.path.rpartition("/")[2]
        if sandbox_id in lasts:
            return httpx.Response(200, json=sandbox_body(id=sandbox_id, lasts_seconds=lasts[sandbox_id]))
        return httpx.Response(200, json=OK)

    async with AsyncSandboxClient(API_KEY, CONTROL, transport=httpx.MockTransport(answer)) as client:
        for sandbox_id in lasts:
            await client.get_process(sandbox_id, PROCESS)
            assert len(client._wire._pages) <= 16
        kept = set(client._wire._access)
        assert kept >= {each for each in lasts if each.startswith("new")}
        assert len(kept) < len(lasts)
        assert client.page_of("new-9") is not None
        assert len(client._renewals) == 0
