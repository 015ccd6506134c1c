"""What sends the requests of the client for an event loop."""

import asyncio.sslproto

import httpx
import pytest

from airflow_provider_sbx.client import connections
from airflow_provider_sbx.client.connections import TLS_BUFFER_VARIABLE, Connections, shrink_tls_buffers
from tests.unit.client.twins import Chunks

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture
def tls_buffer(monkeypatch):
    """Return what the buffer's size is once a variable is set, and put it back at the end."""
    monkeypatch.setattr(asyncio.sslproto.SSLProtocol, "max_size", 256 * 1024)

    def size_with(value):
        monkeypatch.setenv(TLS_BUFFER_VARIABLE, value)
        shrink_tls_buffers()
        return asyncio.sslproto.SSLProtocol.max_size

    return size_with


@pytest.mark.parametrize(("asked", "kib"), [("", 256), ("64", 64), ("1", 16), ("much", 256)])
def test_tls_buffers_are_as_small_as_is_asked_for(tls_buffer, asked, kib):
    assert tls_buffer(asked) == kib * 1024


@pytest.mark.parametrize("proxy", [None, "http://proxy.test:3128"])
async def test_a_proxy_is_looked_for_only_where_there_is_one(monkeypatch, proxy):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    if proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy)

    async with connections._session() as session:
        assert session.trust_env is bool(proxy)


@pytest.mark.parametrize("trouble", [None, httpx.ReadError("cut")])
async def test_an_answer_is_closed_once_it_is_read_or_broke(trouble):
    body = Chunks(b"a", *([trouble] if trouble else []))

    async def answer(_):
        return httpx.Response(200, stream=body)

    sender = Connections(httpx.MockTransport(answer))
    try:
        response = await sender.send(httpx.Request("GET", "https://x.test"))
    except httpx.ReadError:
        assert trouble
    else:
        assert response.content == b"a"
    assert body.closed


async def test_closing_closes_the_transport():
    class Transport(httpx.AsyncBaseTransport):
        closed = False

        async def aclose(self):
            self.closed = True

    transport = Transport()
    sender = Connections(transport)
    assert not sender.is_closed

    await sender.aclose()

    assert sender.is_closed
    assert transport.closed
