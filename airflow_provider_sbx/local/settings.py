"""How a server is set up. Each field is an option of `sbx-local serve`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

# It is part of a path, and of a host name in the other shape.
_SANDBOX_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")

MIB = 1024 * 1024


class BaseUrlStyle(StrEnum):
    """Where a sandbox's runtime plane is: at a path of the server's host, or at a host of its own."""

    PATH = "path"
    HOST = "host"


class IsolationKind(StrEnum):
    """How commands are kept apart from the host; `auto` takes the strongest that works."""

    AUTO = "auto"
    NAMESPACES = "namespaces"
    BUBBLEWRAP = "bubblewrap"
    NONE = "none"


@dataclass(frozen=True)
class Settings:
    """What a server is started with.

    :param api_key: what clients of the control plane must send; never empty.
    :param isolation: how commands are kept apart from the host.
    :param base_url_style: the shape of `runtime.baseUrl`.
    :param token_seconds: how long a runtime token opens its sandbox, in seconds.
    :param plain_starts: answer JSON to a streaming start, as an older receiver does.
    :param replay_bytes: how much output is kept for later readers, a process.
    :param retained_bytes: how much output is kept of all ended processes together.
    :param kept_processes: how many ended processes a sandbox remembers.
    :param max_processes: how many processes run at once in a sandbox; more are queued.
    :param heartbeat_seconds: how often a quiet stream carries a comment, in seconds.
    :param wait_seconds: how long `wait` holds a request that names no time, in seconds.
    :param drain_seconds: how long a pipe that a background process holds open must be silent
        after the command's end for its output to count as complete, in seconds.
    :param max_body_bytes: the longest request body.
    :param sandbox_ids: sandboxes that are there from the start.
    :param secrets: stored secrets: name -> values, the first version first.
    :param vaults: vault -> environment variable -> name of a secret.
    :param allow_remote: listen beyond loopback, for clients elsewhere.
    :param allowed_hosts: names, beside loopback's own, by which clients may call the server.
    """

    api_key: str = field(repr=False)
    isolation: IsolationKind = IsolationKind.AUTO
    base_url_style: BaseUrlStyle = BaseUrlStyle.PATH
    token_seconds: float = 3600.0
    plain_starts: bool = False
    replay_bytes: int = 2 * MIB
    retained_bytes: int = 256 * MIB
    kept_processes: int = 10_000
    max_processes: int = 1000
    heartbeat_seconds: float = 15.0
    wait_seconds: float = 30.0
    drain_seconds: float = 0.25
    max_body_bytes: int = 16 * MIB
    sandbox_ids: tuple[str, ...] = ()
    secrets: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    vaults: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    allow_remote: bool = False
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what could not work.

        :raises ValueError: an option can't be so.
        """
        for sandbox_id in self.sandbox_ids:
            if not _SANDBOX_ID.fullmatch(sandbox_id):
                raise ValueError(f"{sandbox_id!r} is not a sandbox id: use a-z, 0-9 and -, 60 at most")
        if len(set(self.sandbox_ids)) < len(self.sandbox_ids):
            raise ValueError("each sandbox id can be given once")
        if not self.api_key.strip():
            raise ValueError("an API key is needed: --api-key or SBX_LOCAL_API_KEY")
        for name in ("token_seconds", "heartbeat_seconds", "wait_seconds", "drain_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0")
        for name in ("replay_bytes", "max_processes", "max_body_bytes", "kept_processes", "retained_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
