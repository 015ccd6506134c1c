"""Child processes that leave nothing behind: each in a session of its own, with its output in a file.

Airflow's task runners leave the process group of their component, and what a task starts may even leave its
session. So a service is ended by three marks: the process itself, its session, and an environment variable
that everything started below it inherits.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

MARKER = "SBX_DEV_SERVICE"
POLL_SECONDS = 0.05


class ServiceError(RuntimeError):
    """A service ended, or didn't get ready; the message carries the end of its output."""


class Service:
    """A program that runs until it is stopped.

    ``env`` is the whole environment of the program. Its output, both streams, is appended to ``log_file``.
    """

    def __init__(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log_file: Path
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.log_file = log_file
        self._log_start = 0
        self.started_at = 0.0
        self._env = dict(env)
        self._cwd = cwd
        self._mark = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The program's process id, also once it has ended. Raises ServiceError before its start."""
        if self._process is None:
            raise ServiceError(f"{self.name} was never started")
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code (negative: the signal), or None while it runs or before it was started."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self.started_at = time.time()
        # When we are killed outright, the kernel asks the program to end: nobody else would.
        guard = [setpriv, "--pdeathsig", "TERM"] if (setpriv := shutil.which("setpriv")) else []
        # What an earlier service of the name wrote says nothing of this one.
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*guard, *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self._env, MARKER: self._mark},
                cwd=self._cwd,
                start_new_session=True,  # Ctrl-C in the terminal reaches us alone: we stop it in order
            )

    def send_signal(self, signum: int) -> None:
        """Send a signal to the program alone, as an operator or the kernel would."""
        os.kill(self.pid, signum)

    def members(self) -> list[int]:
        """Return the ids of all living processes that belong to this service."""
        return _members(self._process.pid if self._process else None, self._mark)

    def reap(self, timeout_seconds: float = 1.0) -> None:
        """Take the exit code of a program that was killed, so that it leaves no zombie."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_seconds)

    def log_tail(self, lines: int = 30) -> str:
        if not self.log_file.exists():
            return ""
        text = self.log_file.read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def wait_for_line(self, pattern: str, timeout_seconds: float) -> re.Match[str]:
        """Wait until a line of the output matches. Raises ServiceError when it ends or takes too long."""
        expression = re.compile(pattern, re.MULTILINE)
        deadline = time.monotonic() + timeout_seconds
        while True:
            running = self.running
            written = self.log_file.read_bytes() if self.log_file.exists() else b""
            if match := expression.search(written[self._log_start :].decode(errors="replace")):
                return match
            if not running:
                raise ServiceError(f"{self.name} ended with {self.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServiceError(f"{self.name} wasn't ready in {timeout_seconds:.0f} s:\n{self.log_tail()}")
            time.sleep(POLL_SECONDS)


def stop_all(services: Iterable[Service], grace_seconds: float = 10.0) -> None:
    """Ask all services to end, at once, then kill what is left of them and of what they started."""
    started = [service for service in services if service.started_at]
    for service in started:
        if service.running:
            with contextlib.suppress(ProcessLookupError):
                service.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while any(service.running for service in started) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        left = [pid for service in started for pid in service.members()]
        if not left:
            break
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    for service in started:
        service.reap()


def free_port() -> int:
    """Return a TCP port of the loopback address on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off SIGINT, SIGTERM and SIGHUP for a stop in order, that a second Ctrl-C would cut short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = [(signum, signal.signal(signum, signal.SIG_IGN)) for signum in signals]
    try:
        yield
    finally:
        for signum, handler in previous:
            signal.signal(signum, handler)


def _members(leader: int | None, mark: str) -> list[int]:
    wanted = f"{MARKER}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            pid = int(entry.name)
            in_session = os.getsid(pid) == leader
            marked = wanted in (entry / "environ").read_bytes().split(b"\0")
            # Field 3 of stat stands after the command's name, which may itself hold spaces and brackets.
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if (in_session or marked) and state not in "ZX":
                found.append(pid)
    return found
