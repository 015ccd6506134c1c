"""From a connection, or the environment, to settings."""

import asyncio
import json

import pytest
from airflow.exceptions import AirflowNotFoundException

from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.api.planes import VENDOR_URL
from airflow_provider_sbx.api.retrying import RetryPolicy
from airflow_provider_sbx.client import DEFAULT_REQUEST_TIMEOUT_SECONDS
from airflow_provider_sbx.hooks.sandbox import SandboxAsyncHook, SandboxHook
from tests.unit.builders import API_KEY


@pytest.fixture(params=["sync", "async"])
def settings_of(request):
    """Read a connection's settings by either hook."""

    def read(conn_id="sbx_default"):
        if request.param == "sync":
            return SandboxHook(conn_id).settings
        return asyncio.run(SandboxAsyncHook(conn_id).read_settings())

    return read


@pytest.fixture
def connection(monkeypatch):
    """Provide a connection as Airflow's environment variables do: by JSON, or by URI."""

    def provide(conn_id="sbx_default", uri=None, *, extra=None, **fields):
        if uri is None:
            fields = {"conn_type": "sbx", "password": API_KEY} | fields
            uri = json.dumps(fields | ({"extra": extra} if extra is not None else {}))
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", uri)

    return provide


def test_a_connection_gives_key_address_and_defaults(settings_of, connection):
    connection("mine", host="https://h.test")

    settings = settings_of("mine")

    assert (settings.api_key, settings.base_url) == (API_KEY, "https://h.test/api")
    assert settings.sandbox_id is None
    assert settings.request_timeout_seconds == DEFAULT_REQUEST_TIMEOUT_SECONDS
    assert settings.policy == RetryPolicy()


def test_a_connection_without_a_host_means_the_vendors_service(settings_of, connection):
    connection("mine")

    assert settings_of("mine").base_url == f"{VENDOR_URL}/api"


def test_the_extra_names_a_sandbox_and_times(settings_of, connection):
    extra = {"sandbox_id": "sb-9", "request_timeout_seconds": "12", "patience_seconds": 90}
    connection("mine", extra=extra)

    settings = settings_of("mine")

    assert (settings.sandbox_id, settings.request_timeout_seconds) == ("sb-9", 12.0)
    assert settings.policy.patience_seconds == 90


@pytest.mark.parametrize("conn_id", ["sbx_default", "mine"])
@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"conn_type": "http", "host": "example.org"}, "http"),
        ({"conn_type": "http", "password": None}, "http"),
        ({"uri": f"http://:{API_KEY}@example.org"}, "http"),
        ({"uri": f"google-cloud-platform://:{API_KEY}@example.org"}, "google_cloud_platform"),
    ],
)
def test_the_password_of_a_connection_of_another_type_is_not_taken_for_a_key(
    settings_of, connection, monkeypatch, conn_id, fields, kind
):
    monkeypatch.setenv("HYPERBROWSER_API_KEY", "key-of-the-environment")
    connection(conn_id, **fields)

    with pytest.raises(InvalidParameterError) as caught:
        settings_of(conn_id)
    assert str(caught.value) == (
        f"connection '{conn_id}': its type is '{kind}', and not 'sbx'. "
        "Name a connection to the sandbox service, or set the type of this one to Sandbox."
    )


@pytest.mark.parametrize("kind", [None, ""])
def test_a_connection_that_is_written_without_a_type_may_be_ours(settings_of, connection, kind):
    connection("mine", conn_type=kind)

    assert settings_of("mine").api_key == API_KEY


def test_empty_extras_are_missing_ones(settings_of, connection):
    connection("mine", extra={"sandbox_id": "", "request_timeout_seconds": None, "patience_seconds": ""})

    assert settings_of("mine").sandbox_id is None


@pytest.mark.parametrize("name", ["request_timeout_seconds", "patience_seconds"])
@pytest.mark.parametrize("bad", ["soon", 0, -1, "nan", "inf", [5], 1e9])
def test_a_time_in_the_extra_that_can_not_be_one_is_refused_by_name(settings_of, connection, name, bad):
    connection("mine", extra={name: bad})

    with pytest.raises(InvalidParameterError, match=rf"connection 'mine', extra {name}"):
        settings_of("mine")


def test_the_extra_limits_the_streams(settings_of, connection):
    connection("mine")
    assert settings_of("mine").max_streams == 1000
    for written in (250, "250", " 250 "):
        connection("mine", extra={"max_streams": written})
        assert settings_of("mine").max_streams == 250
    connection("mine", extra={"max_streams": ""})
    assert settings_of("mine").max_streams == 1000


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "many", "1.5", "-3", [5]])
def test_a_limit_of_streams_that_can_not_be_one_is_refused_by_name_with_the_remedy(
    settings_of, connection, bad
):
    connection("mine", extra={"max_streams": bad})

    with pytest.raises(InvalidParameterError) as caught:
        settings_of("mine")
    assert str(caught.value).startswith(
        f"connection 'mine', extra max_streams: {bad!r} is not a whole number"
    )
    assert "leave it out for 1000" in str(caught.value)


