"""The environments of the vendor's clients, which `make vendor` builds, and their programs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parents[2] / ".venvs"


def python_command(version: str, program: str) -> list[str]:
    """Return how a program of this folder is run with the vendor's Python client of a version."""
    interpreter = _built(ENVIRONMENTS / f"hyperbrowser-{version}" / "bin" / "python")
    return [str(interpreter), str(HERE / program)]


def node_command(program: str) -> tuple[list[str], dict[str, str]]:
    """Return how a program of this folder is run with the vendor's Node client, and in which environment."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        pytest.skip("there is no node and npm here to run the vendor's Node client with")
    modules = _built(ENVIRONMENTS / "node" / "node_modules")
    return [node, str(HERE / program)], {"SBX_MODULES": str(modules)}


def _built(path: Path) -> Path:
    if not path.exists():
        pytest.fail(f"{path} is missing: `make vendor` installs the vendor's clients")
    return path


def _surroundings() -> dict[str, str]:
    # The vendor's Python clients make a TLS context a request, and read all authorities' certificates for
    # each, 40 ms a time. This directory has none: only loopback is spoken to, without TLS.
    kept = {name: value for name, value in os.environ.items() if name != "SSL_CERT_FILE"}
    return kept | {"SSL_CERT_DIR": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"}


class Program:
    """A program that was started, and prints one line of JSON."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            env={**_surroundings(), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._said: dict[str, Any] | None = None

    def said(self) -> dict[str, Any]:
        """Wait for its end, and return what it printed."""
        if self._said is None:
            out, err = self._process.communicate(timeout=60)
            assert self._process.returncode == 0, err
            self._said = json.loads(out)
        return self._said

    def end(self) -> None:
        """End it if nobody waited for it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
