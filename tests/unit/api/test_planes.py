from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.api.planes import VENDOR_URL, RuntimeAccess, control_url, runtime_url

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("host", [None, "", "  "])
def test_no_host_means_the_vendors_own(host):
    assert control_url(host) == f"{VENDOR_URL}/api"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("https://h.test", "https://h.test/api"),
        ("https://h.test/", "https://h.test/api"),
        ("https://h.test/api", "https://h.test/api"),
        ("https://h.test/api/", "https://h.test/api"),
        (" https://h.test ", "https://h.test/api"),
        ("h.test", "https://h.test/api"),
        ("h.test:8443", "https://h.test:8443/api"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/api"),
        ("https://h.test/proxy/sbx", "https://h.test/proxy/sbx/api"),
        ("http://[::1]:80", "http://[::1]:80/api"),
    ],
)
def test_an_address_may_be_written_with_or_without_scheme_and_api(host, url):
    assert control_url(host) == url


@pytest.mark.parametrize(
    "host",
    ["ftp://h.test", "https://", "https:///api", "http://[::1", "https://h.test:port", "h.test:99999"],
)
def test_what_is_no_address_is_refused_by_the_parameters_name(host):
    with pytest.raises(InvalidParameterError) as caught:
        control_url(host)

    assert caught.value.parameter == "host"


@pytest.mark.parametrize(
    "host", ["https://key:hunter2@h.test", "https://h.test?key=hunter2", "https://h.test#hunter2"]
)
def test_a_key_within_the_address_is_refused_and_not_repeated(host):
    with pytest.raises(InvalidParameterError, match="password field") as caught:
        control_url(host)

    assert "hunter2" not in str(caught.value)


def test_a_host_of_the_sandboxes_own_takes_the_path_as_it_is():
    assert runtime_url("https://sb-1.r.test", "/sandbox/processes") == "https://sb-1.r.test/sandbox/processes"
    assert runtime_url("https://sb-1.r.test/", "/sandbox/exec") == "https://sb-1.r.test/sandbox/exec"


def test_a_shared_host_with_the_id_in_its_path_drops_the_paths_beginning():
    for base in ("https://r.test/sandbox/sb-1", "https://r.test/sandbox/sb-1/"):
        assert runtime_url(base, "/sandbox/processes/p-1") == "https://r.test/sandbox/sb-1/processes/p-1"


def test_a_host_that_merely_begins_with_sandbox_is_a_host_of_its_own():
    assert runtime_url("https://sandbox.test", "/sandbox/exec") == "https://sandbox.test/sandbox/exec"


@pytest.mark.parametrize(("left", "renews"), [(-5, True), (0, True), (60, True), (61, False), (3600, False)])
def test_a_token_with_a_minute_or_less_left_is_renewed(left, renews):
    access = RuntimeAccess("https://h", "t", NOW + timedelta(seconds=left))

    assert access.needs_renewal(NOW) is renews


def test_a_token_without_an_end_is_not_renewed():
    assert not RuntimeAccess("https://h", "t", None).needs_renewal(NOW)


def test_a_token_stands_in_no_repr():
    assert "hunter2" not in repr(RuntimeAccess("https://h", "hunter2", None))
