"""What the loop does in a long quiet wait, and what it tells whoever counts."""

import asyncio

import httpx
import pytest

from airflow_provider_sbx import follow as module
from airflow_provider_sbx.api import progress
from tests.unit.builders import notices_of, sse_output, until
from tests.unit.client.twins import event_stream, held_stream
from tests.unit.test_follow import STREAM, done, followed


@pytest.fixture
def _in_fast_motion(monkeypatch):
    monkeypatch.setattr(progress, "_INTERVALS_SECONDS", (0.1, 0.1, 60.0))
    monkeypatch.setattr(module, "_QUIET_TICK_SECONDS", 0.05)


class Watcher:
    def __init__(self):
        self.seen = []

    def stream_opened(self):
        self.seen.append("opened")

    def stream_closed(self):
        self.seen.append("closed")


@pytest.mark.usefixtures("_in_fast_motion")
async def test_a_sign_of_life_comes_without_anything_from_the_service(service):
    service.queue(*STREAM, held_stream(sse_output(1, "a\n")))

    entries = []
    following = asyncio.create_task(followed(service, entries=entries))

    def signs():
        return [text for text in notices_of(entries) if "still runs; no output for 0 min" in text]

    await until(lambda: len(signs()) == 2)
    await asyncio.sleep(0.3)
    following.cancel()
    assert len(signs()) == 2


async def test_each_stream_that_is_read_is_told_and_a_refusal_is_none(service):
    service.queue(
        *STREAM,
        event_stream(sse_output(1, "a\n")),
        httpx.Response(503),
        event_stream(sse_output(2, "b\n"), done(last_seq=2)),
    )
    watcher = Watcher()
    await followed(service, watcher=watcher)

    assert watcher.seen == ["opened", "closed"] * 2
