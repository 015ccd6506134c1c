"""PostgreSQL, Redis and sshd of this machine, each as a process on the loopback address with data of its own.

The programs are Debian's (`postgresql`, `redis-server`, `openssh-server`); nothing of a system's service is
touched.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from dev.processes import Service, ServiceError, free_port, stop_all, uninterrupted

START_SECONDS = 60
_MOST_CONNECTIONS = 400
_NOBODY_ELSE = "postgres"
_PACKAGES = {"redis-server": "redis-server", "sshd": "openssh-server", "ssh-keygen": "openssh-client"}
_SSHD_FOLDER = Path("/run/sshd")


class _Daemon:
    """A program that runs in a ``with`` block, with its data in a temporary folder."""

    name: str
    ready: str

    def __init__(self, logs: Path) -> None:
        self.port = free_port()
        self._logs = logs
        self._data = Path()
        self._service: Service | None = None

    def __enter__(self) -> Self:
        self._data = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        try:
            self._prepare()
            self._service = Service(
                self.name,
                self._command(),
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
                cwd=self._data,
                log_file=self._logs / f"{self.name}.log",
            )
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with uninterrupted():
            if self._service is not None:
                stop_all([self._service])
            shutil.rmtree(self._data, ignore_errors=True)

    def start(self) -> None:
        """Start it and wait until it takes connections. Raises ServiceError with the end of its log."""
        assert self._service is not None
        self._service.start()
        self._service.wait_for_line(self.ready, START_SECONDS)

    def _prepare(self) -> None:
        """Make its data."""

    def _command(self) -> list[str]:
        raise NotImplementedError


class Redis(_Daemon):
    """A Redis that keeps nothing. ``logs``: the folder for its log."""

    name = "redis"
    ready = r"Ready to accept connections"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _command(self) -> list[str]:
        address = ["--bind", "127.0.0.1", "--port", str(self.port)]
        return [program("redis-server"), *address, "--save", "", "--appendonly", "no"]


class PostgreSQL(_Daemon):
    """A PostgreSQL with an empty database ``airflow``. ``logs``: the folder for its log.

    It refuses to run as root: then it runs as Debian's user ``postgres``.
    """

    name = "postgresql"
    ready = r"database system is ready to accept connections"

    @property
    def url(self) -> str:
        """SQLAlchemy's address of the database."""
        return f"postgresql+psycopg2://airflow@127.0.0.1:{self.port}/airflow"

    def restart(self) -> None:
        """End all connections at once, as an administrator's restart does, and start anew."""
        assert self._service is not None
        self._service.send_signal(signal.SIGINT)
        self._service.reap(START_SECONDS)
        self.start()

    def _prepare(self) -> None:
        if os.getuid() == 0:
            user = pwd.getpwnam(_NOBODY_ELSE)
            os.chown(self._data, user.pw_uid, user.pw_gid)
        self._run("initdb", "--pgdata", str(self._data / "data"), "--username", "airflow", "--auth", "trust")

    def start(self) -> None:
        super().start()
        if not (self._data / "made").exists():
            self._run("createdb", "--host", "127.0.0.1", "--port", str(self.port), "-U", "airflow", "airflow")
            (self._data / "made").touch()

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(_MOST_CONNECTIONS),
            # Its data needn't outlive a crash of the machine.
            "fsync": "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [*_as_nobody_else(), program("postgres"), "-D", str(self._data / "data"), *options]

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [*_as_nobody_else(), program(name), *arguments],
            cwd=self._data,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ServiceError(f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


class Sshd(_Daemon):
    """An SSH server for the user who starts it, by a key of its own. ``logs``: the folder for its log."""

    name = "sshd"
    ready = r"Server listening on"

    @property
    def connection(self) -> str:
        """The server as an Airflow connection, in the JSON form of ``AIRFLOW_CONN_...`` variables."""
        host_key = (self._data / "host_key.pub").read_text(encoding="utf-8")
        return json.dumps(
            {
                "conn_type": "ssh",
                "host": "127.0.0.1",
                "port": self.port,
                "login": pwd.getpwuid(os.getuid()).pw_name,
                "extra": {"key_file": str(self._data / "key"), "host_key": host_key.strip()},
            }
        )

    @property
    def jobs(self) -> Path:
        """A folder for what its users leave, removed with its data."""
        return self._data / "jobs"

    def _prepare(self) -> None:
        if os.getuid() == 0:
            # It doesn't start as root without, and only Debian's service makes it.
            _SSHD_FOLDER.mkdir(mode=0o755, exist_ok=True)
        for name in ("host_key", "key"):
            subprocess.run(
                [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(self._data / name)],
                check=True,
            )
        settings = {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": self._data / "host_key",
            "AuthorizedKeysFile": self._data / "key.pub",
            "PidFile": "none",
            "PasswordAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            # A key below /tmp, which all may write to, is refused otherwise.
            "StrictModes": "no",
            # Refuses nobody while tasks come by the hundred.
            "MaxStartups": _MOST_CONNECTIONS,
        }
        lines = "".join(f"{name} {value}\n" for name, value in settings.items())
        (self._data / "sshd_config").write_text(lines, encoding="utf-8")

    def _command(self) -> list[str]:
        return [program("sshd"), "-D", "-e", "-f", str(self._data / "sshd_config")]


def program(name: str) -> str:
    """Return a program's path. Raises ServiceError naming Debian's package where it isn't installed."""
    found = find_program(name)
    if found is None:
        package = _PACKAGES.get(name, "postgresql")
        raise ServiceError(f"{name} was not found: install it (Debian: apt-get install {package})")
    return found


def find_program(name: str) -> str | None:
    """Return a program's path, or None where it isn't installed."""
    # Debian keeps PostgreSQL's own programs out of PATH, a folder for each version, and sshd out of users'.
    folders = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    return shutil.which(
        name, path=os.pathsep.join([*folders, os.environ.get("PATH", os.defpath), "/usr/sbin"])
    )


def _as_nobody_else() -> list[str]:
    if os.getuid() != 0:
        return []
    user = pwd.getpwnam(_NOBODY_ELSE)
    identity = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    # A change of user undoes the guard of `Service`. SIGINT doesn't wait for clients to leave.
    return ["setpriv", *identity, "--pdeathsig", "INT"]
