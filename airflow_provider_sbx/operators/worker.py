"""What a task does with its sandbox and process while it is on a worker."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_sbx.api.conversations import terminate
from airflow_provider_sbx.api.errors import (
    InvalidParameterError,
    NotFoundError,
    OutcomeUnknownError,
    ProcessKilledError,
    ServiceError,
)
from airflow_provider_sbx.api.models import ProcessParameters, ProcessStatus, SandboxSpec
from airflow_provider_sbx.api.steps import Outcome
from airflow_provider_sbx.compat import task_logger, worker_stats
from airflow_provider_sbx.follow import end_overdue
from airflow_provider_sbx.hooks.sandbox import SandboxHook
from airflow_provider_sbx.hooks.shared_client import new_async_client
from airflow_provider_sbx.metrics import Meter, span
from airflow_provider_sbx.operators.earlier import ENDED_FOR_US, left_over
from airflow_provider_sbx.operators.killing import Held, end_after_timeout, kill
from airflow_provider_sbx.runs.attempt import Attempt
from airflow_provider_sbx.runs.own_sandbox import make_sandbox
from airflow_provider_sbx.runs.parameters import OVERDUE_SECONDS, outliving
from airflow_provider_sbx.runs.running import (
    Begun,
    begin,
    feed_and_follow,
    follow_until_calm,
    new_machine,
    stop_if_possible,
    write_input,
)
from airflow_provider_sbx.tasklog import MERGED_STEP_US, emitter, log_time

if TYPE_CHECKING:
    from airflow_provider_sbx.client import AsyncSandboxClient

WORKER_GRACE_SECONDS = 2.0
"""Longest time between TERM and KILL in a worker that is being ended, in seconds.

