"""`SandboxStartTrigger`: a task's whole life in the triggerer, with no worker at any point."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import jinja2
from airflow.triggers.base import TriggerEvent

from airflow_provider_sbx.api import calls
from airflow_provider_sbx.api.conversations import bears
from airflow_provider_sbx.api.errors import (
    InvalidParameterError,
    NotFoundError,
    SandboxError,
    SandboxNotRunningError,
)
from airflow_provider_sbx.api.models import ProcessParameters, ProcessSummary, SandboxSpec
from airflow_provider_sbx.api.validation import check_stdin, check_text, sandbox_spec
from airflow_provider_sbx.compat import (
    AirflowRuntimeError,
    push,
    task_logger,
    triggerer_stats,
    withdraw,
)
from airflow_provider_sbx.hooks.sandbox import DEFAULT_CONNECTION, SandboxAsyncHook
from airflow_provider_sbx.metrics import Meter
from airflow_provider_sbx.runs.attempt import Attempt
from airflow_provider_sbx.runs.ending import is_lasting, overdue_error
from airflow_provider_sbx.runs.own_sandbox import make_sandbox
from airflow_provider_sbx.runs.parameters import (
    OVERDUE_SECONDS,
    hide_values,
    keeping_last_line_end,
    outliving,
    parameters_of,
)
from airflow_provider_sbx.runs.running import LOOKUPS, Begun, begin, look_for, write_input
from airflow_provider_sbx.tasklog import log_time
from airflow_provider_sbx.triggers.backlog import Backlog
from airflow_provider_sbx.triggers.earlier import left_over, was_killed
from airflow_provider_sbx.triggers.event import ProcessEvent
from airflow_provider_sbx.triggers.note import KILLED_KEY, leave_note, read_note
from airflow_provider_sbx.triggers.process import SandboxProcessTrigger
from airflow_provider_sbx.triggers.state import task_state
from airflow_provider_sbx.triggers.task_end import TaskEnd
from airflow_provider_sbx.triggers.telling import Telling

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_sbx.client import AsyncSandboxClient

_OF_A_TRY = ("return_value", "process_id")
"""What in XCom is a try's, so that none before it may leave it to whoever comes after this one."""

_SPARE_SECONDS = 5.0
"""How much earlier than `execution_timeout`, the kill's grace aside, the process's end begins, in seconds."""

_WORD_SECONDS = 1.0
"""How long a kill waits for word of it to stand in XCom, in seconds, before the process gets TERM: another
triggerer that follows it for the next try must not take its end."""

_LOOK_SECONDS = 1.0
_LOOKS = 20


