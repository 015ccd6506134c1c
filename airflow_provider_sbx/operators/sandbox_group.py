"""`sandbox_group`: tasks that share one sandbox, made before them and stopped after them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, Self, Unpack

from airflow.providers.common.compat.sdk import (
    DAG,
    BaseOperator,
    BaseSensorOperator,
    TaskGroup,
    TriggerRule,
)

from airflow_provider_sbx.api.validation import check_seconds
from airflow_provider_sbx.operators.command import is_known, naming
from airflow_provider_sbx.operators.sandbox import SandboxCreateOperator, SandboxOptions, SandboxStopOperator
from airflow_provider_sbx.operators.signal import SandboxSignalOperator
from airflow_provider_sbx.operators.task import SandboxTask

_SPARE_MINUTES = 10
_SCHEDULING_SECONDS = 60.0
_MOMENT_SECONDS = 60.0
"""More than a task takes that starts something and goes, in seconds."""


class SandboxGroup(TaskGroup):
    """Tasks that share one sandbox: made before them, stopped after them. In DAGs, `sandbox_group`.

    The sandbox is made before the first of them (`create_sandbox`, a setup) and stopped after the
    last (`stop_sandbox`, its teardown), also where tasks fail or are skipped or the run is marked
    failed. A failed task still fails the run, and what follows the group does not wait for the stop.
    (A run that is marked failed is stopped by Airflow's own rule for teardowns: it goes on until they
    have run, and is then judged anew by its last tasks, which may have been skipped.)
    ::

        with sandbox_group("etl", image_name="python") as sbx:
            extract = SandboxExecOperator(task_id="extract", command="...")
            load = SandboxExecOperator(task_id="load", command="...")
            extract >> load

    Tasks inside that name no sandbox run in the group's, by its `default_args`: each task with a
    parameter `sandbox_id` gets `sbx.sandbox_id`, and the group's connection. A task that is to have
    a sandbox of its own says `sandbox_id=None` beside `sandbox=...`. Other operators can name it in
    any templated field: `sbx.sandbox_id` is a template of the id.

    A sandbox is lost to Airflow when its worker dies between its creation and the record of it, and
    left running when a run ends without its teardown (`dagrun_timeout`, a run that is deleted). It
    then lives until its `timeout_minutes`. Where that isn't given, it follows from the limits of the
    tasks: all of them one after another, each for its `timeout` (a process or a sensor, whose own is
    7 days unless given) or its `execution_timeout`, whichever is less, once more with its
    `retry_delay` for each of its retries, a minute each to be scheduled, and 10 minutes to spare. A
    task that waits for nothing (`wait_for_completion=False`, a signal) counts as a minute. There is
    no sum, and the service's own limit holds, where a task has no limit, is mapped, or has
    `retry_exponential_backoff`; give `timeout_minutes` there, and where tasks wait long for a slot.

    :param group_id: the group's name, which stands before its tasks' names.
    :param sbx_conn_id: the connection; by default that of `default_args`, or `sbx_default`. (templated)
    :param default_args: defaults of its tasks' parameters, as of any task group.
    :param tooltip: shown with the group in the UI.
    :param group_display_name: the group's name in the UI, if another than `group_id`.
    :param parent_group: the group that it stands in; by default the one that is open.
    :param dag: the DAG; by default the one that is open.
    :param options: what sandbox to make; see `SandboxCreateOperator` for each.
    :raises InvalidParameterError: an option can't be right; at parse time where it is known then.
    """

    create: SandboxCreateOperator
    stop: SandboxStopOperator

    def __init__(
        self,
        group_id: str,
        *,
        sbx_conn_id: str | None = None,
        default_args: dict[str, Any] | None = None,
        tooltip: str = "",
        group_display_name: str = "",
        parent_group: TaskGroup | None = None,
        dag: DAG | None = None,
        **options: Unpack[SandboxOptions],
    ) -> None:
        given: dict[str, Any] = {
            "group_id": group_id,
            "default_args": default_args or {},
            "tooltip": tooltip,
            "group_display_name": group_display_name,
        }
        if parent_group is not None:
            given["parent_group"] = parent_group
        if dag is not None:
            given["dag"] = dag
        super().__init__(**given)
        ours: dict[str, Any] = {} if sbx_conn_id is None else {"sbx_conn_id": sbx_conn_id}
        # What default_args say of these, they say of the tasks' commands, and not of the image's own.
        spec: dict[str, Any] = {"secrets": None, "vault": None, "one_password": None, **options}
        self.create = SandboxCreateOperator(
            task_id="create_sandbox",
            task_group=self,
            do_xcom_push=True,  # whatever the tasks' default: the id is passed so
            **ours,
            **spec,
        )
        ours["sandbox_id"] = self.sandbox_id
        self.stop = SandboxStopOperator(task_id="stop_sandbox", task_group=self, **ours)
        self.stop.as_teardown(setups=self.create)
        # Before those of the DAG and of the groups around, which may name another sandbox.
        self.default_args = self.default_args | ours | (default_args or {})

    @property
    def sandbox_id(self) -> str:
        """A template of the sandbox's id."""
        # A text, since default_args are copied deeply into the groups within, and tasks can't be. In a
        # mapped group, each instance has a sandbox of its own.
        is_mapped = next(self.create.iter_mapped_task_groups(), None) is not None
        map_index = "ti.map_index" if is_mapped else "-1"
        return f"{{{{ ti.xcom_pull(task_ids='{self.create.task_id}', map_indexes={map_index}) }}}}"

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)  # type: ignore[no-untyped-call]  # Airflow's is untyped
        tasks = {task.task_id: task for task in _tasks_of(self) if task not in (self.create, self.stop)}
        for task in tasks.values():
            if tasks.keys().isdisjoint(task.upstream_task_ids):
                self.create.set_downstream(task)
            followers = [tasks[name] for name in tasks.keys() & task.downstream_task_ids]
            if not any(self._waits_for(follower, task) for follower in followers):
                task.set_downstream(self.stop)
        if self.create.timeout_minutes is None:
            self.create.timeout_minutes = lifetime_minutes(tasks.values())

    def _waits_for(self, follower: Any, task: Any) -> bool:
        """Whether a task surely isn't done before the one upstream of it is.

        With a second one upstream it may be: when that one fails, it is done at once, and the
        sandbox would be stopped while the first still runs.
        """
        upstream = set(follower.upstream_task_ids) - {self.create.task_id}
        return upstream == {task.task_id} and bool(follower.trigger_rule != TriggerRule.ALWAYS)


