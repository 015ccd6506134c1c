"""`sbx-local`: the embedded sandbox server from the command line."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from airflow_provider_sbx.local.settings import BaseUrlStyle, IsolationKind, Settings
from airflow_provider_sbx.local.stored_secrets import parse_store

_KEY_VARIABLE = "SBX_LOCAL_API_KEY"
_SECRETS_VARIABLE = "SBX_LOCAL_SECRETS"
_DEFAULT = "(default: %(default)s)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :param arguments: the command line; the process's own by default.
    :return: the exit code.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    # Taken out: nothing that is started later inherits it.
    key = given.api_key or os.environ.pop(_KEY_VARIABLE, "")
    try:
        settings = _settings(given, key)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    logging.basicConfig(
        stream=sys.stderr, level=given.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    # Here and not above: `--help` and a refusal need no web server.
    from airflow_provider_sbx.local.server import serve

    return serve(settings, given.host, given.port)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sbx-local", description="A sandbox service on this machine, with real processes."
    )
    commands = parser.add_subparsers(dest="action", required=True)
    serve = commands.add_parser("serve", help="serve until stopped")
    add = serve.add_argument
    add("--host", default="127.0.0.1", help=f"address to listen on {_DEFAULT}")
    add("--port", type=int, default=0, help=f"port to listen on; 0 for a free one {_DEFAULT}")
    add("--api-key", help=f"key of the control plane; or the variable {_KEY_VARIABLE}")
    add(
        "--isolation",
        type=IsolationKind,
        default=IsolationKind.AUTO,
        choices=list(IsolationKind),
        help=f"how commands are kept apart from the host; auto: the strongest that works {_DEFAULT}",
    )
    add("--sandbox", action="append", default=[], metavar="ID", help="a sandbox to have ready; repeatable")
    add(
        "--base-url-style",
        type=BaseUrlStyle,
        default=BaseUrlStyle.PATH,
        choices=list(BaseUrlStyle),
        help=f"a sandbox's runtime.baseUrl: a path of this server, or a host of its own {_DEFAULT}",
    )
    add(
        "--token-seconds",
        type=float,
        default=Settings.token_seconds,
        help=f"how long a runtime token lasts {_DEFAULT}",
    )
    add("--plain-starts", action="store_true", help="answer JSON to streaming starts, as older receivers do")
    add(
        "--replay-bytes",
        type=int,
        default=Settings.replay_bytes,
        help=f"output kept for later readers, a process {_DEFAULT}",
    )
    add(
        "--retained-bytes",
        type=int,
        default=Settings.retained_bytes,
        help=f"output kept of all ended processes together {_DEFAULT}",
    )
    add(
        "--max-processes",
        type=int,
        default=Settings.max_processes,
        help=f"processes that run at once in a sandbox; more are queued {_DEFAULT}",
    )
    add(
        "--heartbeat-seconds",
        type=float,
        default=Settings.heartbeat_seconds,
        help=f"how often a quiet stream carries a comment {_DEFAULT}",
    )
    add(
        "--wait-seconds",
        type=float,
        default=Settings.wait_seconds,
        help=f"how long wait holds a request that names no time {_DEFAULT}",
    )
    add(
        "--max-body-bytes",
        type=int,
        default=Settings.max_body_bytes,
        help=f"the longest request body {_DEFAULT}",
    )
    add("--secrets-file", type=Path, help=f"stored secrets as JSON; or the variable {_SECRETS_VARIABLE}")
    add("--allow-remote", action="store_true", help="listen beyond loopback")
    add(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which clients call this server, beside loopback's own; repeatable",
    )
    add(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help=f"what is logged, at least {_DEFAULT}",
    )
    return parser


def _settings(given: argparse.Namespace, key: str) -> Settings:
    if not given.allow_remote and not is_loopback(given.host):
        raise ValueError(f"{given.host} is not loopback: add --allow-remote to let other machines in")
    if not 0 <= given.port <= 65535:
        raise ValueError(f"--port {given.port}: a port is a number from 0 to 65535")
    stored = given.secrets_file.read_text() if given.secrets_file else os.environ.pop(_SECRETS_VARIABLE, "{}")
    secrets, vaults = parse_store(stored)
    return Settings(
        api_key=key,
        isolation=given.isolation,
        base_url_style=given.base_url_style,
        token_seconds=given.token_seconds,
        plain_starts=given.plain_starts,
        replay_bytes=given.replay_bytes,
        retained_bytes=given.retained_bytes,
        max_processes=given.max_processes,
        heartbeat_seconds=given.heartbeat_seconds,
        wait_seconds=given.wait_seconds,
        max_body_bytes=given.max_body_bytes,
        sandbox_ids=tuple(given.sandbox),
        secrets=secrets,
        vaults=vaults,
        allow_remote=given.allow_remote,
        allowed_hosts=tuple(given.allowed_host),
    )


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    sys.exit(main())
