"""`SandboxProcessTrigger`: waits for a process in the triggerer."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_sbx.api.conversations import read_result, terminate
from airflow_provider_sbx.api.errors import (
    AuthenticationError,
    InvalidParameterError,
    NotFoundError,
    SandboxError,
    SandboxNotRunningError,
    ServiceError,
    ServiceUnavailableError,
)
from airflow_provider_sbx.api.following import Following
from airflow_provider_sbx.api.output import DEFAULT_LOG_BYTES
from airflow_provider_sbx.api.steps import Outcome, WaitStrategy
from airflow_provider_sbx.compat import (
    AirflowRuntimeError,
    pushed,
    task_logger,
    tells_triggers_of_kills,
    trigger_kill_seconds,
    triggerer_stats,
)
from airflow_provider_sbx.follow import end_overdue, follow
from airflow_provider_sbx.hooks.sandbox import DEFAULT_CONNECTION, SandboxAsyncHook
from airflow_provider_sbx.metrics import Meter, span
from airflow_provider_sbx.runs.running import Begun, feed_and_follow, stop_if_possible
from airflow_provider_sbx.tasklog import MERGED_STEP_US, emitter
from airflow_provider_sbx.triggers.backlog import Backlog
from airflow_provider_sbx.triggers.checkpoint import Checkpoint
from airflow_provider_sbx.triggers.connecting import connected
from airflow_provider_sbx.triggers.event import Failure, ProcessEvent
from airflow_provider_sbx.triggers.note import Note, leave_note, read_note
from airflow_provider_sbx.triggers.state import task_state
from airflow_provider_sbx.triggers.task_end import TaskEnd

if TYPE_CHECKING:
    from airflow_provider_sbx.client import AsyncSandboxClient

SETTLE_SECONDS = 8.0
"""How long after a deferral no event is fired, in seconds; a sensor is not rescheduled sooner either.

