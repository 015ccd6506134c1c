"""Waiting for a process, as a pure state machine: what to ask next, given what came back.

The worker and the triggerer both drive this one machine (`airflow_provider_sbx.follow`), so they
can't differ. It opens no socket and reads no clock: whoever drives it passes the time.

Streaming (the default): read from the first unseen sequence number; when the stream is cut, goes
silent or is refused for a while, come back from there. Duplicates are dropped, a gap is asked for
once more, and what can't be had again is named. `wait` and `poll` need no stream: the first holds
one long request after another, the second looks now and then; both read the output at the end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from airflow_provider_sbx.api.calls import MAX_WAIT_SECONDS
from airflow_provider_sbx.api.errors import (
    AuthenticationError,
    DecodeError,
    NotFoundError,
    ReplayWindowExpiredError,
    ResponseError,
    SandboxNotRunningError,
    ServiceError,
    ServiceUnavailableError,
    StreamBrokenError,
    WaitTimeoutError,
)
from airflow_provider_sbx.api.events import Done, Event, Failed, Output
from airflow_provider_sbx.api.models import ProcessResult, ProcessStatus, ProcessSummary, Sandbox
from airflow_provider_sbx.api.output import Line, LineAssembler, Tail, bounded_tail
from airflow_provider_sbx.api.replay import ReplaySearch
from airflow_provider_sbx.api.retrying import RetryPolicy
from airflow_provider_sbx.api.steps import (
    AskSandbox,
    AskStatus,
    AskWait,
    Entry,
    Finished,
    Notice,
    OpenStream,
    Outcome,
    Pause,
    Step,
    WaitStrategy,
)

DEFAULT_OUTPUT_BYTES = 64 * 1024
"""How much of each of stdout and stderr a result keeps, in bytes."""

DEFAULT_LOG_BYTES = 64 * 1024 * 1024
"""How much output is logged for one try of a task, in bytes."""

_SUSPICIOUS_FAILURES = 3
"""After so many failures in a row the sandbox itself is looked at: a stopped one never answers."""

_STEADY_SECONDS = 15.0
"""A stream that held this long was a good one, in seconds."""

_NOTICE_SECONDS = 60.0
"""A lasting trouble is told this often, in seconds."""

_QUIET_MARGIN_MS = 1_000


class Following:
    """One process that is waited for.

    Ask `step` what to do; do it; tell what came of it by `opened`, `event`, `stream_ended`,
    `answered` or `failed`; log the entries that these return; ask again.

    :param process_id: the process.
    :param strategy: how to wait.
    :param policy: how long the service may be out of reach, and the pauses in between.
    :param poll_seconds: pause between two looks of the strategy `poll`, in seconds.
    :param output_bytes: how much of each of stdout and stderr the outcome keeps, in bytes.
    :param log_bytes: how much output is turned into lines, in bytes; 0 for none.
    :param state: what `state()` returned in another process, to go on from there.
    :param chance: returns a random number from 0 to 1, for jitter.
    """

    def __init__(
        self,
        process_id: str,
        *,
        strategy: WaitStrategy = WaitStrategy.STREAM,
        policy: RetryPolicy | None = None,
        poll_seconds: float = 5.0,
        output_bytes: int = DEFAULT_OUTPUT_BYTES,
        log_bytes: int = DEFAULT_LOG_BYTES,
        state: dict[str, Any] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.process_id = process_id
        self._strategy = strategy
        self._policy = policy or RetryPolicy()
        self._poll_seconds = poll_seconds
        self._output_bytes = output_bytes
        self._log_bytes = log_bytes
        self._chance = chance
        state = state or {}
        self.next_seq: int = state.get("next_seq", 1)
        self._logged_bytes: int = state.get("logged_bytes", 0)
        self._output_lost: bool = state.get("output_lost", False)
        self._lines = LineAssembler(state.get("lines"))
        self._tails = {"stdout": Tail(output_bytes), "stderr": Tail(output_bytes)}
        self._outcome: Outcome | None = None
        self._ended: ProcessStatus | None = None
        self._pause_until = 0.0
        self._failures = 0
        self._failing_since: float | None = None
        self._last_notice = 0.0
        self._sandbox_in_doubt = False
        self._process_in_doubt = False
        self._opened_at = 0.0
        self._wait_until = 0.0
        self._fruitless = 0
        self._gap_at: int | None = None
        self._broken_off = False
        self._replay: ReplaySearch | None = None
        self._clock: tuple[float, int] | None = None

    def state(self) -> dict[str, Any]:
        """Return what another machine needs to go on; small and JSON-safe, and without the tails."""
        return {
            "next_seq": self.next_seq,
            "logged_bytes": self._logged_bytes,
            "output_lost": self._output_lost,
            "lines": self._lines.state(),
        }

    # --- what to do ------------------------------------------------------------------------

    def step(self, now: float) -> Step:
        """Return what to do next.

        :param now: seconds since 1970.
        """
        if self._outcome is not None:
            return Finished(self._outcome)
        if self._pause_until > now:
            return Pause(self._pause_until - now)
        if self._sandbox_in_doubt:
            return AskSandbox()
        if self._process_in_doubt:
            return AskStatus()
        if self._ended is not None:
            return self._ask_wait(1.0, now)
        match self._strategy:
            case WaitStrategy.STREAM:
                return OpenStream(self._replay.probe if self._replay else self.next_seq)
            case WaitStrategy.WAIT:
                # Jittered, so that a thousand waits do not turn over together.
                return self._ask_wait(MAX_WAIT_SECONDS * (0.7 + 0.25 * self._chance()), now)
            case WaitStrategy.POLL:
                return AskStatus()

    def _ask_wait(self, seconds: float, now: float) -> AskWait:
        self._wait_until = now + seconds
        return AskWait(seconds)

    @property
    def has_open_line(self) -> bool:
        """Whether `tick` may have something to show soon."""
        return self._lines.has_open_line

    @property
    def reads_on(self) -> bool:
        """Whether the open stream is to be read on; else close it and ask `step`."""
        return self._outcome is None and not self._broken_off

    # --- what came of it -------------------------------------------------------------------

    def opened(self, now: float) -> list[Entry]:
        """Tell that the stream asked for was opened. See `reads_on` whether to read it."""
        entries = self._recovered(now)
        self._opened_at, self._broken_off = now, False
        if self._replay is not None:
            self._replay.opened()
            if self._replay.found is None:
                self._broken_off = True
            else:
                entries += self._lose(self._replay.found - 1, "is no longer kept by the service")
                self._replay = None
        return entries

    def event(self, event: Event, now: float) -> list[Entry]:
        """Take an event of the open stream.

        :raises ServiceError: what makes going on pointless.
        """
        match event:
            case Output():
                return self._output(event, now)
            case Done():
                return self._done(event.result, now)
            case Failed():
                return self.failed(_failure(event), now)
            case _:
                return []

    def stream_ended(self, now: float) -> list[Entry]:
        """Tell that the stream ended, or was left, without a `done`: no end of the process."""
        if self._outcome is not None or self._pause_until > now or self._replay is not None:
            return []
        self._fruitless = 0 if now - self._opened_at >= _STEADY_SECONDS else self._fruitless + 1
        self._process_in_doubt = self._fruitless >= _SUSPICIOUS_FAILURES
        self._pause_until = now + self._policy.delay_seconds(max(1, self._fruitless), None, self._chance())
        return []

    def tick(self, now: float) -> list[Entry]:
        """Show lines without an end that have waited long enough."""
        if self._clock is None:
            return []
        seen_at, sandbox_ms = self._clock
        # A second late: what the network holds back must not look like a pause of the process,
        # else a second reader of the same events would cut the lines elsewhere.
        elapsed_ms = int((now - seen_at) * 1000) - _QUIET_MARGIN_MS
        return self._log(self._lines.flush_due(sandbox_ms + elapsed_ms))

    def answered(self, answer: ProcessSummary | ProcessResult | Sandbox, now: float) -> list[Entry]:
        """Take the answer of `AskWait`, `AskStatus` or `AskSandbox`.

        :raises SandboxNotRunningError: the sandbox is gone, and the process with it.
        """
        entries = self._recovered(now)
        match answer:
            case Sandbox():
                self._sandbox_in_doubt = False
                if answer.status.is_terminal:
                    raise SandboxNotRunningError(
                        f"Sandbox {answer.id} is {answer.status}"
                        + (f" ({answer.close_reason})" if answer.close_reason else "")
                        + f"; process {self.process_id} ended with it",
                        status_code=409,
                        code="sandbox_not_running",
                    )
            case ProcessResult():
                entries += self._result(answer)
            case ProcessSummary():
                self._process_in_doubt = False
                if answer.status.is_terminal:
                    self._ended = answer.status
                elif self._strategy is WaitStrategy.POLL:
                    self._pause_until = now + self._poll_seconds * (0.9 + 0.2 * self._chance())
        return entries

    def failed(self, error: ServiceError, now: float) -> list[Entry]:
        """Take the failure of what was asked for.

        :raises ServiceError: what makes going on pointless, or has lasted for too long.
        """
        self._broken_off = True
        match error:
            case WaitTimeoutError():
                # Asked to hold the request, a proxy may answer at once: don't spin on it.
                self._pause_until = self._wait_until if now < self._wait_until - 1.0 else 0.0
                return self._recovered(now)
            case ReplayWindowExpiredError():
                entries = self._recovered(now)
                self._replay = self._replay or ReplaySearch(self.next_seq)
                self._replay.expired()
                return entries
            case AuthenticationError() | SandboxNotRunningError():
                raise error
            case NotFoundError():
                raise NotFoundError(
                    f"Process {self.process_id} is no longer known to its sandbox. {error.message}",
                    status_code=error.status_code,
                    code=error.code,
                    request_id=error.request_id,
                ) from error
            case ResponseError() if not error.retryable and error.status_code < 500:
                raise error
            case _ if not (error.retryable or isinstance(error, DecodeError | ResponseError)):
                raise error
        return self._out_of_reach(error, now)

    # --- inside ----------------------------------------------------------------------------

    def _output(self, event: Output, now: float) -> list[Entry]:
        entries: list[Entry] = []
        if event.seq < self.next_seq:
            return entries
        if event.seq > self.next_seq:
            if self._gap_at != self.next_seq:
                # Ask once more: a proxy may have dropped what the receiver still has.
                self._gap_at = self.next_seq
                self._broken_off = True
                return entries
            entries += self._lose(event.seq - 1, "was not delivered, twice")
        raw = event.raw
        self._failures, self._fruitless, self._gap_at = 0, 0, None
        self._clock = (now, event.timestamp)
        self.next_seq = event.seq + 1
        self._tails["stdout" if event.stream == "stdout" else "stderr"].add(raw)
        if self._logged_bytes < self._log_bytes:
            self._logged_bytes += len(raw)
            entries += self._lines.feed(event)
            if self._logged_bytes >= self._log_bytes:
                entries += self._lines.flush()
                entries.append(
                    Notice(
                        f"The output reached the limit of {self._log_bytes} bytes (max_log_bytes): the rest "
                        "is not logged. The process goes on and its result is kept.",
                        warning=True,
                    )
                )
        return entries

    def _done(self, result: ProcessResult, now: float) -> list[Entry]:
        entries: list[Entry] = []
        if result.last_seq is not None and result.last_seq >= self.next_seq:
            if self._gap_at != self.next_seq:
                self._gap_at = self.next_seq
                self._broken_off = True
                return entries
            entries += self._lose(result.last_seq, "was not delivered, twice")
        entries += self._log(self._lines.flush())
        stdout, stderr = self._tails["stdout"], self._tails["stderr"]
        self._outcome = self._end(
            result, stdout.text, stdout.truncated, stderr.text, stderr.truncated, lost=self._output_lost
        )
        return entries

    def _result(self, result: ProcessResult) -> list[Entry]:
        """End by a result that was asked for: its output is what the receiver still has."""
        entries: list[Entry] = []
        if self._strategy is WaitStrategy.STREAM:
            # The stream could not be read to its end. What it brought is logged; the rest isn't
            # cut into events any more, so that it can't be told where it goes on.
            entries.append(
                Notice(
                    f"The output after sequence number {self.next_seq - 1} could not be followed and is "
                    "not logged here; the result holds its end.",
                    warning=True,
                )
            )
            self._output_lost = True
        else:
            entries += self._log(self._lines_of(result))
            if result.output_truncated:
                entries.append(
                    Notice("The service no longer kept all of the output; its end is shown.", warning=True)
                )
        stdout, stdout_cut = bounded_tail(result.stdout, self._output_bytes)
        stderr, stderr_cut = bounded_tail(result.stderr, self._output_bytes)
        lost = self._output_lost or result.output_truncated
        self._outcome = self._end(result, stdout, stdout_cut, stderr, stderr_cut, lost=lost)
        return entries

    def _lines_of(self, result: ProcessResult) -> Iterator[Line]:
        at = result.completed_at or result.started_at or 0
        for stream, text in (("stdout", result.stdout), ("stderr", result.stderr)):
            if text and self._logged_bytes < self._log_bytes:
                kept, _ = bounded_tail(text, self._log_bytes)
                self._logged_bytes += len(kept)
                event = Output(seq=0, stream=stream, data=kept, timestamp=at)
                yield from self._lines.feed(event)
        yield from self._lines.flush()

    def _end(
        self,
        result: ProcessResult,
        stdout: str,
        stdout_cut: bool,
        stderr: str,
        stderr_cut: bool,
        *,
        lost: bool,
    ) -> Outcome:
        return Outcome(
            status=result.status,
            exit_code=result.exit_code,
            started_at=result.started_at,
            completed_at=result.completed_at,
            error=result.error,
            stdout=stdout,
            stderr=stderr,
            stdout_truncated=stdout_cut,
            stderr_truncated=stderr_cut,
            output_lost=lost,
        )

    def _log(self, lines: Iterator[Line]) -> list[Entry]:
        return list(lines) if self._log_bytes else []

    def _lose(self, last: int, why: str) -> list[Entry]:
        """Give up the output up to a sequence number, by name."""
        first, self.next_seq = self.next_seq, last + 1
        if first > last:
            return []
        self._output_lost = True
        which = f"Output event {first}" if first == last else f"Output events {first} to {last}"
        return [*self._log(self._lines.flush()), Notice(f"{which} {why}.", warning=True)]

    def _out_of_reach(self, error: ServiceError, now: float) -> list[Entry]:
        self._failures += 1
        first = self._failing_since is None
        if self._failing_since is None:
            self._failing_since = now
        failing = now - self._failing_since
        if failing >= self._policy.patience_seconds:
            raise ServiceUnavailableError(
                f"The service could not be reached for {failing:.0f} s. {error.message}. Process "
                f"{self.process_id} may still be running",
                request_id=error.request_id,
            ) from error
        self._sandbox_in_doubt = self._failures % _SUSPICIOUS_FAILURES == 0
        self._pause_until = now + self._policy.delay_seconds(self._failures, error, self._chance())
        if first or now - self._last_notice >= _NOTICE_SECONDS:
            self._last_notice = now
            return [Notice(f"{error.message}. Trying again; the process is not affected.", warning=True)]
        return []

    def _recovered(self, now: float) -> list[Entry]:
        if self._failing_since is None:
            return []
        failing, self._failing_since = now - self._failing_since, None
        return [Notice(f"The service answers again, after {failing:.1f} s.")]


def _failure(event: Failed) -> ServiceError:
    if event.code == "replay_window_expired":
        return ReplayWindowExpiredError(event.error, status_code=410, code=event.code)
    return StreamBrokenError(f"The service broke the stream off: {event.error}")