Airflow's supervisor sends SIGKILL to a task 5 s after SIGTERM (`ActivitySubprocess.kill`), and by
then the process must be known to have ended.
"""


@dataclass(frozen=True)
class Options:
    """How a process is waited for; see `SandboxProcessOperator` for what each means."""

    wait_strategy: str
    poll_interval: float
    output_bytes: int
    log_bytes: int
    kill_grace: float
    stdin: str | bytes | None
    wait_for_completion: bool
    defer_after: float | None
    keeps_outcome: bool


@dataclass(frozen=True)
class Ended:
    """The process ended while the worker watched."""

    sandbox_id: str
    process_id: str
    outcome: Outcome


@dataclass(frozen=True)
class Started:
    """The process runs, and nobody waits for it."""

    sandbox_id: str
    process_id: str


@dataclass(frozen=True)
class Overdue:
    """The process used up its time and was ended; `how` says in words what came of that."""

    sandbox_id: str
    process_id: str
    how: str


@dataclass(frozen=True)
class HandOver:
    """The process runs on, and the triggerer is to follow it from here."""

    sandbox_id: str
    process_id: str
    state: dict[str, Any]
    owns_sandbox: bool
    attached: bool


End = Ended | Started | Overdue | HandOver


class WorkerRun:
    """One try's work on a worker.

    :param hook: the connection.
    :param attempt: this try.
    :param params: what to run, checked.
    :param options: how to wait.
    :param deadline: when the task's time is up, in seconds since 1970; None for never.
    :param log: the task's logger.
    :param tell: called with the sandbox's and the process's id and the sandbox's page, as soon as each
        is known.
    """

    def __init__(
        self,
        hook: SandboxHook,
        attempt: Attempt,
        params: ProcessParameters,
        options: Options,
        *,
        deadline: float | None,
        log: Any,
        tell: Callable[[str, str | None, str | None], None],
    ) -> None:
        self._hook = hook
        self._attempt = attempt
        self._params = params
        self._options = options
        self._task_deadline = deadline
        self.deadline = deadline
        """When the process's time is up, in seconds since 1970; None for never."""
        self._log = log
        self._tell = tell
        self._meter = Meter(worker_stats())
        self._emit = self._meter.counting(emitter(task_logger(log)))
        self.was_killed = False
        """`kill` was called, so that however the process ends is not the task's result."""
        self._held = Held()

    # --- the run ---------------------------------------------------------------------------

    async def run(self, sandbox_id: str | None, spec: SandboxSpec | None) -> End:
        """Run the process in a sandbox that exists, or in one made for it.

        :raises SandboxError: it was not run, or can't be waited for.
        """
        settings = self._hook.settings
        async with await new_async_client(settings) as client:
            if (taken := await self._taken_over(client)) is not None:
                return taken
            if spec is not None:
                await self._own_sandbox(client, spec)
            else:
                self._held.sandbox_id = sandbox_id or settings.sandbox_id
                if self._held.sandbox_id is None:
                    raise InvalidParameterError(
                        "sandbox_id",
                        "neither it nor sandbox is given, and the connection names none",
                        "Give sandbox_id, or a spec as sandbox, or put one into the connection's extra.",
                    )
            try:
                ended = await self._run(client, self._held.sandbox_id or "")
            except (AirflowTaskTimeout, asyncio.CancelledError):
                raise  # Airflow calls on_kill next, which gives the process its grace
            except (ServiceError, OutcomeUnknownError):
                # It may be running, and the next try finds it by its key; but not in a sandbox of
                # its own, which is as good as lost.
                await self._stop_own_sandbox(client)
                raise
            except Exception:
                await self._end_unwatched(client)
                raise
            if not isinstance(ended, HandOver):
                if isinstance(ended, Ended) and self._held.owns_sandbox and self._options.keeps_outcome:
                    self._attempt.remember(
                        ended.sandbox_id, ended.process_id, owns_sandbox=True, outcome=ended.outcome
                    )
                await self._stop_own_sandbox(client)
            return ended

    async def _run(self, client: AsyncSandboxClient, sandbox_id: str) -> End:
        left = await left_over(client, self._attempt, sandbox_id)
        self._set_deadline()
        if left is not None:
            ended = await self._wait(client, sandbox_id, Begun(left, attached=True))
            if not (isinstance(ended, Ended) and ended.outcome.status is ProcessStatus.KILLED):
                return ended
            self._log.info("Process %s was ended with the try before: starting anew.", left.id)
            self._set_deadline()
        # What was known of that one does not hold of the next.
        self._held.process_id = self._held.machine = None
        self._stop_if_killed("A process was about to be started")
        self._held.is_starting, asked = True, time.monotonic()
        async with begin(
            client,
            sandbox_id,
            self._params,
            key=self._attempt.key,
            label=self._attempt.label,
            streaming=self._options.wait_strategy == "stream" and self._options.wait_for_completion,
            tell=self._log.log,
        ) as begun:
            if not begun.attached:
                self._meter.started(time.monotonic() - asked)
            return await self._wait(client, sandbox_id, begun)

    def _stop_if_killed(self, what: str) -> None:
        """Go no further where a kill came while there was nothing to be ended yet."""
        if self.was_killed:
            raise ProcessKilledError(f"{what} when the task was killed.")

    def _set_deadline(self) -> None:
        """Give the process that is waited for next its time, where the task as a whole has no limit."""
        timeout_ms = self._params.timeout_ms
        if self._task_deadline is None and timeout_ms is not None:
            self.deadline = time.time() + timeout_ms / 1000 + OVERDUE_SECONDS

    async def _wait(self, client: AsyncSandboxClient, sandbox_id: str, begun: Begun) -> End:
        process, options = begun.process, self._options
        self._held.process_id = process.id
        self._stop_if_killed(f"Process {process.id} was just started")
        self._attempt.remember(sandbox_id, process.id, owns_sandbox=self._held.owns_sandbox)
        page = client.page_of(sandbox_id)
        self._tell(sandbox_id, process.id, page)
        if begun.attached:
            self._meter.attached()
            self._log.info("Found process %s in sandbox %s: following it.", process.id, sandbox_id)
        else:
            # Under the sandbox's own time, so that it stands before the output and not amid it.
            began = process.started_at if process.started_at is not None else time.time() * 1000
            task_logger(self._log).info(
                f"Started process {process.id} in sandbox {sandbox_id}.",
                timestamp=log_time(int(began * 1000)),
            )
        if not options.wait_for_completion:
            if options.stdin is not None:
                await write_input(client, sandbox_id, process.id, options.stdin, again=begun.attached)
            return Started(sandbox_id, process.id)
        machine = new_machine(
            process.id,
            client,
            wait_strategy=options.wait_strategy,
            poll_interval=options.poll_interval,
            output_bytes=options.output_bytes,
            log_bytes=options.log_bytes,
            # What may be followed on elsewhere, or by this try anew, must be stamped as there.
            step_us=1 if options.defer_after is None else MERGED_STEP_US,
            started_at=process.started_at,
        )
        self._held.machine = machine
        leave_at = self.deadline
        if options.defer_after is not None:
            leave_at = min(time.time() + options.defer_after, self.deadline or math.inf)
        began = time.monotonic()
        try:
            with span("sbx.wait", sandbox_id=sandbox_id, process_id=process.id):
                outcome = await feed_and_follow(
                    client,
                    sandbox_id,
                    begun,
                    machine,
                    self._emit,
                    stdin=options.stdin,
                    until=leave_at,
                    watcher=self._meter,
                )
                if outcome is None and options.defer_after is not None:
                    outcome = await follow_until_calm(
                        client,
                        sandbox_id,
                        machine,
                        self._emit,
                        waited=time.monotonic() - began,
                        until=self.deadline,
                        notice=self._log.info,
                        watcher=self._meter,
                    )
        finally:
            self._meter.report()
        if page is None and (page := client.page_of(sandbox_id)) is not None:
            # A start with secrets needs no access to the sandbox, and so told nothing of its page.
            self._tell(sandbox_id, process.id, page)
        if outcome is not None:
            self._meter.ended(outcome.status.value, time.monotonic() - began)
            return Ended(sandbox_id, process.id, outcome)
        if options.defer_after is not None:
            return HandOver(sandbox_id, process.id, machine.state(), self._held.owns_sandbox, begun.attached)
        self._meter.ended("overdue", time.monotonic() - began)
        self._log.warning("Process %s has used up its time: ending it.", process.id)
        ending = await end_overdue(client, sandbox_id, machine, self._emit, grace_seconds=options.kill_grace)
        return Overdue(sandbox_id, process.id, ending.how)

    # --- sandboxes and earlier tries ---------------------------------------------------------

    async def _taken_over(self, client: AsyncSandboxClient) -> Ended | None:
        """Return the end that a lost try saw, and stop the sandbox that it may not have come to stop."""
        left = self._attempt.left_over
        if left is None or left.outcome is None or left.outcome.status in ENDED_FOR_US:
            return None
        self._log.info(
            "Process %s ended in try %d, whose log has its output.", left.process_id, left.try_number
        )
        self._held.sandbox_id, self._held.owns_sandbox = left.sandbox_id, left.owns_sandbox
        await self._stop_own_sandbox(client)
        return Ended(left.sandbox_id, left.process_id or "", left.outcome)

    async def _own_sandbox(self, client: AsyncSandboxClient, spec: SandboxSpec) -> None:
        """Make the task's own sandbox, or go on in the one that a lost try made."""
        left = self._attempt.left_over
        if left is not None and left.owns_sandbox:
            try:
                if not (await client.get_sandbox(left.sandbox_id)).status.is_terminal:
                    self._held.sandbox_id, self._held.owns_sandbox = left.sandbox_id, True
                    return
            except NotFoundError:
                pass
        sandbox = await make_sandbox(client, outliving(spec, self._params))
        self._held.sandbox_id, self._held.owns_sandbox = sandbox.id, True
        self._attempt.remember(sandbox.id, owns_sandbox=True)
        self._tell(sandbox.id, None, sandbox.page)
        self._log.info("Made sandbox %s for this task. %s", sandbox.id, sandbox.session_url or "")

    async def _stop_own_sandbox(self, client: AsyncSandboxClient) -> None:
        if self._held.owns_sandbox and self._held.sandbox_id is not None:
            await stop_if_possible(client, self._held.sandbox_id, self._log)

    async def _end_unwatched(self, client: AsyncSandboxClient) -> None:
        """End a process that nobody will wait for, since its task broke."""
        grace = self._options.kill_grace
        try:
            if self._held.process_id is not None and self._held.sandbox_id is not None:
                await client.converse(
                    self._held.sandbox_id,
                    terminate(
                        self._held.process_id,
                        grace_seconds=min(grace, WORKER_GRACE_SECONDS) if self.was_killed else grace,
                    ),
                )
        except ServiceError as error:
            self._log.warning("Process %s could not be ended. %s", self._held.process_id, error)
        else:
            self.disown()
        finally:
            await self._stop_own_sandbox(client)

    # --- killing -----------------------------------------------------------------------------

    def kill(self, *, grace_seconds: float) -> None:
        """End the process and the task's own sandbox, whatever `run` is doing; see `killing.kill`."""
        self.was_killed = True
        kill(self._hook, self._held, self._attempt.key, self._log, grace_seconds=grace_seconds)

    async def end_overdue(self, *, grace_seconds: float) -> bool:
        """End the process after Airflow's timeout; see `killing.end_after_timeout`.

        :return: whether the process is known to have ended.
        """
        return await end_after_timeout(
            self._hook, self._held, self._attempt.key, self._log, self._emit, grace_seconds=grace_seconds
        )

    def disown(self) -> None:
        """Leave word that the process, which was ended, is no later try's result; see `Attempt.disown`."""
        if self._held.sandbox_id is not None and self._held.process_id is not None:
            self._attempt.disown(self._held.sandbox_id, self._held.process_id)
