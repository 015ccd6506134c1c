"""What was read of a process's output: up to which event, which lines that makes, and the ends to keep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from airflow_provider_sbx.api.events import Output
from airflow_provider_sbx.api.models import ProcessResult
from airflow_provider_sbx.api.output import Line, LineAssembler, Tail, bounded_tail
from airflow_provider_sbx.api.progress import Progress
from airflow_provider_sbx.api.steps import Entry, Notice

_QUIET_MARGIN_MS = 1_000
_TICK_SECONDS = 1.0


class Transcript:
    """The output of one process, as far as it was read.

    :param output_bytes: how much of each of stdout and stderr is kept, in bytes.
    :param log_bytes: how much is turned into lines, in bytes; 0 for none.
    :param progress: says in quiet times that the process still runs.
    :param state: what `state()` returned in another process, to go on from there.
    :param step_us: least time between two lines' stamps, in microseconds; see `LineAssembler`.
    """

    def __init__(
        self,
        *,
        output_bytes: int,
        log_bytes: int,
        progress: Progress,
        state: dict[str, Any] | None = None,
        step_us: int = 1,
    ) -> None:
        self._progress = progress
        self._output_bytes = output_bytes
        self._log_bytes = log_bytes
        self._step_us = step_us
        self._tails = {"stdout": Tail(output_bytes), "stderr": Tail(output_bytes)}
        self._clock: tuple[float, int] | None = None
        self.go_on_from(state or {})

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Take over what another transcript of the process has read.

        :param state: what its `state()` returned.
        """
        self.next_seq: int = state.get("next_seq", 1)
        """The first sequence number that was not read yet."""
        self.logged_bytes: int = state.get("logged_bytes", 0)
        self.is_incomplete: bool = state.get("output_lost", False)
        """Some output could not be had."""
        self._lines = LineAssembler(state.get("lines"), step_us=self._step_us)
        self._progress.started_at = self._progress.started_at or state.get("started_at")

    def state(self) -> dict[str, Any]:
        """Return what another transcript needs to go on; small and JSON-safe, and without the tails."""
        return {
            "next_seq": self.next_seq,
            "logged_bytes": self.logged_bytes,
            "output_lost": self.is_incomplete,
            "lines": self._lines.state(),
            "started_at": self._progress.started_at,
        }

    @property
    def has_open_line(self) -> bool:
        """Whether `tick` may have something to show soon."""
        return self._lines.has_open_line

    def take(self, event: Output, raw: bytes, now: float) -> list[Entry]:
        """Take the next event.

        :param raw: its bytes.
        :param now: seconds since 1970.
        """
        self._clock = (now, event.timestamp)
        self._progress.heard(now)
        self.next_seq = event.seq + 1
        self._tails["stdout" if event.stream == "stdout" else "stderr"].add(raw)
        if self.logged_bytes >= self._log_bytes:
            return []
        self.logged_bytes += len(raw)
        entries: list[Entry] = [*self._lines.feed(event)]
        if self.logged_bytes >= self._log_bytes:
            entries += self._lines.flush()
            entries.append(
                Notice(
                    f"The output reached the limit of {self._log_bytes} bytes (max_log_bytes): the rest "
                    "is not logged. The process goes on and its result is kept.",
                    warning=True,
                )
            )
        return entries

    def lose(self, last: int, why: str) -> list[Entry]:
        """Give up the output up to a sequence number, by name."""
        first, self.next_seq = self.next_seq, last + 1
        if first > last:
            return []
        self.is_incomplete = True
        which = f"Output event {first}" if first == last else f"Output events {first} to {last}"
        return [*self.flush(), Notice(f"{which}: {why}.", warning=True)]

    def handed_on(self, now: float) -> None:
        """Tell that all that came so far was logged: the process is quiet from now on."""
        if self._clock is not None:
            self._clock = (now, self._clock[1])

    def next_tick(self, now: float) -> float:
        """Return when `tick` may have something to show, in seconds since 1970."""
        return now + _TICK_SECONDS if self.has_open_line else self._progress.due_at(now)

    def tick(self, now: float, *, is_running: bool) -> list[Entry]:
        """Show lines without an end that have waited long enough, or a sign of life in a quiet time.

        :param is_running: the process runs, as far as is known.
        """
        signs = self._progress.tick(now) if is_running else []
        return [*self._due_lines(now), *signs]

    def _due_lines(self, now: float) -> list[Entry]:
        if self._clock is None:
            return []
        seen_at, sandbox_ms = self._clock
        # A second late: what the network holds back must not look like a pause of the process,
        # else a second reader of the same events would cut the lines elsewhere.
        elapsed_ms = int((now - seen_at) * 1000) - _QUIET_MARGIN_MS
        return self._logged(self._lines.flush_due(sandbox_ms + elapsed_ms))

    def flush(self) -> list[Entry]:
        """Show all that waits for its line end."""
        return self._logged(self._lines.flush())

    def take_result(self, result: ProcessResult) -> list[Entry]:
        """Turn a result's output into lines: all that there is, where no stream was read."""
        if not self._log_bytes:
            return []
        at, entries, cut = result.completed_at or result.started_at or 0, list[Entry](), False
        for stream, text in (("stdout", result.stdout), ("stderr", result.stderr)):
            kept, shortened = bounded_tail(text, max(0, self._log_bytes - self.logged_bytes))
            cut = cut or shortened
            self.logged_bytes += len(kept.encode())
            entries += self._lines.feed(Output(seq=0, stream=stream, data=kept, timestamp=at))
        entries += self._lines.flush()
        if cut:
            text = f"The output is larger than {self._log_bytes} bytes (max_log_bytes): its end is shown."
            entries.append(Notice(text, warning=True))
        return entries

    @property
    def ends(self) -> list[tuple[str, bool]]:
        """The ends of stdout and stderr as they were read, each with whether its beginning fell out."""
        return [(tail.text, tail.truncated) for tail in self._tails.values()]

    def ends_of(self, result: ProcessResult) -> list[tuple[str, bool]]:
        """Return the same of a result."""
        return [bounded_tail(text, self._output_bytes) for text in (result.stdout, result.stderr)]

    def _logged(self, lines: Iterator[Line]) -> list[Entry]:
        return list(lines) if self._log_bytes else []
