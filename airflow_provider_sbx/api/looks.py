"""Looks at a process now and then, together with all others of its sandbox: what is asked for, and why."""

from __future__ import annotations

from airflow_provider_sbx.api.progress import Progress
from airflow_provider_sbx.api.steps import AskPoll, Notice

_QUEUED_MS = 60_000
"""A process may have been made so long before it was started, in milliseconds."""


class Looks:
    """The looks of one wait: by choice, or for want of a place for its stream.

    :param interval_seconds: longest pause between two, in seconds.
    :param progress: knows when the process was started.
    """

    def __init__(self, interval_seconds: float, progress: Progress) -> None:
        self._interval_seconds = interval_seconds
        self._progress = progress
        self.is_underway = False
        """Whether a look is what was asked for last."""
        self.is_answered = False
        """Whether the last look was answered, so that only news are to be told."""
        self.is_unlisted = False
        """Whether the process was missing from a list: a list that is not narrowed may have it."""
        self.is_crowded = False
        """Whether the wait would rather stream, but there is no place."""

    def crowded(self, most: int) -> list[Notice]:
        """Tell that there is no place for the stream that was asked for.

        :param most: how many streams there may be.
        """
        self.is_crowded = True
        text = f"All {most} streams that may be open at once (max_streams) are taken: the output is read "
        return [Notice(text + "once one is free, or the process has ended.")]

    def uncrowded(self) -> list[Notice]:
        """Tell that there is a place for the stream now."""
        self.is_crowded = False
        return [Notice("A stream is free: the output is read from here on.")]

    def ask(self) -> AskPoll:
        """Return what to ask for next."""
        self.is_underway = True
        started_at = self._progress.started_at  # by the service's clock, as the list is
        created_after = max(0, started_at - _QUEUED_MS) if started_at and not self.is_unlisted else None
        return AskPoll(self._interval_seconds, created_after, is_first=not self.is_answered)

    def saw(self, started_at: int | None) -> None:
        """Take note of the process as it was seen.

        :param started_at: when it was started, in milliseconds since 1970, if that is told.
        """
        self._progress.started_at = self._progress.started_at or started_at
