"""The two planes of the service, and how a path on either becomes a URL.

The control plane (`https://api.hyperbrowser.ai/api`, header `x-api-key`) knows sandboxes; the
runtime plane is each sandbox's own (`runtime.baseUrl`, a bearer token) and knows its processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import SplitResult, urlsplit, urlunsplit

from airflow_provider_sbx.api.errors import InvalidParameterError

VENDOR_URL = "https://api.hyperbrowser.ai"
"""The vendor's control plane; a connection without a host means this one."""

TOKEN_RENEWAL = timedelta(seconds=60)
"""A token with less left than this is renewed before it is used, as the vendor's clients do."""


class Plane(StrEnum):
    """Which of the two a call goes to."""

    CONTROL = "control"
    RUNTIME = "runtime"


def control_url(host: str | None) -> str:
    """Return the control plane's base URL for what a person wrote, ending in `/api`.

    `https://host` and `https://host/api` mean the same (as `HYPERBROWSER_BASE_URL` does for the
    vendor's clients); a bare `host` means https.

    :param host: what the connection holds; empty for the vendor's own service.
    :raises InvalidParameterError: it isn't a URL of a host.
    """
    text = (host or "").strip() or VENDOR_URL
    if "://" not in text:
        text = f"https://{text}"
    parts = _split(text)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidParameterError(
            "host", f"{host!r} is not an http(s) address", f"Write it like {VENDOR_URL}."
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidParameterError(
            "host",
            "the address carries more than scheme, host, port and path",
            "Put the API key into the connection's password field.",
        )
    path = parts.path.rstrip("/")
    if not path.endswith("/api"):
        path += "/api"
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def _split(text: str) -> SplitResult | None:
    """Return an address's parts, or None where it can't be one."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:  # a bracket that is not closed, a port that is no number
        return None
    return parts


def runtime_url(base_url: str, path: str) -> str:
    """Return the URL of a runtime path such as `/sandbox/processes`.

    `base_url` comes in two shapes. A host of the sandbox's own takes the path as it is; a shared
    host with the id in its path (`.../sandbox/<id>`) drops the path's leading `/sandbox`.
    """
    base = base_url.strip().rstrip("/")
    segments = [s for s in urlsplit(base).path.split("/") if s]
    if len(segments) >= 2 and segments[0] == "sandbox":
        path = path.removeprefix("/sandbox")
    return base + path


@dataclass(frozen=True)
class RuntimeAccess:
    """What opens one sandbox's runtime plane.

    :param base_url: the sandbox's `runtime.baseUrl`.
    :param token: the bearer token; stands in no repr.
    :param expires_at: when the token ends; None where the service does not say.
    """

    base_url: str
    token: str = field(repr=False)
    expires_at: datetime | None = None

    def needs_renewal(self, now: datetime) -> bool:
        """Whether the token should be renewed before it is used again."""
        return self.expires_at is not None and self.expires_at - now <= TOKEN_RENEWAL
