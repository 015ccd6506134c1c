"""`SandboxCreateOperator` and `SandboxStopOperator`: one sandbox for several tasks.

`sandbox_group` makes the two around a group of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from airflow.providers.common.compat.sdk import XComArg

from airflow_provider_sbx.api import calls
from airflow_provider_sbx.api.errors import (
    InvalidParameterError,
    NotFoundError,
    SandboxError,
    ServiceError,
)
from airflow_provider_sbx.api.models import Sandbox, SandboxSpec
from airflow_provider_sbx.api.retrying import RetryPolicy
from airflow_provider_sbx.api.validation import sandbox_spec
from airflow_provider_sbx.hooks.sandbox import DEFAULT_CONNECTION, SandboxHook
from airflow_provider_sbx.links.sandbox import LinkedToSandbox
from airflow_provider_sbx.operators.command import check_connection, check_if_known, is_known, naming
from airflow_provider_sbx.operators.stopping import stop_if_possible, stop_if_there
from airflow_provider_sbx.runs.attempt import Attempt
from airflow_provider_sbx.runs.ending import task_failures

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

_KILL_POLICY = RetryPolicy(patience_seconds=1.0)

_ANYTHING = "1"
"""Stands for what isn't known yet in a check: it passes for a text, a number and a yes or no."""


class SandboxOptions(TypedDict, total=False):
    """What can be asked of a sandbox; see `SandboxCreateOperator` for each."""

    image_name: str | None
    image_id: str | None
    snapshot_name: str | None
    snapshot_id: str | None
    region: str | None
    timeout_minutes: int | str | None
    cpu: int | str | None
    memory_mib: int | str | None
    disk_mib: int | str | None
    enable_recording: bool | None
    exposed_ports: Sequence[Mapping[str, Any]] | None
    mounts: Mapping[str, Mapping[str, Any]] | None
    allow_internet_access: bool | None
    allow_out: Sequence[str] | None
    deny_out: Sequence[str] | None
    secrets: Mapping[str, Any] | None
    vault: str | None
    one_password: Mapping[str, Any] | None


_OPTIONS = tuple(SandboxSpec.model_fields)
_COLLECTIONS = ("exposed_ports", "mounts", "allow_out", "deny_out", "secrets", "one_password")


