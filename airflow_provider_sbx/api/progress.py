"""A sign of life in the log of a long quiet wait."""

from __future__ import annotations

from airflow_provider_sbx.api.steps import Notice

_INTERVALS_SECONDS = (300.0, 300.0, 600.0, 600.0, 1800.0, 3600.0)
"""Silence before the first sign, then between one and the next; the last for ever: one an hour."""


class Progress:
    """When to say of a process that it still runs.

    After 5 minutes without output and, if it stays quiet, at 10, 20, 30 and 60 minutes and each hour.
    A process that is quiet time and again is not told of more often than that.

    :param process_id: the process.
    :param started_at: when it was started, in milliseconds since 1970, if that is known.
    :param sees_output: output is read as it comes, so that its absence can be told.
    """

    def __init__(self, process_id: str, started_at: int | None = None, *, sees_output: bool = True) -> None:
        self.started_at = started_at
        self._process_id = process_id
        self._sees_output = sees_output
        self._heard_at: float | None = None
        self._told_at: float | None = None
        self._told = 0

    def heard(self, now: float) -> None:
        """Take note of output.

        :param now: seconds since 1970.
        """
        self._heard_at = now

    def due_at(self, now: float) -> float:
        """Return when the next sign is due, in seconds since 1970, unless there is output before."""
        if self._heard_at is None:
            self._heard_at = now  # the wait begins
        quiet = self._heard_at + _INTERVALS_SECONDS[0]
        if self._told_at is None:
            return quiet
        return max(quiet, self._told_at + _INTERVALS_SECONDS[min(self._told, len(_INTERVALS_SECONDS) - 1)])

    def tick(self, now: float) -> list[Notice]:
        """Return the sign of life, if it is due."""
        if now < self.due_at(now) or self._heard_at is None:
            return []
        self._told_at = now
        self._told += 1
        text = f"Process {self._process_id} still runs"
        if self.started_at is not None:
            # By the sandbox's clock, which may be ahead of ours.
            text += f", for {_in_words(max(0.0, now - self.started_at / 1000))}"
        if self._sees_output:
            text += f"; no output for {_in_words(now - self._heard_at)}"
        return [Notice(f"{text}.")]


def _in_words(seconds: float) -> str:
    hours, minutes = divmod(int(seconds // 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
