"""Options, stored secrets and hosts: what a server is set up with."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_sbx.local import cli
from airflow_provider_sbx.local.gate import _in_one_shape, host_name
from airflow_provider_sbx.local.settings import Settings
from airflow_provider_sbx.local.stored_secrets import SecretStore, parse_store


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "API key"),
        (["--api-key", " "], "API key"),
        (["--api-key", "k", "--host", "0.0.0.0"], "--allow-remote"),
        (["--api-key", "k", "--host", "example.com"], "--allow-remote"),
        (["--api-key", "k", "--port", "65536"], "--port 65536"),
        (["--api-key", "k", "--isolation", "magic"], "--isolation"),
        (["--api-key", "k", "--sandbox", "No/Good"], "sandbox id"),
        (["--api-key", "k", "--sandbox", "a", "--sandbox", "a"], "once"),
        (["--api-key", "k", "--token-seconds", "0"], "token_seconds"),
        (["--api-key", "k", "--max-processes", "0"], "max_processes"),
        (["--api-key", "k", "--secrets-file", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_a_server_that_should_not_run_does_not_start(
    options: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SBX_LOCAL_API_KEY", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", *options])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.out == ""


def test_neither_the_key_nor_secrets_stand_in_the_settings_repr() -> None:
    settings = Settings(api_key="hush-key", secrets={"name": ("hush-value",)})
    assert "hush" not in repr(settings)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_is_known(host: str) -> None:
    assert cli.is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example.com"])
def test_what_is_not_loopback_is_known(host: str) -> None:
    assert not cli.is_loopback(host)


def test_secrets_have_versions_and_vaults_name_them() -> None:
    secrets, vaults = parse_store('{"secrets": {"a": "1", "b": ["x", "y"]}, "vaults": {"v": {"ENV": "b"}}}')
    delivery = SecretStore(secrets, vaults).resolve(None, "v", None)
    assert delivery.values == {"ENV": "y"}
    assert delivery.report == [
        {"env": "ENV", "name": "b", "version": 2, "source": {"type": "vault", "name": "v"}}
    ]


@pytest.mark.parametrize(
    "text",
    [
        "hush",
        "[]",
        '{"other": {}}',
        '{"secrets": {"a": 5}}',
        '{"secrets": {"a": ""}}',
        '{"secrets": {"a": []}}',
        '{"secrets": {"a b": "hush"}}',
        '{"secrets": {"a": "hu\\u0000sh"}}',
        '{"vaults": {"v": {"ENV": "missing"}}}',
        '{"secrets": {"a": "hush"}, "vaults": {"v": {"E-NV": "a"}}}',
    ],
)
def test_a_store_that_can_not_be_right_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"stored secrets|vault v") as caught:
        parse_store(text)
    assert "hush" not in str(caught.value)


def scope(host: str | None, path: str = "/") -> dict[str, Any]:
    return {"headers": [] if host is None else [(b"host", host.encode("latin-1"))], "path": path}


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("LocalHost:80", "localhost"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("localhost:", "localhost"),
        (None, None),
        ("localhost:99999", None),
        ("localhost:1/a", None),
        ("localhost:\xb2", None),
        ("[::1", None),
        ("[127.0.0.1]", None),
        ("a b.localhost", None),
    ],
)
def test_the_host_is_read_without_its_port(host: str | None, name: str | None) -> None:
    assert host_name(scope(host)) == name


def test_two_hosts_are_none() -> None:
    assert host_name({"headers": [(b"host", b"localhost"), (b"host", b"localhost")]}) is None


@pytest.mark.parametrize(
    ("host", "path", "expected"),
    [
        ("one.localhost", "/sandbox/processes", "/sandbox/one/processes"),
        ("one.localhost", "/sandbox/exec", "/sandbox/one/exec"),
        ("one.localhost", "/api/sandboxes", "/api/sandboxes"),
        ("localhost", "/sandbox/one/processes", "/sandbox/one/processes"),
        ("127.0.0.1", "/sandbox/one/exec", "/sandbox/one/exec"),
    ],
)
def test_both_shapes_of_a_path_become_one(host: str, path: str, expected: str) -> None:
    assert _in_one_shape(scope(host, path), host)["path"] == expected
