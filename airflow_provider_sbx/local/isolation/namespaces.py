"""Isolation by Linux namespaces, for a server that is root: users, sudo, own root and processes."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from airflow_provider_sbx.local.isolation.rooms import ROOT, SYSTEM_PATH, UBUNTU, Isolation, Room

_SYSTEM_ROOTS = ("/usr", "/opt", "/lib", "/bin")


class Namespaces(Isolation):
    """Each sandbox has its own mounts, processes, IPC and host name, and if asked for its own network."""

    name = "namespaces"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know when the server starts."""
        if shutil.which("sudo", path=SYSTEM_PATH) is None:
            return ("sudo is not installed here, so that it isn't in the sandboxes either; runAs root works",)
        return ()

    def room(self, sandbox_id: str, *, network: bool) -> Room:
        """Return a new sandbox's room."""
        unshare = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--propagation", "private"]
        if not network:
            unshare.append("--net")
        exposed, path = exposed_python()
        accounts = (UBUNTU, ROOT)
        return Room(
            prefix=(*unshare, "--fork", "--kill-child", "--"),
            config={
                "kind": "namespaces",
                "hostname": sandbox_id[:60],
                "network": network,
                "exposed": exposed,
                "path": path,
                "users": {a.name: {"uid": a.uid, "gid": a.gid, "home": a.home} for a in accounts},
                **resolution(),
            },
            accounts=accounts,
            path=path,
            switches=True,
        )

    def obstacle(self) -> str | None:
        """Return why namespaces can't be used here."""
        if os.geteuid() != 0:
            return "the server is not root"
        if shutil.which("unshare") is None:
            return "there is no unshare (package util-linux)"
        return None


def resolution() -> dict[str, str]:
    """Return how names are resolved on this machine: the texts of its two files."""
    return {"hosts": _text("/etc/hosts"), "resolver": _text("/etc/resolv.conf")}


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""  # nothing but localhost resolves on this machine either


def exposed_python() -> tuple[list[str], str]:
    """Return what must be shown for `python3` to be there, and where programs are looked for.

    A machine whose only Python stands in somebody's home would have sandboxes without one.
    """
    if shutil.which("python3", path=SYSTEM_PATH) is not None:
        return [], SYSTEM_PATH
    prefix = Path(sys.base_prefix).resolve()
    path = f"{SYSTEM_PATH}:{prefix}/bin"
    inside_system = any(prefix.is_relative_to(root) for root in _SYSTEM_ROOTS)
    return ([] if inside_system else [str(prefix)]), path
