"""Waiting for a process, as a pure state machine: what to ask next, given what came back.

The worker and the triggerer both drive this one machine (`airflow_provider_sbx.follow`), so they
can't differ. It opens no socket and reads no clock: whoever drives it passes the time.

Streaming (the default): read from the first unseen sequence number; when the stream is cut, goes
silent or is refused for a while, come back from there. Duplicates are dropped, a gap and an event
that can't be read are asked for once more, and what can't be had again is named. A process that is
found to have ended is still read to its end. `wait` and `poll` need no stream: the first holds one
long request after another, the second looks now and then, together with all others in its sandbox;
both read the output at the end. A stream that there is no place for is polled for, too, until there
is, or until its process has ended.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.api.calls import MAX_WAIT_SECONDS
from airflow_provider_sbx.api.events import Done, Event, Failed, Output
from airflow_provider_sbx.api.looks import Looks
from airflow_provider_sbx.api.models import ProcessResult, ProcessStatus, ProcessSummary, Sandbox
from airflow_provider_sbx.api.outage import SUSPICIOUS_FAILURES, Outage
from airflow_provider_sbx.api.output import DEFAULT_LOG_BYTES, DEFAULT_OUTPUT_BYTES
from airflow_provider_sbx.api.progress import Progress
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
from airflow_provider_sbx.api.transcript import Transcript

_STEADY_SECONDS = 15.0
"""A stream that held this long was a good one, in seconds."""

_EARLY_SECONDS = 0.5
"""A long-poll that ends so much before its time did so by itself, in seconds."""

_LAST_TRIES_SECONDS = 60.0
"""How long the rest of an ended process's output is asked for where the stream fails, in seconds."""


