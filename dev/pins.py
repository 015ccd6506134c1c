"""Write the files of requirements/ that are made of pins: one pin a package, for each Python.

Usage: ``python dev/pins.py python3.11 python3.12 python3.13`` (``make pins`` does this). To make only some
of the files: ``ONLY=airflow-3.0.6.txt python dev/pins.py ...``.

Each interpreter resolves the project's own requirements with its own pip, installing nothing. Pins on which
all agree are written plain; the others carry a ``python_version`` marker.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"

EXTRAS = ("local", "dev")

# What the extra `dev` has beside what the tests need: it checks the code, and the newest Airflow's pages.
CHECKERS = ("import-linter", "mypy", "playwright", "pre-commit", "ruff")

# An editable install needs editables; a current pip installs all of this in a third of the time that the one
# shipped with Python 3.11 takes.
TOOLS = ["editables", "pip"]


@dataclass(frozen=True)
class PinFile:
    """One file of pins.

    name: the file's, in requirements/.
    airflow: the Airflow in it. The package itself supports a range. None for what runs without the package:
        only pip and the extras are in it.
    says: what the file is for, its first line.
    newest_python: the newest Python that this Airflow runs on, ``(3, 12)``; None for all.
    without: what of the project's requirements isn't wanted, by name.
    also: what is wanted beside the project's requirements.
    extras: the project's extras that are in it.
    """

    name: str
    airflow: str | None
    says: str
    newest_python: tuple[int, int] | None = None
    without: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    extras: tuple[str, ...] = EXTRAS


FILES = (
    # The Airflow that the demo and the integration tests run on.
    PinFile(
        "dev.txt",
        "3.3.2",
        "What `make setup` installs: what the package and its extras `local` and `dev` need, on one Airflow.",
    ),
    # The oldest that the tests run on: the last of the oldest minor version that the package supports. What
    # it says of itself excludes 3.13.0 alone, but it was made for Python 3.12 at the newest.
    PinFile(
        "airflow-3.0.6.txt",
        "3.0.6",
        "What `make test-airflow VERSION=3.0.6` installs: what the tests need, on the oldest Airflow.",
        newest_python=(3, 12),
        without=CHECKERS,
        # Airflow 3.1.8 and 3.2 state bounds like these. With newer ones each task of 3.0 fails at its first
        # request ("Remote server returned validation error"): FastAPI 0.118 ends dependencies after the
        # answer.
        also=("fastapi<0.118", "cadwyn<6"),
    ),
    # PostgreSQL by both of its drivers: Airflow's components are partly synchronous, partly not.
    PinFile(
        "cluster.txt",
        "3.3.2",
        "What `make soak` installs: what the tests need, and an Airflow on Celery, Redis and PostgreSQL.",
        without=CHECKERS,
        # Airflow's provider imports what Celery 5.6 no longer has.
        also=("apache-airflow-providers-celery", "celery<5.6", "psycopg2-binary", "asyncpg"),
    ),
    # The API reference is read from the sources, which are not imported: no Airflow is needed.
    PinFile(
        "docs.txt",
        None,
        "What `make docs` installs: the extra `docs`.",
        extras=("docs",),
    ),
)

HEADER = """\
# {says}
# Made by `make pins PYTHONS="python3.11 python3.12 python3.13"` (dev/pins.py); don't edit by hand.
"""


def requirements(file: PinFile) -> list[str]:
    """Return what the project asks for, its extras unfolded, with the build backend.

    The project itself isn't among them, so nothing has to be built to resolve.
    """
    with (ROOT / "pyproject.toml").open("rb") as toml:
        data = tomllib.load(toml)
    project = data["project"]
    own_extras = re.compile(rf"^{re.escape(project['name'])}\[")
    found = ["pip"]
    if file.airflow is not None:
        found = [f"apache-airflow=={file.airflow}", *TOOLS, *data["build-system"]["requires"]]
        found += [*file.also, *project["dependencies"]]
    for extra in file.extras:
        wanted = project["optional-dependencies"][extra]
        found += [requirement for requirement in wanted if not own_extras.match(requirement)]
    return [requirement for requirement in found if _name(requirement) not in file.without]


def _name(requirement: str) -> str:
    """Return the package's name, as the registries write it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def fits(python: str, file: PinFile) -> bool:
    """Whether the interpreter is one that the file's Airflow runs on."""
    code = "import sys; print(*sys.version_info[:2])"
    out = subprocess.run([python, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout
    major, minor = map(int, out.split())
    return file.newest_python is None or (major, minor) <= file.newest_python


def resolve(python: str, wanted: list[str]) -> tuple[str, dict[str, str]]:
    """Return ``("3.12", {name: version})`` as the pip of that interpreter resolves it."""
    command = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    out = subprocess.run([*command, *wanted], check=True, stdout=subprocess.PIPE, text=True).stdout
    report = json.loads(out)
    version = report["environment"]["python_version"]
    pins = {}
    for item in report["install"]:
        pins[_name(item["metadata"]["name"])] = item["metadata"]["version"]
    return version, pins


def marker(pythons: list[str], known: list[str]) -> str:
    """Return the marker that selects ``pythons`` out of ``known`` (both ascending), empty for all of them.

    The newest known version also stands for those to come: they are the likeliest to need the same.
    """
    if pythons == known:
        return ""
    if pythons == known[-len(pythons) :]:
        return f' ; python_version >= "{pythons[0]}"'
    return " ; " + " or ".join(f'python_version == "{python}"' for python in pythons)


def render(says: str, resolved: dict[str, dict[str, str]]) -> str:
    """Return the file's text for ``{python version: {name: version}}``."""
    lines = []
    for name in sorted(set().union(*resolved.values())):
        by_version: dict[str, list[str]] = {}
        for python, pins in resolved.items():
            if name in pins:
                by_version.setdefault(pins[name], []).append(python)
        for version, pythons in by_version.items():
            lines.append(f"{name}=={version}{marker(pythons, list(resolved))}")
    return HEADER.format(says=says) + "\n".join(lines) + "\n"


def main(pythons: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    only = os.environ.get("ONLY", "").split()
    for file in FILES:
        if only and file.name not in only:
            continue
        wanted = requirements(file)
        resolved = dict(resolve(python, wanted) for python in pythons if fits(python, file))
        target = FOLDER / file.name
        target.write_text(render(file.says, resolved))
        print(f"wrote {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:] or [sys.executable])