def test_a_sandbox_in_the_extra_that_is_no_text_is_refused_by_name(settings_of, connection):
    connection("mine", extra={"sandbox_id": 5})

    with pytest.raises(InvalidParameterError, match="extra sandbox_id"):
        settings_of("mine")


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "https://h.test/api"}, "https://h.test/api"),
        ({"host": "h.test"}, "https://h.test/api"),
        ({"host": "h.test", "port": 8443}, "https://h.test:8443/api"),
        ({"host": "127.0.0.1", "port": 8000, "schema": "http"}, "http://127.0.0.1:8000/api"),
        ({"host": "http://127.0.0.1:8000"}, "http://127.0.0.1:8000/api"),
        ({"host": "http://127.0.0.1:8000", "port": 443}, "http://127.0.0.1:8000/api"),
        ({"host": "https://h.test/api", "port": 8443}, "https://h.test:8443/api"),
        ({"port": 443}, f"{VENDOR_URL}/api"),
        ({"uri": f"sbx://:{API_KEY}@h.test"}, "https://h.test/api"),
        ({"uri": f"sbx://:{API_KEY}@127.0.0.1:8000/http"}, "http://127.0.0.1:8000/api"),
        ({"uri": f"sbx://:{API_KEY}@http%3A%2F%2F127.0.0.1%3A8000"}, "http://127.0.0.1:8000/api"),
    ],
)
def test_the_address_may_be_written_in_any_form_that_a_connection_has(settings_of, connection, fields, url):
    connection("mine", **fields)

    settings = settings_of("mine")

    assert (settings.base_url, settings.api_key) == (url, API_KEY)


@pytest.mark.parametrize("host", ["ftp://h.test", "http://h.test:port", "https://user:hunter2@h.test"])
def test_a_host_that_can_not_be_one_is_refused_by_the_connections_name(settings_of, connection, host):
    connection("mine", host=host)

    with pytest.raises(InvalidParameterError, match="connection 'mine', host") as caught:
        settings_of("mine")
    assert "hunter2" not in str(caught.value)


# --- precedence ------------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["", None])
@pytest.mark.parametrize("conn_id", ["sbx_default", "mine"])
def test_a_half_filled_connection_is_an_error_even_where_the_environment_has_a_key(
    settings_of, connection, monkeypatch, conn_id, password
):
    monkeypatch.setenv("HYPERBROWSER_API_KEY", "key-of-the-environment")
    connection(conn_id, password=password, host="https://h.test")

    with pytest.raises(InvalidParameterError, match=f"connection '{conn_id}'.*password"):
        settings_of(conn_id)


def test_a_missing_default_connection_falls_back_to_the_environment(settings_of, monkeypatch):
    monkeypatch.setenv("HYPERBROWSER_API_KEY", "key-of-the-environment")

    settings = settings_of()

    assert (settings.api_key, settings.base_url) == ("key-of-the-environment", f"{VENDOR_URL}/api")


@pytest.mark.parametrize("base", ["https://h.test", "https://h.test/api"])
def test_the_environment_may_name_the_address_as_well(settings_of, monkeypatch, base):
    monkeypatch.setenv("HYPERBROWSER_API_KEY", "key-of-the-environment")
    monkeypatch.setenv("HYPERBROWSER_BASE_URL", base)

    assert settings_of().base_url == "https://h.test/api"


def test_an_address_of_the_environment_that_can_not_be_one_is_refused_by_its_name(settings_of, monkeypatch):
    monkeypatch.setenv("HYPERBROWSER_API_KEY", "key-of-the-environment")
    monkeypatch.setenv("HYPERBROWSER_BASE_URL", "ftp://h.test")

    with pytest.raises(InvalidParameterError, match="HYPERBROWSER_BASE_URL"):
        settings_of()


def test_neither_a_default_connection_nor_a_key_says_what_to_do(settings_of):
    with pytest.raises(AirflowNotFoundException, match=r"'sbx_default'.*HYPERBROWSER_API_KEY"):
        settings_of()


def test_the_default_connection_wins_over_the_environment(settings_of, connection, monkeypatch):
    monkeypatch.setenv("HYPERBROWSER_API_KEY", "key-of-the-environment")
    connection()

    assert settings_of().api_key == API_KEY


def test_a_missing_named_connection_is_an_error_whatever_the_environment_has(settings_of, monkeypatch):
    monkeypatch.setenv("HYPERBROWSER_API_KEY", "key-of-the-environment")

    with pytest.raises(AirflowNotFoundException, match="sbx_conn_id: there is no connection 'other'"):
        settings_of("other")


def test_the_key_stands_in_no_repr(settings_of, connection):
    connection("mine")

    assert API_KEY not in repr(settings_of("mine"))
