"""A process's output in a task's log: one record a line, with the sandbox's own time."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from airflow_provider_sbx.api.frames import without_frame
from airflow_provider_sbx.api.output import Line
from airflow_provider_sbx.api.steps import Entry
from airflow_provider_sbx.follow import Emit

MERGED_STEP_US = 1000
"""Least time between the stamps of two lines that may be logged twice, in microseconds.

Airflow merges a try's log files by the millisecond, and drops a record equal to the one before: only
lines that share none stand next to their likes there.
"""


@contextmanager
def silent(name: str) -> Iterator[None]:
    """Keep a logger from writing, where a write could wait for ever."""
    logger = logging.getLogger(name)
    was_disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was_disabled


def emitter(log: Any) -> Emit:
    """Return what writes entries to a task's log.

    The lines of stdout stand there as they are; those of the other streams carry the stream's name
    beside them. Their times are the sandbox's and rise from line to line, also where many share one
    millisecond: Airflow merges a task's log files by time and drops a record equal to the one before.

    :param log: a structlog logger of the task; see `compat.task_logger`.
    """

    def emit(entries: Sequence[Entry]) -> None:
        for entry in entries:
            if not isinstance(entry, Line):
                (log.warning if entry.warning else log.info)(entry.text)
                continue
            text = without_frame(entry.text)
            if text is None:  # said to the task, not to its readers
                continue
            if entry.stream == "stdout":
                log.info(text, timestamp=log_time(entry.timestamp_us))
            else:
                log.info(text, timestamp=log_time(entry.timestamp_us), stream=entry.stream)

    return emit


def log_time(timestamp_us: int) -> str:
    """Return a time in microseconds since 1970 as a log record has it."""
    seconds, microseconds = divmod(timestamp_us, 1_000_000)
    try:
        second = _second(seconds)
    except (OverflowError, ValueError):  # no time that a calendar has: the line matters more
        second = _second(int(time.time()))
    return f"{second}.{microseconds:06}+00:00"


@functools.lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    """Return a second without a zone; kept, since a noisy process writes thousands of lines in one."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()
