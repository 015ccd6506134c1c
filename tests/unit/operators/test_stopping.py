"""Stopping a sandbox, which may be gone."""

import logging

import httpx
import pytest

from airflow_provider_sbx.api import errors
from airflow_provider_sbx.client import SandboxClient
from airflow_provider_sbx.operators.stopping import stop_if_possible, stop_if_there
from tests.unit.builders import API_KEY, CONTROL, SANDBOX

STOP = ("PUT", f"/api/sandbox/{SANDBOX}/stop")
LOG = logging.getLogger("stopping")


@pytest.fixture
def client(network):
    with SandboxClient(API_KEY, CONTROL) as client:
        yield client


@pytest.mark.parametrize("stop", [stop_if_there, stop_if_possible])
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (httpx.Response(200, json={"success": True}), "Stopped sandbox sb-1."),
        (httpx.Response(404, json={"error": "x"}), "Sandbox sb-1 is gone already"),
        (httpx.Response(409, json={"error": "x", "code": "sandbox_not_running"}), "is gone already"),
    ],
)
def test_one_that_is_gone_is_as_good_as_stopped(network, client, caplog, stop, answer, says):
    network.queue(*STOP, answer)
    with caplog.at_level("INFO"):
        stop(client, SANDBOX, LOG)

    assert says in caplog.text


def test_one_that_can_not_be_stopped_is_an_error_or_a_warning(network, client, caplog):
    network.queue(*STOP, *[httpx.Response(400, json={"error": "odd"})] * 2)

    with pytest.raises(errors.ServiceError):
        stop_if_there(client, SANDBOX, LOG)
    stop_if_possible(client, SANDBOX, LOG)
    assert "could not be stopped; it ends at its timeout_minutes" in caplog.text
