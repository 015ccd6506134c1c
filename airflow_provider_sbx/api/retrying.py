"""What may be sent again after a failure, and after how long. One predicate, one delay, for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow_provider_sbx.api.calls import Call
from airflow_provider_sbx.api.errors import DecodeError, ResponseError, ServiceError, TransportError

DEFAULT_REQUEST_TIMEOUT_SECONDS = 30.0
TOO_MANY_REQUESTS = 429


@dataclass(frozen=True)
class RetryPolicy:
    """How long and how often a failing request is repeated.

    :param patience_seconds: how long the service may be out of reach without a break before that
        is an error, in seconds; 0 for no repeats at all.
    :param first_delay_seconds: the pause after the first failure, in seconds; doubled after each.
    :param longest_delay_seconds: where the doubling stops, in seconds.
    :param longest_retry_after_seconds: the most that a `Retry-After` is obeyed, in seconds.
    """

    patience_seconds: float = 600.0
    first_delay_seconds: float = 0.25
    longest_delay_seconds: float = 20.0
    longest_retry_after_seconds: float = 120.0

    def delay_seconds(self, failures: int, error: ServiceError | None, chance: float) -> float:
        """Return the pause before the next try, in seconds.

        Half of it is jitter, so that the thousand waits that one outage cut off do not come back
        as one. A `Retry-After` is the least that is waited, and the jitter comes on top.

        :param failures: how many failures there were in a row, from 1.
        :param error: the last of them; None where a stream just ended.
        :param chance: a random number from 0 to 1.
        """
        doubled = self.first_delay_seconds * 2.0 ** min(failures - 1, 30)
        backoff = min(doubled, self.longest_delay_seconds)
        asked = error.retry_after_seconds if error is not None else None
        if asked is not None:
            return min(asked, self.longest_retry_after_seconds) + backoff * chance / 2
        return backoff * (1 + chance) / 2


NO_RETRIES = RetryPolicy(patience_seconds=0.0)


def may_repeat(call: Call[Any], error: BaseException) -> bool:
    """Whether a call that failed so may be sent again.

    A read may whenever the failure may pass. What changes something may only where it surely did
    not happen: no connection was made, or the service turned the request away unread (429).
    """
    if not isinstance(error, ServiceError):
        return False
    if error.surely_unsent:
        return error.retryable
    if isinstance(error, TransportError):
        return call.repeatable
    if isinstance(error, ResponseError):
        return error.retryable and (call.repeatable or error.status_code == TOO_MANY_REQUESTS)
    return error.retryable and call.repeatable


def is_outcome_unknown(call: Call[Any], error: ServiceError) -> bool:
    """Whether a call that may not be repeated may have happened although it failed.

    A clear refusal (400, 401, 404, 409, 422, 429...) says that it did not. A lost answer, a
    gateway's error or an unreadable success does not say.
    """
    if call.repeatable or error.surely_unsent:
        return False
    if isinstance(error, ResponseError):
        return error.status_code >= 500 or error.status_code == 408
    return True


def may_pass(error: ServiceError) -> bool:
    """Whether a long wait should go on after a failure; more patient than `may_repeat`, as it only reads."""
    if isinstance(error, ResponseError):
        # A 408 to anything but a wait is a proxy's impatience.
        return error.retryable or error.status_code >= 500 or error.status_code == 408
    return error.retryable or isinstance(error, DecodeError)
