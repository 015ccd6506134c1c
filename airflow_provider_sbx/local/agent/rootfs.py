"""A sandbox's own view of the machine: its root, users, devices, processes.

An allow-list: a fresh tmpfs becomes the root, and of the host only programs, libraries and what
they need of `/etc` are bound into it, read-only. Whatever else the host holds (homes, state,
keys, other people's checkouts) is not there, not even for the sandbox's root.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Any

from airflow_provider_sbx.local.agent import etc, linux

_OLD = "/.host"
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_READ_ONLY_PROC = ("sys", "sysrq-trigger", "bus", "fs", "irq")
_EMPTY_PROC = ("kcore", "keys", "timer_list", "latency_stats", "sched_debug")

# What containers commonly keep. Without CAP_SYS_ADMIN nothing can be mounted or remounted, without
# CAP_MKNOD and CAP_SYS_RAWIO no device reached, without CAP_NET_ADMIN no shared network changed.
_CAPABILITIES = frozenset(
    {
        0,  # CHOWN
        1,  # DAC_OVERRIDE
        3,  # FOWNER
        4,  # FSETID
        5,  # KILL
        6,  # SETGID
        7,  # SETUID
        8,  # SETPCAP
        10,  # NET_BIND_SERVICE
        13,  # NET_RAW
        18,  # SYS_CHROOT
        29,  # AUDIT_WRITE
        31,  # SETFCAP
    }
)

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


def build(config: dict[str, Any]) -> None:
    """Turn this process's fresh namespaces into a sandbox.

    :param config: `exposed` (host paths to show, read-only), `network`, and what `etc` takes.
    :raises OSError: the kernel refuses something.
    """
    socket.sethostname(config["hostname"])
    if not config["network"]:
        _raise_loopback()
    # /tmp is there on every machine, and hidden by its own mount for the moment that it takes.
    linux.mount("tmpfs", "/tmp", "tmpfs", linux.MS_NODEV, "mode=755")
    os.mkdir("/tmp" + _OLD)
    linux.pivot_root("/tmp", "/tmp" + _OLD)
    os.chdir("/")
    for name in _SYSTEM:
        _take(name)
    for path in config["exposed"]:
        _bind(Path(_OLD + path), Path(path))
    _make_directories(config["users"])
    os.mkdir("/etc")
    etc.show(Path("/etc"), Path(_OLD, "etc"), _bind)
    etc.write(Path("/etc"), config)
    etc.write_rights(Path("/etc"), config)
    _make_devices()
    _make_proc()
    linux.unmount(_OLD)
    os.rmdir(_OLD)
    linux.keep_capabilities(_CAPABILITIES)


def _take(name: str) -> None:
    source = Path(_OLD, name)
    if source.is_symlink():
        os.symlink(os.readlink(source), f"/{name}")
    elif source.is_dir():
        _bind(source, Path("/", name))


def _bind(source: Path, target: Path) -> None:
    """Show a file or directory of the host, read-only."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    linux.mount(str(source), str(target), flags=linux.MS_BIND | linux.MS_REC)
    linux.mount("", str(target), flags=linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | linux.MS_NODEV)


def _make_directories(users: dict[str, Any]) -> None:
    for path, mode in (
        ("/tmp", 0o1777),
        ("/var/tmp", 0o1777),
        ("/var/lib", 0o755),
        ("/var/log", 0o755),
        ("/var/cache", 0o755),
        ("/run/lock", 0o1777),
        ("/home", 0o755),
        ("/mnt", 0o755),
        ("/srv", 0o755),
    ):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
    os.symlink("/run", "/var/run")
    for user in users.values():
        os.makedirs(user["home"], exist_ok=True)
        os.chown(user["home"], user["uid"], user["gid"])
        # Others may pass through (not look in): a host's Python may be shown below /root.
        os.chmod(user["home"], 0o755 if user["uid"] else 0o711)


def _make_devices() -> None:
    os.mkdir("/dev")
    for name in _DEVICES:
        Path("/dev", name).touch()
        linux.mount(f"{_OLD}/dev/{name}", f"/dev/{name}", flags=linux.MS_BIND)
    os.mkdir("/dev/pts")
    flags = linux.MS_NOSUID | linux.MS_NOEXEC
    linux.mount("devpts", "/dev/pts", "devpts", flags, "newinstance,ptmxmode=0666")
    os.symlink("pts/ptmx", "/dev/ptmx")
    os.mkdir("/dev/shm")
    linux.mount("tmpfs", "/dev/shm", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")
    for link, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"/dev/{link}")


def _make_proc() -> None:
    os.mkdir("/proc")
    linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    flags = linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
    for name in _READ_ONLY_PROC:
        path = f"/proc/{name}"
        if os.path.exists(path):
            # The sandbox's root is the host's by number: it could switch the machine off here.
            linux.mount(path, path, flags=linux.MS_BIND | linux.MS_REC)
            linux.mount("", path, flags=flags | linux.MS_NOEXEC)
    for name in _EMPTY_PROC:
        path = f"/proc/{name}"
        if os.path.exists(path):
            linux.mount("/dev/null", path, flags=linux.MS_BIND)


def _raise_loopback() -> None:
    """Switch `lo` on: in a new network namespace it is off."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, request)
        (flags,) = struct.unpack("16xh14x", answer)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
