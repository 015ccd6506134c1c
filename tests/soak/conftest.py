"""The cluster, and a counter that the sandboxes' commands tell when they begin and end."""

from __future__ import annotations

import os
import random
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sbx.hooks.sandbox import SandboxHook
from dev.cluster import Cluster
from dev.processes import ServiceError
from dev.services import program

DAGS = Path(__file__).parent / "dags"
KINDS = 9
"""Of tasks in the DAG."""


def pytest_sessionstart() -> None:
    try:
        for name in ("initdb", "redis-server"):
            program(name)
    except ServiceError as error:
        pytest.exit(str(error), returncode=1)


class Told(socketserver.ThreadingTCPServer):
    """Counts the lines that it is sent: outside the sandboxes, so that nothing there can undo it."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Teller)
        self.counts: Counter[str] = Counter()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self.server_address[1]
        return port


class _Teller(socketserver.StreamRequestHandler):
    server: Told

    def handle(self) -> None:
        for line in self.rfile:
            self.server.counts[line.decode().strip()] += 1


@pytest.fixture(scope="session")
def seed() -> int:
    return int(os.environ.get("SBX_SOAK_SEED") or random.SystemRandom().randrange(10_000))


@pytest.fixture(scope="session")
def told() -> Iterator[Told]:
    with Told() as server:
        yield server
        server.shutdown()


@pytest.fixture(scope="session")
def shared_sandbox(sbx_local: Any) -> Iterator[str]:
    """A sandbox for all tasks that don't make one of their own."""
    os.environ["AIRFLOW_CONN_SBX_SOAK"] = sbx_local.connection
    with SandboxHook("sbx_soak") as hook:
        sandbox = hook.create_sandbox({"image_name": "python", "timeout_minutes": 120})
        yield sandbox.id
        hook.stop_sandbox(sandbox.id)


@pytest.fixture(scope="session")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, sbx_local: Any, told: Told, shared_sandbox: str
) -> Iterator[Cluster]:
    tasks = int(os.environ.get("SBX_SOAK_TASKS", "120"))
    with Cluster(
        tmp_path_factory.mktemp("cluster"),
        DAGS,
        env={
            "AIRFLOW_CONN_SBX_DEFAULT": sbx_local.connection,
            "SOAK_EACH": str(max(1, tasks // KINDS)),
            "SOAK_COUNTER_PORT": str(told.port),
            "SOAK_SANDBOX": shared_sandbox,
        },
    ) as made:
        yield made
