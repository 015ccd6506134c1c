"""`SandboxExecOperator`, `SandboxProcessOperator` and `SandboxSignalOperator`: tasks with a process."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.api.models import ProcessParameters, SandboxSpec
from airflow_provider_sbx.api.output import DEFAULT_LOG_BYTES, DEFAULT_OUTPUT_BYTES
from airflow_provider_sbx.api.steps import WaitStrategy
from airflow_provider_sbx.api.validation import (
    LEAST_POLL_SECONDS,
    check_callable,
    check_choice,
    check_command,
    check_count,
    check_env,
    check_exit_codes,
    check_flag,
    check_seconds,
    check_stdin,
    check_text,
    process_parameters,
    sandbox_spec,
)
from airflow_provider_sbx.compat import default_deferrable
from airflow_provider_sbx.hooks.sandbox import DEFAULT_CONNECTION
from airflow_provider_sbx.operators.command import check_connection, check_if_known, is_known, naming
from airflow_provider_sbx.operators.script import ScriptTask
from airflow_provider_sbx.operators.signal import SandboxSignalOperator
from airflow_provider_sbx.operators.target import Templated
from airflow_provider_sbx.operators.worker import Options
from airflow_provider_sbx.operators.workerless import (
    check_startable,
    check_workerless,
    exit_codes,
    fails_in_triggerer,
    start_trigger_args,
    why_on_a_worker,
)
from airflow_provider_sbx.runs.parameters import hide_values, parameters_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

__all__ = ["SandboxExecOperator", "SandboxProcessOperator", "SandboxSignalOperator"]

_MOST_OUTPUT_BYTES = 16 * 1024 * 1024

_OPTIONAL: dict[str, Callable[[Any], object]] = {
    "env": check_env,
    "timeout": partial(check_seconds, "timeout"),
    "cwd": partial(check_text, "cwd", what="a directory"),
    "run_as": partial(check_text, "run_as", what="a user"),
    "sandbox_id": partial(check_text, "sandbox_id", what="an id"),
    "sandbox": sandbox_spec,
    "vault": partial(check_text, "vault", what="a vault"),
}
"""How optional parameters are checked, each by itself."""


class SandboxExecOperator(ScriptTask):
    """Run a command in a sandbox and wait for its end.

    Its output stands in the task's log as it comes, each line with the sandbox's own time. An exit
    code of 0 is a success, one in `skip_on_exit_code` skips the task, and anything else fails it
    with the end of stderr in the message. The result in XCom is a dict: `sandbox_id`,
    `process_id`, `status`, `exit_code`, `stdout`, `stderr` (their last `max_output_bytes`),
    `stdout_truncated`, `stderr_truncated`, `output_lost`, `started_at`, `completed_at`, `error`.
    `sandbox_id` and `process_id` are also pushed by themselves before the wait, and `session_url`, the
    sandbox's page, which the link *Sandbox* of the task's page leads to.

    The command's standard input is closed. When the task is killed, the process gets TERM, and
    KILL after `kill_grace`.

    :param command: what a shell in the sandbox runs, or the name of a script file beside the DAG
        (`.sh`, `.bash`; `.py` is run by the sandbox's `python3`); a path from `/` on that isn't there is
        the sandbox's. (templated)
    :param sandbox_id: the sandbox to run it in; the connection's if neither this nor `sandbox` is
        given. (templated)
    :param sandbox: a spec of a sandbox to be made for this task and stopped at its end, whatever the
        end; see `SandboxSpec`, such as `{"image_name": "python"}`. (templated)
    :param cwd: working directory in the sandbox. (templated)
    :param env: environment variables, name to text or number. (templated) Values under names that Airflow
        takes for sensitive (`..._PASSWORD`, `API_KEY`) are hidden on its pages and in the worker's log, but
        not in what a triggerer logs, which does not know them: use `secrets` for these.
    :param append_airflow_env: also give it Airflow's context variables (`AIRFLOW_CTX_DAG_ID`...).
    :param run_as: user in the sandbox, such as `root`; the service's default is `ubuntu`. (templated)
    :param timeout: longest run of the process, as a timedelta or in seconds; if that is less, or this is
        missing, what is left of `execution_timeout`, with `kill_grace` and 15 s on top. (templated)
    :param skip_on_exit_code: exit code or codes that skip the task; None for none.
    :param deferrable: wait in the triggerer, with no worker slot held; by default what
        `[operators] default_deferrable` says.
    :param defer_after: wait in the worker for so long before deferring, as a timedelta or in seconds,
        so that a short command needs no round trip.
    :param wait_strategy: `stream` shows output as it comes; `wait` (one long request after another)
        and `poll` (a look every `poll_interval`) show it at the end and hold less.
    :param log_output: write the output into the task's log; without it, `stream` becomes `wait`, unless the
        task waits on a worker for a result of more than 64 KiB.
    :param poll_interval: pause between two looks of `poll`, in seconds; 0.5 at least.
    :param kill_grace: time between TERM and KILL, as a timedelta or in seconds; 0 for KILL at once.
        A worker that is being ended itself waits 2 s at the most: Airflow gives it 5.
    :param output_processor: called with the result; what it returns is pushed instead.
    :param max_output_bytes: how much of each of stdout and stderr the result keeps, in bytes.
    :param max_log_bytes: how much output is logged, in bytes; then one line says so, and the process
        goes on.
    :param secrets: environment variable to the name of a stored secret, or to
        `{"name": ..., "version": ...}`; the service puts its value in, and Airflow never sees it.
        (templated)
    :param vault: name of a vault of the service, whose entries become environment variables. (templated)
    :param one_password: fields of a 1Password vault as environment variables:
        `{"token": ..., "vault": ..., "fields": {"DB_PASSWORD": {"item": "db", "field": "password"}}}`, where
        `token` is the name of the stored secret that holds the service account's token. (templated)
    :param sbx_conn_id: the connection. (templated)
    :raises InvalidParameterError: a parameter can't be right; at parse time where it is known then.
    """

    template_fields: Sequence[str] = (
        "sbx_conn_id",
        "command",
        "sandbox_id",
        "sandbox",
        "cwd",
        "env",
        "run_as",
        "timeout",
        "secrets",
        "vault",
        "one_password",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "command": "bash",
        "env": "json",
        "sandbox": "json",
        "secrets": "json",
        "one_password": "json",
    }
    ui_color = "#e3f0ec"

    def __init__(
        self,
        *,
        command: str,
        sandbox_id: Templated = None,
        sandbox: Mapping[str, Any] | SandboxSpec | None = None,
        cwd: str | None = None,
        env: Mapping[str, str | int | float] | None = None,
        append_airflow_env: bool = True,
        run_as: str | None = None,
        timeout: timedelta | float | str | None = None,
        skip_on_exit_code: int | Container[int] | None = 99,
        deferrable: bool | None = None,
        defer_after: timedelta | float = 2.0,
        wait_strategy: str = WaitStrategy.STREAM.value,
        log_output: bool = True,
        poll_interval: float = 5.0,
        kill_grace: timedelta | float = 10.0,
        output_processor: Callable[[dict[str, Any]], Any] | None = None,
        max_output_bytes: int = DEFAULT_OUTPUT_BYTES,
        max_log_bytes: int = DEFAULT_LOG_BYTES,
        secrets: Mapping[str, Any] | None = None,
        vault: str | None = None,
        one_password: Mapping[str, Any] | None = None,
        sbx_conn_id: str = DEFAULT_CONNECTION,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._link_if_it_pushes()
        self.command = command
        self.sandbox_id = sandbox_id
        self.sandbox = sandbox
        self.cwd = cwd
        self.env = env
        self.append_airflow_env = append_airflow_env
        self.run_as = run_as
        self.timeout = timeout
        self.skip_on_exit_code = skip_on_exit_code
        self.deferrable = default_deferrable() if deferrable is None else deferrable
        self.defer_after = defer_after
        self.wait_strategy = wait_strategy
        self.log_output = log_output
        self.poll_interval = poll_interval
        self.kill_grace = kill_grace
        self.output_processor = output_processor
        self.max_output_bytes = max_output_bytes
        self.max_log_bytes = max_log_bytes
        self.secrets = secrets
        self.vault = vault
        self.one_password = one_password
        self.sbx_conn_id = sbx_conn_id
        self._take_script()
        with naming(self.task_id):
            self._check_early()

    # --- checks ------------------------------------------------------------------------------

    def _check_early(self) -> None:
        """Check what is known at parse time; what isn't is checked when it has been rendered."""
        check_if_known(self.command, check_command)
        for name, check in _OPTIONAL.items():
            # Most tasks have few of them, and a DAG file many tasks.
            if (value := getattr(self, name)) is not None:
                check_if_known(value, check)
        self._check_sources()
        self._check_one_sandbox()
        check_choice("wait_strategy", self.wait_strategy, tuple(WaitStrategy))
        for name in ("poll_interval", "kill_grace", "defer_after"):
            if getattr(self, name) is None:
                raise InvalidParameterError(name, "None is no duration", "Leave it out for its default.")
        check_seconds("poll_interval", self.poll_interval, at_least=LEAST_POLL_SECONDS)
        check_seconds("kill_grace", self.kill_grace, or_zero=True)
        check_seconds("defer_after", self.defer_after, or_zero=True)
        for name in ("append_airflow_env", "deferrable", "log_output"):
            check_flag(name, getattr(self, name))
        check_callable("output_processor", self.output_processor)
        check_connection(self.sbx_conn_id)
        check_exit_codes("skip_on_exit_code", self.skip_on_exit_code)
        check_count("max_log_bytes", self.max_log_bytes, least=1)
        if check_count("max_output_bytes", self.max_output_bytes) > _MOST_OUTPUT_BYTES:
            raise InvalidParameterError(
                "max_output_bytes",
                f"{self.max_output_bytes} bytes are more than a result in XCom should hold",
                f"Keep it to {_MOST_OUTPUT_BYTES}, and let the command write large output to a store.",
            )

    def _check_sources(self) -> None:
        """Check where variables come from, as far as that is known."""
        if self.secrets is None and self.one_password is None:
            return
        stored = {"secrets": self.secrets, "one_password": self.one_password}
        given = {name: value for name, value in stored.items() if value is not None and is_known(value)}
        if given and isinstance(self.env, Mapping):
            # Only the names matter here, and they are known before the values are.
            given["env"] = dict.fromkeys(filter(is_known, self.env), "")
        process_parameters("true", given)

    def _check_one_sandbox(self) -> None:
        if self.sandbox_id is not None and self.sandbox is not None:
            raise InvalidParameterError(
                "sandbox_id, sandbox",
                "both are given",
                "Give sandbox_id for a sandbox that exists, or sandbox for one made for the task.",
            )

    def _parameters(self, context: Context, time_left: float | None) -> ProcessParameters:
        """Return what to run, from the rendered fields.

        :param time_left: what is left of `execution_timeout`, in seconds.
        """
        return parameters_of(self, self._shell_command(), context, time_left)

    def _hide_values(self) -> None:
        hide_values(self.env)

    def _options(self, *, deferrable: bool) -> Options:
        strategy = self.wait_strategy
        # On a worker a stream also gathers a result that is larger than what the service keeps for later.
        gathers = not deferrable and self.max_output_bytes > DEFAULT_OUTPUT_BYTES
        if not (self.log_output or gathers) and strategy == WaitStrategy.STREAM:
            strategy = WaitStrategy.WAIT.value
        defer_after = check_seconds("defer_after", self.defer_after, or_zero=True)
        return Options(
            wait_strategy=strategy,
            poll_interval=check_seconds("poll_interval", self.poll_interval, at_least=LEAST_POLL_SECONDS)
            or 5.0,
            output_bytes=self.max_output_bytes,
            log_bytes=self.max_log_bytes if self.log_output else 0,
            kill_grace=self._grace,
            stdin=self._stdin(),
            wait_for_completion=self._waits(),
            defer_after=defer_after if deferrable and self._waits() else None,
            # Who wants nothing in XCom wants no output in Airflow's database either.
            keeps_outcome=self.do_xcom_push,
        )

    @property
    def _grace(self) -> float:
        return check_seconds("kill_grace", self.kill_grace, or_zero=True) or 0.0

    def _stdin(self) -> str | bytes | None:
        return None


class SandboxProcessOperator(SandboxExecOperator):
    """Start a process in a sandbox, give it input, and wait for it in the triggerer.

    Like `SandboxExecOperator`, of which it has all parameters, and deferrable by default: a long
    process holds no worker slot. Its output stands in the log while the task is deferred.

    :param stdin: text or bytes for the process's standard input, which is closed after it. (templated)
    :param wait_for_completion: False starts the process and ends the task at once; the result is
        `sandbox_id` and `process_id`. Its standard input then stays open unless `stdin` is given,
        and the sandbox must outlive the task, so that `sandbox` can't be given.
    :param deferrable: wait in the triggerer (default), or in the worker.
    :param end_from_trigger: end a deferred task that succeeds or is skipped in the triggerer, with no worker
        to resume it. Airflow then calls no `on_success_callback`, `on_skipped_callback` or listener for it,
        and refuses such a DAG where a plugin has listeners.
    :param start_from_trigger: start, follow and end the task in the triggerer, with no worker at any point
        (Airflow 3.3 or newer). What a triggerer can't render as a worker would, such as the result of
        another task, and mapped tasks start on a worker, and end in the triggerer. The pages of Airflow show
        no rendered fields, and no pool or limit of tasks holds such a task back. On failure, callbacks know
        no exception.
    """

    template_fields: Sequence[str] = (*SandboxExecOperator.template_fields, "stdin")

    def __init__(
        self,
        *,
        command: str,
        stdin: str | bytes | None = None,
        wait_for_completion: bool = True,
        deferrable: bool = True,
        end_from_trigger: bool = False,
        start_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        self.stdin = stdin
        self.wait_for_completion = wait_for_completion
        # Under this name Airflow looks for it, and refuses the DAG where a plugin has listeners.
        self.end_from_trigger = end_from_trigger
        self._starts_from_trigger = start_from_trigger
        super().__init__(command=command, deferrable=deferrable, **kwargs)
        self._start_from_trigger_if_possible()

    def prepare_template(self) -> None:
        """Also tell the trigger that starts the task of the script, once its text stands in the command."""
        super().prepare_template()
        with naming(self.task_id):
            self._start_from_trigger_if_possible()

    def execute(self, context: Context) -> Any:
        """Run the process; see the class for how it ends."""
        if self._starts_from_trigger:
            self.log.info(
                "This task starts on a worker, though start_from_trigger is given: %s.",
                self._why_on_a_worker or "it is mapped",
            )
        return super().execute(context)

    def _start_from_trigger_if_possible(self) -> None:
        # Of the instance: Airflow takes what the class has for all mapped tasks, without what they expand to.
        self._why_on_a_worker = why_on_a_worker(self) if self._starts_from_trigger else None
        self.start_from_trigger = self._starts_from_trigger and self._why_on_a_worker is None
        if not self.start_from_trigger:
            self.start_trigger_args = None
            return
        options, ends = self._options(deferrable=True), self._ends(fails=fails_in_triggerer(self))
        self.start_trigger_args = start_trigger_args(self, self._shell_command(), options, ends)

    def _ends(self, *, fails: bool = False) -> dict[str, Any] | None:
        if not (self.end_from_trigger or self._starts_from_trigger):
            return None
        return {
            "output_bytes": self.max_output_bytes,
            "skip_on_exit_code": exit_codes(self.skip_on_exit_code),
            "pushes": self.do_xcom_push,
            "fails": fails,
        }

    def _check_early(self) -> None:
        super()._check_early()
        check_flag("wait_for_completion", self.wait_for_completion)
        check_flag("end_from_trigger", self.end_from_trigger)
        check_flag("start_from_trigger", self._starts_from_trigger)
        check_if_known(self.stdin, check_stdin)
        if not self.wait_for_completion and self.sandbox is not None:
            raise InvalidParameterError(
                "wait_for_completion, sandbox",
                "a sandbox made for the task is stopped at the task's end, and the process with it",
                "Give sandbox_id, or wait for the process.",
            )
        if self._starts_from_trigger:
            check_startable(self)
        elif self.end_from_trigger:
            check_workerless(self, "end_from_trigger")

    def _stdin(self) -> str | bytes | None:
        return check_stdin(self.stdin)

    def _waits(self) -> bool:
        return self.wait_for_completion
