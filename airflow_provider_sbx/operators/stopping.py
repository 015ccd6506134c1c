"""Stopping a sandbox where its loss is no failure: it may be gone already, and it ends by itself."""

from __future__ import annotations

from typing import Any

from airflow_provider_sbx.api.errors import NotFoundError, SandboxNotRunningError, ServiceError
from airflow_provider_sbx.operations import SandboxOperations


def stop_if_there(service: SandboxOperations, sandbox_id: str, log: Any) -> None:
    """Stop a sandbox and say so in the log; one that is gone has nothing to be stopped.

    :raises ServiceError: the service could not be asked, or refused.
    """
    try:
        service.stop_sandbox(sandbox_id)
    except (NotFoundError, SandboxNotRunningError) as error:
        log.info("Sandbox %s is gone already: nothing to stop. %s", sandbox_id, error)
    else:
        log.info("Stopped sandbox %s.", sandbox_id)


def stop_if_possible(service: SandboxOperations, sandbox_id: str, log: Any) -> None:
    """Stop a sandbox, or say in the log why it could not be."""
    try:
        stop_if_there(service, sandbox_id, log)
    except ServiceError as error:
        log.warning("Sandbox %s could not be stopped; it ends at its timeout_minutes. %s", sandbox_id, error)
