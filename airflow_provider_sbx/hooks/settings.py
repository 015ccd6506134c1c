"""What an Airflow connection of type `sbx` says, or the environment in its place, checked."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.api.planes import control_url
from airflow_provider_sbx.api.retrying import DEFAULT_REQUEST_TIMEOUT_SECONDS, RetryPolicy
from airflow_provider_sbx.streams import DEFAULT_MAX_STREAMS

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

CONNECTION_TYPE = "sbx"

_PORT = re.compile(r":\w+$")


@dataclass(frozen=True)
class Settings:
    """What a connection says, checked.

    :param api_key: the service's key; stands in no repr.
    :param base_url: the control plane's address.
    :param sandbox_id: the sandbox for tasks that name none.
    :param request_timeout_seconds: longest wait for an answer, in seconds.
    :param patience_seconds: how long the service may be out of reach, in seconds.
    :param max_streams: how many streams may be open at once over the client that all waits of one
        event loop share.
    """

    api_key: str = field(repr=False)
    base_url: str
    sandbox_id: str | None
    request_timeout_seconds: float
    patience_seconds: float
    max_streams: int = DEFAULT_MAX_STREAMS

    @property
    def policy(self) -> RetryPolicy:
        """How failures are repeated."""
        return RetryPolicy(patience_seconds=self.patience_seconds)


def settings_of(conn_id: str, connection: Connection | None, extra: dict[str, Any]) -> Settings:
    """Return what a connection says, or the environment where there is none.

    :param conn_id: its id, for the errors.
    :param connection: the connection.
    :param extra: its extra, decoded.

    :raises InvalidParameterError: it lacks what is needed, or holds what can't be right.
    :raises AirflowNotFoundException: there is none, and no key in the environment.
    """
    if connection is None:
        key, host = os.environ.get("HYPERBROWSER_API_KEY"), os.environ.get("HYPERBROWSER_BASE_URL")
        where = f"connection {conn_id!r}"
        if not key:
            raise AirflowNotFoundException(
                f"{where}: it does not exist, and HYPERBROWSER_API_KEY is not set either. "
                "Create it (type Sandbox, the API key as its password), or set the variable."
            )
        where = "HYPERBROWSER_BASE_URL"
    else:
        where = f"connection {conn_id!r}"
        # Airflow lets a connection that is written as JSON have none.
        if connection.conn_type and connection.conn_type != CONNECTION_TYPE:
            # Its password is somebody else's: it must not be sent as our key.
            raise InvalidParameterError(
                where,
                f"its type is {connection.conn_type!r}, and not {CONNECTION_TYPE!r}",
                "Name a connection to the sandbox service, or set the type of this one to Sandbox.",
            )
        key, host = connection.password, _address(connection)
        if not key:
            # Falling back to the environment here would hide a half-filled connection.
            raise InvalidParameterError(
                where, "it has no password", "Enter the sandbox service's API key as its password."
            )
    try:
        base_url = control_url(host)
    except InvalidParameterError as error:
        raise InvalidParameterError(f"{where}, host", error.problem, error.remedy) from None
    return Settings(
        api_key=key,
        base_url=base_url,
        sandbox_id=_text(extra, "sandbox_id", where),
        request_timeout_seconds=_seconds(
            extra, "request_timeout_seconds", DEFAULT_REQUEST_TIMEOUT_SECONDS, where
        ),
        patience_seconds=_seconds(extra, "patience_seconds", RetryPolicy().patience_seconds, where),
        max_streams=_count(extra, "max_streams", DEFAULT_MAX_STREAMS, where),
    )


def _address(connection: Connection) -> str | None:
    """Return the host field as an address, with the parts that a URI form of the connection splits off."""
    host = (connection.host or "").strip()
    if not host:
        return None
    scheme, _, rest = host.rpartition("://")
    place, slash, path = rest.partition("/")
    # Airflow's form wants a port for its test, also of an address that has one.
    if connection.port and not _PORT.search(place):
        place += f":{connection.port}"
    scheme = scheme or connection.schema or ""
    return f"{scheme}://{place}{slash}{path}" if scheme else f"{place}{slash}{path}"


def _text(extra: dict[str, Any], name: str, where: str) -> str | None:
    value = extra.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise InvalidParameterError(f"{where}, extra {name}", f"{value!r} is not text", "Give an id.")
    return value


def _seconds(extra: dict[str, Any], name: str, default: float, where: str) -> float:
    value = extra.get(name)
    if value is None or value == "":
        return default
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 < seconds < 1e7:
        raise InvalidParameterError(
            f"{where}, extra {name}", f"{value!r} is not above zero", "Give a number of seconds."
        )
    return seconds


def _count(extra: dict[str, Any], name: str, default: int, where: str) -> int:
    value = extra.get(name)
    if value is None or value == "":
        return default
    # As text where the connection is written as a URI.
    count = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidParameterError(
            f"{where}, extra {name}",
            f"{value!r} is not a whole number of 1 or more",
            f"Give such a number, or leave it out for {default}.",
        )
    return count
