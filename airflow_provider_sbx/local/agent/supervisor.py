"""One command's supervisor: starts it, passes signals on, reports its end.

A process of its own per command, and a subreaper, so that "the whole process tree" is a fact
that the kernel keeps rather than a guess from sessions and environment variables.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import stat
from typing import Any, NoReturn

from airflow_provider_sbx.local.agent import linux
from airflow_provider_sbx.local.agent.tree import kill_descendants

_SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh")
_LONGEST_ARGUMENT_BYTES = 100_000
"""The kernel takes 128 KiB at most for one argument; a longer command is read from a file."""


class Supervisor:
    """Runs one command and speaks of it over a channel.

    Says `{"started": pid}` or `{"failed": {"step", "errno"}}`, then `{"ended": wait status}`.
    Hears `{"signal": n}`, `{"kill": true}`, and the closing of the channel, which means kill.
    """

    def __init__(self, request: dict[str, Any], stdio: list[int], channel: socket.socket) -> None:
        self._request = request
        self._stdio = stdio
        self._channel = channel
        self._main = 0
        self._status: int | None = None

    def run(self) -> NoReturn:
        """Do it all, and exit."""
        linux.rename_process("sbx-supervisor")
        linux.become_subreaper()
        wake_reader, wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        failure = self._start()
        if failure is not None:
            self._say(failed=failure)
            os._exit(0)
        self._say(started=self._main)
        poller = select.poll()
        poller.register(wake_reader, select.POLLIN)
        poller.register(self._channel, select.POLLIN)
        self._reap()
        while self._status is None:
            ready = {fd for fd, _ in poller.poll()}
            if wake_reader in ready:
                os.read(wake_reader, 4096)
            if self._channel.fileno() in ready:
                self._obey()
            self._reap()
        self._say(ended=self._status)
        # Background processes live on, as on any machine; they become the agent's.
        os._exit(0)

    def _start(self) -> dict[str, Any] | None:
        error_reader, error_writer = os.pipe()
        self._main = os.fork()
        if self._main == 0:
            self._become_command(error_writer)
        os.close(error_writer)
        for fd in self._stdio:
            os.close(fd)
        with open(error_reader, "rb") as reader:
            report = reader.read()
        if not report:
            return None
        os.waitpid(self._main, 0)
        failure: dict[str, Any] = json.loads(report)
        return failure

    def _become_command(self, error_writer: int) -> NoReturn:
        step = "start"
        try:
            os.setsid()
            self._take_stdio()
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(self._request["nofile"], hard), hard))
            os.umask(0o022)
            self._become_user()
            step = "cwd"
            os.chdir(self._request["cwd"])
            step = "exec"
            argv = _argv(self._request["command"])
            signal.set_wakeup_fd(-1)
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                # Python ignores some, and so may whoever started the server; a command ignores none.
                signal.signal(number, signal.SIG_DFL)
            os.execve(argv[0], argv, self._request["env"])
        except OSError as error:
            os.write(error_writer, json.dumps({"step": step, "errno": error.errno}).encode("ascii"))
        finally:
            os._exit(127)

    def _take_stdio(self) -> None:
        user = self._request["user"]
        for target, fd in enumerate(self._stdio):
            if user is not None and stat.S_ISFIFO(os.fstat(fd).st_mode):
                # Else it could not be opened by its name: /dev/stdout, /dev/stderr.
                os.fchown(fd, user["uid"], user["gid"])
            os.dup2(fd, target)

    def _become_user(self) -> None:
        user = self._request["user"]
        if user is None:
            return
        os.setgroups(user["groups"])
        os.setresgid(user["gid"], user["gid"], user["gid"])
        os.setresuid(user["uid"], user["uid"], user["uid"])

    def _obey(self) -> None:
        # Orders are short and rare: several may come at once, none comes in halves.
        data = self._channel.recv(4096)
        orders: list[dict[str, Any]] = [json.loads(line) for line in data.splitlines()]
        if not data or any("kill" in order for order in orders):
            kill_descendants(self._reap)
            if not data:
                os._exit(0)
            return
        for order in orders:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._main, order["signal"])

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._main:
                self._status = status

    def _say(self, **message: object) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._channel.sendall(json.dumps(message).encode("ascii") + b"\n")


def _argv(command: str) -> list[str]:
    shell = next((path for path in _SHELLS if os.access(path, os.X_OK)), _SHELLS[-1])
    encoded = command.encode()
    if len(encoded) <= _LONGEST_ARGUMENT_BYTES:
        return [shell, "-c", command]
    script = os.memfd_create("command", 0)
    with open(os.dup(script), "wb") as file:
        file.write(encoded)
    os.lseek(script, 0, os.SEEK_SET)
    return [shell, f"/proc/self/fd/{script}"]
