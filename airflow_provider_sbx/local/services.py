"""What the handlers of requests work with."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from airflow_provider_sbx.local.auth import Gatekeeper
from airflow_provider_sbx.local.isolation.rooms import Isolation
from airflow_provider_sbx.local.sandboxes import SandboxStore
from airflow_provider_sbx.local.settings import Settings
from airflow_provider_sbx.local.stored_secrets import SecretStore


@dataclass(frozen=True)
class Services:
    """A running server's parts."""

    settings: Settings
    isolation: Isolation
    sandboxes: SandboxStore
    gatekeeper: Gatekeeper
    secrets: SecretStore

    @classmethod
    def of(cls, request: Request) -> Services:
        """Return the services of the server that a request came to."""
        services = request.app.state.services
        assert isinstance(services, cls)
        return services
