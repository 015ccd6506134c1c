"""Fail when a file of the repository names a package registry's host or a path of the machine it was made on.

Both would work for its author alone: pip's own configuration says where packages come from.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Written in parts, so that this file doesn't hold what it looks for.
REGISTRY_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("deb", "debian", "org"),
        ("security", "debian", "org"),
        ("proxy", "golang", "org"),
    )
)
PIP_SOURCES = ("index-url", "extra-index-url", "find-links")


def forbidden() -> list[str]:
    """Return the strings that no file may hold."""
    paths = [ROOT, Path(sys.base_prefix)]
    if Path.home() != Path("/"):
        paths.append(Path.home())
    # A path of one part, such as /usr or /app, says nothing about the machine.
    local = [str(path) for path in paths if len(path.parts) > 2]
    return [*REGISTRY_HOSTS, *local, *pip_sources()]


def pip_sources() -> list[str]:
    """Return the registries that this machine's pip is configured for."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    sources = []
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        if name.rpartition(".")[2] in PIP_SOURCES:
            sources += [part for part in value.strip("'\"").replace("\\n", " ").split() if "/" in part]
    return sources


def files() -> list[Path]:
    """Return the files that are committed, or would be."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True).stdout.decode().split("\0")
    return [path for name in names if name and (path := ROOT / name).is_file()]


def main() -> int:
    needles = forbidden()
    found = 0
    checked = files()
    for path in checked:
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            for needle in needles:
                if needle in line:
                    print(f"{path.relative_to(ROOT)}:{number}: names {needle}")
                    found += 1
    print(f"check_tree: {found} findings in {len(checked)} files")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
