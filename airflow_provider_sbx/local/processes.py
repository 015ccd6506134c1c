"""One process of a sandbox: its start, its output, its end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

from airflow_provider_sbx.api.models import ProcessStatus
from airflow_provider_sbx.local.errors import ApiError, invalid, process_not_running
from airflow_provider_sbx.local.isolation.agents import Agent, AgentError, Command
from airflow_provider_sbx.local.isolation.rooms import Account
from airflow_provider_sbx.local.output import OutputLog
from airflow_provider_sbx.local.pipes import InputPipe, OutputPipe, now_ms
from airflow_provider_sbx.local.signals import TERMINATING, signal_number

_TERM_GRACE_SECONDS = 1.0
"""How long a process that timed out has between TERM and KILL."""

_LONGEST_SECONDS = 10.0**9

Callback = Callable[["Process"], None]


class Process:
    """A process.

    :param process_id: its id.
    :param index: its place in the order of the sandbox's starts.
    :param command: what the shell runs.
    :param cwd: where, as an absolute path in the sandbox.
    :param env: its whole environment.
    :param account: whom it runs as.
    :param switches: whether it must become that account.
    :param timeout_seconds: how long it may run, in seconds.
    :param takes_stdin: whether its input is a pipe; else it is empty.
    :param replay_bytes: how much of its output is retained.
    :param drain_seconds: how long a pipe that something else holds open must be silent at its end.
    :param on_exit: called once it does not run any more.
    :param on_end: called once its output is complete, too.
    """

    def __init__(
        self,
        *,
        process_id: str,
        index: int,
        command: str,
        cwd: str,
        env: dict[str, str],
        account: Account,
        switches: bool,
        timeout_seconds: float | None,
        takes_stdin: bool,
        replay_bytes: int,
        drain_seconds: float,
        on_exit: Callback,
        on_end: Callback,
    ) -> None:
        self.id = process_id
        self.index = index
        self.command = command
        self.cwd = cwd
        self.status = ProcessStatus.QUEUED
        self.pid: int | None = None
        self.exit_code: int | None = None
        self.error: str | None = None
        self.created_at = now_ms()
        self.started_at: int | None = None
        self.completed_at: int | None = None
        self.ended = asyncio.Event()
        self.output = OutputLog(replay_bytes, self._resume)
        self._env = env
        self._account = account
        self._switches = switches
        self._timeout_seconds = timeout_seconds
        self._takes_stdin = takes_stdin
        self._drain_seconds = drain_seconds
        self._on_exit = on_exit
        self._on_end = on_end
        self._supervised: Command | None = None
        self._outputs: list[OutputPipe] = []
        self._stdin: InputPipe | None = None
        self._stdin_reader = -1
        self._timer: asyncio.TimerHandle | None = None
        self._timed_out = False
        self._drained = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_over(self) -> bool:
        """Whether it does not run any more, nor ever will."""
        return self.status.is_terminal

    def summary(self) -> dict[str, Any]:
        """Return what `get` and `list` show."""
        return {
            "id": self.id,
            "status": self.status.value,
            "command": self.command,
            "cwd": self.cwd,
            "pid": self.pid,
            "exit_code": self.exit_code,
            "started_at": self.started_at or self.created_at,
            "completed_at": self.completed_at,
        }

    def result(self, *, truncated: bool | None = None) -> dict[str, Any]:
        """Return how it ended, with the output that is retained.

        :param truncated: whether output is missing; by default, whether the retained output is
            incomplete. Someone who was sent everything misses nothing.
        """
        result = {
            "id": self.id,
            "status": self.status.value,
            "exit_code": self.exit_code,
            "stdout": self.output.text("stdout"),
            "stderr": self.output.text("stderr"),
            "started_at": self.started_at or self.created_at,
            "completed_at": self.completed_at,
            "output_truncated": self.output.is_truncated if truncated is None else truncated,
            "last_seq": self.output.last_seq,
        }
        return result if self.error is None else result | {"error": self.error}

    async def start(self, agent: Agent) -> None:
        """Start it.

        :raises ApiError: its directory or its user does not serve. It has ended as `failed` then.
        """
        self._open_stdin()
        stdin_reader = self._stdin_reader
        stdout_reader, stdout_writer = os.pipe()
        stderr_reader, stderr_writer = os.pipe()
        self._outputs = [
            OutputPipe(stdout_reader, "stdout", self.output),
            OutputPipe(stderr_reader, "stderr", self.output),
        ]
        for pipe in self._outputs:
            pipe.changed = self._check_drained
        user = None
        if self._switches:
            user = {"uid": self._account.uid, "gid": self._account.gid, "groups": [self._account.gid]}
        request = {"command": self.command, "env": self._env, "cwd": self.cwd, "user": user}
        # The clock begins before the shell does: what it may take of its time is its own.
        self.started_at = now_ms()
        try:
            self._supervised = await agent.spawn(
                request, (stdin_reader, stdout_writer, stderr_writer), self._exited
            )
        except AgentError as error:
            self._fail(str(error))
            return
        finally:
            for fd in (stdin_reader, stdout_writer, stderr_writer):
                os.close(fd)
        answer = await self._supervised.started
        if "started" in answer:
            self._run(answer["started"])
        else:
            self._refuse(answer["failed"])

    def _open_stdin(self) -> None:
        if self._stdin_reader >= 0:
            return
        if self._takes_stdin:
            self._stdin_reader, writer = os.pipe()
            self._stdin = InputPipe(writer)
        else:
            self._stdin_reader = os.open(os.devnull, os.O_RDONLY)

    def cancel(self) -> None:
        """End it while it is queued."""
        if self._stdin is not None:
            self._stdin.close()
            os.close(self._stdin_reader)
        self.status = ProcessStatus.KILLED
        self.completed_at = now_ms()
        self.error = "killed before it was started"
        self._close()

    def signal(self, name: str) -> None:
        """Send it a signal; KILL takes all its descendants, too.

        :raises ApiError: it has ended, or waits in the queue and the signal isn't one that ends it.
        """
        if self.is_over or (self._supervised is None and name not in TERMINATING):
            raise process_not_running(self.id)
        if self._supervised is None:
            self.cancel()
        elif name == "KILL":
            self._supervised.kill()
        else:
            self._supervised.signal(signal_number(name))

    async def kill(self, patience_seconds: float) -> None:
        """Kill it and all its descendants. One that has ended is left as it is.

        :param patience_seconds: how long its end is waited for, in seconds.
        """
        if self.is_over:
            return
        self.signal("KILL")
        try:
            async with asyncio.timeout(patience_seconds):
                await self.ended.wait()
        except TimeoutError:
            return  # it is on its way; whoever wants to know can wait for it

    async def write_stdin(self, data: bytes, *, eof: bool) -> None:
        """Write to its standard input; while it is queued, too.

        :param eof: close it afterwards.
        :raises ApiError: it has ended, or its input is closed.
        """
        if self.is_over:
            raise process_not_running(self.id)
        self._open_stdin()
        if self._stdin is None or (data and not self._stdin.takes_more):
            raise ApiError(409, "stdin_closed", f"The standard input of process {self.id} is closed")
        if data and not await self._stdin.write(data):
            if self.is_over:
                raise process_not_running(self.id)
            raise ApiError(409, "stdin_closed", f"Process {self.id} has closed its standard input")
        if eof:
            self._stdin.end()

    async def close(self) -> None:
        """Let go of its pipes once it has ended; its sandbox is gone."""
        if self.status is ProcessStatus.QUEUED and self._supervised is None:
            self.cancel()
        await self.ended.wait()
        for pipe in self._outputs:
            pipe.close()

    def _run(self, pid: int) -> None:
        self.pid = pid
        if not self.is_over:
            self.status = ProcessStatus.RUNNING
            if self._timeout_seconds is not None:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(min(self._timeout_seconds, _LONGEST_SECONDS), self._expire)

    def _refuse(self, failure: dict[str, Any]) -> None:
        step, number = failure["step"], failure["errno"]
        reason = os.strerror(number) if number is not None else "the sandbox is gone"
        self._fail(f"can't be started: {reason}")
        if step == "cwd":
            raise invalid(f"cwd {self.cwd!r} can't be entered: {reason}", "invalid_cwd")

    def _fail(self, message: str) -> None:
        self.status = ProcessStatus.FAILED
        self.error = message
        self.started_at = self.started_at or self.created_at
        self.completed_at = now_ms()
        for pipe in self._outputs:
            pipe.close()
        self._on_exit(self)
        self._close()

    def _expire(self) -> None:
        self._timed_out = True
        if self._supervised is not None:
            self._supervised.signal(signal_number("TERM"))
            self._timer = asyncio.get_running_loop().call_later(_TERM_GRACE_SECONDS, self._supervised.kill)

    def _exited(self, wait_status: int | None) -> None:
        self.completed_at = now_ms()
        if wait_status is None:
            # Its supervisor was killed: with the sandbox, or by the sandbox's root.
            self.status, self.exit_code, self.error = ProcessStatus.KILLED, 137, "killed with its sandbox"
        elif os.WIFSIGNALED(wait_status):
            self.status, self.exit_code = ProcessStatus.KILLED, 128 + os.WTERMSIG(wait_status)
        else:
            self.status, self.exit_code = ProcessStatus.EXITED, os.waitstatus_to_exitcode(wait_status)
        if self._timed_out:
            self.status = ProcessStatus.TIMED_OUT
            self.error = f"timed out after {round((self._timeout_seconds or 0) * 1000)} ms"
        if self._timer is not None:
            self._timer.cancel()
        if self._stdin is not None:
            self._stdin.close()
        for pipe in self._outputs:
            pipe.command_ended()
        task = asyncio.ensure_future(self._drain())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._on_exit(self)

    async def _drain(self) -> None:
        """Wait until the output is complete: both pipes ended, or nothing came for a while."""
        self._check_drained()
        while not self._drained.is_set():
            quiet_until = max(pipe.last_read for pipe in self._outputs) + self._drain_seconds
            left = quiet_until - time.monotonic()
            if left <= 0:
                break
            try:
                async with asyncio.timeout(left):
                    await self._drained.wait()
            except TimeoutError:
                continue  # something may have come meanwhile
        for pipe in self._outputs:
            pipe.discard()
        self._close()

    def _check_drained(self) -> None:
        if all(pipe.is_spent for pipe in self._outputs):
            self._drained.set()

    def _close(self) -> None:
        self.output.close()
        self.ended.set()
        self._on_end(self)

    def _resume(self) -> None:
        for pipe in self._outputs:
            pipe.resume()
