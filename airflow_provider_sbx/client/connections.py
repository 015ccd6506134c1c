"""The connections of the client for an event loop: httpx's requests and answers on aiohttp.

httpx's own pool looks through all of its connections at each request, which takes milliseconds where
a thousand streams are held; aiohttp's does not.
"""

from __future__ import annotations

import asyncio.sslproto
import os
import urllib.request

import aiohttp
import httpx
import httpx_aiohttp

from airflow_provider_sbx.client.wire import KEEPALIVE_SECONDS, Failures, tls_context

TLS_BUFFER_VARIABLE = "SBX_TLS_BUFFER_KIB"
"""The environment variable that makes asyncio's buffer of each TLS connection smaller, in KiB.

asyncio gives each 256 KiB, which is most of what an open stream holds, and has no option for it: the
size is an undocumented attribute, for all connections of the process. So it is the user's choice.
"""

_LEAST_TLS_BUFFER_KIB = 16  # the largest record that TLS has


class Connections:
    """Sends requests, as an `httpx.AsyncClient` does, and no more than that.

    What that has beyond its transport (cookies, redirects, logins) the service does not use, and it
    takes a third of the time of a request.

    :param transport: an httpx transport instead of the network's, for tests.
    """

    failures = Failures(
        kinds=(aiohttp.ClientError,), unsent=(aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
    )

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._transport = transport or httpx_aiohttp.AiohttpTransport(verify=tls_context(), client=_session)
        self.is_closed = False

    async def send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        """Return the answer.

        :param stream: don't read its body; whoever asks for it must close it.
        """
        response = await self._transport.handle_async_request(request)
        if not stream:
            try:
                await response.aread()
            finally:
                await response.aclose()
        return response

    async def aclose(self) -> None:
        """Close all of them."""
        self.is_closed = True
        await self._transport.aclose()


def shrink_tls_buffers() -> None:
    """Make the buffers of connections yet to come as small as the environment asks for, if it does."""
    asked = os.environ.get(TLS_BUFFER_VARIABLE, "")
    if asked.isdigit() and hasattr(asyncio.sslproto.SSLProtocol, "max_size"):
        asyncio.sslproto.SSLProtocol.max_size = max(int(asked), _LEAST_TLS_BUFFER_KIB) * 1024


def _session() -> aiohttp.ClientSession:
    shrink_tls_buffers()
    # Called on the loop at the first request: a session belongs to one loop.
    return aiohttp.ClientSession(
        # The default limit of 100 would make the 101st stream wait for another's end.
        connector=aiohttp.TCPConnector(limit=0, ssl=tls_context(), keepalive_timeout=KEEPALIVE_SECONDS),
        # The service sets no cookie to send back, and the jar would be shared by all sandboxes.
        cookie_jar=aiohttp.DummyCookieJar(),
        # HTTP(S)_PROXY, as the synchronous twin has it; but only where there is one, since aiohttp looks
        # for it in a thread at each request, which takes more time than the request.
        trust_env=bool(urllib.request.getproxies()),
        # A PUT without a body would be said to bring `application/octet-stream`, which a service that
        # takes JSON alone may refuse with 415.
        skip_auto_headers=("Content-Type",),
    )
