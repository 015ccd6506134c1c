"""What the client costs, beside the vendor's and beside bare aiohttp; prints a table and JSON.

`SBX_BENCH_ROWS="status events"` picks kinds of rows, `SBX_BENCH_NAMES="1000 quiet"` those whose names match,
`SBX_BENCH_CLIENTS="ours floor"` some clients, `SBX_BENCH_SCALE=0.05` makes all rows smaller,
`SBX_BENCH_REPEATS` is 3; with `SBX_BENCH_SAVE=1` the figures go to `benchmarks/results/` and charts to
`docs/images/`. Another row is one more line of `ROWS`, and a function in `measure.py` if it is of a new kind.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.certificate import make_certificate
from benchmarks.chart import bars
from benchmarks.measure import Figures

ROOT = Path(__file__).parent.parent
PYTHONS = {
    "ours": ROOT / ".venv" / "bin" / "python",
    "floor": ROOT / ".venv" / "bin" / "python",
    "sdk": ROOT / ".venvs" / "hyperbrowser-1.14.0" / "bin" / "python",
}
SCALE = float(os.environ.get("SBX_BENCH_SCALE", "1"))
REPEATS = int(os.environ.get("SBX_BENCH_REPEATS", "3"))
PICKED = os.environ.get("SBX_BENCH_ROWS", "").split()
NAMED = re.compile(os.environ.get("SBX_BENCH_NAMES", ""))
SMALL_BUFFERS = {"SBX_TLS_BUFFER_KIB": "16"}
ALL = ("ours", "floor", "sdk")
CLIENTS = os.environ.get("SBX_BENCH_CLIENTS", " ".join(ALL)).split()


@dataclass(frozen=True)
class Row:
    """One line of the table.

    :param kind: the function of `measure.py`.
    :param options: what it takes.
    :param scaled: those of the options that `SBX_BENCH_SCALE` makes smaller.
    :param env: variables of the environment for the measured process.
    :param sdk: options that differ for the vendor's client, which would take too long.
    """

    name: str
    kind: str
    options: dict[str, Any]
    scaled: tuple[str, ...] = ()
    clients: tuple[str, ...] = ALL
    sdk: dict[str, Any] = field(default_factory=dict)
    repeats: int = 1
    env: dict[str, str] = field(default_factory=dict)

    def options_of(self, client: str) -> dict[str, Any]:
        """Return what the function is called with."""
        options = self.options | (self.sdk if client == "sdk" else {})
        return {
            name: max(1, round(value * SCALE)) if name in self.scaled else value
            for name, value in options.items()
        }


ROWS = [
    *(
        Row(
            f"status, {n} in flight",
            "status",
            {"in_flight": n, "requests": 20_000},
            ("requests",),
            sdk={"requests": max(64, n)},
            repeats=REPEATS,
        )
        for n in (8, 64, 256)
    ),
    *(
        Row(
            f"events of {size} bytes, {kind}",
            "events",
            {"kind": kind, "bytes_each": size, "count": count},
            ("count",),
            repeats=REPEATS,
        )
        for kind, count in (("burst", 10_000), ("paced", 1500))
        for size in (80, 4096)
    ),
    *(
        Row(
            f"{count} quiet {name}",
            "hold",
            {"how": how, "count": count, "seconds": seconds},
            ("count", "seconds"),
            clients,
            env=env,
        )
        for name, how, count, seconds, clients, env in (
            ("streams", "stream", 100, 10, ALL, {}),
            ("streams", "stream", 1000, 10, ALL, {}),
            ("streams", "stream", 2000, 10, ALL, {}),
            ("streams", "stream", 5000, 16, ALL, {}),
            ("streams, small TLS buffers", "stream", 5000, 16, ("ours",), SMALL_BUFFERS),
            ("long-polls", "wait", 1000, 28, ("ours",), {}),
            ("long-polls", "wait", 5000, 28, ("ours",), {}),
        )
    ),
    *(
        Row(
            f"{count} polled, {share} a sandbox",
            "poll",
            {"count": count, "per_sandbox": share, "every": 5.0, "seconds": 20},
            ("count",),
            ("ours",),
        )
        for count, share in ((1000, 50), (5000, 50), (5000, 100))
    ),
    Row(
        "100 MB beside 500 quiet streams",
        "noisy",
        {"quiet": 500, "megabytes": 100, "line_bytes": 100},
        ("quiet", "megabytes"),
        ("ours", "floor"),
    ),
]


@contextmanager
def server(folder: Path) -> Iterator[dict[str, Any]]:
    """Run the server; yield its ports."""
    certificate, bundle = make_certificate(folder)
    os.environ["SSL_CERT_FILE"] = str(bundle)
    os.environ.pop("SSL_CERT_DIR", None)
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server", str(certificate)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()


def run(row: Row, client: str, ports: dict[str, Any]) -> Figures:
    """Return the median figures of a row of one client, each measurement in a process of its own."""
    what = json.dumps({"client": client, "row": row.kind, **ports, **row.options_of(client)})
    taken: list[Figures] = []
    for _ in range(row.repeats):
        done = subprocess.run(
            [PYTHONS[client], "-m", "benchmarks.measure", what],
            cwd=ROOT,
            env=os.environ | row.env,
            stdout=subprocess.PIPE,
            check=True,
        )
        taken.append(json.loads(done.stdout))
    return {name: round(statistics.median(figures[name] for figures in taken), 3) for name in taken[0]}


def table(results: dict[str, dict[str, Figures]]) -> str:
    """Return the figures as text, ours beside the others."""
    lines = [f"{'':34}{'':20}{'ours':>10}{'floor':>10}{'sdk':>10}"]
    for row, by_client in results.items():
        for number, name in enumerate(next(iter(by_client.values()), {})):
            cells = "".join(
                f"{by_client[client][name]:>10.4g}" if client in by_client else f"{'':>10}" for client in ALL
            )
            lines.append(f"{row if number == 0 else '':34}{name:20}{cells}")
    return "\n".join(lines)


def main() -> None:
    """Run the rows, and print and perhaps save the figures."""
    clients = [client for client in ALL if client in CLIENTS and PYTHONS[client].exists()]
    results: dict[str, dict[str, Figures]] = {}
    with tempfile.TemporaryDirectory() as scratch, server(Path(scratch)) as ports:
        for row in ROWS:
            if (PICKED and row.kind not in PICKED) or not NAMED.search(row.name):
                continue
            results[row.name] = {
                client: run(row, client, ports) for client in row.clients if client in clients
            }
            print(table({row.name: results[row.name]}), file=sys.stderr, flush=True)
    report = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "scale": SCALE,
        "rows": results,
    }
    if os.environ.get("SBX_BENCH_SAVE"):
        saved = ROOT / "benchmarks" / "results" / "client.json"
        saved.parent.mkdir(exist_ok=True)
        saved.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        images = ROOT / "docs" / "images"
        images.mkdir(exist_ok=True)
        for name, title, rows, figure in (
            ("bench-status.svg", "CPU of a status request, in ms", "status", "cpu_ms_each"),
            ("bench-events.svg", "CPU of 1,000 events of a stream, in ms", "events", "cpu_ms_per_1000"),
        ):
            values = {
                row: {client: figures[figure] for client, figures in by_client.items()}
                for row, by_client in results.items()
                if row.startswith(rows)
            }
            if values:
                (images / name).write_text(bars(title, values), encoding="utf-8")
    print(table(results))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
