"""For the unit tests: they write into no person's home, and no key of the machine's leaks into them."""

import atexit
import os
import shutil
import tempfile

import httpx
import httpx_aiohttp
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

# Airflow makes its home as soon as it is imported, which nothing above does.
_home = tempfile.mkdtemp(prefix="sbx-unit-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ["AIRFLOW_HOME"] = _home

from airflow_provider_sbx.compat import default_deferrable  # noqa: E402  # not before the home is set
from tests.unit.client.twins import Service  # noqa: E402  # the same

# The machine may be busy with others: a slow example is no failure.
set_hypothesis_home_dir(tempfile.gettempdir())  # else it writes into the checkout
settings.register_profile(
    "unit", deadline=None, max_examples=80, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("AIRFLOW_CONN_", "HYPERBROWSER_")):
            monkeypatch.delenv(name)


@pytest.fixture
def deferring_by_default(monkeypatch):
    """An Airflow whose configuration has operators defer; it is read once."""
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "True")
    default_deferrable.cache_clear()
    yield
    default_deferrable.cache_clear()


@pytest.fixture
def service():
    """A sandbox service at the transport of a client."""
    return Service()


@pytest.fixture
def network(monkeypatch, service):
    """Let the service stand where the network of every client is."""

    async def answer(_, request):
        return service.answer(request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda _, request: service.answer(request))
    monkeypatch.setattr(httpx_aiohttp.AiohttpTransport, "handle_async_request", answer)
    return service
