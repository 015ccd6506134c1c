"""The words of `following`: how to wait, what to do next, what to log, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from airflow_provider_sbx.api.models import ProcessStatus
from airflow_provider_sbx.api.output import Line


class WaitStrategy(StrEnum):
    """How to wait for a process."""

    STREAM = "stream"
    WAIT = "wait"
    POLL = "poll"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the reader of the log should know about the waiting itself."""

    text: str
    warning: bool = False


Entry = Line | Notice


@dataclass(frozen=True)
class Outcome:
    """How a process ended. Times in milliseconds since 1970.

    :param output_lost: some output could not be had, so that neither the log nor the ends are whole.
    """

    status: ProcessStatus
    exit_code: int | None
    started_at: int | None
    completed_at: int | None
    error: str | None
    stdout: str
    stderr: str
    stdout_truncated: bool
    stderr_truncated: bool
    output_lost: bool


@dataclass(frozen=True)
class OpenStream:
    """Follow the stream from this sequence number."""

    from_seq: int


@dataclass(frozen=True)
class AskWait:
    """Long-poll for the result for so many seconds."""

    timeout_seconds: float


@dataclass(frozen=True)
class AskStatus:
    """Read the process."""


@dataclass(frozen=True)
class AskSandbox:
    """Read the sandbox."""


@dataclass(frozen=True)
class Pause:
    """Do nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Finished:
    """There is nothing more to ask."""

    outcome: Outcome


Step = OpenStream | AskWait | AskStatus | AskSandbox | Pause | Finished
