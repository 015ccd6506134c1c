"""The server as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from airflow_provider_sbx.api.models import SandboxSpec
from airflow_provider_sbx.local import answers, control, pages, runtime
from airflow_provider_sbx.local.auth import Gatekeeper
from airflow_provider_sbx.local.errors import ApiError
from airflow_provider_sbx.local.gate import Gate
from airflow_provider_sbx.local.isolation.choosing import choose
from airflow_provider_sbx.local.isolation.rooms import Isolation
from airflow_provider_sbx.local.sandboxes import SandboxStore
from airflow_provider_sbx.local.services import Services
from airflow_provider_sbx.local.settings import Settings
from airflow_provider_sbx.local.stored_secrets import SecretStore


def create_app(settings: Settings, isolation: Isolation | None = None) -> ASGIApp:
    """Return a server to run with uvicorn or another ASGI server: asyncio, on Linux, with lifespan.

    :param isolation: what `choose` returned; by default it is asked when the server starts.
    """
    gatekeeper = Gatekeeper(settings.api_key, settings.token_seconds)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        chosen = isolation or await choose(settings.isolation)
        sandboxes = SandboxStore(settings, chosen)
        app.state.settings = settings
        app.state.services = Services(
            settings=settings,
            isolation=chosen,
            sandboxes=sandboxes,
            gatekeeper=gatekeeper,
            secrets=SecretStore(settings.secrets, settings.vaults),
        )
        try:
            for sandbox_id in settings.sandbox_ids:
                await sandboxes.create(SandboxSpec(image_name="python"), sandbox_id)
            yield
        finally:
            await sandboxes.close()

    app = Starlette(
        routes=[*control.ROUTES, *runtime.ROUTES, *pages.ROUTES],
        exception_handlers={
            ApiError: answers.refuse,
            HTTPException: answers.refuse_http,
            Exception: answers.fail,
        },
        lifespan=lifespan,
    )
    # Where a path does not exist with a slash at its end, it doesn't exist: no redirects, which
    # would carry a key to wherever they point.
    app.router.redirect_slashes = False
    return Gate(app, gatekeeper, allow_remote=settings.allow_remote, allowed_hosts=settings.allowed_hosts)
