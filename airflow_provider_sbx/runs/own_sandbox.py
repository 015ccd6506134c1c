"""The sandbox that is made for a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_sbx.api.errors import InvalidParameterError, NotFoundError
from airflow_provider_sbx.api.models import Sandbox, SandboxSpec

if TYPE_CHECKING:
    from airflow_provider_sbx.client import AsyncSandboxClient


async def make_sandbox(client: AsyncSandboxClient, spec: SandboxSpec) -> Sandbox:
    """Make a task's own sandbox.

    :raises InvalidParameterError: what it is to be made from is not there. Of a sandbox that was made and is
        gone, a retry makes another; this no retry can mend.
    :raises ServiceError: it could not be made.
    """
    try:
        return await client.create_sandbox(spec)
    except NotFoundError as error:
        raise InvalidParameterError(
            "sandbox", error.message, "Name an image or a snapshot that there is; see the service's lists."
        ) from error
