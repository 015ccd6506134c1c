"""The wheel in clean environments: each Python that is here, with the newest Airflow and with the oldest."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import airflow_provider_sbx
from dev import public_api
from tests.packaging.conftest import ROOT, Installed, interpreters, pip

HERE = Path(__file__).parent
FOUND = interpreters()

# Python, the file of pins, extras. Airflow 3.0 runs on Python 3.12 at the newest.
KINDS = [((3, minor), "dev.txt", ["local"]) for minor in (11, 12, 13)]
KINDS += [((3, minor), "airflow-3.0.6.txt", []) for minor in (11, 12)]


@pytest.mark.parametrize(
    ("version", "pins", "extras"),
    [
        pytest.param(
            *kind,
            id=f"python3.{kind[0][1]}-{kind[1].removesuffix('.txt')}",
            marks=[] if kind[0] in FOUND else pytest.mark.skip(f"there is no Python 3.{kind[0][1]} here"),
        )
        for kind in KINDS
    ],
)
def test_the_wheel_works_where_it_is_installed(
    install: Callable[..., Installed], version: tuple[int, int], pins: str, extras: list[str]
) -> None:
    env = install(FOUND[version], pins, extras)

    assert "No broken requirements" in pip("check", python=env.python)
    report = json.loads(env.run(HERE / "inside.py").splitlines()[-1])
    assert Path(report["file"]).is_relative_to(env.home)
    assert report["version"] == report["provider_version"] == airflow_provider_sbx.__version__
    assert report["failed_imports"] == {}
    assert report["connection"] == "airflow_provider_sbx.hooks.sandbox.SandboxHook"
    assert report["decorators"] == ["sandbox", "sandbox_command"]
    assert report["links"] == ["airflow_provider_sbx.links.sandbox.SandboxLink"]
    # Airflow itself brings what the extra `local` asks for; nobody should rely on that.
    assert report["ran"] == "installed\n"
    assert env.run(ROOT / "dev" / "public_api.py") == public_api.FILE.read_text()


def test_some_environment_is_tested() -> None:
    assert sys.version_info[:2] in FOUND
