"""Every error of this package, free of Airflow. Operators turn them into Airflow's at their edge.

SandboxError
├── InvalidParameterError        a value given by the caller can't be right (also a ValueError)
├── ServiceError                 a request did not bring what it was sent for
│   ├── TransportError           no answer: refused, reset, timed out, name not resolved
│   ├── DecodeError              a success whose body is not what was asked for (HTML, empty, cut)
│   ├── StreamBrokenError        an event stream that can't be read on; the process goes on
│   │   └── EventUnreadableError     an event in it is not what it should be
│   ├── ServiceUnavailableError  the service was out of reach for longer than allowed
│   └── ResponseError            an answer with an error status
│       ├── AuthenticationError  401, 403: the key or token is refused
│       ├── NotFoundError        404: no such sandbox or process
│       ├── SandboxNotRunningError   409 sandbox_not_running
│       ├── ProcessExitedError   409 on stdin: nobody reads any more
│       ├── WaitTimeoutError     408: the process still runs; not a failure
│       └── ReplayWindowExpiredError  410: output asked for is no longer retained
├── OutcomeUnknownError          a start, write or create may or may not have happened
└── ProcessError                 the process itself did not succeed
    ├── ProcessFailedError       a non-zero exit code, or it could not be started
    ├── ProcessKilledError       ended by a signal
    └── ProcessTimedOutError     ended at its timeout or deadline
"""

from __future__ import annotations

from typing import Any


class SandboxError(Exception):
    """Base of all errors of this package."""


class InvalidParameterError(SandboxError, ValueError):
    """A parameter's value can't be right; nothing was sent.

    :param parameter: its name, as the caller writes it.
    :param problem: what is wrong with it; never holds a secret.
    :param remedy: what to write instead.

    `task_id` names the task where the error came up while its operator was made: of a DAG file's many tasks,
    Airflow does not tell which one it was. It then stands at the message's beginning.
    """

    def __init__(self, parameter: str, problem: str, remedy: str) -> None:
        super().__init__(f"{parameter}: {problem}. {remedy}")
        self.parameter = parameter
        self.problem = problem
        self.remedy = remedy
        self.task_id: str | None = None

    def __str__(self) -> str:
        return super().__str__() if self.task_id is None else f"Task {self.task_id!r}: {super().__str__()}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.parameter, self.problem, self.remedy), vars(self)


class ServiceError(SandboxError):
    """A request did not bring what it was sent for.

    :param message: what happened, in one line.
    :param retryable: whether the same request may succeed later.
    :param retry_after_seconds: how long the service asks to wait, in seconds.
    :param request_id: the service's name for the request, for its support.

    `surely_unsent` is True where the request itself can't have reached the service: no connection
    was made, or what must come before it, such as reading a token, failed already.
    """

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        retry_after_seconds: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds
        self.request_id = request_id
        self.surely_unsent = False

    def __str__(self) -> str:
        return f"{self.message} (request id {self.request_id})" if self.request_id else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception is made anew from its message alone.
        return _restored, (type(self), self.message, vars(self))


def _restored(kind: type[ServiceError], message: str, members: dict[str, Any]) -> ServiceError:
    error = kind.__new__(kind, message)
    vars(error).update(members)
    return error


class TransportError(ServiceError):
    """No answer came.

    :param surely_unsent: True where the request can't have reached the service (no connection
        was made), so that repeating it is safe whatever it asks for.
    """

    def __init__(self, message: str, *, surely_unsent: bool) -> None:
        super().__init__(message, retryable=True)
        self.surely_unsent = surely_unsent


class DecodeError(ServiceError):
    """A success whose body is not what was asked for, such as a proxy's HTML page."""


class StreamBrokenError(ServiceError):
    """An event stream that can't be read on. The process is not affected; reconnect."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=True)


class EventUnreadableError(StreamBrokenError):
    """An event of a stream is not what it should be; nothing after it was read.

    :param is_output: it is a piece of output, so that others stand behind it.
    :param seq: its sequence number, where that can be told.
    """

    def __init__(self, message: str, *, is_output: bool, seq: int | None = None) -> None:
        super().__init__(message)
        self.is_output = is_output
        self.seq = seq


class ServiceUnavailableError(ServiceError):
    """The service was out of reach for longer than allowed. The process may still be running."""


class ResponseError(ServiceError):
    """An answer with an error status.

    :param status_code: the HTTP status.
    :param code: the service's own code, such as `sandbox_not_running`.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int,
        code: str | None = None,
        retryable: bool = False,
        retry_after_seconds: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(
            message, retryable=retryable, retry_after_seconds=retry_after_seconds, request_id=request_id
        )
        self.status_code = status_code
        self.code = code


class AuthenticationError(ResponseError):
    """The API key or the sandbox's token is refused."""


class NotFoundError(ResponseError):
    """No such sandbox or process."""


class SandboxNotRunningError(ResponseError):
    """The sandbox has been stopped or has timed out; its processes ended with it."""


class ProcessExitedError(ResponseError):
    """The process has ended, so it can't take input."""


class WaitTimeoutError(ResponseError):
    """The process was still running when the wait's time was up."""


class ReplayWindowExpiredError(ResponseError):
    """The output asked for is no longer retained."""


class OutcomeUnknownError(SandboxError):
    """A request that may not be repeated got no clear answer: it may or may not have happened.

    :param what: what was asked for, such as `start a process in sandbox sb-1`.
    :param cause: why the answer is missing.
    """

    def __init__(self, what: str, cause: ServiceError) -> None:
        super().__init__(f"It is not known whether this happened: {what}. {cause}")
        self.what = what
        self.cause = cause

    def __reduce__(self) -> tuple[type, tuple[str, ServiceError]]:
        return type(self), (self.what, self.cause)


class ProcessError(SandboxError):
    """The process itself did not succeed."""


class ProcessFailedError(ProcessError):
    """It ended with a non-zero exit code, or could not be started."""


class ProcessKilledError(ProcessError):
    """It was ended by a signal."""


class ProcessTimedOutError(ProcessError):
    """It was ended at its timeout or at the task's deadline."""
