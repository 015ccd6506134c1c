"""How long the service has been out of reach, how long that is borne, and what is said of it."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from airflow_provider_sbx.api.calls import Call
from airflow_provider_sbx.api.errors import ResponseError, ServiceError, ServiceUnavailableError
from airflow_provider_sbx.api.retrying import RetryPolicy, may_repeat
from airflow_provider_sbx.api.steps import Entry, Notice

SUSPICIOUS_FAILURES = 3
"""After so many failures in a row the sandbox and the process are looked at: they may be gone."""

NOTICE_SECONDS = 60.0
"""Trouble is told this often at the most, in seconds: one that comes and goes must not flood a log."""


Tell = Callable[[int, str], None]
"""Takes a level of `logging` and what to say, as a logger's `log` does."""

teller: ContextVar[Tell | None] = ContextVar("sbx_teller", default=None)
"""What the clients tell of an outage instead of their own log, for who asks in the place of others."""


class Trouble:
    """Failures in a row, and what is said of them: the first, one now and then, and that they are over."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._told_at = -math.inf
        self._is_told = False

    @property
    def lasts(self) -> bool:
        """Whether the last of all was a failure."""
        return self._since is not None

    def failed(self, now: float) -> float:
        """Take note of a failure; return for how long there has been nothing else, in seconds."""
        if self._since is None:
            self._since = now
        return now - self._since

    def borne(self, error: ServiceError, now: float) -> str | None:
        """Return what to say of a failure that is borne, as far as a period; None for nothing."""
        if now - self._told_at < NOTICE_SECONDS:
            return None
        self._told_at, self._is_told = now, True
        return f"{error}. Trying again"

    def over(self, now: float) -> str | None:
        """Take note of an answer; return what to say of it, or None for nothing."""
        if self._since is None:
            return None
        lasted, self._since = now - self._since, None
        was_told, self._is_told = self._is_told, False
        return f"The service answers again, after {lasted:.1f} s." if was_told else None


class Repeats:
    """Whether a call that failed is sent again, after how long, and what is said of that.

    :param call: the call; of one alone, as it counts the failures in a row.
    :param policy: how failures are repeated; its patience begins with the first.
    :param tell: takes what is said.
    :param chance: returns a random number from 0 to 1, for jitter.
    """

    def __init__(
        self, call: Call[Any], policy: RetryPolicy, tell: Tell, *, chance: Callable[[], float] = random.random
    ) -> None:
        self._call = call
        self._policy = policy
        self._tell = tell
        self._chance = chance
        self._trouble = Trouble()
        self._failures = 0
        self.pause_seconds = 0.0
        """How long to wait before the call is sent again, in seconds."""

    def failed(self, error: BaseException, now: float) -> bool:
        """Take a failure; return whether to send the call again.

        Where patience ends after several tries, the error is made to say how long these took.
        """
        if not isinstance(error, ServiceError) or not may_repeat(self._call, error):
            if isinstance(error, ResponseError) and error.status_code < 500:
                self.answered(now)  # a refusal is an answer, too, and not a gateway's
            return False
        self._failures += 1
        lasted = self._trouble.failed(now)
        if lasted >= self._policy.patience_seconds:
            if self._failures > 1:
                error.message += f", after {lasted:.0f} s of trying"
            return False
        if (text := self._trouble.borne(error, now)) is not None:
            self._tell(logging.WARNING, f"{text}.")
        self.pause_seconds = self._policy.delay_seconds(self._failures, error, self._chance())
        return True

    def answered(self, now: float) -> None:
        """Take note that the service answered."""
        if (text := self._trouble.over(now)) is not None:
            self._tell(logging.INFO, text)


class Outage:
    """Failures in a row, of whatever is asked of the runtime plane.

    :param process_id: the process that is waited for.
    :param policy: how long the service may be out of reach.
    """

    def __init__(self, process_id: str, policy: RetryPolicy) -> None:
        self._process_id = process_id
        self._policy = policy
        self._trouble = Trouble()
        self.failures = 0
        """How many there were, for the pause before the next try; see `steady`."""

    def failed(self, error: ServiceError, now: float) -> list[Entry]:
        """Count a failure.

        :raises ServiceUnavailableError: it has lasted for too long.
        """
        self.failures += 1
        lasted = self._trouble.failed(now)
        if lasted >= self._policy.patience_seconds:
            raise ServiceUnavailableError(
                f"The service could not be reached for {lasted:.0f} s. {error.message}. Process "
                f"{self._process_id} may still be running",
                request_id=error.request_id,
            ) from error
        text = self._trouble.borne(error, now)
        return [] if text is None else [Notice(f"{text}; the process is not affected.", warning=True)]

    @property
    def lasts(self) -> bool:
        """Whether the service is out of reach, as far as is known."""
        return self._trouble.lasts

    @property
    def is_suspicious(self) -> bool:
        """Whether what was asked for may be gone, judging by the failures."""
        return self.failures % SUSPICIOUS_FAILURES == 0

    def over(self, now: float) -> list[Entry]:
        """Tell that the service answers. The failures count on until it does so steadily."""
        text = self._trouble.over(now)
        return [] if text is None else [Notice(text)]

    def steady(self) -> None:
        """Forget the failures: what is asked for comes as it should."""
        self.failures = 0
