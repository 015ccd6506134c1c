"""What every request passes: a request id, the check of its Host, one path for both shapes, the keys."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_sbx.local.answers import answer_error, new_request_id
from airflow_provider_sbx.local.auth import Gatekeeper
from airflow_provider_sbx.local.errors import ApiError

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_SANDBOX_SUFFIX = ".localhost"
_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_.-]+))(?::(?P<port>[0-9]{0,5}))?")


class Gate:
    """ASGI middleware, outermost: even the answer to a mistake of the server's own passes it.

    A page in a browser could have its own name resolve to 127.0.0.1 and so reach this server as
    its own origin (DNS rebinding): only hosts that can't be anybody's name are answered.

    :param gatekeeper: checks keys and tokens; on every path of a plane, known or not.
    :param allow_remote: whether any IP address is a good Host; a name that was rebound is none.
    :param allowed_hosts: more names.
    """

    def __init__(
        self, app: ASGIApp, gatekeeper: Gatekeeper, *, allow_remote: bool, allowed_hosts: Collection[str]
    ) -> None:
        self._app = app
        self._gatekeeper = gatekeeper
        self._allow_remote = allow_remote
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_request_id()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            host = host_name(scope)
            if host is None or not self._is_allowed(host):
                raise ApiError(421, "host_not_allowed", "This Host is not served here")
            scope = _in_one_shape(scope, host)
            self._check(scope)
        except ApiError as error:
            await answer_error(error)(scope, receive, send_with_id)
            return
        await self._app(scope, receive, send_with_id)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        match str(scope["path"]).split("/"):
            case ["", "api", *_]:
                self._gatekeeper.check_key(headers.get("x-api-key"))
            case ["", "sandbox", sandbox_id, *_]:
                self._gatekeeper.check_token(sandbox_id, headers.get("authorization"))

    def _is_allowed(self, host: str) -> bool:
        if host in _LOCAL_NAMES or host.endswith(_SANDBOX_SUFFIX) or host in self._allowed_hosts:
            return True
        if not self._allow_remote:
            return False
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True


def host_name(scope: Scope) -> str | None:
    """Return the Host of a request in lower case, without its port; None where there isn't a good one.

    Strictly: addresses are made from it, and a URL can't be read whose host is not one.
    """
    values = [value for name, value in scope["headers"] if name == b"host"]
    found = _HOST.fullmatch(values[0].decode("latin-1").strip().lower()) if len(values) == 1 else None
    if found is None or int(found["port"] or 0) > 65535:
        return None
    if found["name"] is not None:
        return str(found["name"])
    try:
        ipaddress.IPv6Address(found["ipv6"])
    except ValueError:
        return None
    return str(found["ipv6"])


def _in_one_shape(scope: Scope, host: str) -> Scope:
    """Turn `/sandbox/processes` at a sandbox's own host into `/sandbox/<id>/processes`."""
    sandbox_id = host.removesuffix(_SANDBOX_SUFFIX)
    path: str = scope["path"]
    if sandbox_id == host or not (path == "/sandbox" or path.startswith("/sandbox/")):
        return scope
    rest = path.removeprefix("/sandbox")
    return {**scope, "path": f"/sandbox/{sandbox_id}{rest}", "raw_path": None}