class SandboxStartTrigger(SandboxProcessTrigger):
    """Starts a task's process, follows it and ends the task.

    Airflow makes it from `start_trigger_args` of the operator, renders its fields as it would those of the
    operator, and gives it the task's runtime instance. A triggerer that takes over runs it anew: so it looks
    for its process by the try's key before it starts one. See `SandboxProcessOperator` for the parameters;
    these are it in addition to those of `SandboxProcessTrigger`:

    :param ends: see `TaskEnd`.
    :param given: whatever else `SandboxProcessTrigger` takes.
    """

    def __init__(
        self,
        *,
        command: str,
        ends: dict[str, Any],
        sandbox_id: str | None = None,
        sandbox: Mapping[str, Any] | None = None,
        cwd: str | None = None,
        env: Mapping[str, str | int | float] | None = None,
        append_airflow_env: bool = True,
        run_as: str | None = None,
        timeout: float | str | None = None,
        secrets: Mapping[str, Any] | None = None,
        vault: str | None = None,
        one_password: Mapping[str, Any] | None = None,
        stdin: str | None = None,
        wait_for_completion: bool = True,
        sbx_conn_id: str = DEFAULT_CONNECTION,
        **given: Any,
    ) -> None:
        super().__init__(
            sandbox_id=sandbox_id or "", process_id="", sbx_conn_id=sbx_conn_id, ends=ends, **given
        )
        self._names_sandbox = sandbox_id is not None
        self.command = command
        self.sandbox = sandbox
        self.cwd = cwd
        self.env = env
        self.append_airflow_env = append_airflow_env
        self.run_as = run_as
        self.timeout: timedelta | float | str | None = timeout
        self.secrets = secrets
        self.vault = vault
        self.one_password = one_password
        self.stdin = stdin
        self.wait_for_completion = wait_for_completion
        self.timeout_after: datetime | None = None  # set by the triggerer: when `execution_timeout` is over
        # Kept as they were given: rendered ones may hold what must not stand in a repr.
        self._given = {
            "command": command,
            "ends": ends,
            "sandbox_id": sandbox_id,
            "sandbox": sandbox,
            "cwd": cwd,
            "env": env,
            "append_airflow_env": append_airflow_env,
            "run_as": run_as,
            "timeout": timeout,
            "secrets": secrets,
            "vault": vault,
            "one_password": one_password,
            "stdin": stdin,
            "wait_for_completion": wait_for_completion,
            "sbx_conn_id": sbx_conn_id,
            **given,
        }
        self._attempt: Attempt | None = None
        self._rules = TaskEnd.model_validate(ends)
        self._telling = Telling(self, pushes=self._rules.pushes, note=self._note)
        self._is_ours = False
        """The sandbox was made for this very try."""
        self._unrendered: InvalidParameterError | None = None
        self._is_starting = False
        """The start was sent, or is about to be."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer builds this trigger from."""
        given = {name: value for name, value in self._given.items() if value is not None}
        return f"{type(self).__module__}.{type(self).__qualname__}", given

    # --- rendering ---------------------------------------------------------------------------

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render the fields; `run` tells of one that can't be.

        Files were read when the DAG was parsed: none is looked for here. An undefined name is an error, as
        for a DAG (`DAG.template_undefined`); for a trigger Airflow would render it to nothing.
        """
        self.template_ext = ()
        env = jinja_env or self.get_template_env()
        env.undefined = jinja2.StrictUndefined
        try:
            super().render_template_fields(context, env)
        except Exception as error:  # noqa: BLE001  # a template may call what it likes
            # Of others, what they say may hold what they were given. Airflow has logged them all.
            says = isinstance(error, jinja2.TemplateError | AirflowRuntimeError)
            self._unrendered = InvalidParameterError(
                "templates",
                f"a field can't be rendered: {error if says else type(error).__name__}",
                "See that each name is there; ds and its likes are missing in a run without a logical date.",
            )

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """Render a template as the operator does."""
        env = jinja_env or self.get_template_env()
        return super().render_template(keeping_last_line_end(content, env), context, env, seen_oids)

    # --- the run -----------------------------------------------------------------------------

    def _hook(self) -> SandboxAsyncHook:
        # It reads from the connection where to run, so that an edit of it must not be overlooked for long.
        return SandboxAsyncHook(self.sbx_conn_id, follows_edits=True)

    async def _wait(self, backlog: Backlog) -> TriggerEvent:
        try:
            return await super()._wait(backlog)
        except Exception:
            # Nobody waits for the process any more: Airflow has a worker fail the task.
            with suppress(SandboxError, AirflowRuntimeError):
                await self._end(grace_seconds=self.kill_grace)
            raise
        finally:
            self._telling.stop()

    async def _follow(self, hook: SandboxAsyncHook, backlog: Backlog) -> ProcessEvent:
        client = hook.client
        ti = self.task_instance
        if ti is None or not hasattr(ti, "get_template_context"):
            raise InvalidParameterError(
                "start_from_trigger",
                "the triggerer does not know the task",
                "Give start_from_trigger=True to the operator itself, on Airflow 3.3 or newer.",
            )
        context = ti.get_template_context()
        attempt = self._attempt = Attempt({"ti": ti, "dag_run": context["dag_run"]})
        time_left = None
        if self.timeout_after is not None:
            time_left = max(1.0, self.timeout_after.timestamp() - time.time())
        limit = self.deadline = self._limit(time_left)
        if self._unrendered is not None:
            return await self._follow_noted(client, backlog, attempt, self._unrendered)
        hide_values(self.env)
        params = parameters_of(self, self.command, context, time_left)
        stdin = check_stdin(self.stdin)
        spec = None if self.sandbox is None else outliving(sandbox_spec(self.sandbox), params)
        if spec is None:
            self.sandbox_id = self._named_sandbox(hook)
        else:
            await self._known_sandbox(attempt)
        if self.sandbox_id and (left := await self._left_over(client, attempt)) is not None:
            Meter(triggerer_stats()).attached()
            try:
                end = await self._watch(client, backlog, Begun(left, attached=True), params, stdin)
            except (SandboxNotRunningError, NotFoundError):
                if spec is None or bears(left, attempt.key):
                    raise
                end = None
            if end is not None and (bears(left, attempt.key) or not await was_killed(self, end)):
                return end
            self.log.info("Process %s was ended with the try before: starting anew.", left.id)
            # What was known of that one does not hold of the next.
            self.process_id, self.deadline, self.state = "", limit, None
            self._telling.forget()
        if spec is not None and not self._is_ours:
            await self._stop_own(client)
            await self._make_sandbox(client, spec)
        if attempt.try_number > 1:
            # As Airflow does where a worker begins a try. Not for who takes over: that may be this try's.
            with suppress(AirflowRuntimeError):  # the start matters more
                for name in _OF_A_TRY if self._rules.pushes else ():
                    await withdraw(self, name)
        self._is_starting, asked = True, time.monotonic()
        async with begin(
            client,
            self.sandbox_id,
            params,
            key=attempt.key,
            label=attempt.label,
            # Its stream is opened when there is a place for it (`max_streams`).
            streaming=False,
            tell=self.log.log,
        ) as begun:
            Meter(triggerer_stats()).started(time.monotonic() - asked)
            return await self._watch(client, backlog, begun, params, stdin)

    def _limit(self, time_left: float | None) -> float | None:
        """Return when the process is ended, in seconds since 1970.

        Airflow's own limit cuts a trigger off and has a worker fail the task: come before it.
        """
        if time_left is None:
            return None
        return time.time() + time_left - min(self.kill_grace + _SPARE_SECONDS, time_left / 4)

    async def _follow_noted(
        self, client: AsyncSandboxClient, backlog: Backlog, attempt: Attempt, error: SandboxError
    ) -> ProcessEvent:
        """Follow this try's process though its fields can't be rendered any more, once it was noted.

        As where a variable was deleted since: what was started needs none of them.

        :raises SandboxError: the error that is given; there is no such process.
        """
        try:
            note = await read_note(self)
        except AirflowRuntimeError:  # the next try finds the process by its key
            note = None
        if note is None or note.try_number != attempt.try_number:
            raise error
        # Also where it names no process: a sandbox of the task's own is stopped with the try.
        self.sandbox_id, self.process_id = note.sandbox_id, note.process_id or ""
        self.owns_sandbox = self._is_ours = note.owns_sandbox
        if note.process_id is None:
            raise error
        self.log.info("Following process %s of sandbox %s. %s", note.process_id, note.sandbox_id, error)
        if not self.wait_for_completion:
            return ProcessEvent(sandbox_id=self.sandbox_id, process_id=self.process_id)
        return await self._follow_process(client, backlog)

    # --- where -------------------------------------------------------------------------------

    def _named_sandbox(self, hook: SandboxAsyncHook) -> str:
        # One that was rendered to nothing is a mistake, and not the connection's sandbox.
        named = check_text("sandbox_id", self.sandbox_id if self._names_sandbox else None, what="an id")
        named = named or hook.settings.sandbox_id
        if named is None:
            raise InvalidParameterError(
                "sandbox_id",
                "neither it nor sandbox is given, and the connection names none",
                "Give sandbox_id, or a spec as sandbox, or put one into the connection's extra.",
            )
        return named

    async def _known_sandbox(self, attempt: Attempt) -> None:
        """Go on in the sandbox that a triggerer before this one made, in this try or an earlier one."""
        note = await read_note(self)
        if note is not None and note.owns_sandbox:
            self.sandbox_id, self.owns_sandbox = note.sandbox_id, True
            self._is_ours = note.try_number == attempt.try_number
            if self._is_ours:
                # Whatever became of the sandbox, this try ran its process there if at all.
                self.process_id = note.process_id or ""

    async def _make_sandbox(self, client: AsyncSandboxClient, spec: SandboxSpec) -> None:
        sandbox = await make_sandbox(client, spec)
        self.sandbox_id, self.owns_sandbox, self._is_ours = sandbox.id, True, True
        self._telling.forget()
        # Before the start, so that whoever takes over looks for the process there.
        await leave_note(self, self._note())
        self.log.info("Made sandbox %s for this task. %s", sandbox.id, sandbox.session_url or "")

    async def _left_over(self, client: AsyncSandboxClient, attempt: Attempt) -> ProcessSummary | None:
        if self.process_id:
            return await client.send(calls.get_process(self.process_id), self.sandbox_id)
        try:
            return await left_over(self, client, attempt, waits=self.wait_for_completion)
        except (SandboxNotRunningError, NotFoundError):
            if self.sandbox is None or self._is_ours:
                raise
            return None  # the sandbox of an earlier try, which has ended

    async def _watch(
        self,
        client: AsyncSandboxClient,
        backlog: Backlog,
        begun: Begun,
        params: ProcessParameters,
        stdin: str | bytes | None,
    ) -> ProcessEvent:
        process = begun.process
        self.process_id = process.id
        self._telling.soon(client)
        if begun.attached:
            self.log.info("Found process %s in sandbox %s: following it.", process.id, self.sandbox_id)
        else:
            began = process.started_at if process.started_at is not None else time.time() * 1000
            text = f"Started process {process.id} in sandbox {self.sandbox_id}."
            task_logger(self.log).info(text, timestamp=log_time(int(began * 1000)))
        if not self.wait_for_completion:
            if stdin is not None:
                await write_input(client, self.sandbox_id, process.id, stdin, again=begun.attached)
            return ProcessEvent(sandbox_id=self.sandbox_id, process_id=process.id)
        if self.deadline is None and params.timeout_ms is not None:
            began = process.started_at / 1000 if process.started_at is not None else time.time()
            self.deadline = began + params.timeout_ms / 1000 + OVERDUE_SECONDS
        return await self._follow_process(client, backlog, begun, stdin)

    # --- the end -----------------------------------------------------------------------------

    async def _end_of_task(self, client: AsyncSandboxClient, end: ProcessEvent) -> TriggerEvent | None:
        self._telling.stop()
        await self._telling.now(client)
        if end.deadline_passed:
            error = overdue_error(
                end.sandbox_id,
                end.process_id,
                end.error or "",
                execution_timeout=getattr(self.task, "execution_timeout", None),
            )
            event = self._rules.failed(self, error)
            await self._stop_own(client)
            return event
        if not self.wait_for_completion:
            ids = {"sandbox_id": end.sandbox_id, "process_id": end.process_id}
            with suppress(AirflowRuntimeError):  # the end of the task matters more than this
                await leave_note(self, self._note().model_copy(update={"is_done": True}))
            return await self._rules.success(self, ids)
        return await super()._end_of_task(client, end)

    def _failure(self, error: Exception) -> ProcessEvent:
        if self._unrendered is not None and not self.process_id:
            error = self._unrendered  # of which it may well be that the connection is not known
        end = super()._failure(error)
        if error is self._unrendered:
            # A retry may mend it, as with a variable that is made meanwhile.
            return end.model_copy(update={"failure": "service"})
        # A connection that is not there may be one that could not be read.
        lasting = isinstance(error, SandboxError) and is_lasting(error, replaceable_sandbox=self.owns_sandbox)
        if not lasting:
            return end
        # A worker alone can fail a task for good.
        return end.model_copy(update={"failure": "lasting"})

    async def _end_of_wait(self, client: AsyncSandboxClient, error: SandboxError) -> TriggerEvent | None:
        if (event := await super()._end_of_wait(client, error)) is not None:
            return event
        await self._stop_own(client)
        if error is not self._unrendered and is_lasting(error, replaceable_sandbox=self.owns_sandbox):
            return None
        return self._rules.failed(self, error)

    # --- killing -----------------------------------------------------------------------------

    async def _goes_on(self) -> bool:
        """Whether nobody killed the task, and another triggerer follows this try.

        A cleared task is soon deferred again, by its next try: so whose the wait is stands in the note that
        a trigger leaves when it has run for a moment. Where none comes, nothing is killed.
        """
        if await task_state(self) != "deferred":
            return False
        for _ in range(_LOOKS):
            note = await read_note(self)
            if note is not None and note.follower != self._follower and self._attempt is not None:
                return note.try_number == self._attempt.try_number
            await asyncio.sleep(_LOOK_SECONDS)
            if await task_state(self) != "deferred":
                return False
        return True

    async def _end(self, *, grace_seconds: float) -> None:
        if self._attempt is None or not self.sandbox_id:
            return  # nothing was started
        async with SandboxAsyncHook(self.sbx_conn_id) as hook:
            if not self.process_id:
                # More than once where the start may have been on its way when this try was cut off.
                looks = LOOKUPS if self._is_starting else 1
                found = await look_for(hook.client, self.sandbox_id, self._attempt.key, looks=looks)
                self.process_id = found.id if found else ""
            if not self.process_id:
                self.log.info("No process of this try was found in sandbox %s.", self.sandbox_id)
                await self._stop_own(hook.client)
                return
        telling = asyncio.create_task(push(self, KILLED_KEY, self.process_id))
        try:
            # Not for longer: where many are killed, Airflow takes a while to take word of each.
            await asyncio.wait({telling}, timeout=_WORD_SECONDS)
            await super()._end(grace_seconds=grace_seconds)
        finally:
            with suppress(AirflowRuntimeError):  # the end of the process matters more than word of it
                await telling
