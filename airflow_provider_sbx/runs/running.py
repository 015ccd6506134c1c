"""Running a process from a worker: start it or find it again, tell who it is, follow it.

All in one event loop of the task's own, with the client and the machine that the triggerer uses.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_sbx.api import calls
from airflow_provider_sbx.api.conversations import find_process, marked, terminate
from airflow_provider_sbx.api.errors import (
    NotFoundError,
    OutcomeUnknownError,
    ProcessExitedError,
    ResponseError,
    SandboxNotRunningError,
    ServiceError,
)
from airflow_provider_sbx.api.events import Event
from airflow_provider_sbx.api.following import Following
from airflow_provider_sbx.api.models import ProcessParameters, ProcessSummary
from airflow_provider_sbx.api.outage import Repeats, Tell
from airflow_provider_sbx.api.retrying import is_outcome_unknown
from airflow_provider_sbx.api.steps import Outcome, WaitStrategy
from airflow_provider_sbx.follow import Emit, Watcher, follow

if TYPE_CHECKING:
    from airflow_provider_sbx.client import AsyncSandboxClient

_NOISY_BYTES = 128 * 1024
"""What a process may write a second and be left to the triggerer: the service keeps a few MiB, and it takes
some seconds until the triggerer reads on."""

_PACE_SECONDS = 1.0
"""How long it is watched for that, in seconds."""

LOOKUPS = 4
"""How often a process is looked for whose start may still be on its way."""

_REFUSED = range(400, 500)
_STARTS = 3


@dataclass(frozen=True)
class Begun:
    """A process to wait for.

    :param process: what the service says of it.
    :param events: the stream of its start, where it has one.
    :param attached: it was started by an earlier try, which may have written its input.
    """

    process: ProcessSummary
    events: AsyncIterator[Event] | None = None
    attached: bool = False


@asynccontextmanager
async def begin(
    client: AsyncSandboxClient,
    sandbox_id: str,
    params: ProcessParameters,
    *,
    key: str,
    label: str,
    streaming: bool,
    tell: Tell,
) -> AsyncIterator[Begun]:
    """Start a process under its key: once, also where the answer to the start is lost.

    :param client: how to reach the service.
    :param sandbox_id: where.
    :param params: what, without the key.
    :param key: the key of this try; see `api.conversations.marked`.
    :param label: for people who list the sandbox's processes.
    :param streaming: ask for the events from the first on.
    :param tell: says in the task's log what was unusual.
    :raises OutcomeUnknownError: it is not known whether it was started, and it must not be again.
    :raises ServiceError: it was not started.
    """
    marked_params = params.model_copy(update={"command": marked(params.command, key, label)})
    for start in range(1, _STARTS + 1):
        reached = False
        try:
            async with _started(client, sandbox_id, marked_params, streaming, tell) as begun:
                reached = True
                yield begun
                return
        except OutcomeUnknownError as error:
            if reached:  # whoever waits for it is in doubt, of its input; this start is not
                raise
            tell(logging.WARNING, f"{error} Looking for it by its key.")
            process = await look_for(client, sandbox_id, key, looks=LOOKUPS)
            if process is not None:
                # This try's own: nobody but this try writes its input.
                yield Begun(process)
                return
            if params.uses_secrets or start == _STARTS:
                raise
            tell(logging.WARNING, "It is not there: starting it again.")


@asynccontextmanager
async def _started(
    client: AsyncSandboxClient,
    sandbox_id: str,
    params: ProcessParameters,
    streaming: bool,
    tell: Tell,
) -> AsyncIterator[Begun]:
    if streaming and not params.uses_secrets:
        async with _patiently_streaming(client, sandbox_id, params, tell) as begun:
            yield begun
        return
    call = (
        calls.start_process_with_secrets(sandbox_id, params)
        if params.uses_secrets
        else calls.start_process(params)
    )
    try:
        answer = await client.send(call, sandbox_id)
    except ServiceError as error:
        if is_outcome_unknown(call, error):
            raise OutcomeUnknownError(f"{call.what} in sandbox {sandbox_id}", error) from error
        raise
    yield Begun(answer.process)


@asynccontextmanager
async def _patiently_streaming(
    client: AsyncSandboxClient, sandbox_id: str, params: ProcessParameters, tell: Tell
) -> AsyncIterator[Begun]:
    """Start and stream; wait out refusals that say that nothing was started."""
    repeats = Repeats(calls.start_process(params), client.policy, tell)
    while True:
        reached = False
        try:
            async with client.start_streaming(sandbox_id, params) as started:
                reached = True
                repeats.answered(time.monotonic())
                yield Begun(started.process, started.events)
                return
        except ServiceError as error:
            if reached or not repeats.failed(error, time.monotonic()):
                raise
        await asyncio.sleep(repeats.pause_seconds)


async def look_for(
    client: AsyncSandboxClient, sandbox_id: str, key: str, *, looks: int
) -> ProcessSummary | None:
    """Look a process up by its key.

    :param looks: how often, at the most; see `LOOKUPS`.
    """
    for look in range(looks):
        process = await client.converse(sandbox_id, find_process(key))
        if process is not None:
            return process
        if look < looks - 1:
            await asyncio.sleep(0.5 * 2**look)
    return None


async def feed_and_follow(
    client: AsyncSandboxClient,
    sandbox_id: str,
    begun: Begun,
    machine: Following,
    emit: Emit,
    *,
    stdin: str | bytes | None,
    until: float | None,
    **options: Any,
) -> Outcome | None:
    """Write a process's input, close it, and follow its output, all at once.

    At once, since a process that fills its output before it has read its input would wait for us,
    and we for it.

    :param stdin: what to write; None for nothing. Closed either way: a command that reads on finds
        the end, and does not wait for ever.
    :param until: when to leave it to others, in seconds since 1970; not before all is written.
    :param options: of `follow`.
    :return: how it ended, or None where `until` came first.
    :raises ServiceError: going on is pointless.
    """
    writing = asyncio.create_task(
        write_input(client, sandbox_id, begun.process.id, stdin, again=begun.attached)
    )
    following = asyncio.create_task(
        follow(client, sandbox_id, machine, emit, events=begun.events, until=until, **options)
    )
    try:
        await asyncio.wait((writing, following), return_when=asyncio.FIRST_EXCEPTION)
        if writing.done() and writing.exception() is not None and not _has_ended(following):
            # It would wait for its input for ever, here or once it is left to others.
            following.cancel()
            await client.converse(sandbox_id, terminate(begun.process.id, grace_seconds=0))
            await writing
        outcome = await following
        if outcome is None:
            await writing
        return outcome
    finally:
        for task in (writing, following):
            task.cancel()
            with suppress(asyncio.CancelledError, ServiceError, OutcomeUnknownError):
                await task


async def follow_until_calm(
    client: AsyncSandboxClient,
    sandbox_id: str,
    machine: Following,
    emit: Emit,
    *,
    waited: float,
    until: float | None,
    notice: Callable[[str], None],
    watcher: Watcher | None = None,
) -> Outcome | None:
    """Follow on while nobody could catch up with the process after some seconds without a reader.

    It lasts for some minutes at the most: then so much is logged that no more is (`max_log_bytes`).

    :param waited: how long the process was followed so far, in seconds.
    :param until: when to leave it in any case, in seconds since 1970; None for never.
    :param notice: says in the log that it takes longer.
    :param watcher: is told of each stream that is read.
    :return: how it ended meanwhile, or None where it may be left to others.
    :raises ServiceError: going on is pointless.
    """
    end = math.inf if until is None else until
    pace = machine.logged_bytes / max(waited, _PACE_SECONDS)
    if pace > _NOISY_BYTES:
        notice(f"Process {machine.process_id} writes much: it is left to the triggerer later.")
    while pace > _NOISY_BYTES and (now := time.time()) < end:
        before = machine.logged_bytes
        leave_at = min(now + _PACE_SECONDS, end)
        if watcher is not None:
            watcher.left()
        outcome = await follow(client, sandbox_id, machine, emit, until=leave_at, watcher=watcher)
        if outcome is not None:
            return outcome
        pace = (machine.logged_bytes - before) / _PACE_SECONDS
    return None


def _has_ended(following: asyncio.Task[Outcome | None]) -> bool:
    """Whether the following came to an end of its own, and not just to its `until`."""
    return following.done() and (following.exception() is not None or following.result() is not None)


async def write_input(
    client: AsyncSandboxClient,
    sandbox_id: str,
    process_id: str,
    data: str | bytes | None,
    *,
    again: bool = False,
) -> None:
    """Write a process's input and close it; one that ended without reading all of it is no error.

    :param again: an earlier try may have written it, or was lost before it could. It went out with its
        end in one request, so that an input that is closed already was written, and is refused.
    :raises OutcomeUnknownError: it is not known whether the data arrived, and it must not be sent again.
    """
    call = calls.write_stdin(process_id, data, eof=True)
    # It may have ended without reading all of its input, as `head` does.
    with suppress(ProcessExitedError):
        try:
            await client.send(call, sandbox_id)
        except ServiceError as error:
            if is_outcome_unknown(call, error):
                raise OutcomeUnknownError(call.what, error) from error
            if not (again and isinstance(error, ResponseError) and error.status_code in _REFUSED):
                raise


async def stop_if_possible(client: AsyncSandboxClient, sandbox_id: str, log: Any) -> None:
    """Stop a task's own sandbox, or say in the log why it could not be; one that is gone is stopped."""
    try:
        await client.stop_sandbox(sandbox_id)
        log.info("Stopped sandbox %s.", sandbox_id)
    except (NotFoundError, SandboxNotRunningError):
        pass
    except ServiceError as error:
        log.warning("Sandbox %s could not be stopped; it ends at its timeout_minutes. %s", sandbox_id, error)


def new_machine(
    process_id: str,
    client: AsyncSandboxClient,
    *,
    wait_strategy: str,
    poll_interval: float,
    output_bytes: int,
    log_bytes: int,
    step_us: int,
    started_at: int | None = None,
) -> Following:
    """Return the state of a wait that begins; see `Following` for the parameters."""
    options: dict[str, Any] = {
        "strategy": WaitStrategy(wait_strategy),
        "policy": client.policy,
        "poll_seconds": poll_interval,
        "output_bytes": output_bytes,
        "log_bytes": log_bytes,
        "step_us": step_us,
        "started_at": started_at,
    }
    return Following(process_id, **options)
