"""A sandbox's life, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from airflow_provider_sbx.api.models import ProcessParameters, ProcessStatus, SandboxSpec, SandboxStatus
from airflow_provider_sbx.local.errors import ApiError
from airflow_provider_sbx.local.isolation.plain import Plain
from airflow_provider_sbx.local.sandboxes import Sandbox, SandboxStore
from airflow_provider_sbx.local.settings import Settings


@pytest.fixture
async def store() -> AsyncIterator[SandboxStore]:
    made = SandboxStore(Settings(api_key="k"), Plain())
    yield made
    await made.close()


@pytest.fixture
async def pass_seconds(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the clock that the event loop sets its timers by."""
    loop = asyncio.get_running_loop()
    now = loop.time

    def move(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    ahead = 0.0
    monkeypatch.setattr(loop, "time", lambda: now() + ahead)
    return move


async def _turn() -> None:
    """Let the loop run what is due."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_sandbox_is_stopped_with_its_processes_when_its_minutes_are_over(
    store: SandboxStore, pass_seconds: Callable[[float], None]
) -> None:
    sandbox = await store.create(SandboxSpec(image_name="python", timeout_minutes=2))
    process = await sandbox.processes().start(ProcessParameters(command="exec sleep 86400"))

    pass_seconds(2 * 60 - 10)
    await _turn()
    assert sandbox.is_active
    assert process.status is ProcessStatus.RUNNING

    pass_seconds(10)
    async with asyncio.timeout(20):
        await process.ended.wait()
    assert process.status is ProcessStatus.KILLED
    assert (sandbox.status, sandbox.close_reason) == (SandboxStatus.CLOSED, "timeout")
    with pytest.raises(ApiError) as refused:
        sandbox.processes()
    assert (refused.value.status, refused.value.code) == (409, "sandbox_not_running")


async def test_a_sandbox_without_minutes_lives_until_it_is_stopped(
    store: SandboxStore, pass_seconds: Callable[[float], None]
) -> None:
    sandbox = await store.create(SandboxSpec(image_name="python"))
    pass_seconds(365 * 86400)
    await _turn()
    assert sandbox.is_active


async def test_a_sandbox_that_was_stopped_in_time_stays_stopped_for_that_reason(
    store: SandboxStore, pass_seconds: Callable[[float], None]
) -> None:
    sandbox: Sandbox = await store.create(SandboxSpec(image_name="python", timeout_minutes=1))
    await sandbox.close("stopped")
    pass_seconds(61)
    await _turn()
    assert sandbox.close_reason == "stopped"
