"""What came of all rows, as a table at the end of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

_COLUMNS = ("runs", "seeds", "lost", "named", "doubled", "processes doubled", "processes left")


@dataclass
class Count:
    """What the runs of a row came to, on one path.

    :param lost: lines that are not in the log and of which the log does not say so.
    :param named: lines that are not in the log and whose sequence numbers are.
    :param doubled: lines that stand in the log more often than they were written.
    """

    seeds: list[int] = field(default_factory=list)
    lost: int = 0
    named: int = 0
    doubled: int = 0
    processes_doubled: int = 0
    processes_left: int = 0

    def cells(self) -> list[str]:
        first, last = min(self.seeds), max(self.seeds)
        seeds = str(first) if first == last else f"{first}-{last}"
        return [
            str(len(self.seeds)),
            seeds,
            *map(str, (self.lost, self.named, self.doubled, self.processes_doubled, self.processes_left)),
        ]


class Tally:
    """The counts of all rows and paths, in the order of their first run."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], Count] = {}

    def of(self, row: str, path: str) -> Count:
        return self.counts.setdefault((row, path), Count())

    def table(self) -> Iterator[str]:
        """Yield the lines of a Markdown table."""
        yield "| row | path | " + " | ".join(_COLUMNS) + " |"
        yield "| --- " * (len(_COLUMNS) + 2) + "|"
        for (row, path), count in self.counts.items():
            yield f"| {row} | {path} | " + " | ".join(count.cells()) + " |"


TALLY = Tally()
