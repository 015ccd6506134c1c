"""The few system calls that Python's standard library lacks."""

from __future__ import annotations

import ctypes
import os

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2

_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount, bind or remount.

    :raises OSError: the kernel refuses.
    """
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    _check(result, f"mount {target}")


def unmount(target: str) -> None:
    """Detach a mount, which goes as soon as nobody uses it.

    :raises OSError: the kernel refuses.
    """
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"unmount {target}")


def pivot_root(new_root: str, old_root: str) -> None:
    """Make `new_root` the root, with the root of before below it.

    :raises OSError: the kernel refuses.
    """
    _check(_libc.pivot_root(new_root.encode(), old_root.encode()), "pivot_root")


def become_subreaper() -> None:
    """Inherit every orphan among the descendants, so that none of them can get away.

    :raises OSError: the kernel refuses.
    """
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def hide_process() -> None:
    """Keep this process's memory and environment from other processes of the same user.

    :raises OSError: the kernel refuses.
    """
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")


def rename_process(name: str) -> None:
    """Set the name that `ps` shows; 15 bytes of it."""
    _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def keep_capabilities(kept: frozenset[int]) -> None:
    """Take every other capability away from all that this process will ever execute.

    :raises OSError: the kernel refuses.
    """
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) < 0:
            return  # the kernel knows no higher one
        if capability not in kept:
            _check(_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "prctl")