A task that is queued again before the scheduler has seen its worker's exit is failed by it ("finished
with state success, but the task instance's state attribute is queued"; scheduler_job_runner's
`process_executor_events`). Measured: 10 of 40 at once, none of 80 after 8 s.
"""

_KILL_MARGIN_SECONDS = 10.0

_LAST_WORDS = 2
"""How many records a trigger logs about the end of a process, at most."""


class SandboxProcessTrigger(BaseTrigger):
    """Follows a process's output into the task's log, and fires one event at its end.

    It reconnects from the next sequence number for as long as the service is not out of reach for
    too long, and blocks nothing: all triggers of a triggerer share one client a connection. Its
    arguments hold ids and numbers only: no key, no token, no environment.

    :param sandbox_id: where the process runs.
    :param process_id: the process.
    :param sbx_conn_id: the connection.
    :param wait_strategy: `stream`, `wait` or `poll`; see `SandboxProcessOperator`.
    :param poll_interval: pause between two looks of `poll`, in seconds.
    :param max_log_bytes: how much output is logged, in bytes; 0 for none.
    :param state: where the worker left off; see `Following.state`.
    :param deadline: when the process is ended, in seconds since 1970; None for never.
    :param kill_grace: time between TERM and KILL, in seconds.
    :param owns_sandbox: the sandbox was made for this task: stop it when the task is killed.
    :param deferred_at: when the task was deferred, in seconds since 1970; see `SETTLE_SECONDS`.
    :param checkpoints: note in XCom how far much output was logged; see `Checkpoint`.
    :param ends_process: the process is the task's own, and ended when the task is killed.
    :param ends: end the task here where that is possible, without a worker; see `TaskEnd`.
    """

    def __init__(
        self,
        *,
        sandbox_id: str,
        process_id: str,
        sbx_conn_id: str = DEFAULT_CONNECTION,
        wait_strategy: str = WaitStrategy.STREAM.value,
        poll_interval: float = 5.0,
        max_log_bytes: int = DEFAULT_LOG_BYTES,
        state: dict[str, Any] | None = None,
        deadline: float | None = None,
        kill_grace: float = 10.0,
        owns_sandbox: bool = False,
        deferred_at: float = 0.0,
        checkpoints: bool = True,
        ends_process: bool = True,
        ends: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is untyped
        self.sandbox_id = sandbox_id
        self.process_id = process_id
        self.sbx_conn_id = sbx_conn_id
        self.wait_strategy = wait_strategy
        self.poll_interval = poll_interval
        self.max_log_bytes = max_log_bytes
        self.state = state
        self.deadline = deadline
        self.kill_grace = kill_grace
        self.owns_sandbox = owns_sandbox
        self.deferred_at = deferred_at
        self.checkpoints = checkpoints
        self.ends_process = ends_process
        self.ends = ends
        self._follower = uuid.uuid4().hex
        """This trigger in this triggerer, and no other that follows the same process."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer builds this trigger from."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "sandbox_id": self.sandbox_id,
                "process_id": self.process_id,
                "sbx_conn_id": self.sbx_conn_id,
                "wait_strategy": self.wait_strategy,
                "poll_interval": self.poll_interval,
                "max_log_bytes": self.max_log_bytes,
                "state": self.state,
                "deadline": self.deadline,
                "kill_grace": self.kill_grace,
                "owns_sandbox": self.owns_sandbox,
                "deferred_at": self.deferred_at,
                "checkpoints": self.checkpoints,
                "ends_process": self.ends_process,
                "ends": self.ends,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and fire one event."""
        backlog = Backlog(self)
        try:
            event = await self._wait(backlog)
            # The last of its own lines tells of the sandbox that was stopped.
            await backlog.written(at_least=1 if self.owns_sandbox else 0)
        except asyncio.CancelledError:
            if not tells_triggers_of_kills():
                await self.on_kill()
            raise
        # Nothing may come after this: a triggerer that took over would have this one killed.
        yield event

    def _hook(self) -> SandboxAsyncHook:
        return SandboxAsyncHook(self.sbx_conn_id)

    def _connected(self) -> AbstractAsyncContextManager[SandboxAsyncHook]:
        # Whoever started the process had the connection.
        return connected(self._hook, is_known=bool(self.process_id), log=self.log)

    async def _wait(self, backlog: Backlog) -> TriggerEvent:
        has_new_key = False
        try:
            async with self._connected() as hook:
                try:
                    with span("sbx.wait", sandbox_id=self.sandbox_id, process_id=self.process_id):
                        end = await self._follow(hook, backlog)
                    backlog.words(_LAST_WORDS)
                    event = await self._end_of_task(hook.client, end)
                except SandboxError as error:
                    backlog.words(_LAST_WORDS)
                    if isinstance(error, AuthenticationError):
                        with suppress(AirflowRuntimeError):  # it can't be asked: the key is refused, then
                            has_new_key = await hook.has_new_key()
                    end = self._failure(error)
                    event = None if has_new_key else await self._end_of_wait(hook.client, error)
        except (SandboxError, AirflowNotFoundException) as error:  # of the connection
            end, event = self._failure(error), None
        if has_new_key:
            # A shared client outlives an edit of its connection.
            self.log.warning("%s. The connection names another key by now: going on with that.", end.error)
            return await self._wait(backlog)
        if event is not None:
            return event
        await asyncio.sleep(self.deferred_at + SETTLE_SECONDS - time.time())
        return TriggerEvent(end.model_dump(mode="json"))  # type: ignore[no-untyped-call]  # Airflow's is untyped

    def _failure(self, error: Exception) -> ProcessEvent:
        return ProcessEvent(
            sandbox_id=self.sandbox_id,
            process_id=self.process_id,
            failure=failure_of(error),
            error=str(error),
        )

    async def _end_of_task(self, client: AsyncSandboxClient, end: ProcessEvent) -> TriggerEvent | None:
        """Return the event that ends the task here; None where a worker is to resume it."""
        if self.ends is None or end.status is None or end.deadline_passed:
            return None
        result = None
        try:
            result = await client.converse(end.sandbox_id, read_result(end.process_id))
        except ServiceError as error:
            self.log.warning("The output for the result could not be read; the log has it. %s", error)
        rules = TaskEnd.model_validate(self.ends)
        outcome = end.outcome(end.status, result, output_bytes=rules.output_bytes)
        event = await rules.event(self, end.sandbox_id, end.process_id, outcome)
        if event is not None and self.owns_sandbox:
            # Whoever takes over before Airflow knows of the end finds it here, and not in the sandbox.
            kept = outcome if rules.pushes else replace(outcome, stdout="", stderr="")
            with suppress(AirflowRuntimeError):  # the end of the task matters more than this
                await leave_note(self, self._note(kept))
            await self._stop_own(client)
        return event

    async def _end_of_wait(self, client: AsyncSandboxClient, error: SandboxError) -> TriggerEvent | None:
        """Return the event that ends the task here where the wait failed; None where a worker is to."""
        if self.ends is None or not (self.owns_sandbox and isinstance(error, SandboxNotRunningError)):
            return None
        note = await read_note(self)
        if note is None or note.process_id != self.process_id or note.outcome is None:
            return None
        # A trigger before this one saw the end, and stopped the sandbox.
        rules = TaskEnd.model_validate(self.ends)
        return await rules.event(self, note.sandbox_id, note.process_id, note.outcome)

    def _note(self, outcome: Outcome | None = None) -> Note:
        ti = self.task_instance
        return Note(
            follower=self._follower,
            try_number=getattr(ti, "try_number", None),
            sandbox_id=self.sandbox_id,
            process_id=self.process_id or None,
            owns_sandbox=self.owns_sandbox,
            outcome=outcome,
        )

    async def _stop_own(self, client: AsyncSandboxClient) -> None:
        if self.owns_sandbox and self.sandbox_id:
            await stop_if_possible(client, self.sandbox_id, self.log)

    async def _follow(self, hook: SandboxAsyncHook, backlog: Backlog) -> ProcessEvent:
        return await self._follow_process(hook.client, backlog)

    async def _follow_process(
        self,
        client: AsyncSandboxClient,
        backlog: Backlog,
        begun: Begun | None = None,
        stdin: str | bytes | None = None,
    ) -> ProcessEvent:
        """Follow the process to its end.

        :param begun: it was just started, or found, and has its input to be written.
        :param stdin: the input.
        """
        machine = Following(
            self.process_id,
            strategy=WaitStrategy(self.wait_strategy),
            policy=client.policy,
            poll_seconds=self.poll_interval,
            output_bytes=0,
            log_bytes=self.max_log_bytes,
            state=self.state,
            # Another triggerer that follows on from `state` logs the same lines under the same stamps.
            step_us=MERGED_STEP_US,
        )
        meter, began = Meter(triggerer_stats(), is_shared=True), time.monotonic()
        emit = backlog.counted(meter.counting(emitter(task_logger(self.log))))
        checkpoint = Checkpoint(self, self.process_id, machine)
        notes = checkpoint if self.checkpoints else None
        options: dict[str, Any] = {
            "until": self.deadline,
            "notes": notes,
            "watcher": meter,
            "room": backlog.room,
        }
        try:
            if begun is None:
                outcome = await follow(client, self.sandbox_id, machine, emit, **options)
            else:
                outcome = await feed_and_follow(
                    client, self.sandbox_id, begun, machine, emit, stdin=stdin, **options
                )
        except AuthenticationError:
            self.state = machine.state()  # where `_wait` may go on with another key
            raise
        finally:
            checkpoint.stop()
            meter.report()
        meter.ended(outcome.status.value if outcome else "overdue", time.monotonic() - began)
        if outcome is not None:
            return ProcessEvent.of(self.sandbox_id, self.process_id, outcome)
        self.log.warning("Process %s has used up its time: ending it.", self.process_id)
        ending = await end_overdue(client, self.sandbox_id, machine, emit, grace_seconds=self.kill_grace)
        return ProcessEvent(
            sandbox_id=self.sandbox_id, process_id=self.process_id, deadline_passed=True, error=ending.how
        )

    async def on_kill(self) -> None:
        """End the process of a task that a person marked, cleared or whose run was failed, if it is its own.

        Airflow calls this also on a triggerer that was only frozen while another took its triggers
        over, and on one whose event was handled elsewhere. So the task is asked for first: while it
        waits for this very process, another triggerer follows it, and nothing is killed. Before 3.3
        Airflow does not call it; `run` does when it is cancelled.
        """
        if not self.ends_process:
            return
        # Shielded, since Airflow cancels a trigger anew at each of its turns (about a second) for as
        # long as it runs, and that would cut this off before the process has ended.
        killing = asyncio.create_task(self._kill())
        while not killing.done():
            try:
                await asyncio.shield(killing)
            except asyncio.CancelledError:
                if killing.cancelled():
                    raise

    async def _kill(self) -> None:
        # Airflow gives up on a kill after a while: KILL must come before that.
        give_up_at = time.monotonic() + trigger_kill_seconds()
        is_known = False
        try:
            async with asyncio.timeout(trigger_kill_seconds() - 1.0):
                goes_on = await self._goes_on()
                is_known = True
                if goes_on:
                    self.log.info("Process %s goes on: another triggerer follows it.", self.process_id)
                else:
                    left = max(0.0, give_up_at - time.monotonic() - _KILL_MARGIN_SECONDS)
                    await self._end(grace_seconds=min(self.kill_grace, left))
        except (
            TimeoutError,
            SandboxError,
            AirflowNotFoundException,
            AirflowRuntimeError,
        ) as error:
            if is_known:
                text = "Process %s could not be ended: it may still be running. %s"
            else:
                # As where a thousand triggers are moved to another triggerer at once.
                text = (
                    "Process %s is left alone: Airflow did not tell whether its task still waits for it. %s"
                )
            self.log.warning(text, self.process_id, str(error) or "Airflow gives a kill no more time.")

    async def _goes_on(self) -> bool:
        """Whether nobody killed the task: it waits for this very process, in another triggerer."""
        state = await task_state(self)
        if state != "deferred":
            # Where Airflow calls this on a restart as well, only what is known counts.
            return state == "unknown" and not tells_triggers_of_kills()
        # A task that was cleared may wait for its next try's process by now.
        return await pushed(self, "process_id") in (None, self.process_id)

    async def _end(self, *, grace_seconds: float) -> None:
        # Airflow closes the task's log soon, so that what comes of it may be told in the triggerer's alone.
        self.log.info(
            "Ending process %s, as its task was: TERM, and KILL after %.3g s.", self.process_id, grace_seconds
        )
        async with self._connected() as hook:
            ending = await hook.client.converse(
                self.sandbox_id, terminate(self.process_id, grace_seconds=grace_seconds)
            )
            self.log.info("Process %s: %s.", self.process_id, ending.how)
            # Where it had ended by itself, a worker may be reading its result from the sandbox.
            if self.owns_sandbox and ending.was_running:
                await hook.stop_sandbox(self.sandbox_id)
                self.log.info("Sandbox %s, made for this task, was stopped.", self.sandbox_id)


def failure_of(error: Exception) -> Failure:
    """Return the word for an error that ends the waiting; the task turns it back into one."""
    match error:
        case SandboxNotRunningError():
            return "sandbox_not_running"
        case AuthenticationError():
            return "refused"
        case NotFoundError():
            return "not_found"
        case ServiceUnavailableError():
            return "unavailable"
        case InvalidParameterError():
            return "invalid"
        case _:
            return "service"
