"""Write requirements/dev.txt: one pin a package, for every Python version that is supported.

Usage: ``python dev/pins.py python3.11 python3.12 python3.13`` (``make pins`` does this).

Each interpreter resolves the project's own requirements with its own pip, installing nothing. Pins on which
all agree are written plain; the others carry a ``python_version`` marker.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "requirements" / "dev.txt"

# The Airflow that the demo and the integration tests run on. The package itself supports a range.
AIRFLOW = "apache-airflow==3.3.2"

EXTRAS = ("local", "dev")

# An editable install needs editables; a current pip installs all of this in a third of the time that the one
# shipped with Python 3.11 takes.
TOOLS = ["editables", "pip"]

HEADER = """\
# What `make setup` installs: what the package and its extras `local` and `dev` need, on one Airflow.
# Made by `make pins PYTHONS="python3.11 python3.12 python3.13"` (dev/pins.py); don't edit by hand.
"""


def requirements() -> list[str]:
    """Return what the project asks for, its extras unfolded, with the build backend.

    The project itself isn't among them, so nothing has to be built to resolve.
    """
    with (ROOT / "pyproject.toml").open("rb") as file:
        data = tomllib.load(file)
    project = data["project"]
    own_extras = re.compile(rf"^{re.escape(project['name'])}\[")
    found = [AIRFLOW, *TOOLS, *data["build-system"]["requires"], *project["dependencies"]]
    for extra in EXTRAS:
        wanted = project["optional-dependencies"][extra]
        found += [requirement for requirement in wanted if not own_extras.match(requirement)]
    return found


def resolve(python: str, wanted: list[str]) -> tuple[str, dict[str, str]]:
    """Return ``("3.12", {name: version})`` as the pip of that interpreter resolves it."""
    command = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    out = subprocess.run([*command, *wanted], check=True, stdout=subprocess.PIPE, text=True).stdout
    report = json.loads(out)
    version = report["environment"]["python_version"]
    pins = {}
    for item in report["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        pins[name] = item["metadata"]["version"]
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


def render(resolved: dict[str, dict[str, str]]) -> str:
    """Return the file's text for ``{python version: {name: version}}``."""
    lines = []
    for name in sorted(set().union(*resolved.values())):
        by_version: dict[str, list[str]] = {}
        for python, pins in resolved.items():
            if name in pins:
                by_version.setdefault(pins[name], []).append(python)
        for version, pythons in by_version.items():
            lines.append(f"{name}=={version}{marker(pythons, list(resolved))}")
    return HEADER + "\n".join(lines) + "\n"


def main(pythons: list[str]) -> None:
    wanted = requirements()
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(render(dict(resolve(python, wanted) for python in pythons)))
    print(f"wrote {TARGET.relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:] or [sys.executable])