class SandboxCreateOperator(LinkedToSandbox):
    """Make a sandbox for the tasks after it; its result is the sandbox's id.

    So `sandbox_id=create.output` names it to them. `sandbox_id`, `session_url` (the page for
    people) and `runtime_url` (where its processes are reached) are pushed by themselves, too; no
    key and no token is.

    Use it as a setup, with a `SandboxStopOperator` as its teardown, so that the sandbox is stopped
    whatever becomes of the tasks in between::

        create = SandboxCreateOperator(task_id="create", image_name="python", timeout_minutes=60)
        stop = SandboxStopOperator(task_id="stop", sandbox_id=create.output)
        create >> work >> stop.as_teardown(setups=create)

    A sandbox that is made by a try which then fails or is killed is stopped with it. On Airflow 3.3
    and later a retry goes on with the sandbox of a try whose worker was lost. The service can't be
    asked for a sandbox that was made while the answer was lost: such a one lives until its
    `timeout_minutes`, so give one.

    :param image_name: a base image (`node`, `python`, `node-chromium`) or one of the team's; either
        this or `snapshot_name`. (templated)
    :param image_id: a build of that image. (templated)
    :param snapshot_name: a snapshot to start from. (templated)
    :param snapshot_id: a version of that snapshot. (templated)
    :param region: where it runs, such as `us-east`. (templated)
    :param timeout_minutes: how long it lives at the most, in minutes; the service's own limit if
        left out. (templated)
    :param cpu: virtual CPUs; with an image only. (templated)
    :param memory_mib: memory in MiB; with an image only. (templated)
    :param disk_mib: disk in MiB; with an image only. (templated)
    :param enable_recording: record the session. (templated)
    :param exposed_ports: ports to reach from outside, such as `[{"port": 8080, "auth": True}]`. (templated)
    :param mounts: path in the sandbox to volume, such as `{"/data": {"id": "vol-1", "type": "ro"}}`.
        (templated)
    :param allow_internet_access: whether it reaches the internet. (templated)
    :param allow_out: hosts or networks that it may reach. (templated)
    :param deny_out: hosts or networks that it may not reach. (templated)
    :param secrets: stored secrets for the image's startup command, environment variable to name or
        to `{"name": ..., "version": ...}`; with an image only. (templated)
    :param vault: a vault for the image's startup command; with an image only. (templated)
    :param one_password: 1Password fields for the image's startup command; with an image only. (templated)
    :param sbx_conn_id: the connection. (templated)
    :raises InvalidParameterError: a parameter can't be right; at parse time where it is known then.
    """

    template_fields: Sequence[str] = ("sbx_conn_id", *_OPTIONS)
    template_fields_renderers: ClassVar[dict[str, str]] = dict.fromkeys(_COLLECTIONS, "json")
    ui_color = "#e3f0ec"

    def __init__(
        self,
        *,
        image_name: str | None = None,
        image_id: str | None = None,
        snapshot_name: str | None = None,
        snapshot_id: str | None = None,
        region: str | None = None,
        timeout_minutes: int | str | None = None,
        cpu: int | str | None = None,
        memory_mib: int | str | None = None,
        disk_mib: int | str | None = None,
        enable_recording: bool | None = None,
        exposed_ports: Sequence[Mapping[str, Any]] | None = None,
        mounts: Mapping[str, Mapping[str, Any]] | None = None,
        allow_internet_access: bool | None = None,
        allow_out: Sequence[str] | None = None,
        deny_out: Sequence[str] | None = None,
        secrets: Mapping[str, Any] | None = None,
        vault: str | None = None,
        one_password: Mapping[str, Any] | None = None,
        sbx_conn_id: str = DEFAULT_CONNECTION,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._link_if_it_pushes()
        self.image_name = image_name
        self.image_id = image_id
        self.snapshot_name = snapshot_name
        self.snapshot_id = snapshot_id
        self.region = region
        self.timeout_minutes = timeout_minutes
        self.cpu = cpu
        self.memory_mib = memory_mib
        self.disk_mib = disk_mib
        self.enable_recording = enable_recording
        self.exposed_ports = exposed_ports
        self.mounts = mounts
        self.allow_internet_access = allow_internet_access
        self.allow_out = allow_out
        self.deny_out = deny_out
        self.secrets = secrets
        self.vault = vault
        self.one_password = one_password
        self.sbx_conn_id = sbx_conn_id
        self._hook: SandboxHook | None = None
        self._made: str | None = None
        self._was_killed = False
        # What isn't known yet still counts as given: an image and a snapshot are one too many.
        known = {name: value for name, value in self._given().items() if is_known(value)}
        later = dict.fromkeys((n for n in self._given() if n not in (*known, *_COLLECTIONS)), _ANYTHING)
        with naming(self.task_id):
            check_connection(sbx_conn_id)
            sandbox_spec(known | later, "")

    def _given(self) -> dict[str, Any]:
        return {name: value for name in _OPTIONS if (value := getattr(self, name)) is not None}

    def execute(self, context: Context) -> str:
        """Make the sandbox and return its id."""
        attempt = Attempt(context)
        with task_failures(), SandboxHook(self.sbx_conn_id) as hook, ExitStack() as undo:
            self._hook = hook
            spec = sandbox_spec(self._given(), "")
            sandbox = self._left_over(hook, attempt) or self._make(hook, spec)
            self._made = sandbox.id
            # Until its id is known to Airflow, nobody else will.
            undo.callback(stop_if_possible, hook, sandbox.id, self.log)
            self._raise_if_killed(sandbox)
            attempt.remember(sandbox.id, owns_sandbox=True)
            self._push(context, sandbox)
            self._raise_if_killed(sandbox)
            undo.pop_all()
            return sandbox.id

    def _raise_if_killed(self, sandbox: Sandbox) -> None:
        if self._was_killed:
            raise SandboxError(f"Sandbox {sandbox.id} is stopped, as its task was.")

    def _make(self, hook: SandboxHook, spec: SandboxSpec) -> Sandbox:
        sandbox = hook.create_sandbox(spec)
        minutes = sandbox.timeout_minutes or spec.timeout_minutes
        self.log.info(
            "Made sandbox %s from %s%s. %s",
            sandbox.id,
            f"image {spec.image_name}" if spec.image_name else f"snapshot {spec.snapshot_name}",
            f"; it ends after {minutes} minutes if nobody stops it" if minutes else "",
            sandbox.session_url or "",
        )
        return sandbox

    def _left_over(self, hook: SandboxHook, attempt: Attempt) -> Sandbox | None:
        """Return the sandbox that a try made whose worker was lost."""
        left = attempt.left_over
        if left is None:
            return None
        try:
            sandbox = hook.get_sandbox(left.sandbox_id)
        except NotFoundError:
            return None
        if sandbox.status.is_terminal:
            return None
        self.log.info("Going on with sandbox %s, which an earlier try made.", sandbox.id)
        return sandbox

    def _push(self, context: Context, sandbox: Sandbox) -> None:
        if not self.do_xcom_push:
            return
        runtime_url = sandbox.runtime.base_url if sandbox.runtime else None
        for key, value in {"sandbox_id": sandbox.id, "runtime_url": runtime_url}.items():
            context["ti"].xcom_push(key=key, value=value)
        self.show_page(context, sandbox.page)

    def on_kill(self) -> None:
        """Stop what was made: a setup that was killed has no teardown.

        In a signal handler, on top of whatever the task was doing: so by a client of its own, and
        without asking Airflow for anything.
        """
        self._was_killed = True
        if self._hook is not None and self._made is not None:
            with self._hook.new_client(_KILL_POLICY) as client:
                stop_if_possible(client, self._made, self.log)


class SandboxStopOperator(LinkedToSandbox):
    """Stop a sandbox, and all that runs in it.

    One that is gone already, stopped or at the end of its time, is as good as stopped: the task
    succeeds and says so in its log. Use it as a teardown; see `SandboxCreateOperator`.

    :param sandbox_id: the sandbox. The connection's own is not meant by leaving it out. (templated)
    :param sbx_conn_id: the connection. (templated)
    :raises InvalidParameterError: `sandbox_id` can't be an id; at parse time where it is known then.
    """

    template_fields: Sequence[str] = ("sbx_conn_id", "sandbox_id")
    ui_color = "#e3f0ec"

    def __init__(
        self, *, sandbox_id: str | XComArg, sbx_conn_id: str = DEFAULT_CONNECTION, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._link_if_it_pushes()
        self.sandbox_id = sandbox_id
        self.sbx_conn_id = sbx_conn_id
        with naming(self.task_id):
            check_connection(sbx_conn_id)
            check_if_known(sandbox_id, _check_id)

    def execute(self, context: Context) -> None:
        """Stop the sandbox."""
        with task_failures(), SandboxHook(self.sbx_conn_id) as hook:
            sandbox_id = _check_id(self.sandbox_id)
            page = None
            with suppress(ServiceError):  # whoever looks at the task wants its page; the stop matters more
                page = hook.send(calls.get_sandbox(sandbox_id), retry=False).page
            stop_if_there(hook, sandbox_id, self.log)
            self.show_page(context, page)


def _check_id(value: object) -> str:
    # "None" is what a template makes of an id that was not pushed: not a sandbox that is gone.
    if not isinstance(value, str) or value.strip() in ("", "None"):
        raise InvalidParameterError(
            "sandbox_id",
            f"{value!r} is not the id of a sandbox to stop",
            "Give the result of the task that made it, such as create.output.",
        )
    return value
