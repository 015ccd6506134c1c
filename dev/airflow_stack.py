"""A real Airflow in a folder of its own: api-server, scheduler, dag-processor and triggerer as processes.

>>> with AirflowStack(home, dags, env={"AIRFLOW_CONN_SBX_DEFAULT": "..."}) as airflow:
...     run_id = airflow.trigger("my_dag")
...     airflow.wait_for_run("my_dag", run_id, timeout=60)
...     print(airflow.task_log_text("my_dag", run_id, "my_task", try_number=1))

Nothing is written outside ``home`` (but for Python's caches beside imported files), nothing is left running,
and nothing of the caller's own Airflow settings gets in. Linux only.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from dev import airflow_config, airflow_home
from dev.airflow_api import AirflowApi, AirflowApiError, render_log
from dev.processes import Service, ServiceError, free_port, stop_all, uninterrupted

COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
TERMINAL_RUN_STATES = ("success", "failed")

# The log servers are left out: all components share one disk (see airflow_config).
_ARGUMENTS = {"scheduler": ["--skip-serve-logs"], "triggerer": ["--skip-serve-logs"]}
_HEALTH_KEYS = {"scheduler": "scheduler", "dag-processor": "dag_processor", "triggerer": "triggerer"}

T = TypeVar("T")


class DagImportError(RuntimeError):
    """DAG files that Airflow can't import; the message has each file's traceback."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        self.errors = dict(errors)
        super().__init__("\n".join(f"{name}:\n{trace}" for name, trace in self.errors.items()))


