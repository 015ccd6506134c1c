"""Stored secrets: the values that a start with secrets puts into a process's environment."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_sbx.api.schema import OnePasswordSource, SecretReference
from airflow_provider_sbx.local.errors import ApiError, not_supported

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,127}")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Delivery:
    """What a start delivers.

    :param values: environment variable -> value; goes nowhere but into the process.
    :param report: what the caller is told: variables, names and versions.
    """

    values: Mapping[str, str]
    report: list[dict[str, Any]]


class SecretStore:
    """The stored secrets.

    :param secrets: name -> values, the first version first.
    :param vaults: vault -> environment variable -> name of a secret.
    """

    def __init__(
        self, secrets: Mapping[str, tuple[str, ...]], vaults: Mapping[str, Mapping[str, str]]
    ) -> None:
        self._secrets = secrets
        self._vaults = vaults

    def resolve(
        self,
        secrets: Mapping[str, SecretReference] | None,
        vault: str | None,
        one_password: OnePasswordSource | None,
    ) -> Delivery:
        """Return the values for a start. What `secrets` names wins over the vault's.

        :raises ApiError: a secret, a version or the vault does not exist.
        """
        if one_password is not None:
            raise not_supported("1Password access (onePassword)")
        wanted: dict[str, SecretReference] = {}
        if vault is not None:
            if vault not in self._vaults:
                raise ApiError(404, "SECRET_VAULT_NOT_FOUND", f"Vault {vault} not found")
            wanted |= {env: SecretReference(name=name) for env, name in self._vaults[vault].items()}
        wanted |= secrets or {}
        values: dict[str, str] = {}
        report: list[dict[str, Any]] = []
        for env, reference in wanted.items():
            versions = self._secrets.get(reference.name)
            if versions is None:
                raise ApiError(404, "SECRET_NOT_FOUND", f"Secret {reference.name} not found")
            version = reference.version if isinstance(reference.version, int) else len(versions)
            if version > len(versions):
                raise ApiError(
                    404, "SECRET_VERSION_NOT_FOUND", f"Secret {reference.name} has no version {version}"
                )
            values[env] = versions[version - 1]
            entry = {"env": env, "name": reference.name, "version": version}
            report.append(entry | self._origin(env, secrets or {}, vault))
        return Delivery(values, report)

    def _origin(self, env: str, secrets: Mapping[str, SecretReference], vault: str | None) -> dict[str, Any]:
        """Return where a variable came from, and what that replaced."""
        from_vault = {"type": "vault", "name": vault}
        if env not in secrets:
            return {"source": from_vault}
        is_in_vault = vault is not None and env in self._vaults[vault]
        return {"source": {"type": "secrets"}, "overrides": [from_vault] if is_in_vault else []}


def parse_store(text: str) -> tuple[dict[str, tuple[str, ...]], dict[str, dict[str, str]]]:
    """Read secrets and vaults from JSON.

    `{"secrets": {"name": "value", "other": ["first", "second"]}, "vaults": {"vault": {"ENV": "name"}}}`,
    where a list holds the versions of a secret.

    :raises ValueError: it is not so.
    """
    shape = 'stored secrets must be like {"secrets": {"name": "value"}, "vaults": {"vault": {"ENV": "name"}}}'
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        raise ValueError(shape) from None  # the cause would quote the file
    if not isinstance(data, dict) or not set(data) <= {"secrets", "vaults"}:
        raise ValueError(shape)
    secrets: dict[str, tuple[str, ...]] = {}
    for name, values in _mapping(data.get("secrets", {}), shape).items():
        versions = (values,) if isinstance(values, str) else tuple(values) if isinstance(values, list) else ()
        if not NAME.fullmatch(name) or not versions or not all(map(_is_value, versions)):
            raise ValueError(shape)
        secrets[name] = versions
    vaults: dict[str, dict[str, str]] = {}
    for vault, entries in _mapping(data.get("vaults", {}), shape).items():
        vaults[vault] = dict(_mapping(entries, shape))
        if not all(ENV_NAME.fullmatch(env) and name in secrets for env, name in vaults[vault].items()):
            raise ValueError(f"vault {vault}: an entry names no variable, or no secret of this store")
    return secrets, vaults


def _mapping(value: object, shape: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(shape)
    return value


def _is_value(value: object) -> bool:
    return isinstance(value, str) and bool(value) and "\x00" not in value
