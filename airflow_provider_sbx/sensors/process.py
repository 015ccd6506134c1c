"""`SandboxProcessSensor`: waits for a process that another task started."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
)

from airflow_provider_sbx.api.errors import ProcessError, SandboxError
from airflow_provider_sbx.api.following import Following
from airflow_provider_sbx.api.output import DEFAULT_LOG_BYTES, DEFAULT_OUTPUT_BYTES
from airflow_provider_sbx.api.steps import Outcome, WaitStrategy
from airflow_provider_sbx.api.validation import (
    check_callable,
    check_choice,
    check_count,
    check_exit_codes,
    check_flag,
)
from airflow_provider_sbx.compat import default_deferrable, task_logger, worker_stats
from airflow_provider_sbx.follow import follow
from airflow_provider_sbx.hooks.sandbox import DEFAULT_CONNECTION, SandboxHook
from airflow_provider_sbx.hooks.shared_client import new_async_client
from airflow_provider_sbx.links.sandbox import LinkedToSandbox
from airflow_provider_sbx.metrics import Meter, span
from airflow_provider_sbx.operators.command import check_connection, naming
from airflow_provider_sbx.operators.resuming import error_of, fetched
from airflow_provider_sbx.operators.target import Started, Templated, check_target, sandbox_of, target_of
from airflow_provider_sbx.runs.ending import raise_unless_success, result_of, task_failures
from airflow_provider_sbx.runs.running import new_machine
from airflow_provider_sbx.tasklog import emitter
from airflow_provider_sbx.triggers.event import ProcessEvent
from airflow_provider_sbx.triggers.process import SETTLE_SECONDS, SandboxProcessTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

_LEAST_POLL_SECONDS = 1.0


class SandboxProcessSensor(LinkedToSandbox, BaseSensorOperator):
    """Wait for a process that was started elsewhere, such as with `wait_for_completion=False`.

    It ends as the task of a `SandboxProcessOperator` does: exit code 0 is a success, one in
    `skip_on_exit_code` skips, anything else fails with the end of stderr in the message; and its
    result is the same dict. A failure is final, since another try would find the same end.

    The process is somebody else's: it goes on when the sensor is killed, cleared or times out.

    How it waits:

    - `deferrable=True`: in the triggerer, with the output in the log as it comes.
    - `mode="poke"`: in the worker, with the output in the log as it comes, without pokes in between;
      `poke_interval` is the pause of `wait_strategy="poll"` and after an error with `silent_fail`.
    - `mode="reschedule"`: looks every `poke_interval`, of at least 8 s, and logs the output at the end:
      as much of it as the service keeps, which is its last few MiB.

    `timeout`, `soft_fail`, `never_fail` and `silent_fail` are those of any sensor; `soft_fail` skips
    also where the process failed.

    :param process: the result of the task that started it (`start.output`); either this or
        `process_id`. (templated)
    :param sandbox_id: where the process runs; the connection's sandbox if left out. (templated)
    :param process_id: the process. (templated)
    :param skip_on_exit_code: exit code or codes that skip the task; None for none.
    :param deferrable: wait in the triggerer, with no worker slot held; by default what
        `[operators] default_deferrable` says. `mode` does not matter then.
    :param wait_strategy: `stream` shows output as it comes; `wait` (one long request after another)
        and `poll` (a look every `poke_interval`) show it at the end and hold less.
    :param log_output: write the output into the task's log; without it, `stream` becomes `wait`.
    :param output_processor: called with the result; what it returns is pushed instead.
    :param max_output_bytes: how much of each of stdout and stderr the result keeps, in bytes.
    :param max_log_bytes: how much output is logged, in bytes.
    :param sbx_conn_id: the connection. (templated)
    :raises InvalidParameterError: a parameter can't be right; at parse time where it is known then.
    """

    template_fields: Sequence[str] = ("sbx_conn_id", "process", "sandbox_id", "process_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"process": "json"}
    ui_color = "#e3f0ec"

    def __init__(
        self,
        *,
        process: Started = None,
        sandbox_id: Templated = None,
        process_id: Templated = None,
        skip_on_exit_code: int | Container[int] | None = 99,
        deferrable: bool | None = None,
        wait_strategy: str = WaitStrategy.STREAM.value,
        log_output: bool = True,
        output_processor: Callable[[dict[str, Any]], Any] | None = None,
        max_output_bytes: int = DEFAULT_OUTPUT_BYTES,
        max_log_bytes: int = DEFAULT_LOG_BYTES,
        sbx_conn_id: str = DEFAULT_CONNECTION,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._link_if_it_pushes()
        self.process = process
        self.sandbox_id = sandbox_id
        self.process_id = process_id
        self.skip_on_exit_code = skip_on_exit_code
        self.deferrable = default_deferrable() if deferrable is None else deferrable
        self.wait_strategy = wait_strategy
        self.log_output = log_output
        self.output_processor = output_processor
        self.max_output_bytes = max_output_bytes
        self.max_log_bytes = max_log_bytes
        self.sbx_conn_id = sbx_conn_id
        self._machine: Following | None = None
        self._give_up_at: float | None = None
        with naming(self.task_id):
            check_connection(sbx_conn_id)
            check_target(process, sandbox_id, process_id)
            check_exit_codes("skip_on_exit_code", skip_on_exit_code)
            check_flag("deferrable", self.deferrable)
            check_choice("wait_strategy", wait_strategy, tuple(WaitStrategy))
            check_flag("log_output", log_output)
            check_callable("output_processor", output_processor)
            check_count("max_output_bytes", max_output_bytes)
            check_count("max_log_bytes", max_log_bytes, least=1)

    # --- waiting -----------------------------------------------------------------------------

    def execute(self, context: Context) -> Any:
        """Wait for the process; see the class for how."""
        if not self.deferrable:
            return super().execute(context)
        with self._softly(), task_failures(), SandboxHook(self.sbx_conn_id) as hook:
            sandbox_id, process_id, has_ended = self._look(hook, context)
            if has_ended:
                return self._watch(hook, sandbox_id, process_id, until=None)
        return self._defer(sandbox_id, process_id)

    def poke(self, context: Context) -> PokeReturnValue:
        """Wait until the end of the process or of the sensor's time; when rescheduling, just look."""
        if self._give_up_at is None:
            self._give_up_at = time.time() + self.timeout
        with task_failures(), SandboxHook(self.sbx_conn_id) as hook:
            sandbox_id, process_id, has_ended = self._look(hook, context)
            if self.reschedule and not has_ended:
                return PokeReturnValue(is_done=False)
            until = None if has_ended else self._give_up_at
            result = self._watch(hook, sandbox_id, process_id, until=until)
        if result is _NOT_YET:
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=result)

    def _get_next_poke_interval(
        self, started_at: datetime | float, run_duration: Callable[[], float], poke_count: int
    ) -> float:
        """Keep a rescheduled task from being queued before its worker's exit was seen, which fails it."""
        interval = super()._get_next_poke_interval(started_at, run_duration, poke_count)
        return max(interval, SETTLE_SECONDS) if self.reschedule else interval

    def _look(self, hook: SandboxHook, context: Context) -> tuple[str, str, bool]:
        """Return the ids, and whether the process has ended.

        :raises NotFoundError: there is no such process, so that waiting for it is a mistake.
        """
        named, process_id = target_of(self.process, self.sandbox_id, self.process_id)
        sandbox_id = sandbox_of(named, hook.settings.sandbox_id)
        process = hook.get_process(sandbox_id, process_id)
        if self.do_xcom_push:
            context["ti"].xcom_push(key="sandbox_id", value=sandbox_id)
            context["ti"].xcom_push(key="process_id", value=process_id)
        self.show_page(context, hook.get_conn().page_of(sandbox_id))
        self.log.info("Process %s in sandbox %s: %s.", process_id, sandbox_id, process.status.value)
        return sandbox_id, process_id, process.status.is_terminal

    def _watch(self, hook: SandboxHook, sandbox_id: str, process_id: str, *, until: float | None) -> Any:
        """Log the output until the end and return the result, or `_NOT_YET`.

        :param until: when to leave it, in seconds since 1970; None for never.
        """
        outcome = asyncio.run(self._follow(hook, sandbox_id, process_id, until))
        return _NOT_YET if outcome is None else self._finish(sandbox_id, process_id, outcome)

    async def _follow(
        self, hook: SandboxHook, sandbox_id: str, process_id: str, until: float | None
    ) -> Outcome | None:
        async with await new_async_client(hook.settings) as client:
            if self._machine is None:  # else an error came between, and the output is known up to there
                self._machine = new_machine(
                    process_id,
                    client,
                    wait_strategy=self._strategy,
                    poll_interval=self._poll_seconds,
                    output_bytes=self.max_output_bytes,
                    log_bytes=self._log_bytes,
                    step_us=1,  # nobody follows on from here into another log file
                )
            meter, began = Meter(worker_stats()), time.monotonic()
            emit = meter.counting(emitter(task_logger(self.log)))
            try:
                with span("sbx.wait", sandbox_id=sandbox_id, process_id=process_id):
                    outcome = await follow(
                        client, sandbox_id, self._machine, emit, until=until, watcher=meter
                    )
            finally:
                meter.report()
            if outcome is not None:
                meter.ended(outcome.status.value, time.monotonic() - began)
            return outcome

    def _defer(self, sandbox_id: str, process_id: str) -> None:
        limits = [float(self.timeout)]
        if self.execution_timeout is not None:
            limits.append(self.execution_timeout.total_seconds())
        self.defer(
            trigger=SandboxProcessTrigger(
                sandbox_id=sandbox_id,
                process_id=process_id,
                sbx_conn_id=self.sbx_conn_id,
                wait_strategy=self._strategy,
                poll_interval=self._poll_seconds,
                max_log_bytes=self._log_bytes,
                deferred_at=time.time(),
                checkpoints=self.do_xcom_push,
                ends_process=False,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=min(limits)),
        )

    # --- the end -----------------------------------------------------------------------------

    def execute_complete(self, context: Context, event: Any = None) -> Any:
        """Take the end that the trigger saw.

        :param event: a `ProcessEvent`, as JSON.
        """
        with self._softly(), task_failures(), SandboxHook(self.sbx_conn_id) as hook:
            end = ProcessEvent.read(event)
            if end.failure is not None:
                raise error_of(end)
            if end.status is None:
                raise SandboxError(f"Process {end.process_id}: how it ended was not told. {end.error or ''}")
            outcome = fetched(hook, end, end.status, output_bytes=self.max_output_bytes, log=self.log)
            return self._finish(end.sandbox_id, end.process_id, outcome)

    def _finish(self, sandbox_id: str, process_id: str, outcome: Outcome) -> Any:
        code = "" if outcome.exit_code is None else f", exit code {outcome.exit_code}"
        self.log.info("Process %s: %s%s.", process_id, outcome.status.value, code)
        skip_on = check_exit_codes("skip_on_exit_code", self.skip_on_exit_code)
        try:
            raise_unless_success(sandbox_id, process_id, outcome, skip_on_exit_code=skip_on)
        except ProcessError as error:
            raise AirflowFailException(str(error)) from error
        result = result_of(sandbox_id, process_id, outcome)
        return self.output_processor(result) if self.output_processor else result

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Skip at a timeout with `soft_fail`, which Airflow before 3.1 does not do of a deferred sensor."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowSensorTimeout as error:
            if self.soft_fail:
                raise AirflowSkipException(f"Skipping due to soft_fail: {error}") from error
            raise

    @contextmanager
    def _softly(self) -> Iterator[None]:
        """Skip instead of failing, where `soft_fail` or `never_fail` says so."""
        try:
            yield
        except AirflowSkipException:
            raise
        except Exception as error:
            # `never_fail` is about any error, as in `BaseSensorOperator.execute`.
            if self.never_fail or (self.soft_fail and isinstance(error, AirflowFailException)):
                raise AirflowSkipException(f"Skipping due to soft_fail or never_fail: {error}") from error
            raise

    # --- options -----------------------------------------------------------------------------

    @property
    def _strategy(self) -> str:
        quiet = not self.log_output and self.wait_strategy == WaitStrategy.STREAM
        return WaitStrategy.WAIT.value if quiet else self.wait_strategy

    @property
    def _log_bytes(self) -> int:
        return self.max_log_bytes if self.log_output else 0

    @property
    def _poll_seconds(self) -> float:
        return max(_LEAST_POLL_SECONDS, float(self.poke_interval))


_NOT_YET = object()
"""Stands for the result of a process that goes on."""
