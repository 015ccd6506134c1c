"""Sandboxes: made, shown, timed out, stopped."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airflow_provider_sbx.api.models import SandboxSpec, SandboxStatus
from airflow_provider_sbx.local.errors import ApiError, sandbox_not_found, sandbox_not_running
from airflow_provider_sbx.local.isolation.agents import Agent, AgentError
from airflow_provider_sbx.local.isolation.rooms import Isolation
from airflow_provider_sbx.local.pipes import now_ms
from airflow_provider_sbx.local.settings import Settings
from airflow_provider_sbx.local.tables import ProcessTable, Retention

log = logging.getLogger("sbx-local")

DEFAULT_REGION = "us"
TEAM_ID = "team-local"
_KEPT_CLOSED = 1000


def iso(ms: int) -> str:
    """Return a time in milliseconds since 1970 as the service writes it."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Addresses:
    """Where a client that called this server finds a sandbox.

    :param base_url: its runtime plane.
    :param session_url: its page for people.
    """

    base_url: str
    session_url: str


class Sandbox:
    """A sandbox: its spec, its agent, its processes."""

    def __init__(self, sandbox_id: str, spec: SandboxSpec, agent: Agent, table: ProcessTable) -> None:
        self.id = sandbox_id
        self.spec = spec
        self.table = table
        self.status = SandboxStatus.ACTIVE
        self.contains_secrets = spec.secrets is not None or spec.vault is not None
        self.created_at = self.updated_at = now_ms()
        self.ended_at: int | None = None
        self.close_reason: str | None = None
        self._agent = agent
        self._closing: asyncio.Task[None] | None = None
        self._watching = asyncio.ensure_future(self._watch())
        self._timer: asyncio.TimerHandle | None = None
        if spec.timeout_minutes is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(spec.timeout_minutes * 60, 10**9), self._expire)

    @property
    def is_active(self) -> bool:
        """Whether it runs."""
        return self.status is SandboxStatus.ACTIVE

    def processes(self) -> ProcessTable:
        """Return its processes.

        :raises ApiError: it has been stopped.
        """
        if not self.is_active:
            raise sandbox_not_running(self.id)
        return self.table

    def detail(self, addresses: Addresses, token: tuple[str, int] | None) -> dict[str, Any]:
        """Return what the control plane shows.

        :param token: a token of its runtime plane and when that ends, in milliseconds since 1970.
        """
        spec = self.spec
        end = self.ended_at or now_ms()
        body: dict[str, Any] = {
            "id": self.id,
            "teamId": TEAM_ID,
            "status": self.status.value,
            "region": spec.region or DEFAULT_REGION,
            "createdAt": iso(self.created_at),
            "updatedAt": iso(self.updated_at),
            "startTime": self.created_at,
            "endTime": self.ended_at,
            "closeReason": self.close_reason,
            "timeoutMinutes": spec.timeout_minutes,
            "duration": (end - self.created_at) // 1000,
            "sessionUrl": addresses.session_url,
            "vcpus": spec.cpu or 2,
            "memMiB": spec.memory_mib or 4096,
            "diskSizeMiB": spec.disk_mib or 8192,
            "runtime": {
                "transport": "regional_proxy",
                "host": addresses.base_url.split("/")[2],
                "baseUrl": addresses.base_url,
            },
            "exposedPorts": [
                {"port": p.port, "auth": bool(p.auth), "url": f"http://127.0.0.1:{p.port}/"}
                for p in spec.exposed_ports or ()
            ],
            "network": {
                "allowInternetAccess": spec.allow_internet_access is not False,
                "allowOut": spec.allow_out or [],
                "denyOut": spec.deny_out or [],
            },
            "containsSecrets": self.contains_secrets,
        }
        if token is not None:
            body |= {"token": token[0], "tokenExpiresAt": iso(token[1])}
        return body

    async def close(self, reason: str) -> None:
        """Stop it, with everything in it. Once is enough: a second call waits for the first."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close(reason))
        await asyncio.shield(self._closing)

    async def _close(self, reason: str) -> None:
        self.status = SandboxStatus.CLOSED
        self.close_reason = reason
        self.ended_at = self.updated_at = now_ms()
        if self._timer is not None:
            self._timer.cancel()
        self._watching.cancel()
        await self.table.close()
        await self._agent.end()
        await self.table.forget()
        log.info("sandbox %s closed: %s", self.id, reason)

    def _expire(self) -> None:
        self._closing = self._closing or asyncio.ensure_future(self._close("timeout"))

    async def _watch(self) -> None:
        await self._agent.wait()
        # Its first process is gone, so is everything else: say so rather than answer for the dead.
        await self.close("the sandbox ended unexpectedly")


class SandboxStore:
    """All sandboxes of a server.

    :param isolation: how they are kept apart from the host.
    """

    def __init__(self, settings: Settings, isolation: Isolation) -> None:
        self._settings = settings
        self._isolation = isolation
        self._retention = Retention(settings.retained_bytes)
        self._sandboxes: dict[str, Sandbox] = {}

    async def create(self, spec: SandboxSpec, sandbox_id: str | None = None) -> Sandbox:
        """Make a sandbox.

        :param sandbox_id: its id; a new one by default.
        :raises ApiError: the machine does not allow it.
        """
        sandbox_id = sandbox_id or f"sbx-{secrets.token_hex(8)}"
        room = self._isolation.room(sandbox_id, network=spec.allow_internet_access is not False)
        began = time.monotonic()
        try:
            agent = await Agent.start(room)
        except AgentError as error:
            raise ApiError(503, "sandbox_unavailable", f"The sandbox could not be made: {error}") from error
        table = ProcessTable(agent, room, self._settings, self._retention)
        sandbox = Sandbox(sandbox_id, spec, agent, table)
        self._sandboxes[sandbox_id] = sandbox
        self._forget_old()
        log.info("sandbox %s made in %d ms", sandbox_id, round((time.monotonic() - began) * 1000))
        return sandbox

    def get(self, sandbox_id: str) -> Sandbox:
        """Return a sandbox, running or not.

        :raises ApiError: there is none of this id.
        """
        try:
            return self._sandboxes[sandbox_id]
        except KeyError:
            raise sandbox_not_found(sandbox_id) from None

    def all(self) -> list[Sandbox]:
        """Return every sandbox, the newest first."""
        return list(reversed(self._sandboxes.values()))

    def _forget_old(self) -> None:
        closed = [sandbox.id for sandbox in self._sandboxes.values() if not sandbox.is_active]
        for sandbox_id in closed[:-_KEPT_CLOSED]:
            self._sandboxes.pop(sandbox_id).table.drop()

    async def close(self) -> None:
        """Stop every sandbox."""
        await asyncio.gather(*(s.close("the server stopped") for s in self._sandboxes.values()))
