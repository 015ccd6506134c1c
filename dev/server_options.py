"""Print the table of `sbx-local serve`'s options for docs/embedded-server.md, from its `--help`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

_OPTION = re.compile(r"^  (?:-\w, )?(--[\w-]+)(?: (\S+))?(?: {2,}(.*))?$", re.MULTILINE)
_DEFAULT = re.compile(r" \(default: (.*)\)$")


def help_text() -> str:
    """Return what `sbx-local serve --help` prints, unwrapped."""
    command = [sys.executable, "-m", "airflow_provider_sbx.local.cli", "serve", "--help"]
    # Wide enough for each help to stand on one line; no colours, which newer Pythons would add.
    env = {**os.environ, "COLUMNS": "1000", "NO_COLOR": "1"}
    text = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    return re.sub(r"\n {10,}", "  ", text.partition("\noptions:\n")[2])


def rows() -> Iterator[tuple[str, str, str]]:
    """Yield each option with its values, its default and its help."""
    for option, value, text in _OPTION.findall(help_text()):
        if option == "--help":
            continue
        found = _DEFAULT.search(text)
        shown = value.strip("{}").replace(",", "`, `") if value.startswith("{") else value
        left = f"`{option}` {f'`{shown}`' if shown else ''}".strip()
        yield left, f"`{found[1]}`" if found else "", _DEFAULT.sub("", text)


def table() -> str:
    """Return the table in Markdown."""
    lines = ["| option | default | what |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows())]) + "\n"


if __name__ == "__main__":
    print(table(), end="")
