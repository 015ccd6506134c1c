"""All descendants of a process, and their end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

_PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.002


def kill_descendants(reap: Callable[[], None]) -> None:
    """Kill every descendant of this process, until none is left.

    The caller must be a subreaper: then whatever calls setsid, forks twice or cleans its
    environment is still below it. One that forks meanwhile is met in the next round.

    :param reap: collects ended children.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        reap()
        if not _has_children() or time.monotonic() > deadline:
            return
        for pid in _living_descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue  # gone already, or another user's, which only an administrator can end
        time.sleep(_PAUSE_SECONDS)


def _has_children() -> bool:
    """Whether anything is left: as a subreaper this process has every orphan for a child."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _living_descendants(root: int) -> list[int]:
    """Return them, parents before children."""
    listed = os.path.exists(f"/proc/{root}/task/{root}/children")
    children = _children_as_listed if listed else _scan()
    found: list[int] = []
    pending = [root]
    while pending:
        below = children(pending.pop())
        pending += below
        found += below
    return [pid for pid in found if _is_alive(pid)]


def _children_as_listed(pid: int) -> list[int]:
    """Return a process's children from the kernel's own lists: what it costs is the tree's size."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        return []  # it ended meanwhile, and its children are whose it was
    return found


def _scan() -> Callable[[int], list[int]]:
    """Return the look-up of children over all processes, for kernels that keep no lists."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := _stat(int(name))):
            children.setdefault(int(stat[1]), []).append(int(name))
    return lambda pid: children.get(pid, [])


def _is_alive(pid: int) -> bool:
    stat = _stat(pid)
    return stat is not None and stat[0] not in (b"Z", b"X")


def _stat(pid: int) -> list[bytes] | None:
    """Return a process's state and its parent's id, and more; None once it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command's name stands in parentheses and may hold any byte.
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
