"""Ending what a task on a worker has in hand: when it is killed, and when its time is up."""

from __future__ import annotations

import contextvars
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_sbx.api.conversations import Termination, find_process, terminate
from airflow_provider_sbx.api.errors import NotFoundError, SandboxError, SandboxNotRunningError, ServiceError
from airflow_provider_sbx.api.retrying import RetryPolicy
from airflow_provider_sbx.follow import Emit, end_overdue
from airflow_provider_sbx.hooks.sandbox import SandboxHook
from airflow_provider_sbx.hooks.shared_client import new_async_client
from airflow_provider_sbx.runs.running import LOOKUPS, look_for, stop_if_possible
from airflow_provider_sbx.tasklog import silent

if TYPE_CHECKING:
    from airflow_provider_sbx.api.following import Following
    from airflow_provider_sbx.client import AsyncSandboxClient, SandboxClient

_POLICY = RetryPolicy(patience_seconds=1.0, longest_retry_after_seconds=0.5)
"""The task is over: whoever waits for that is not kept waiting for a service that is out of reach."""

_SAY_SECONDS = 0.2
"""How long a kill waits until what it did stands in the log, in seconds."""


@dataclass
class Held:
    """What a try has in hand.

    :param sandbox_id: where its process runs.
    :param process_id: the process.
    :param owns_sandbox: the sandbox was made for the task.
    :param is_starting: a start was sent, or is about to be.
    :param machine: the state of the wait for the process.
    """

    sandbox_id: str | None = None
    process_id: str | None = None
    owns_sandbox: bool = False
    is_starting: bool = False
    machine: Following | None = None

    @property
    def who(self) -> str:
        """The process, at the beginning of a sentence that tells that it could not be ended."""
        if self.process_id is None:
            return "A process that was about to be started"
        return f"Process {self.process_id} may still be running: it"


def kill(hook: SandboxHook, held: Held, key: str, log: Any, *, grace_seconds: float) -> None:
    """End the process and the task's own sandbox, whatever the task is doing.

    It runs in a signal handler, on top of that: so it has a client of its own, and asks Airflow for nothing.
    Nor does it log before all is done: the task may be in the middle of writing a line, and holds the lock
    that the next one waits for.

    :param key: the key of the try.
    :param grace_seconds: time between TERM and KILL, in seconds.
    """
    if held.sandbox_id is None:
        return
    words: list[tuple[int, str]] = []
    with silent("airflow_provider_sbx.client.wire"), hook.new_client(_POLICY) as client:
        try:
            _end_process(client, held, held.sandbox_id, key, grace_seconds, words)
        except SandboxError as error:
            words.append((logging.WARNING, f"{held.who} could not be ended. {error}"))
        # Also where the process could not be reached: it ends with its sandbox.
        if held.owns_sandbox:
            _stop_sandbox(client, held.sandbox_id, words)
    _say(log, words)


def _end_process(
    client: SandboxClient,
    held: Held,
    sandbox_id: str,
    key: str,
    grace_seconds: float,
    words: list[tuple[int, str]],
) -> None:
    if held.process_id is None and held.is_starting:
        found = client.converse(sandbox_id, find_process(key))
        held.process_id = found.id if found else None
    if held.process_id is not None:
        ending = client.converse(sandbox_id, terminate(held.process_id, grace_seconds=grace_seconds))
        words.append((logging.INFO, f"Process {held.process_id}: {ending.how}."))


def _stop_sandbox(client: SandboxClient, sandbox_id: str, words: list[tuple[int, str]]) -> None:
    try:
        client.stop_sandbox(sandbox_id)
    except (NotFoundError, SandboxNotRunningError):
        pass  # it is gone
    except SandboxError as error:
        text = f"Sandbox {sandbox_id} could not be stopped; it ends at its timeout_minutes. {error}"
        words.append((logging.WARNING, text))
    else:
        words.append((logging.INFO, f"Stopped sandbox {sandbox_id}."))


def _say(log: Any, words: list[tuple[int, str]]) -> None:
    """Log what was done, by a thread that is not waited for where the log can't be written now."""

    def say() -> None:
        for level, text in words:
            log.log(level, text)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(say,), daemon=True)
    thread.start()
    thread.join(_SAY_SECONDS)


async def end_after_timeout(
    hook: SandboxHook, held: Held, key: str, log: Any, emit: Emit, *, grace_seconds: float
) -> bool:
    """End the process after Airflow's timeout, log what it still writes, and stop the task's own sandbox.

    :param key: the key of the try.
    :param emit: writes entries to the task's log.
    :param grace_seconds: time between TERM and KILL, in seconds.
    :return: whether the process is known to have ended.
    """
    if (sandbox_id := held.sandbox_id) is None:
        return False
    async with await new_async_client(hook.settings, _POLICY) as client:
        try:
            if held.process_id is None and held.is_starting:
                found = await look_for(client, sandbox_id, key, looks=LOOKUPS)
                held.process_id = found.id if found else None
            if held.process_id is None:
                return False
            log.warning("Process %s has used up its time: ending it.", held.process_id)
            ending = await _end_one(client, sandbox_id, held.process_id, held.machine, emit, grace_seconds)
            log.info("Process %s: %s.", held.process_id, ending.how)
            return ending.ended
        except ServiceError as error:
            log.warning("%s could not be ended. %s", held.who, error)
            return False
        finally:
            if held.owns_sandbox:
                await stop_if_possible(client, sandbox_id, log)


async def _end_one(
    client: AsyncSandboxClient,
    sandbox_id: str,
    process_id: str,
    machine: Following | None,
    emit: Emit,
    grace_seconds: float,
) -> Termination:
    if machine is None:
        return await client.converse(sandbox_id, terminate(process_id, grace_seconds=grace_seconds))
    return await end_overdue(client, sandbox_id, machine, emit, grace_seconds=grace_seconds)
