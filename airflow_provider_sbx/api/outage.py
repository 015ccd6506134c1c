"""How long the service has been out of reach, how long that is borne, and what is said of it."""

from __future__ import annotations

import math

from airflow_provider_sbx.api.errors import ServiceError, ServiceUnavailableError
from airflow_provider_sbx.api.retrying import RetryPolicy
from airflow_provider_sbx.api.steps import Entry, Notice

SUSPICIOUS_FAILURES = 3
"""After so many failures in a row the sandbox and the process are looked at: they may be gone."""

NOTICE_SECONDS = 60.0
"""Trouble is told this often at the most, in seconds: one that comes and goes must not flood a log."""


class Outage:
    """Failures in a row, of whatever is asked of the runtime plane.

    :param process_id: the process that is waited for.
    :param policy: how long the service may be out of reach.
    """

    def __init__(self, process_id: str, policy: RetryPolicy) -> None:
        self._process_id = process_id
        self._policy = policy
        self._since: float | None = None
        self._told_at = -math.inf
        self._told = False
        self.failures = 0
        """How many there were, for the pause before the next try; see `steady`."""

    def failed(self, error: ServiceError, now: float) -> list[Entry]:
        """Count a failure.

        :raises ServiceUnavailableError: it has lasted for too long.
        """
        self.failures += 1
        if self._since is None:
            self._since = now
        lasted = now - self._since
        if lasted >= self._policy.patience_seconds:
            raise ServiceUnavailableError(
                f"The service could not be reached for {lasted:.0f} s. {error.message}. Process "
                f"{self._process_id} may still be running",
                request_id=error.request_id,
            ) from error
        if now - self._told_at < NOTICE_SECONDS:
            return []
        self._told_at, self._told = now, True
        return [Notice(f"{error.message}. Trying again; the process is not affected.", warning=True)]

    @property
    def lasts(self) -> bool:
        """Whether the service is out of reach, as far as is known."""
        return self._since is not None

    @property
    def is_suspicious(self) -> bool:
        """Whether what was asked for may be gone, judging by the failures."""
        return self.failures % SUSPICIOUS_FAILURES == 0

    def over(self, now: float) -> list[Entry]:
        """Tell that the service answers. The failures count on until it does so steadily."""
        if self._since is None:
            return []
        lasted, self._since = now - self._since, None
        if not self._told:
            return []
        self._told = False
        return [Notice(f"The service answers again, after {lasted:.1f} s.")]

    def steady(self) -> None:
        """Forget the failures: what is asked for comes as it should."""
        self.failures = 0
