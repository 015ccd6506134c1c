"""Who may call: the key of the control plane, the tokens of the runtime planes."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

from airflow_provider_sbx.local.errors import unauthorized


class Gatekeeper:
    """Knows the key, and issues and checks tokens.

    A token carries its sandbox and its end, and a seal that only this server can make: nothing
    has to be remembered, and a token of one sandbox opens no other.

    :param api_key: the key of the control plane.
    :param token_seconds: how long a token lasts, in seconds.
    """

    def __init__(self, api_key: str, token_seconds: float) -> None:
        self._key = api_key.encode()
        self._token_seconds = token_seconds
        self._seal_key = secrets.token_bytes(32)

    def check_key(self, given: str | None) -> None:
        """Check a key.

        :raises ApiError: it is missing or wrong.
        """
        if given is None or not hmac.compare_digest(given.encode(), self._key):
            raise unauthorized("The API key is missing or wrong (header x-api-key)")

    def issue(self, sandbox_id: str) -> tuple[str, int]:
        """Return a new token for a sandbox, and when it ends, in milliseconds since 1970."""
        ends_at = round((time.time() + self._token_seconds) * 1000)
        return f"sbxt.{ends_at}.{self._seal(sandbox_id, ends_at)}", ends_at

    def check_token(self, sandbox_id: str, authorization: str | None) -> None:
        """Check the `Authorization` header of a call to a sandbox.

        :raises ApiError: the token is missing, not for this sandbox, or has ended.
        """
        kind, _, token = (authorization or "").partition(" ")
        parts = token.strip().split(".")
        if kind.lower() != "bearer" or len(parts) != 3 or not _is_number(parts[1]):
            raise unauthorized("The sandbox token is missing or malformed")
        ends_at = int(parts[1])
        if not hmac.compare_digest(parts[2].encode(), self._seal(sandbox_id, ends_at).encode()):
            raise unauthorized("The sandbox token is wrong")
        if ends_at <= time.time() * 1000:
            raise unauthorized("The sandbox token has expired")

    def _seal(self, sandbox_id: str, ends_at: int) -> str:
        text = f"{sandbox_id}\n{ends_at}".encode()
        return hmac.new(self._seal_key, text, hashlib.sha256).hexdigest()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20
