"""The folder that a development Airflow lives in: its database, its environment, the files it will read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from dev.processes import ServiceError

MIGRATE_SECONDS = 120


def make_folders(home: Path) -> None:
    """Make an empty home, whatever was there before."""
    shutil.rmtree(home, ignore_errors=True)
    for folder in ("logs", "plugins", "tmp"):
        (home / folder).mkdir(parents=True)


def environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an Airflow in ``home``: the caller's, without Airflow settings of its own."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    scripts = str(Path(sys.executable).parent)
    return {
        **inherited,
        "AIRFLOW_HOME": str(home),
        "PATH": os.pathsep.join([scripts, inherited.get("PATH", os.defpath)]),
        "TMPDIR": str(home / "tmp"),
        # A proxy of the environment has no business with loopback addresses.
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "PYTHONUNBUFFERED": "1",
        **extra,
    }


def make_database(home: Path, env: Mapping[str, str], cache: Path | None) -> None:
    """Create the tables of the database that airflow.cfg names.

    ``cache`` is a folder that keeps an empty SQLite database for the next time; None keeps none.
    Raises ServiceError with Airflow's output.
    """
    database = home / "airflow.db"
    template = cache / f"airflow-{version('apache-airflow')}.db" if cache else None
    if template is not None and template.exists():
        shutil.copyfile(template, database)
        return
    log = home / "logs" / "migrate.log"
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    with log.open("wb") as output:
        done = subprocess.run(
            command,
            env=env,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=MIGRATE_SECONDS,
            check=False,
        )
    if done.returncode:
        raise ServiceError(f"airflow db migrate ended with {done.returncode}:\n{log.read_text()}")
    if template is not None:
        template.parent.mkdir(parents=True, exist_ok=True)
        # Renamed into place, so that a copy cut short is never taken for a database.
        part = template.with_suffix(".part")
        shutil.copyfile(database, part)
        part.replace(template)


def dag_files(folder: Path) -> set[str]:
    """Return the files, relative to the folder, that Airflow will take for DAG files by its own guess."""
    found = set()
    for path in folder.rglob("*.py"):
        text = path.read_bytes().lower()
        if b"airflow" in text and b"dag" in text:
            found.add(str(path.relative_to(folder)))
    return found
