"""What came of a soak: figures, what went wrong by the provider, and what by Airflow alone."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_LISTS = ("problems", "airflow_problems")


@dataclass
class Report:
    """The figures of one soak.

    tries_ended_by_airflow: what Airflow's own log of events says of lost tries, by its words.
    tries_failed_by_exception: tries that ended in an exception, by its type; ``ProcessFailedError`` stands
        for the tasks that are to fail once.
    components_ended_alone: Airflow's components that ended though nobody killed them, and were started again.
    lines_astray: lines that Airflow put into the triggerer's own log, having closed the task's too early.
    results_taken_over: tries that found the result of a lost try, in whose log the output stands.
    sandboxes_never_known: whose worker was killed between the service's making them and its answer's being
        kept: nobody can stop them, and they end at their timeout. No process ever ran in one.
    problems, airflow_problems: a sentence each; the latter are not the provider's.
    """

    seed: int
    seconds: float
    runs: int = 0
    tasks: int = 0
    tries: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    lines_lost: int = 0
    lines_astray: int = 0
    lines_doubled: int = 0
    lines_out_of_order: int = 0
    processes_doubled: int = 0
    processes_missing: int = 0
    processes_left: int = 0
    sandboxes_left: int = 0
    sandboxes_never_known: int = 0
    wrong_results: int = 0
    failed_tasks: int = 0
    results_taken_over: int = 0
    tries_ended_by_airflow: Counter[str] = field(default_factory=Counter)
    tries_failed_by_exception: Counter[str] = field(default_factory=Counter)
    components_ended_alone: Counter[str] = field(default_factory=Counter)
    drain_seconds: float = 0
    problems: list[str] = field(default_factory=list)
    airflow_problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return a table, and below it the problems."""
        rows = [(name, value) for name, value in vars(self).items() if name not in _LISTS]
        table = "\n".join(f"| {name.replace('_', ' ')} | {_cell(value)} |" for name, value in rows)
        lines = [f"| soak | |\n| --- | --- |\n{table}"]
        for name in _LISTS:
            found = getattr(self, name)
            lines += [f"\n{name.replace('_', ' ')}:", *(f"- {problem}" for problem in found)] if found else []
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write it all as JSON."""
        path.write_text(json.dumps(vars(self), indent=2) + "\n")


def _cell(value: Any) -> str:
    if isinstance(value, Counter):
        return ", ".join(f"{count} {what}" for what, count in sorted(value.items())) or "0"
    return f"{value:.0f}" if isinstance(value, float) else str(value)
