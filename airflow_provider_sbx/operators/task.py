"""What every task with a process does: run it, hand it to the triggerer, take its end."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable, Container, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
)

from airflow_provider_sbx.api.conversations import terminate
from airflow_provider_sbx.api.errors import (
    ProcessKilledError,
    SandboxError,
    ServiceError,
)
from airflow_provider_sbx.api.models import ProcessParameters, ProcessStatus, SandboxSpec
from airflow_provider_sbx.api.steps import Outcome
from airflow_provider_sbx.api.validation import check_exit_codes, check_text, sandbox_spec
from airflow_provider_sbx.compat import TaskDeferralError, TaskDeferralTimeout
from airflow_provider_sbx.hooks.sandbox import SandboxHook
from airflow_provider_sbx.links.sandbox import LinkedToSandbox
from airflow_provider_sbx.operators.resuming import error_of, fetched
from airflow_provider_sbx.operators.stopping import stop_if_possible
from airflow_provider_sbx.operators.target import Templated
from airflow_provider_sbx.operators.worker import (
    WORKER_GRACE_SECONDS,
    Ended,
    HandOver,
    Options,
    Overdue,
    Started,
    WorkerRun,
)
from airflow_provider_sbx.runs.attempt import Attempt
from airflow_provider_sbx.runs.ending import as_task_failure, overdue_error, raise_unless_success, result_of
from airflow_provider_sbx.triggers.event import ProcessEvent
from airflow_provider_sbx.triggers.process import SandboxProcessTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

_DEFERRAL_SPARE_SECONDS = 120.0

_ALARM_SECONDS = 5.0
"""How much later than Airflow's alarm a wait on a worker ends by itself, in seconds."""


