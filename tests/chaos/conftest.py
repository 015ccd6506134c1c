"""Servers for the fault tests, and their table at the end."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_sbx.local.pytest_plugin import _serving
from tests.chaos.tally import TALLY

# Airflow makes its home as soon as it is imported, which happens after this.
if "AIRFLOW_HOME" not in os.environ:
    _home = tempfile.mkdtemp(prefix="sbx-chaos-")
    atexit.register(shutil.rmtree, _home, ignore_errors=True)
    os.environ["AIRFLOW_HOME"] = _home

HOST_NAME = "sandbox.chaos.example"


@pytest.fixture(scope="session")
def chaos_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Start servers with options, each once."""
    from contextlib import ExitStack

    from tests.chaos.runs import STORED_SECRET

    with ExitStack() as stack:
        servers: dict[tuple[str, ...], Any] = {}

        def start(*options: str) -> Any:
            if options not in servers:
                home = tmp_path_factory.mktemp("chaos-server")
                secrets = home / "secrets.json"
                secrets.write_text(json.dumps({"secrets": {"stored": [STORED_SECRET]}}))
                always = ("--heartbeat-seconds", "0.5", "--allowed-host", HOST_NAME)
                servers[options] = stack.enter_context(
                    _serving(home, [*always, "--secrets-file", str(secrets), *options])
                )
            return servers[options]

        yield start


@pytest.fixture(scope="session")
def chaos_boxes(chaos_server: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Make sandboxes, one a server."""
    from tests.chaos.runs import Box

    boxes: dict[str, Any] = {}

    def make(server: Any) -> Any:
        if server.url not in boxes:
            boxes[server.url] = Box(server)
        return boxes[server.url]

    yield make
    for box in boxes.values():
        box.close()


@pytest.fixture
def chaos_on(
    request: pytest.FixtureRequest,
    chaos_server: Callable[..., Any],
    chaos_boxes: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    """Return what runs a row on a server with options; see `Chaos`."""
    from tests.chaos.runs import Chaos

    row = request.node.name.removeprefix("test_").replace("_", " ")
    monkeypatch.setenv("NO_PROXY", "*")

    def on(*options: str) -> Any:
        server = chaos_server(*options)
        return Chaos(row, server, chaos_boxes(server))

    return on


@pytest.fixture
def chaos(chaos_on: Callable[..., Any]) -> Any:
    """Run a row on the usual server."""
    return chaos_on()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if TALLY.counts:
        terminalreporter.section("faults")
        for line in TALLY.table():
            terminalreporter.write_line(line)
