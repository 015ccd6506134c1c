"""Pytest fixtures: the embedded server for a project's own tests. Off until a project asks for it.

In its top-most `conftest.py`:

    pytest_plugins = ["airflow_provider_sbx.local.pytest_plugin"]

or on the command line: `-p airflow_provider_sbx.local.pytest_plugin`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_READY = "ready: "
_END_SECONDS = 20
_LOG_END_CHARACTERS = 4000


@dataclass(frozen=True)
class SbxLocal:
    """A running server.

    :param url: its address, without `/api`.
    :param api_key: the key of its control plane; of this run only.
    """

    url: str
    api_key: str = field(repr=False)

    @property
    def connection(self) -> str:
        """The server as an Airflow connection, in the JSON form of `AIRFLOW_CONN_...` variables."""
        return json.dumps({"conn_type": "sbx", "host": self.url, "password": self.api_key})


@pytest.fixture(scope="session")
def sbx_local_options() -> Sequence[str]:
    """Return options of `sbx-local serve`: none. Define it anew in `conftest.py` to give some."""
    return ()


@pytest.fixture(scope="session")
def sbx_local(
    tmp_path_factory: pytest.TempPathFactory, sbx_local_options: Sequence[str]
) -> Iterator[SbxLocal]:
    """Run the embedded server: from when it is first asked for to the end, which stops its sandboxes."""
    with _serving(tmp_path_factory.mktemp("sbx-local"), sbx_local_options) as server:
        yield server


@pytest.fixture
def sbx_default(sbx_local: SbxLocal, monkeypatch: pytest.MonkeyPatch) -> SbxLocal:
    """Set the connection `sbx_default`, and the variables of the vendor's clients, to the server."""
    monkeypatch.setenv("AIRFLOW_CONN_SBX_DEFAULT", sbx_local.connection)
    monkeypatch.setenv("HYPERBROWSER_API_KEY", sbx_local.api_key)
    monkeypatch.setenv("HYPERBROWSER_BASE_URL", sbx_local.url)
    return sbx_local


@contextlib.contextmanager
def _serving(home: Path, options: Sequence[str]) -> Iterator[SbxLocal]:
    """Run a server below a directory, its temporary files included.

    :raises RuntimeError: it does not start; the message has the end of its log.
    """
    api_key = f"local-{secrets.token_hex(12)}"
    temporary = home / "tmp"
    temporary.mkdir()
    log_file = home / "sbx-local.log"
    # When pytest is killed outright, the kernel asks the server to end: nobody else would.
    guard = [setpriv, "--pdeathsig", "TERM"] if (setpriv := shutil.which("setpriv")) else []
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*guard, sys.executable, "-m", "airflow_provider_sbx.local.cli", "serve", *options],
            env={**os.environ, "SBX_LOCAL_API_KEY": api_key, "TMPDIR": str(temporary)},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C reaches pytest alone, whose fixtures may still need it
        )
    assert process.stdout is not None
    try:
        # One line when it listens, or the end of the stream when it can't.
        line = process.stdout.readline()
        if not line.startswith(_READY):
            end = log_file.read_text(errors="replace")[-_LOG_END_CHARACTERS:]
            raise RuntimeError(f"sbx-local did not start (exit code {process.wait(_END_SECONDS)}):\n{end}")
        yield SbxLocal(line.removeprefix(_READY).strip(), api_key)
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        finally:
            process.kill()
            process.stdout.close()
