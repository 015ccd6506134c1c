"""An Airflow as in production: Celery workers over Redis, PostgreSQL, and two of each that may be doubled."""

from __future__ import annotations

import contextlib
import os
import signal
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


class Cluster(AirflowStack):
    """Two schedulers, two triggerers and two Celery workers on PostgreSQL and Redis, all on loopback.

    What Airflow takes for dead, it takes so after some 20 to 30 s here, where it ships with up to 600.

    home: a folder of its own. dags: the DAGs folder. env: more environment for all components.
    """

    components = ("api-server", *SCHEDULERS, "dag-processor", *TRIGGERERS, *WORKERS)

    def __init__(self, home: Path, dags: Path, *, env: Mapping[str, str] | None = None) -> None:
        logs = home.parent / f"{home.name}-services"
        self.database = PostgreSQL(logs)
        self._redis = Redis(logs)
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
            self.process(worker).wait_for_line(r"celery@\S+ ready", timeout)

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
        for pid in service.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        service.reap()

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
        "celery.result_backend": f"db+{database_url}".replace("+psycopg2", ""),
        "celery.worker_concurrency": str(_CONCURRENCY),
        # A message that a lost worker held comes back after this; longer than any task here runs.
        "celery_broker_transport_options.visibility_timeout": "120",
        "scheduler.task_queued_timeout": "45",
        "scheduler.task_queued_timeout_check_interval": "5",
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
