"""Starting a process, feeding it and following it."""

import asyncio
import logging
import re
import time

import httpx
import pytest

from airflow_provider_sbx.api.errors import NotFoundError, OutcomeUnknownError, TransportError
from airflow_provider_sbx.api.following import Following
from airflow_provider_sbx.api.models import ProcessParameters, ProcessSummary
from airflow_provider_sbx.client import AsyncSandboxClient
from airflow_provider_sbx.runs.running import Begun, begin, feed_and_follow
from tests.unit.builders import API_KEY, CONTROL, PROCESS, SANDBOX, process_body, result_body
from tests.unit.client.twins import IMPATIENT, QUICK, Service, held_stream

PROCESSES = "/sandbox/processes"
P = f"{PROCESSES}/{PROCESS}"
REFUSED = httpx.ConnectError("refused")


def client_of(service, policy=QUICK):
    transport = httpx.MockTransport(service.answer_async)
    return AsyncSandboxClient(API_KEY, CONTROL, policy=policy, transport=transport)


def streaming(client, tell):
    params = ProcessParameters(command="x", env={"PASSWORD": "hunter2"})
    return begin(client, SANDBOX, params, key="sbx-1", label="d/t", streaming=True, tell=tell)


@pytest.mark.parametrize("path", [("GET", f"/api/sandbox/{SANDBOX}"), ("POST", PROCESSES)], ids=str)
async def test_an_outage_before_a_streaming_start_is_told_once_and_its_end_as_well(service, caplog, path):
    caplog.set_level(logging.DEBUG)
    service.queue(*path, *[REFUSED] * 6)
    service.queue("POST", PROCESSES, {"process": process_body()})
    told = []

    async with client_of(service) as client, streaming(client, lambda *word: told.append(word)) as begun:
        assert begun.process.id == PROCESS
        assert len(told) == 2  # before what follows is told
    (first, last), said = zip(*told, strict=True)

    assert (first, last) == (logging.WARNING, logging.INFO)
    assert said[0].endswith("the connection failed (refused). Trying again.")
    assert re.fullmatch(r"The service answers again, after \d+\.\d s\.", said[1])
    assert not any(secret in "".join(said) for secret in (API_KEY, "token-1", "hunter2"))
    assert "airflow_provider_sbx" not in {record.name.partition(".")[0] for record in caplog.records}


async def test_a_start_that_is_given_up_says_for_how_long_it_was_tried(service):
    service.queue("POST", PROCESSES, *[REFUSED] * 5000)
    said = []

    async with client_of(service, IMPATIENT) as client:
        with pytest.raises(TransportError, match=r"\(refused\), after \d s of trying$"):
            async with streaming(client, lambda _, text: said.append(text)):
                pass

    assert len(said) == 1


async def test_a_start_that_succeeds_or_is_refused_at_once_says_nothing(service):
    service.queue("POST", PROCESSES, {"process": process_body()}, httpx.Response(404, json={"error": "no"}))
    said = []

    async with client_of(service) as client:
        async with streaming(client, lambda _, text: said.append(text)):
            pass
        with pytest.raises(NotFoundError):
            async with streaming(client, lambda _, text: said.append(text)):
                pass

    assert said == []


async def test_a_process_whose_input_is_lost_once_it_is_to_be_left_to_others_is_ended_all_the_same():
    service = Service()
    service.queue("GET", f"{P}/stream", held_stream())
    service.queue("GET", P, {"process": process_body()})
    service.queue("DELETE", P, {"process": process_body(status="killed")})
    service.queue("POST", f"{P}/wait", {"result": result_body(status="killed")})

    async def answer(request):
        if request.url.path.endswith("/stdin"):
            await asyncio.sleep(0.1)
            raise httpx.ReadError("connection reset")
        return service.answer(request)

    transport = httpx.MockTransport(answer)
    async with AsyncSandboxClient(API_KEY, CONTROL, policy=QUICK, transport=transport) as client:
        begun = Begun(ProcessSummary.model_validate(process_body()))
        with pytest.raises(OutcomeUnknownError, match="write to process"):
            await feed_and_follow(
                client,
                SANDBOX,
                begun,
                Following(PROCESS),
                lambda entries: None,
                stdin="x",
                until=time.time() + 0.02,
            )

    assert f"DELETE {P}" in service.asked()
