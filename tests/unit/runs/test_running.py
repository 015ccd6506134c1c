"""Feeding a process and following it, at once."""

import asyncio
import time

import httpx
import pytest

from airflow_provider_sbx.api.errors import OutcomeUnknownError
from airflow_provider_sbx.api.following import Following
from airflow_provider_sbx.api.models import ProcessSummary
from airflow_provider_sbx.client import AsyncSandboxClient
from airflow_provider_sbx.runs.running import Begun, feed_and_follow
from tests.unit.builders import API_KEY, CONTROL, PROCESS, SANDBOX, process_body, result_body
from tests.unit.client.twins import QUICK, Service, held_stream

P = f"/sandbox/processes/{PROCESS}"


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
