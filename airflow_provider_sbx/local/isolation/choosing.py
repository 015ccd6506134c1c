"""Which isolation a server uses."""

from __future__ import annotations

import logging

from airflow_provider_sbx.local.isolation.agents import Agent, AgentError
from airflow_provider_sbx.local.isolation.bubblewrap import Bubblewrap
from airflow_provider_sbx.local.isolation.namespaces import Namespaces
from airflow_provider_sbx.local.isolation.plain import Plain
from airflow_provider_sbx.local.isolation.rooms import Isolation
from airflow_provider_sbx.local.settings import IsolationKind

log = logging.getLogger("sbx-local")

_WAYS: dict[IsolationKind, type[Isolation]] = {
    IsolationKind.NAMESPACES: Namespaces,
    IsolationKind.BUBBLEWRAP: Bubblewrap,
    IsolationKind.NONE: Plain,
}


class IsolationUnavailableError(Exception):
    """The isolation that was asked for can't be had here."""


async def choose(kind: IsolationKind) -> Isolation:
    """Return the isolation asked for, or the strongest that works here.

    Each is tried by making a sandbox: what a machine allows can't be told from its version.

    :raises IsolationUnavailableError: what was asked for does not work.
    """
    candidates = list(_WAYS) if kind is IsolationKind.AUTO else [kind]
    reasons = []
    for candidate in candidates:
        isolation = _WAYS[candidate]()
        reason = isolation.obstacle() or await _try(isolation)
        if reason is None:
            for warning in isolation.warnings:
                log.warning("%s", warning)
            return isolation
        reasons.append(f"{candidate}: {reason}")
        log.info("isolation by %s is not possible: %s", candidate, reason)
    raise IsolationUnavailableError("; ".join(reasons))


async def _try(isolation: Isolation) -> str | None:
    try:
        agent = await Agent.start(isolation.room("probe", network=True))
    except AgentError as error:
        return str(error)
    await agent.end()
    return None