class SandboxTask(LinkedToSandbox):
    """The life of a task with a process. Operators add the parameters and their checks."""

    sandbox_id: Templated
    sandbox: Mapping[str, Any] | SandboxSpec | None
    deferrable: bool
    skip_on_exit_code: int | Container[int] | None
    output_processor: Callable[[dict[str, Any]], Any] | None
    max_output_bytes: int
    sbx_conn_id: str

    # Of the class: see `_link_if_it_pushes` for what a constructor costs.
    _run: WorkerRun | None = None
    _is_overdue = False

    @abstractmethod
    def _check_one_sandbox(self) -> None:
        """Check that it is clear where to run."""

    @abstractmethod
    def _parameters(self, context: Context, time_left: float | None) -> ProcessParameters:
        """Return what to run, from the rendered fields.

        :param time_left: what is left of `execution_timeout`, in seconds.
        """

    @abstractmethod
    def _options(self, *, deferrable: bool) -> Options:
        """Return how to wait."""

    @abstractmethod
    def _hide_values(self) -> None:
        """Tell Airflow's masker which values must not stand in the log."""

    def _waits(self) -> bool:
        """Whether the task waits for its process's end."""
        return True

    def _ends(self) -> dict[str, Any] | None:
        """Return how a deferred task ends in the triggerer, as `TaskEnd` has it; None for on a worker."""
        return None

    @property
    @abstractmethod
    def _grace(self) -> float:
        """Time between TERM and KILL, in seconds."""

    def execute(self, context: Context) -> Any:
        """Run the process; see the class for how it ends."""
        return self._execute(context, deferrable=self.deferrable)

    def _execute(self, context: Context, *, deferrable: bool, is_resumed: bool = False) -> Any:
        self._hide_values()
        attempt = Attempt(context)
        deadline = wait_until = None
        time_left = None
        if self.execution_timeout is not None:
            # Anchored on the start of the try: neither a deferral nor a resumption prolongs it.
            deadline = context["ti"].start_date.timestamp() + self.execution_timeout.total_seconds()
            time_left = max(1.0, deadline - time.time())
            wait_until = deadline
            if not (deferrable or is_resumed):
                # Airflow's own alarm comes first: it counts from here.
                alarm = time.time() + self.execution_timeout.total_seconds()
                wait_until = max(deadline, alarm) + _ALARM_SECONDS
        try:
            self._check_one_sandbox()
            params = self._parameters(context, time_left)
            spec = sandbox_spec(self.sandbox) if self.sandbox is not None else None
            sandbox_id = check_text("sandbox_id", self.sandbox_id, what="an id")
            options = self._options(deferrable=deferrable)
            with SandboxHook(self.sbx_conn_id) as hook:
                self._run = WorkerRun(
                    hook,
                    attempt,
                    params,
                    options,
                    deadline=wait_until,
                    log=self.log,
                    tell=self._teller(context),
                )
                end = asyncio.run(self._run.run(sandbox_id, spec))
        except AirflowTaskTimeout:
            # Airflow calls on_kill next, and here nobody kills the worker meanwhile.
            self._is_overdue = True
            raise
        except SandboxError as error:
            raise as_task_failure(error, replaceable_sandbox=self.sandbox is not None) from error
        if self._run.was_killed:
            # It may well have ended with exit code 0, as a process may that heeds TERM.
            attempt.remember(end.sandbox_id, end.process_id, finished=True)
            raise ProcessKilledError(f"Process {end.process_id} was ended, as its task was.")
        match end:
            case Ended():
                return self._finish(attempt, end.sandbox_id, end.process_id, end.outcome)
            case Started():
                return {"sandbox_id": end.sandbox_id, "process_id": end.process_id}
            case Overdue():
                return self._overdue(attempt, end.sandbox_id, end.process_id, end.how)
            case HandOver():
                return self._defer(attempt, end, options, self._run.deadline)

    def _teller(self, context: Context) -> Callable[[str, str | None, str | None], None]:
        def tell(sandbox_id: str, process_id: str | None, page: str | None) -> None:
            self.show_page(context, page)
            if self.do_xcom_push:
                context["ti"].xcom_push(key="sandbox_id", value=sandbox_id)
                if process_id is not None:
                    context["ti"].xcom_push(key="process_id", value=process_id)

        return tell

    def _defer(self, attempt: Attempt, end: HandOver, options: Options, deadline: float | None) -> NoReturn:
        now = time.time()
        trigger = SandboxProcessTrigger(
            sandbox_id=end.sandbox_id,
            process_id=end.process_id,
            sbx_conn_id=self.sbx_conn_id,
            wait_strategy=options.wait_strategy,
            poll_interval=options.poll_interval,
            max_log_bytes=options.log_bytes,
            state=end.state,
            deadline=deadline,
            kill_grace=options.kill_grace,
            owns_sandbox=end.owns_sandbox,
            deferred_at=now,
            checkpoints=self.do_xcom_push,
            ends=self._ends(),
        )
        # The trigger's own deadline comes first; Airflow's is for a trigger that never runs.
        spare = options.kill_grace + _DEFERRAL_SPARE_SECONDS
        self.log.info("Process %s runs on; the triggerer follows it from here.", end.process_id)
        self.defer(
            trigger=trigger,
            method_name="execute_complete",
            kwargs={
                "owns_sandbox": end.owns_sandbox,
                "attached": end.attached,
                "try_number": attempt.try_number,
            },
            timeout=timedelta(seconds=max(1.0, deadline - now) + spare) if deadline is not None else None,
        )

    def execute_complete(
        self,
        context: Context,
        event: Any = None,
        *,
        owns_sandbox: bool | None = None,
        attached: bool = False,
        try_number: int | None = None,
    ) -> Any:
        """Take the end that the trigger saw, and end as `execute` would have.

        :param event: a `ProcessEvent`, as JSON.
        :param owns_sandbox: the sandbox was made for this task. `DAG.test` hands on nothing but the event:
            then what the task was given tells.
        :param attached: the process was found, not started, by this try.
        :param try_number: the try that waited.
        """
        self._hide_values()
        attempt = Attempt(context)
        if owns_sandbox is None:
            owns_sandbox = self.sandbox is not None
        if try_number not in (None, attempt.try_number):
            # Before 3.1.1, Airflow resumes a retry with what the failed try waited for (its API leaves
            # `next_method` as it was): no command would be run any more, and each retry would fail.
            return self._execute(context, deferrable=self.deferrable, is_resumed=True)
        try:
            end = ProcessEvent.read(event)
        except SandboxError:
            self._end_abandoned(context, owns_sandbox=owns_sandbox)
            raise
        with SandboxHook(self.sbx_conn_id) as hook:
            try:
                if attached and end.status is ProcessStatus.KILLED:
                    self.log.info("Process %s was ended with the try before: starting anew.", end.process_id)
                    return self._execute(context, deferrable=False, is_resumed=True)
                if end.failure == "lasting":
                    raise AirflowFailException(end.error)
                if end.failure is not None:
                    error = error_of(end)
                    raise as_task_failure(error, replaceable_sandbox=owns_sandbox)
                if end.status is None and not end.deadline_passed and not self._waits():
                    return {"sandbox_id": end.sandbox_id, "process_id": end.process_id}
                if end.status is None or end.deadline_passed:
                    self._overdue(attempt, end.sandbox_id, end.process_id, end.error or "")
                outcome = fetched(hook, end, end.status, output_bytes=self.max_output_bytes, log=self.log)
                if owns_sandbox and self.do_xcom_push:
                    attempt.remember(end.sandbox_id, end.process_id, owns_sandbox=True, outcome=outcome)
                return self._finish(attempt, end.sandbox_id, end.process_id, outcome)
            finally:
                if owns_sandbox and end.sandbox_id:
                    stop_if_possible(hook, end.sandbox_id, self.log)

    def _overdue(self, attempt: Attempt, sandbox_id: str, process_id: str, how: str) -> NoReturn:
        attempt.remember(sandbox_id, process_id, finished=True)
        raise overdue_error(sandbox_id, process_id, how, execution_timeout=self.execution_timeout)

    def _finish(self, attempt: Attempt, sandbox_id: str, process_id: str, outcome: Outcome) -> Any:
        code = "" if outcome.exit_code is None else f", exit code {outcome.exit_code}"
        self.log.info("Process %s: %s%s.", process_id, outcome.status.value, code)
        is_taken = False
        try:
            value = self._value(sandbox_id, process_id, outcome)
            is_taken = True
        except AirflowSkipException:
            is_taken = True
            raise
        finally:
            # A success is left for the next try to find: this one may yet be lost before Airflow knows.
            if not is_taken:
                attempt.remember(sandbox_id, process_id, finished=True)
        return value

    def _value(self, sandbox_id: str, process_id: str, outcome: Outcome) -> Any:
        """Return what the task returns, or raise what it fails with."""
        raise_unless_success(
            sandbox_id,
            process_id,
            outcome,
            skip_on_exit_code=check_exit_codes("skip_on_exit_code", self.skip_on_exit_code),
        )
        result = result_of(sandbox_id, process_id, outcome)
        return self.output_processor(result) if self.output_processor else result

    def on_kill(self) -> None:
        """End the process: TERM, a grace, KILL; and stop the sandbox that was made for the task."""
        if self._run is None:
            return
        if not self._is_overdue:  # this is a signal handler, and Airflow can't be told
            self._run.kill(grace_seconds=min(self._grace, WORKER_GRACE_SECONDS))
            return
        self._is_overdue = False  # a signal meanwhile is a kill as any other
        if asyncio.run(self._run.end_overdue(grace_seconds=self._grace)):
            self._run.disown()

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """End the process where the wait broke: Airflow then runs none of the task's own methods."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralError, TaskDeferralTimeout):
            self._end_abandoned(context, owns_sandbox=self.sandbox is not None)
            raise

    def _end_abandoned(self, context: Context, *, owns_sandbox: bool) -> None:
        """End a process whose trigger did not tell of it; who it is stands in XCom."""
        ti = context["ti"]
        sandbox_id, process_id = (
            ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index)
            for key in ("sandbox_id", "process_id")
        )
        if not sandbox_id or not process_id:
            return
        with SandboxHook(self.sbx_conn_id) as hook:
            try:
                ending = hook.get_conn().converse(
                    sandbox_id, terminate(process_id, grace_seconds=self._grace)
                )
                self.log.info("Process %s was to be ended: %s.", process_id, ending.how)
            except ServiceError as error:
                self.log.warning(
                    "Process %s could not be ended: it may still be running. %s", process_id, error
                )
            else:
                Attempt(context).disown(sandbox_id, process_id)
            finally:
                if owns_sandbox:
                    stop_if_possible(hook, sandbox_id, self.log)
