"""Waiting for a process, as a pure state machine: what to ask next, given what came back.

The worker and the triggerer both drive this one machine (`airflow_provider_sbx.follow`), so they
can't differ. It opens no socket and reads no clock: whoever drives it passes the time.

Streaming (the default): read from the first unseen sequence number; when the stream is cut, goes
silent or is refused for a while, come back from there. Duplicates are dropped, a gap is asked for
once more, and what can't be had again is named. `wait` and `poll` need no stream: the first holds
one long request after another, the second looks now and then; both read the output at the end.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.api.calls import MAX_WAIT_SECONDS
from airflow_provider_sbx.api.events import Done, Event, Failed, Output
from airflow_provider_sbx.api.models import ProcessResult, ProcessStatus, ProcessSummary, Sandbox
from airflow_provider_sbx.api.outage import SUSPICIOUS_FAILURES, Outage
from airflow_provider_sbx.api.output import (
    DEFAULT_LOG_BYTES,
    DEFAULT_OUTPUT_BYTES,
    Line,
    LineAssembler,
    Tail,
    bounded_tail,
)
from airflow_provider_sbx.api.replay import ReplaySearch
from airflow_provider_sbx.api.retrying import RetryPolicy, may_pass
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

_STEADY_SECONDS = 15.0
"""A stream that held this long was a good one, in seconds."""

_EARLY_SECONDS = 0.5
"""A long-poll that ends so much before its time did so by itself, in seconds."""

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
    :param step_us: least time between two lines' stamps, in microseconds; see `LineAssembler`.
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
        step_us: int = 1,
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
        self._lines = LineAssembler(state.get("lines"), step_us=step_us)
        self._tails = {"stdout": Tail(output_bytes), "stderr": Tail(output_bytes)}
        self._outcome: Outcome | None = None
        self._ended: ProcessStatus | None = None
        self._pause_until = 0.0
        self._outage = Outage(process_id, self._policy)
        self._sandbox_in_doubt = False
        self._process_in_doubt = False
        self._opened_at = math.inf
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
        entries = self._outage.over(now)
        self._opened_at, self._broken_off = now, False
        if self._replay is not None:
            self._replay.opened()
            if self._replay.found is None:
                self._broken_off = True
            else:
                entries += self._lose(self._replay.found - 1, "no longer kept by the service")
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
                return self.failed(event.as_error(), now)
            case _:
                return []

    def stream_ended(self, now: float) -> list[Entry]:
        """Tell that the stream ended, or was left, without a `done`: no end of the process."""
        if self._outcome is not None or self._pause_until > now or self._replay is not None:
            return []
        self._fruitless = 0 if self._was_steady(now) else self._fruitless + 1
        self._process_in_doubt = self._fruitless >= SUSPICIOUS_FAILURES
        self._pause(max(1, self._fruitless), None, now)
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
        # A sandbox is no sign of recovery: that was the control plane, and the process is on the other.
        entries = [] if isinstance(answer, Sandbox) else self._outage.over(now)
        match answer:
            case Sandbox():
                self._sandbox_in_doubt = False
                if answer.status.is_terminal:
                    raise errors.SandboxNotRunningError(
                        f"Sandbox {answer.id} is {answer.status}"
                        + (f" ({answer.close_reason})" if answer.close_reason else "")
                        + f"; process {self.process_id} ended with it",
                        status_code=409,
                        code="sandbox_not_running",
                    )
            case ProcessResult(status=ProcessStatus.QUEUED | ProcessStatus.RUNNING):
                self._wait_on(now)  # an answer of its own to a wait whose time is up
            case ProcessResult():
                entries += self._result(answer)
            case ProcessSummary():
                self._process_in_doubt = False
                if answer.status.is_terminal:
                    self._ended = answer.status
                elif self._strategy is WaitStrategy.POLL:
                    self._outage.steady()
                    self._pause_until = now + self._poll_seconds * (0.9 + 0.2 * self._chance())
        return entries

    def failed(self, error: errors.ServiceError, now: float) -> list[Entry]:
        """Take the failure of what was asked for.

        :raises ServiceError: what makes going on pointless, or has lasted for too long.
        """
        self._broken_off = True
        if self._was_steady(now):
            self._outage.steady()
        match error:
            case errors.WaitTimeoutError():
                self._wait_on(now)
                return self._outage.over(now)
            case errors.ReplayWindowExpiredError():
                return self._expired(now)
            case errors.AuthenticationError() | errors.SandboxNotRunningError():
                raise error
            case errors.NotFoundError():
                raise errors.NotFoundError(
                    f"Process {self.process_id} is no longer known to its sandbox. {error.message}",
                    status_code=error.status_code,
                    code=error.code,
                    request_id=error.request_id,
                ) from error
            case _ if not may_pass(error):
                raise error
        return self._out_of_reach(error, now)

    # --- inside ----------------------------------------------------------------------------

    def _wait_on(self, now: float) -> None:
        # Asked to hold the request, a proxy may answer at once: don't spin on it.
        early = self._wait_until - now > _EARLY_SECONDS
        self._pause_until = self._wait_until if early else 0.0
        self._outage.steady()

    def _was_steady(self, now: float) -> bool:
        """Tell of the stream that was just left whether it had held; it is open no more."""
        steady = now - self._opened_at >= _STEADY_SECONDS
        self._opened_at = math.inf
        return steady

    def _expired(self, now: float) -> list[Entry]:
        """Look for the first number that is kept, or give the search up for a while."""
        self._replay = self._replay or ReplaySearch(self.next_seq)
        self._replay.expired()
        if self._replay.exhausted:
            # Whatever is asked for is gone: does the process still run?
            self._replay, self._process_in_doubt = None, True
            self._fruitless += 1
            self._pause(self._fruitless, None, now)
        return self._outage.over(now)

    def _output(self, event: Output, now: float) -> list[Entry]:
        entries: list[Entry] = []
        if event.seq < self.next_seq:
            return entries
        raw = event.raw
        if event.seq > self.next_seq:
            if self._asks_again():
                return entries
            entries += self._lose(event.seq - 1, "not delivered, twice")
        self._outage.steady()
        self._fruitless, self._gap_at = 0, None
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

    def _asks_again(self) -> bool:
        """Ask for a gap once more: a proxy may have dropped what the receiver still has."""
        self._broken_off, self._gap_at = self._gap_at != self.next_seq, self.next_seq
        return self._broken_off

    def _done(self, result: ProcessResult, now: float) -> list[Entry]:
        entries: list[Entry] = []
        if result.last_seq is not None and result.last_seq >= self.next_seq:
            if self._asks_again():
                return entries
            entries += self._lose(result.last_seq, "not delivered, twice")
        entries += self._log(self._lines.flush())
        stdout, stderr = ((tail.text, tail.truncated) for tail in self._tails.values())
        self._outcome = Outcome.of(result, stdout, stderr, lost=self._output_lost)
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
            entries += self._lines_of(result)
            if result.output_truncated:
                entries.append(
                    Notice("The service no longer kept all of the output; its end is shown.", warning=True)
                )
        stdout, stderr = (bounded_tail(text, self._output_bytes) for text in (result.stdout, result.stderr))
        lost = self._output_lost or result.output_truncated
        self._outcome = Outcome.of(result, stdout, stderr, lost=lost)
        return entries

    def _lines_of(self, result: ProcessResult) -> list[Entry]:
        if not self._log_bytes:
            return []
        at, entries, cut = result.completed_at or result.started_at or 0, list[Entry](), False
        for stream, text in (("stdout", result.stdout), ("stderr", result.stderr)):
            kept, shortened = bounded_tail(text, max(0, self._log_bytes - self._logged_bytes))
            cut = cut or shortened
            self._logged_bytes += len(kept.encode())
            entries += self._lines.feed(Output(seq=0, stream=stream, data=kept, timestamp=at))
        entries += self._lines.flush()
        if cut:
            text = f"The output is larger than {self._log_bytes} bytes (max_log_bytes): its end is shown."
            entries.append(Notice(text, warning=True))
        return entries

    def _log(self, lines: Iterator[Line]) -> list[Entry]:
        return list(lines) if self._log_bytes else []

    def _lose(self, last: int, why: str) -> list[Entry]:
        """Give up the output up to a sequence number, by name."""
        first, self.next_seq = self.next_seq, last + 1
        if first > last:
            return []
        self._output_lost = True
        which = f"Output event {first}" if first == last else f"Output events {first} to {last}"
        return [*self._log(self._lines.flush()), Notice(f"{which}: {why}.", warning=True)]

    def _out_of_reach(self, error: errors.ServiceError, now: float) -> list[Entry]:
        entries = self._outage.failed(error, now)
        # A stream may go on failing where the service is well and the process long ended.
        self._sandbox_in_doubt = self._process_in_doubt = self._outage.is_suspicious
        self._pause(self._outage.failures, error, now)
        return entries

    def _pause(self, failures: int, error: errors.ServiceError | None, now: float) -> None:
        self._pause_until = now + self._policy.delay_seconds(failures, error, self._chance())
