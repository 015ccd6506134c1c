"""The airflow.cfg of a development Airflow: everything in one home, quick to react, quiet when idle."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from configparser import RawConfigParser
from pathlib import Path

USERNAME = "admin"

Settings = dict[str, dict[str, str]]


def settings(
    home: Path, dags: Path, *, port: int, database_url: str | None, parallelism: int, closed_port: int
) -> Settings:
    """Return ``{section: {option: value}}``. Times are in seconds; the reasons stand beside the values."""
    logs = home / "logs"
    address = f"http://127.0.0.1:{port}"
    bundle = {
        "name": "dags-folder",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(dags)},
    }
    return {
        "core": {
            "dags_folder": str(dags),
            "plugins_folder": str(home / "plugins"),
            "executor": "LocalExecutor",
            # The executor forks all its workers at once, at its start.
            "parallelism": str(parallelism),
            "load_examples": "False",
            "dags_are_paused_at_creation": "False",
            "execution_api_server_url": f"{address}/execution/",
            "simple_auth_manager_users": f"{USERNAME}:admin",
            "simple_auth_manager_passwords_file": str(home / "passwords.json"),
            "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            # The default asks the resolver, which hangs on machines without one.
            "hostname_callable": "socket.gethostname",
            # A changed DAG file counts at once, not after half a minute.
            "min_serialized_dag_update_interval": "0",
            "test_connection": "Enabled",
        },
        "database": {
            # 5 s as shipped: where one writer is held up, those behind it fail ("database is locked").
            "sql_alchemy_conn": database_url or f"sqlite:///{home / 'airflow.db'}?timeout=20",
            # Each component would compare the schema with the migrations: it was just made.
            "check_migrations": "False",
        },
        "scheduler": {
            # 1 s as shipped; each state change of a task waits for a turn of this loop. An idle turn costs
            # some 20 ms of CPU, so much less would keep one of two cores from the tasks.
            "scheduler_idle_sleep_time": "0.2",
            # Heartbeats: how soon /monitor/health knows that a component is up. 5 s as shipped.
            "scheduler_heartbeat_sec": "1",
            "job_heartbeat_sec": "1",
            # 15 s as shipped: a timeout of a deferred task acts that much late.
            "trigger_timeout_check_interval": "2",
            # 10 s as shipped: a task whose worker vanished is found that much late.
            "task_instance_heartbeat_timeout_detection_interval": "2",
            # Metrics go nowhere here; the queries cost CPU.
            "pool_metrics_interval": "3600",
            "ti_metrics_interval": "3600",
            "dagrun_metrics_interval": "3600",
        },
        "dag_processor": {
            "dag_bundle_config_list": json.dumps([bundle]),
            "dag_bundle_storage_path": str(home / "bundles"),
            # One parser beside the other components on two cores; the files are few.
            "parsing_processes": "1",
            # New and changed files are seen by listing the folder (cheap), not by parsing all of it again
            # every 30 s (a process each).
            "bundle_refresh_check_interval": "1",
            "refresh_interval": "2",
            "min_file_process_interval": "3600",
            "print_stats_interval": "0",
        },
        "triggerer": {"job_heartbeat_sec": "1"},
        # 5 s as shipped: under load on two cores an answer takes longer, and the task repeats its request.
        "workers": {"execution_api_timeout": "30"},
        "api": {
            "host": "127.0.0.1",
            "port": str(port),
            "base_url": address,
            "workers": "1",
            "secret_key": secrets.token_hex(16),
            # An error of the API comes with its traceback: this is for developers.
            "expose_stacktrace": "True",
        },
        "api_auth": {"jwt_secret": secrets.token_hex(32), "jwt_issuer": "airflow"},
        "logging": {
            "base_log_folder": str(logs),
            "dag_processor_child_process_log_directory": str(logs / "dag_processor"),
            "colored_console_log": "False",
            # All components share one disk, so no log servers run (they would listen on all interfaces).
            # The API still asks these for a running task's log: a port on which nobody answers, so that
            # it can't be another Airflow on this machine.
            "worker_log_server_port": str(closed_port),
            "trigger_log_server_port": str(closed_port),
        },
    }


def merge(base: Settings, extra: Mapping[str, str]) -> None:
    """Put ``{"section.option": value}`` over the settings."""
    for name, value in extra.items():
        section, _, option = name.partition(".")
        base.setdefault(section, {})[option] = value


def write(home: Path, values: Settings, password: str) -> None:
    """Write airflow.cfg and the password file, readable by their owner alone."""
    parser = RawConfigParser()
    # Airflow interpolates its file: a lone percent sign is an error there.
    parser.read_dict(
        {
            section: {name: value.replace("%", "%%") for name, value in options.items()}
            for section, options in values.items()
        }
    )
    config, passwords = home / "airflow.cfg", home / "passwords.json"
    for path in (config, passwords):
        path.touch(mode=0o600)
    with config.open("w") as file:
        parser.write(file)
    passwords.write_text(json.dumps({USERNAME: password}) + "\n")