sandbox_group = SandboxGroup


def _tasks_of(group: TaskGroup) -> Iterator[Any]:
    for child in group.children.values():
        if isinstance(child, TaskGroup):
            yield from _tasks_of(child)
        else:
            yield child


def lifetime_minutes(tasks: Iterable[Any]) -> int | None:
    """Return how long a sandbox must live for tasks, in minutes; None where nothing limits them."""
    total = 0.0
    for task in tasks:
        with naming(task.task_id):
            seconds = _longest_seconds(task)
        if seconds is None:
            return None
        total += seconds
    return math.ceil(total / 60) + _SPARE_MINUTES


def _longest_seconds(task: Any) -> float | None:
    """Return how long a task may take with all its retries, in seconds."""
    if not isinstance(task, BaseOperator) or task.retry_exponential_backoff:
        return None
    limits: list[timedelta | float | str | None] = [task.execution_timeout]
    if isinstance(task, SandboxSignalOperator):
        limits.append(task.kill_grace or _MOMENT_SECONDS)
    elif getattr(task, "wait_for_completion", True) is False:
        limits.append(_MOMENT_SECONDS)
    elif isinstance(task, SandboxTask | BaseSensorOperator):
        # Not of any operator: a `timeout` may be that of a request.
        limits.append(getattr(task, "timeout", None))
    known = [seconds for limit in limits if is_known(limit) and (seconds := check_seconds("timeout", limit))]
    if not known:
        return None
    retries = task.retries or 0
    each_try = min(known) + _SCHEDULING_SECONDS
    return each_try * (retries + 1) + task.retry_delay.total_seconds() * retries
