"""A sandbox's `/etc`: its own users and rights, and of the host's files those that programs need."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Configuration that programs look for. Nothing that holds a key, a password or a peer.
SHOWN = (
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "bash.bashrc",
    "debian_version",
    "default/locale",
    "dpkg/origins",
    "fonts",
    "gai.conf",
    "host.conf",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "localtime",
    "lsb-release",
    "magic",
    "mailcap",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "perl",
    "pki/tls/certs",
    "pki/ca-trust/extracted",
    "profile",
    "profile.d",
    "protocols",
    "rpc",
    "security",
    "services",
    "shells",
    "skel",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
)
_PREFIXES = ("java", "python", "lua", "ImageMagick")

_SUDOERS = """\
Defaults env_reset, !lecture, !use_pty
Defaults secure_path="{path}"
root ALL=(ALL:ALL) ALL
"""
_KINDS = ("auth", "account", "password", "session")
_PERMIT = "".join(f"{kind} sufficient pam_permit.so\n" for kind in _KINDS)
_PAM = {
    "sudo": _PERMIT,  # who may is decided by sudoers
    "su": "auth sufficient pam_rootok.so\nauth required pam_deny.so\n" + _PERMIT.partition("\n")[2],
    "other": "".join(f"{kind} required pam_deny.so\n" for kind in _KINDS),
}


def show(etc: Path, host: Path, bind: Callable[[Path, Path], None]) -> None:
    """Show what programs need of the host's `/etc` in the sandbox's.

    :param bind: shows a file or a directory, read-only.
    """
    more = {path.name for path in host.iterdir() if path.name.startswith(_PREFIXES)}
    for name in sorted({*SHOWN, *more}):
        source, target = host / name, etc / name
        if source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(os.readlink(source), target)
        elif source.exists():
            bind(source, target)


def write(etc: Path, config: dict[str, Any]) -> None:
    """Write the sandbox's own files.

    :param config: `users`, `hostname`, `path`; `hosts` and `resolver` as the host's files read.
    """
    users: dict[str, Any] = config["users"]
    _file(etc / "passwd", "".join(_passwd(name, user) for name, user in users.items()) + _NOBODY)
    _file(etc / "group", "".join(f"{name}:x:{user['gid']}:\n" for name, user in users.items()) + _GROUPS)
    _file(etc / "hostname", f"{config['hostname']}\n")
    _file(etc / "hosts", f"127.0.0.1 localhost {config['hostname']}\n::1 localhost\n{config['hosts']}")
    _file(etc / "resolv.conf", config["resolver"])
    _file(etc / "environment", f'PATH="{config["path"]}"\n')


def write_rights(etc: Path, config: dict[str, Any]) -> None:
    """Write who may become whom; for a sandbox with more than one user.

    :param config: `users`, `path`.
    """
    users: dict[str, Any] = config["users"]
    _file(etc / "shadow", "".join(f"{name}:*:19000:0:99999:7:::\n" for name in users), 0o600)
    for service, rules in _PAM.items():
        _file(etc / "pam.d" / service, rules)
    sudoers = _SUDOERS.format(path=config["path"])
    sudoers += "".join(f"{name} ALL=(ALL:ALL) NOPASSWD: ALL\n" for name in users if name != "root")
    _file(etc / "sudoers", sudoers, 0o440)


_NOBODY = "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
_GROUPS = "tty:x:5:\nnogroup:x:65534:\n"


def _passwd(name: str, user: dict[str, Any]) -> str:
    return f"{name}:x:{user['uid']}:{user['gid']}:{name}:{user['home']}:/bin/bash\n"


def _file(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
