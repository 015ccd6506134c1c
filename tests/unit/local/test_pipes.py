"""The server's ends of pipes, without a process at the other."""

from __future__ import annotations

import asyncio
import os

import pytest

from airflow_provider_sbx.local import pipes
from airflow_provider_sbx.local.output import OutputLog


async def test_half_a_character_is_held_until_its_rest_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "_HELD_SECONDS", 60)
    log = OutputLog(10_000)
    reader, writer = os.pipe()
    pipe = pipes.OutputPipe(reader, "stdout", log)

    async def read(data: bytes) -> None:
        before = pipe.last_read
        os.write(writer, data)
        for _ in range(5):  # turns of the loop: the bytes are there at once
            await asyncio.sleep(0)
        assert pipe.last_read > before

    await read(b"\xc3")
    assert log.last_seq == 0
    await read(b"\xa9\n")
    os.close(writer)
    pipe.close()

    assert [(event.data, event.is_text) for event in log.batch(1)] == [("é\n".encode(), True)]