class AirflowStack(AirflowApi):
    """One Airflow, running between ``start`` and ``stop`` (or in a ``with`` block).

    home: a folder of its own, made anew at each start: config, database, logs, temporary files.
    dags: the DAGs folder; files may come and change while it runs (seen within some 3 s).
    env: more environment variables for all components, such as ``AIRFLOW_CONN_...``.
    config: more settings, ``{"section.option": value}``, over those of airflow_config.
    database_url: SQLAlchemy's address of an empty database; None is SQLite in ``home``.
    parallelism: how many tasks the LocalExecutor runs at once.
    cache: a folder that keeps an empty SQLite database between starts, which saves some 5 s each.
    """

    components: Sequence[str] = COMPONENTS
    """What `start` starts."""

    def __init__(
        self,
        home: Path,
        dags: Path,
        *,
        env: Mapping[str, str] | None = None,
        config: Mapping[str, str] | None = None,
        database_url: str | None = None,
        parallelism: int = 4,
        cache: Path | None = None,
    ) -> None:
        self.home = home.resolve()
        self.dags_folder = dags.resolve()
        self.port = free_port()
        super().__init__(f"http://127.0.0.1:{self.port}", airflow_config.USERNAME, secrets.token_urlsafe(9))
        self.start_seconds: dict[str, float] = {}
        self._env = dict(env or {})
        self._config = dict(config or {})
        self._database_url = database_url
        self._parallelism = parallelism
        self._cache = cache
        self._services: dict[str, Service] = {}
        self._expected_down: set[str] = set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout: float = 120) -> None:
        """Make the home, create the database, start all components and wait until they are healthy.

        Raises ServiceError with the end of a component's log when one ends or takes too long (seconds).
        Whatever is raised, nothing is left running.
        """
        try:
            begin = time.monotonic()
            self._make_home()
            self.start_seconds["home"] = time.monotonic() - begin
            for name in self.components:
                self.start_component(name)
            for name in self.components:
                self.wait_healthy(name, timeout)
                self.start_seconds[name] = time.monotonic() - begin
                if name == "api-server":
                    self._warm_up()
        except BaseException:
            self.stop()
            raise

    def stop(self, grace_seconds: float = 3) -> None:
        """End all components and everything they started. Safe to call twice.

        The grace is short: a triggerer often takes 10 s to end in order, and the home isn't used again.
        """
        with uninterrupted():
            stop_all(self._services.values(), grace_seconds)
            self._expected_down.update(self._services)
            self.close()

    # Components

    def process(self, name: str) -> Service:
        """Return a component (its ``pid``, ``running``, ``members()``, ``log_tail()``)."""
        return self._services[name]

    def start_component(self, name: str) -> Service:
        """Start a component, not waiting for its health; ``triggerer-2`` starts one more triggerer."""
        service = Service(
            name,
            [sys.executable, "-m", "airflow", *self.command(name)],
            env=self.environment(),
            cwd=self.home,
            log_file=self.home / "logs" / f"{name}.log",
        )
        self._services[name] = service
        self._expected_down.discard(name)
        service.start()
        return service

    def command(self, name: str) -> list[str]:
        """Return what to give to ``airflow`` for a component."""
        command = next(known for known in COMPONENTS if name == known or name.startswith(f"{known}-"))
        return [command, *_ARGUMENTS.get(command, [])]

    def kill(self, name: str, signum: int = signal.SIGKILL) -> None:
        """Send a signal to a component's main process alone; it's not an error then that it ends."""
        self._expected_down.add(name)
        self._services[name].send_signal(signum)

    def stop_component(self, name: str, grace_seconds: float = 20) -> None:
        """End one component in order, and what is left of its processes after the grace."""
        self._expected_down.add(name)
        stop_all([self._services[name]], grace_seconds)

    def restart(self, name: str, timeout: float = 60) -> None:
        """Stop a component in order, start it again and wait until it is healthy (seconds)."""
        self.stop_component(name)
        self.start_component(name)
        self.wait_healthy(name, timeout)

    def wait_healthy(self, name: str, timeout: float = 60) -> None:
        """Wait until a component has given a sign of life since its start (seconds)."""
        self.wait_for(lambda: self._healthy(name), timeout, f"{name} to be healthy")

    def environment(self) -> dict[str, str]:
        """Return the environment of the components, good for the ``airflow`` command as well."""
        return airflow_home.environment(self.home, self._env)

    # DAGs and runs

    def wait_for_dags(self, dag_ids: Collection[str] | None = None, timeout: float = 60) -> list[str]:
        """Wait until DAGs are parsed and return all known ids. None: until each file has brought its own.

        Raises DagImportError as soon as a file can't be imported (for named DAGs: only while one is missing).
        """

        def ready() -> list[str] | None:
            dags = self.dags()
            known = {dag["dag_id"] for dag in dags}
            if dag_ids is None:
                missing = airflow_home.dag_files(self.dags_folder) - {dag["relative_fileloc"] for dag in dags}
            else:
                missing = set(dag_ids) - known
            if (dag_ids is None or missing) and (errors := self.import_errors()):
                raise DagImportError(errors)
            return None if missing else sorted(known)

        return self.wait_for(
            ready, timeout, f"DAGs {sorted(dag_ids or airflow_home.dag_files(self.dags_folder))} to be parsed"
        )

    def trigger(
        self,
        dag_id: str,
        conf: Mapping[str, Any] | None = None,
        *,
        logical_date: datetime | None = None,
        timeout: float = 60,
    ) -> str:
        """Start a run and return its id, after waiting for the DAG to be parsed (seconds).

        Without a logical date ``{{ ds }}`` and its like are undefined in templates, as in any manual run.
        """
        self.wait_for_dags([dag_id], timeout)
        return self.create_run(dag_id, conf, logical_date)

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float) -> str:
        """Wait until a run has ended and return its state. Raises TimeoutError (seconds)."""

        def ended() -> str | None:
            state = self.run_state(dag_id, run_id)
            return state if state in TERMINAL_RUN_STATES else None

        return self.wait_for(
            ended, timeout, f"run {run_id} of {dag_id} to end", self._run_summary(dag_id, run_id)
        )

    def wait_for_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        states: Collection[str],
        timeout: float,
        map_index: int = -1,
    ) -> str:
        """Wait until a task instance is in one of the states and return it. Raises TimeoutError (seconds)."""

        def reached() -> str | None:
            with contextlib.suppress(KeyError):
                state = self.task_instance(dag_id, run_id, task_id, map_index).state
                return state if state in states else None
            return None

        what = f"{dag_id}.{task_id} to be {' or '.join(sorted(states))}"
        return self.wait_for(reached, timeout, what, self._run_summary(dag_id, run_id))

    def task_log_text(
        self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1
    ) -> str:
        """Return a try's log as text (see render_log)."""
        return render_log(self.task_log(dag_id, run_id, task_id, try_number, map_index))

    def wait_for(
        self,
        predicate: Callable[[], T | None],
        timeout: float,
        what: str,
        detail: Callable[[], str] | None = None,
        interval: float = 0.2,
    ) -> T:
        """Call ``predicate`` until it returns something true and return that. Times are in seconds.

        Raises TimeoutError naming ``what`` (and ``detail()``), ServiceError when a component has ended.
        """
        deadline = time.monotonic() + timeout
        while True:
            if result := predicate():
                return result
            self._check_alive()
            if time.monotonic() > deadline:
                more = f"\n{detail()}" if detail else ""
                raise TimeoutError(f"waited {timeout:.0f} s for {what}{more}")
            time.sleep(interval)

    # Inner parts

    def _make_home(self) -> None:
        settings = airflow_config.settings(
            self.home,
            self.dags_folder,
            port=self.port,
            database_url=self._database_url,
            parallelism=self._parallelism,
            closed_port=free_port(),
        )
        airflow_config.merge(settings, self._config)
        airflow_home.make_folders(self.home)
        airflow_config.write(self.home, settings, self.password)
        cache = self._cache if self._database_url is None else None
        airflow_home.make_database(self.home, self.environment(), cache)

    def _warm_up(self) -> None:
        # The API that tasks talk to builds itself at its first request, for some 6 s: longer than a task
        # waits for it, so the first tasks would fail that call and try again.
        httpx.get(f"{self.url}/execution/health", timeout=60, trust_env=False).raise_for_status()

    def _healthy(self, name: str) -> bool:
        if not self._services[name].running:
            return False
        try:
            health = self.health()
        except (httpx.TransportError, AirflowApiError):
            return False
        key = next((key for known, key in _HEALTH_KEYS.items() if name.startswith(known)), None)
        if key is None:
            return True
        beat = health[key][f"latest_{key}_heartbeat"]
        # A heartbeat from before counts as healthy for 30 s after a component's death.
        fresh = bool(beat) and datetime.fromisoformat(beat).timestamp() > self._services[name].started_at
        return fresh and health[key]["status"] == "healthy"

    def _check_alive(self) -> None:
        for name, service in self._services.items():
            if name not in self._expected_down and not service.running:
                raise ServiceError(f"Airflow's {name} ended with {service.returncode}:\n{service.log_tail()}")

    def _run_summary(self, dag_id: str, run_id: str) -> Callable[[], str]:
        def summary() -> str:
            tasks = self.task_instances(dag_id, run_id)
            return ", ".join(f"{ti.label}: {ti.state} (try {ti.try_number})" for ti in tasks)

        return summary