class Following:
    """One process that is waited for.

    Ask `step` what to do; do it; tell what came of it by `opened`, `event`, `stream_ended`,
    `answered`, `not_listed` or `failed`, or by `looks` whether there is a place for a stream; log the
    entries that these return; ask again.

    :param process_id: the process.
    :param strategy: how to wait.
    :param policy: how long the service may be out of reach, and the pauses in between.
    :param poll_seconds: pause between two looks of the strategy `poll`, or for want of a place for a
        stream, in seconds.
    :param output_bytes: how much of each of stdout and stderr the outcome keeps, in bytes.
    :param log_bytes: how much output is turned into lines, in bytes; 0 for none.
    :param state: what `state()` returned in another process, to go on from there.
    :param started_at: when the process was started, in milliseconds since 1970, if that is known.
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
        started_at: int | None = None,
        step_us: int = 1,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.process_id = process_id
        self._strategy = strategy
        self._policy = policy or RetryPolicy()
        self._chance = chance
        progress = Progress(process_id, started_at, sees_output=strategy is WaitStrategy.STREAM)
        self.looks = Looks(poll_seconds, progress)
        limits = {"output_bytes": output_bytes, "log_bytes": log_bytes}
        self._read = Transcript(**limits, progress=progress, state=state, step_us=step_us)
        self._outcome: Outcome | None = None
        self._ended = self._over = False
        self._result: ProcessResult | None = None
        self._result_at = 0.0
        self._pause_until = 0.0
        self._outage = Outage(process_id, self._policy)
        self._sandbox_in_doubt = False
        self._process_in_doubt = False
        self._cause_in_doubt = False
        self._opened_at = math.inf
        self._wait_until = 0.0
        self._fruitless = 0
        self._gap_at: int | None = None
        self._unreadable_at: int | None = None
        self._broken_off = False
        self._replay: ReplaySearch | None = None

    def state(self) -> dict[str, Any]:
        """Return what another machine needs to go on; small and JSON-safe, and without the tails."""
        return self._read.state()

    @property
    def next_seq(self) -> int:
        """The first sequence number that was not read yet."""
        return self._read.next_seq

    @property
    def logged_bytes(self) -> int:
        """How much output was turned into lines, in bytes."""
        return self._read.logged_bytes

    @property
    def misses_output(self) -> bool:
        """Whether what is to be read next is no longer kept, so that what is kept is looked for."""
        return self._replay is not None

    @property
    def is_over(self) -> bool:
        """Whether the process is known to have ended, so that its stream does so as well."""
        return self._ended or self._over

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Go on from what another machine has read, if that is more."""
        if state.get("next_seq", 1) > self.next_seq:
            self._read.go_on_from(state)
            self._replay = None

    # --- what to do ------------------------------------------------------------------------

    def step(self, now: float) -> Step:
        """Return what to do next.

        :param now: seconds since 1970.
        """
        self.looks.is_underway = False
        if self._outcome is not None:
            return AskSandbox() if self._cause_in_doubt else Finished(self._outcome)
        if self._pause_until > now:
            return Pause(self._pause_until - now)
        if self._sandbox_in_doubt:
            return AskSandbox()
        if self._process_in_doubt:
            return AskStatus()
        if self._ended and self._result is None:
            return self._ask_wait(1.0, now)
        match self._strategy:
            case WaitStrategy.STREAM if not self.looks.is_crowded:
                return OpenStream(self._replay.probe if self._replay else self.next_seq)
            case WaitStrategy.WAIT:
                # Jittered, so that a thousand waits do not turn over together.
                return self._ask_wait(MAX_WAIT_SECONDS * (0.7 + 0.25 * self._chance()), now)
            case _:
                return self.looks.ask()

    def _ask_wait(self, seconds: float, now: float) -> AskWait:
        self._wait_until = now + seconds
        return AskWait(seconds)

    def next_tick(self, now: float) -> float:
        """Return when `tick` may have something to show, in seconds since 1970."""
        return self._read.next_tick(now)

    @property
    def has_open_line(self) -> bool:
        """Whether that is soon, since a line waits for its end."""
        return self._read.has_open_line

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
                entries += self._read.lose(self._replay.found - 1, "no longer kept by the service")
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
                return self._done(event.result)
            case Failed(code="replay_window_expired") if self._asks_again():
                pass  # perhaps it is there for one who comes anew, and nothing need be given up
            case Failed():
                return self.failed(event.as_error(), now)
        return []

    def has_ended(self) -> None:
        """Tell that the process was seen to have ended: what is left is to read its output."""
        self._over, self.looks.is_crowded = True, False
        self._ended = self._ended or self._strategy is not WaitStrategy.STREAM

    def not_listed(self, now: float) -> list[Entry]:
        """Tell that the process is not in the list of its sandbox's: it is asked for by its id."""
        self._process_in_doubt = self.looks.is_unlisted = True
        return self._outage.over(now)

    def handed_on(self, now: float) -> None:
        """Tell that all that came so far was logged: what that took is no pause of the process."""
        self._read.handed_on(now)

    def stream_ended(self, now: float) -> list[Entry]:
        """Tell that the stream ended, or was left, without a `done`: no end of the process."""
        if self._outcome is not None or self._pause_until > now or self._replay is not None:
            return []
        if self._gives_up(now):
            return self._end_without_the_rest()
        self._fruitless = 0 if self._was_steady(now) else self._fruitless + 1
        self._process_in_doubt = self._fruitless >= SUSPICIOUS_FAILURES
        self._pause(max(1, self._fruitless), None, now)
        return []

    def tick(self, now: float) -> list[Entry]:
        """Show lines without an end that have waited long enough, or a sign of life in a quiet time."""
        in_doubt = self._process_in_doubt or self._sandbox_in_doubt or self._outage.lasts
        in_doubt = in_doubt or self.looks.is_crowded  # whether it is quiet can't be told
        return self._read.tick(now, is_running=not (self._ended or in_doubt))

    def answered(self, answer: ProcessSummary | ProcessResult | Sandbox, now: float) -> list[Entry]:
        """Take the answer of `AskWait`, `AskStatus`, `AskPoll` or `AskSandbox`.

        :raises SandboxNotRunningError: the sandbox is gone, and the process with it.
        """
        # A sandbox is no sign of recovery: that was the control plane, and the process is on the other.
        entries = [] if isinstance(answer, Sandbox) else self._outage.over(now)
        match answer:
            case Sandbox():
                self._sandbox_in_doubt = self._cause_in_doubt = False
                if answer.status.is_terminal:
                    self._sandbox_ended(answer)
            case ProcessResult(status=ProcessStatus.QUEUED | ProcessStatus.RUNNING):
                self._wait_on(now)  # an answer of its own to a wait whose time is up
            case ProcessResult():
                entries += self._take_result(answer, now)
            case ProcessSummary():
                self._process_in_doubt = False
                self.looks.saw(answer.started_at)
                if answer.status.is_terminal:
                    self._ended = not self.looks.is_underway
                    self.has_ended()
                elif self.looks.is_underway:
                    self.looks.is_answered = True
                    self._outage.steady()
        return entries

    def failed(self, error: errors.ServiceError, now: float) -> list[Entry]:
        """Take the failure of what was asked for.

        :raises ServiceError: what makes going on pointless, or has lasted for too long.
        """
        self._broken_off = True
        if self._outcome is not None:
            self._cause_in_doubt = False  # it would have been good to know, and that is all
            return []
        if self._was_steady(now):
            self._outage.steady()
        match error:
            case errors.WaitTimeoutError():
                self._wait_on(now)
                return self._outage.over(now)
            case errors.ReplayWindowExpiredError():
                return self._expired(now)
            case _ if self._result is not None and not may_pass(error):
                return self._end_without_the_rest()
            case errors.EventUnreadableError(is_output=True):
                return self._unreadable(error, now)
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

    def _sandbox_ended(self, sandbox: Sandbox) -> None:
        why = f" ({sandbox.close_reason})" if sandbox.close_reason else ""
        what = f"sandbox {sandbox.id} is {sandbox.status}{why}"
        if self._outcome is None:
            text = f"{what[0].upper()}{what[1:]}; process {self.process_id} ended with it"
            raise errors.SandboxNotRunningError(text, status_code=409, code="sandbox_not_running")
        self._outcome = replace(self._outcome, error=f"its {what}")

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
        if event.seq < self.next_seq:
            return []
        raw, entries = event.raw, list[Entry]()
        if event.seq > self.next_seq:
            if self._asks_again():
                return []
            entries += self._read.lose(event.seq - 1, "not delivered, twice")
        self._outage.steady()
        self._fruitless, self._gap_at, self._unreadable_at = 0, None, None
        return entries + self._read.take(event, raw, now)

    def _asks_again(self) -> bool:
        """Ask for a gap once more: a proxy may have dropped what the receiver still has."""
        self._broken_off, self._gap_at = self._gap_at != self.next_seq, self.next_seq
        return self._broken_off

    def _unreadable(self, error: errors.EventUnreadableError, now: float) -> list[Entry]:
        """Ask for an event once more that can't be read, then go on after it: others stand behind it."""
        # A number that was read already is a duplicate's: nothing is lost with it.
        is_next = error.seq is None or error.seq >= self.next_seq
        again = is_next and self._unreadable_at == self.next_seq
        entries = self._out_of_reach(error, now)
        if again:
            entries += self._read.lose(self.next_seq, "it can't be read, twice")
        elif is_next:
            self._unreadable_at = self.next_seq
        return entries

    def _done(self, result: ProcessResult) -> list[Entry]:
        entries: list[Entry] = []
        if result.last_seq is not None and result.last_seq >= self.next_seq:
            if self._asks_again():
                return entries
            entries += self._read.lose(result.last_seq, "not delivered, twice")
        return entries + self._end(result, self._read.ends)

    def _take_result(self, result: ProcessResult, now: float) -> list[Entry]:
        """Take a result that was asked for: its output is what the receiver still has."""
        if self._strategy is WaitStrategy.STREAM:
            if result.last_seq is not None and result.last_seq < self.next_seq:
                return self._end(result, self._read.ends)
            # The rest of its output may well be had, once the stream can be read again.
            self._result, self._result_at = result, now
            return self._end_without_the_rest() if self._fruitless and result.last_seq is None else []
        entries = self._read.take_result(result)
        if result.output_truncated:
            self._read.is_incomplete = True
            text = "The service no longer kept all of the output: what is left is its end."
            entries.append(Notice(text, warning=True))
        return entries + self._end(result, self._read.ends_of(result))

    def _gives_up(self, now: float) -> bool:
        """Whether the rest of an ended process's output was asked for long enough."""
        longest = min(_LAST_TRIES_SECONDS, self._policy.patience_seconds)
        return self._result is not None and now - self._result_at >= longest

    def _end_without_the_rest(self) -> list[Entry]:
        """End by the result that was asked for: the stream can't be read to its end."""
        assert self._result is not None
        entries, last = self._read.flush(), self._result.last_seq
        if last is not None:
            entries += self._read.lose(last, "the stream could not be read; the result holds their end")
        else:
            # What it brought is logged; where the result's output goes on from there can't be told.
            text = f"The output after sequence number {self.next_seq - 1} could not be followed and is "
            entries.append(Notice(text + "not logged here; the result holds its end.", warning=True))
            self._read.is_incomplete = True
        return entries + self._end(self._result, self._read.ends_of(self._result))

    def _end(self, result: ProcessResult, ends: list[tuple[str, bool]]) -> list[Entry]:
        entries = self._read.flush()
        self._outcome = Outcome.of(result, *ends, lost=self._read.is_incomplete)
        # Killed by whom? Where the service does not say, it may have been its sandbox's end.
        self._cause_in_doubt = result.status is ProcessStatus.KILLED and not result.error
        return entries

    def _out_of_reach(self, error: errors.ServiceError, now: float) -> list[Entry]:
        if self._gives_up(now):
            return self._end_without_the_rest()
        entries = self._outage.failed(error, now)
        if self.looks.is_underway:
            # Whoever looks for all of them looks again in time, and at the sandbox where need be.
            self.looks.is_answered = False
            return entries
        # A stream may go on failing where the service is well and the process long ended.
        self._sandbox_in_doubt = self._process_in_doubt = self._outage.is_suspicious
        self._pause(self._outage.failures, error, now)
        return entries

    def _pause(self, failures: int, error: errors.ServiceError | None, now: float) -> None:
        self._pause_until = now + self._policy.delay_seconds(failures, error, self._chance())
