"""Keys and tokens."""

from __future__ import annotations

import pytest

from airflow_provider_sbx.local.auth import Gatekeeper
from airflow_provider_sbx.local.errors import ApiError


def refused(gatekeeper: Gatekeeper, sandbox_id: str, authorization: str | None) -> str:
    with pytest.raises(ApiError) as caught:
        gatekeeper.check_token(sandbox_id, authorization)
    assert caught.value.status == 401
    return caught.value.message


def test_a_token_opens_its_sandbox() -> None:
    gatekeeper = Gatekeeper("key", 60)
    token, _ = gatekeeper.issue("one")
    gatekeeper.check_token("one", f"Bearer {token}")
    gatekeeper.check_token("one", f"bearer  {token}")
    assert "wrong" in refused(gatekeeper, "two", f"Bearer {token}")


def test_a_token_can_not_be_prolonged() -> None:
    gatekeeper = Gatekeeper("key", 60)
    token, ends_at = gatekeeper.issue("one")
    assert "wrong" in refused(gatekeeper, "one", f"Bearer {token.replace(str(ends_at), str(ends_at + 1))}")


def test_a_token_ends() -> None:
    gatekeeper = Gatekeeper("key", -1)
    assert "expired" in refused(gatekeeper, "one", f"Bearer {gatekeeper.issue('one')[0]}")


def test_a_token_of_another_server_is_wrong() -> None:
    token, _ = Gatekeeper("key", 60).issue("one")
    assert "wrong" in refused(Gatekeeper("key", 60), "one", f"Bearer {token}")


@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer a.b.c", "Bearer a.²³.c", "Basic a.1.c", "Bearer a.1"]
)
def test_what_is_no_token_is_refused(value: str | None) -> None:
    assert "malformed" in refused(Gatekeeper("key", 60), "one", value)


@pytest.mark.parametrize("key", [None, "", "Key", "key ", "ké"])
def test_a_wrong_key_is_refused(key: str | None) -> None:
    with pytest.raises(ApiError):
        Gatekeeper("key", 60).check_key(key)


def test_the_right_key_is_not() -> None:
    Gatekeeper("kéy", 60).check_key("kéy")
