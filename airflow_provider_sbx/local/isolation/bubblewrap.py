"""Isolation by bubblewrap, for a server that isn't root: own files and processes, one user."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import airflow_provider_sbx
from airflow_provider_sbx.local.agent.etc import SHOWN
from airflow_provider_sbx.local.isolation.namespaces import exposed_python, resolution
from airflow_provider_sbx.local.isolation.rooms import UBUNTU, Isolation, Room

_SYSTEM = ("/usr", "/opt")
_MERGED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")


class Bubblewrap(Isolation):
    """Each sandbox has its own files and processes; its only user is `ubuntu`, without sudo."""

    name = "bubblewrap"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know when the server starts."""
        return ("isolation by bubblewrap: there is no root and no sudo in the sandboxes",)

    def room(self, sandbox_id: str, *, network: bool) -> Room:
        """Return a new sandbox's room."""
        exposed, path = exposed_python()
        hostname = sandbox_id[:60]
        arguments = ["bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
        if not network:
            arguments.append("--unshare-net")
        arguments += ["--uid", str(UBUNTU.uid), "--gid", str(UBUNTU.gid), "--hostname", hostname]
        for name in _SYSTEM:
            arguments += ["--ro-bind-try", name, name]
        for name in _MERGED:
            arguments += _merged(Path(name))
        arguments += ["--tmpfs", "/etc", "--tmpfs", "/tmp", "--tmpfs", "/var/tmp", "--tmpfs", "/run"]
        for name in SHOWN:
            arguments += _shown(Path("/etc", name))
        arguments += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm", "--dir", UBUNTU.home]
        # The agent runs inside, so that its own files must be there: Python, and this package.
        shown = {*exposed, sys.base_prefix, sys.prefix}
        for directory in sorted(shown):
            arguments += ["--ro-bind", directory, directory]
        package = str(Path(airflow_provider_sbx.__file__).parent)
        arguments += ["--ro-bind", package, package]
        return Room(
            prefix=(*arguments, "--as-pid-1", "--die-with-parent", "--new-session", "--"),
            config={
                "kind": "bubblewrap",
                "hostname": hostname,
                "path": path,
                **resolution(),
                "users": {UBUNTU.name: {"uid": UBUNTU.uid, "gid": UBUNTU.gid, "home": UBUNTU.home}},
            },
            accounts=(UBUNTU,),
            path=path,
            missing=(
                "bubblewrap gives a sandbox one user only, ubuntu; "
                "run the server as root for sandboxes with root and sudo"
            ),
        )

    def obstacle(self) -> str | None:
        """Return why bubblewrap can't be used here."""
        return None if shutil.which("bwrap") else "there is no bwrap (package bubblewrap)"


def _merged(path: Path) -> list[str]:
    if path.is_symlink():
        return ["--symlink", str(path.readlink()), str(path)]
    return ["--ro-bind-try", str(path), str(path)]


def _shown(path: Path) -> list[str]:
    if path.is_symlink():
        return ["--symlink", str(path.readlink()), str(path)]
    return ["--ro-bind-try", str(path), str(path)]
