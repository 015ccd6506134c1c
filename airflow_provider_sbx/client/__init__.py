"""`SandboxClient` and `AsyncSandboxClient`: thin httpx twins that send what `api` decides.

The synchronous one is plain httpx. The asynchronous one is httpx on aiohttp's transport, since
httpx's own pool takes time linear in its connections: with a thousand streams held, one more
request costs it twenty times what it costs aiohttp.
"""

from airflow_provider_sbx.api.retrying import DEFAULT_REQUEST_TIMEOUT_SECONDS
from airflow_provider_sbx.client.asynchronous import AsyncSandboxClient
from airflow_provider_sbx.client.synchronous import SandboxClient
from airflow_provider_sbx.client.wire import StartedStream

__all__ = ["DEFAULT_REQUEST_TIMEOUT_SECONDS", "AsyncSandboxClient", "SandboxClient", "StartedStream"]
