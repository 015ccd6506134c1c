"""Airflow's metrics of sandbox tasks, as a StatsD listener receives them."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.airflow_stack import AirflowStack
from tests.conftest import ROOT

pytestmark = pytest.mark.airflow

METRIC = re.compile(r"airflow\.(sbx\.[\w.]+):([\d.+-]+)\|(c|ms|g)")


class Listener:
    """A StatsD server that keeps what it is sent."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._received: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    def _listen(self) -> None:
        while True:
            try:
                self._received.append(self._socket.recv(65536).decode())
            except OSError:  # closed
                return

    def close(self) -> None:
        self._socket.close()

    def values(self) -> dict[str, list[float]]:
        """Return the values of each metric of ours, in the order in which they came."""
        found: dict[str, list[float]] = {}
        for name, value, _ in METRIC.findall("\n".join(self._received)):
            found.setdefault(name, []).append(float(value))
        return found


@pytest.fixture
def listener() -> Iterator[Listener]:
    pytest.importorskip("statsd", reason="Airflow sends StatsD by the package statsd")
    listener = Listener()
    yield listener
    listener.close()


def test_a_listener_sees_starts_ends_lines_and_streams(
    tmp_path: Path, sbx_local: Any, listener: Listener
) -> None:
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "metered.py").write_text((ROOT / "example_dags" / "sandbox_long_process.py").read_text())
    stack = AirflowStack(
        tmp_path / "airflow",
        dags,
        env={"AIRFLOW_CONN_SBX_DEFAULT": sbx_local.connection},
        config={
            "metrics.statsd_on": "True",
            "metrics.statsd_host": "127.0.0.1",
            "metrics.statsd_port": str(listener.port),
        },
        cache=ROOT / ".demo" / "cache",
    )
    with stack as airflow:
        run_id = airflow.trigger("sandbox_long_process")
        assert airflow.wait_for_run("sandbox_long_process", run_id, timeout=120) == "success"
        airflow.wait_for(lambda: "sbx.process.ended.exited" in listener.values(), 30, "the end to be told")
        values = listener.values()

    assert values["sbx.process.started"] == [1]
    assert values["sbx.process.ended.exited"] == [1]
    assert 0 < values["sbx.process.start_duration"][0] < 30_000  # ms
    assert 0 < values["sbx.process.wait_duration"][0] < 120_000
    assert sum(values["sbx.output.lines"]) == 12
    assert len(values["sbx.output.lines"]) <= 4  # batches: one of the worker, few of the triggerer
    assert sum(values["sbx.output.bytes"]) >= 12 * len("step 1 of 12")
    assert values["sbx.streams.open"] == [1, 0]
