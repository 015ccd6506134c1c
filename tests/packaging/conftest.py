"""The wheel and the source distribution, built once by the pinned backend, and clean environments for them.

`make package-test` runs these tests. They install Airflow, so that each environment takes a minute or more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP_FLAGS = ("--quiet", "--disable-pip-version-check", "--no-input")


def run(*command: str | Path, **options: object) -> str:
    """Run a command and return what it printed; what it said of an error stands in the failure."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return str(done.stdout)


def pip(*arguments: str | Path, python: Path | None = None) -> str:
    """Run the pip of `make setup`, for an environment that has none of its own."""
    where = ["--python", python] if python else []
    return run(sys.executable, "-m", "pip", *where, *arguments)


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", out, cwd=ROOT)
    (found,) = out.glob("*.tar.gz")
    return found


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, sdist: Path) -> Path:
    """Built from the source distribution, as whoever has only that builds it."""
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", *PIP_FLAGS, "--no-deps", "--no-build-isolation", "-w", out, sdist)
    (found,) = out.glob("*.whl")
    return found


def version_of(command: str) -> tuple[int, int] | None:
    """Return an interpreter's version, or None where it does not run."""
    path = shutil.which(command)
    if path is None:
        return None
    code = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
    done = subprocess.run([path, "-c", code], capture_output=True, text=True)
    if done.returncode != 0:
        return None
    major, minor = done.stdout.split()
    return int(major), int(minor)


def interpreters() -> dict[tuple[int, int], str]:
    """Return the supported interpreters that this machine has, those that were named first."""
    names = os.environ.get("SBX_PACKAGE_PYTHONS", "python3.11 python3.12 python3.13").split()
    own = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    found: dict[tuple[int, int], str] = {}
    for name in (*names, str(own)):
        version = version_of(name)
        if version is not None:
            found.setdefault(version, name)
    return found


@dataclass(frozen=True)
class Installed:
    """A clean environment with the wheel in it."""

    python: Path
    home: Path

    def run(self, script: Path) -> str:
        """Run a script from a folder that has nothing of the repository."""
        env = {
            "PATH": f"{self.python.parent}{os.pathsep}{os.defpath}",
            "HOME": str(self.home),
            "AIRFLOW_HOME": str(self.home / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        }
        return run(self.python, script, cwd=self.home, env=env, timeout=300)


@pytest.fixture
def install(tmp_path: Path, wheel: Path) -> Callable[[str, str, Sequence[str]], Installed]:
    """Return a function that makes an environment: of an interpreter, a file of pins, extras."""

    def made(interpreter: str, pins: str, extras: Sequence[str]) -> Installed:
        home = tmp_path / "env"
        run(shutil.which(interpreter) or interpreter, "-m", "venv", "--without-pip", home)
        python = home / "bin" / "python"
        what = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
        # Pins bound the versions; what is installed is what the wheel asks for.
        pip("install", *PIP_FLAGS, "--no-compile", "-c", ROOT / "requirements" / pins, what, python=python)
        return Installed(python, tmp_path)

    return made
