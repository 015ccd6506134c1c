"""An Airflow as in production: Celery workers over Redis, PostgreSQL, and two of each that may be doubled."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from dev.airflow_stack import AirflowStack
from dev.services import PostgreSQL, Redis

WORKERS = ("worker-1", "worker-2")
SCHEDULERS = ("scheduler", "scheduler-2")
TRIGGERERS = ("triggerer", "triggerer-2")

_CONCURRENCY = 5
_READY_SECONDS = 180
_MOST_ENDS = 3


class Cluster(AirflowStack):
    """Two schedulers, two triggerers and two Celery workers on PostgreSQL and Redis, all on loopback.

    What Airflow takes for dead, it takes so after some 20 to 30 s here, where it ships with up to 600.
    A component that ends by itself is started again, as a service manager would: see ``ended_alone``.

    home: a folder of its own. dags: the DAGs folder. env: more environment for all components.
    """

    components = ("api-server", *SCHEDULERS, "dag-processor", *TRIGGERERS, *WORKERS)

    def __init__(self, home: Path, dags: Path, *, env: Mapping[str, str] | None = None) -> None:
        logs = home.parent / f"{home.name}-services"
        self.database = PostgreSQL(logs)
        self._redis = Redis(logs)
        self.ended_alone: Counter[str] = Counter()
        self._is_up = False
        super().__init__(home, dags, env=env)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as services:
            services.enter_context(self.database)
            services.enter_context(self._redis)
            self._database_url = self.database.url
            self._config = _settings(self.database.url, self._redis.url)
            super().__enter__()
            self._own = services.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            self._own.close()

    def start(self, timeout: float = _READY_SECONDS) -> None:
        super().start(timeout)
        for worker in WORKERS:
            self.process(worker).wait_for_line(rf"{worker}@localhost ready", timeout)
        self._is_up = True

    def configure(self, config: Mapping[str, str]) -> None:
        """Set ``{"section.option": value}`` for the components that are started from now on."""
        for name, value in config.items():
            section, _, option = name.partition(".")
            self._env[f"AIRFLOW__{section.upper()}__{option.upper()}"] = value

    def command(self, name: str) -> list[str]:
        if name not in WORKERS:
            return super().command(name)
        return [
            "celery",
            "worker",
            "--skip-serve-logs",
            "--without-gossip",
            "--without-mingle",
            "--celery-hostname",
            f"{name}@localhost",
            "--pid",
            str(self.home / f"{name}.pid"),
        ]

    def lose(self, name: str) -> None:
        """End a component with all that it started, at once, as when its machine is lost."""
        self._expected_down.add(name)
        service = self.process(name)
        # Until there are none: one of them may just have started another.
        while members := service.members():
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            service.reap()

    def revive(self) -> None:
        """Start what has ended by itself. Raises ServiceError with its log's end when it does so often."""
        for name in self.components:
            if name not in self._expected_down and not self.process(name).running:
                self.ended_alone[name] += 1
                if self.ended_alone[name] > _MOST_ENDS:
                    super()._check_alive()
                self.start_component(name)

    def _check_alive(self) -> None:
        if self._is_up:
            self.revive()
        else:
            super()._check_alive()

    def task_processes(self) -> list[int]:
        """Return the processes of the tasks that run on the workers."""
        return [pid for name in WORKERS for pid in self.process(name).members() if _is_task(pid)]


def _is_task(pid: int) -> bool:
    with contextlib.suppress(OSError):
        # Airflow names them so.
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"airflow worker --")
    return False


def _settings(database_url: str, redis_url: str) -> dict[str, str]:
    return {
        "core.executor": "CeleryExecutor",
        "core.parallelism": "64",
        "core.max_active_tasks_per_dag": "64",
        "celery.broker_url": redis_url,
        "celery.result_backend": f"db+{database_url}",
        "celery.worker_concurrency": str(_CONCURRENCY),
        # What a lost worker had taken comes back by this. Not by Redis' visibility_timeout: where a task runs
        # for longer than that, a second worker takes it as well, and Airflow fails it by the refusal.
        "scheduler.task_queued_timeout": "60",
        "scheduler.task_queued_timeout_check_interval": "5",
        # A task whose message was lost this often is failed, whatever its retries: 2 as shipped.
        "scheduler.num_stuck_in_queued_retries": "100",
        "scheduler.task_instance_heartbeat_timeout": "30",
        "scheduler.scheduler_health_check_threshold": "20",
        "scheduler.orphaned_tasks_check_interval": "10",
        "scheduler.scheduler_idle_sleep_time": "0.5",
        "triggerer.triggerer_health_check_threshold": "20",
        # Two cores carry a whole cluster here: an answer may take its time.
        "workers.execution_api_timeout": "60",
        "workers.min_heartbeat_interval": "5",
        "workers.max_failed_heartbeats": "12",
    }
