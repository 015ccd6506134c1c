"""`SandboxSignalOperator`; import it from `airflow_provider_sbx.operators.process`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_sbx.api.conversations import terminate
from airflow_provider_sbx.api.errors import (
    ResponseError,
    SandboxError,
    SandboxNotRunningError,
)
from airflow_provider_sbx.api.validation import check_seconds, check_signal
from airflow_provider_sbx.hooks.sandbox import DEFAULT_CONNECTION, SandboxHook
from airflow_provider_sbx.links.sandbox import LinkedToSandbox
from airflow_provider_sbx.operators.command import check_connection, check_if_known, naming
from airflow_provider_sbx.operators.target import Started, Templated, check_target, sandbox_of, target_of
from airflow_provider_sbx.runs.ending import task_failures

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class SandboxSignalOperator(LinkedToSandbox):
    """Send a signal to a process that another task started, or make sure that it ends.

    A process that has ended already, or whose sandbox was stopped, needs no signal: the task
    succeeds and says so in its log. One that the sandbox does not know fails it for good.

    The result is a dict: `sandbox_id`, `process_id`, and the process's `status` after it; it can be
    given to a `SandboxProcessSensor` as `process`.

    :param process: the result of the task that started it with `wait_for_completion=False`
        (`start.output`); either this or `process_id`. (templated)
    :param sandbox_id: where the process runs; the connection's sandbox if left out. (templated)
    :param process_id: the process. (templated)
    :param signal: what to send, by name or by number: TERM, KILL, INT, HUP, QUIT, USR1, USR2, STOP
        or CONT. (templated)
    :param kill_grace: wait for so long for the process's end, then kill it and make sure that it has
        ended, as a timedelta or in seconds; None (default) to send the signal and go on. (templated)
    :param sbx_conn_id: the connection. (templated)
    :raises InvalidParameterError: a parameter can't be right; at parse time where it is known then.
    """

    template_fields: Sequence[str] = (
        "sbx_conn_id",
        "process",
        "sandbox_id",
        "process_id",
        "signal",
        "kill_grace",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"process": "json"}
    ui_color = "#e3f0ec"

    def __init__(
        self,
        *,
        process: Started = None,
        sandbox_id: Templated = None,
        process_id: Templated = None,
        signal: str | int = "TERM",
        kill_grace: timedelta | float | str | None = None,
        sbx_conn_id: str = DEFAULT_CONNECTION,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._link_if_it_pushes()
        self.process = process
        self.sandbox_id = sandbox_id
        self.process_id = process_id
        self.signal = signal
        self.kill_grace = kill_grace
        self.sbx_conn_id = sbx_conn_id
        with naming(self.task_id):
            check_connection(sbx_conn_id)
            check_target(process, sandbox_id, process_id)
            check_if_known(signal, check_signal)
            check_if_known(kill_grace, lambda value: check_seconds("kill_grace", value))

    def execute(self, context: Context) -> dict[str, str]:
        """Send the signal, and see to the end where that is wanted."""
        with task_failures(), SandboxHook(self.sbx_conn_id) as hook:
            named, process_id = target_of(self.process, self.sandbox_id, self.process_id)
            signal = check_signal(self.signal)
            grace = check_seconds("kill_grace", self.kill_grace)
            sandbox_id = sandbox_of(named, hook.settings.sandbox_id)
            status = self._send(hook, sandbox_id, process_id, signal, grace)
            self.show_page(context, hook.get_conn().page_of(sandbox_id))
        return {"sandbox_id": sandbox_id, "process_id": process_id, "status": status}

    def _send(
        self, hook: SandboxHook, sandbox_id: str, process_id: str, signal: str, grace: float | None
    ) -> str:
        """Send the signal and return the process's status after it."""
        try:
            status = hook.get_process(sandbox_id, process_id).status
            if status.is_terminal:
                self.log.info("Process %s has ended already (%s): no signal needed.", process_id, status)
                return status.value
            if grace is not None:
                return self._end(hook, sandbox_id, process_id, signal, grace)
            status = hook.signal(sandbox_id, process_id, signal).status
        except SandboxNotRunningError as error:
            self.log.info("Process %s ended with its sandbox: no signal needed. %s", process_id, error)
            return "killed"
        except ResponseError as error:
            if error.status_code != 409:
                raise
            status = hook.get_process(sandbox_id, process_id).status
            if not status.is_terminal:  # then it did not end since the look: the refusal is meant
                raise
            self.log.info("Process %s has just ended (%s): no signal needed.", process_id, status)
        else:
            self.log.info("Sent %s to process %s in sandbox %s.", signal, process_id, sandbox_id)
        return status.value

    def _end(self, hook: SandboxHook, sandbox_id: str, process_id: str, signal: str, grace: float) -> str:
        ending = hook.get_conn().converse(
            sandbox_id, terminate(process_id, grace_seconds=grace, signal=signal)
        )
        if not ending.ended:
            raise SandboxError(
                f"Process {process_id} in sandbox {sandbox_id}: {ending.how}. "
                "Let the task be retried, or stop the sandbox."
            )
        self.log.info("Process %s in sandbox %s: %s.", process_id, sandbox_id, ending.how)
        return hook.get_process(sandbox_id, process_id).status.value
