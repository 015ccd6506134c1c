"""Reading requests: JSON bodies within bounds, numbers in queries, parameters as models."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from airflow_provider_sbx.api.models import ProcessParameters, SandboxSpec
from airflow_provider_sbx.local.errors import ApiError, invalid

Model = TypeVar("Model", bound=BaseModel)

REGIONS = ("us-central", "asia-south", "us-dev", "europe-west", "us-west", "us-east", "us")

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LARGEST = 2**53


async def read_json(request: Request) -> dict[str, Any]:
    """Return a request's body, a JSON object; an empty body is an empty object.

    :raises ApiError: it is too long, no JSON, or no object.
    """
    limit: int = request.app.state.settings.max_body_bytes
    declared = request.headers.get("content-length", "")
    data = bytearray()
    try:
        too_long = declared.isdigit() and int(declared[:20]) > limit
        if not too_long:
            async for chunk in request.stream():
                data += chunk
                too_long = len(data) > limit
                if too_long:
                    break
    except ClientDisconnect:
        raise invalid("the request ended within its body") from None
    if too_long:
        raise ApiError(413, "body_too_large", f"The request body is longer than {limit} bytes")
    if not data.strip():
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise invalid("The request body is not valid JSON", "invalid_json") from None
    if not isinstance(value, dict):
        raise invalid("The request body must be a JSON object", "invalid_json")
    return value


def process_parameters(body: Mapping[str, Any]) -> ProcessParameters:
    """Return the parameters of a start.

    `timeout_sec` counts as `timeoutMs` does, and `args`, `useShell` are folded in as the vendor's
    clients do; members that nobody knows are ignored.

    :raises ApiError: one of them can't be so.
    """
    given = {name: body[name] for name in _names(ProcessParameters) if body.get(name) is not None}
    seconds = number("timeout_sec", body.get("timeout_sec"))
    if seconds:
        given["timeoutMs"] = seconds * 1000
    elif given.get("timeoutMs") == 0:
        del given["timeoutMs"]
    arguments = body.get("args")
    if arguments and isinstance(arguments, list) and isinstance(given.get("command"), str):
        given["command"] = shlex.join([given["command"], *map(str, arguments)])
    params = _validated(ProcessParameters, given)
    if params.timeout_ms is not None and params.timeout_ms > _LARGEST:
        raise invalid(f"timeoutMs must be at most {_LARGEST}")
    if not params.command.strip():
        raise invalid("command must not be empty")
    for name, text in (("command", params.command), ("cwd", params.cwd), ("runAs", params.run_as)):
        if text is not None and "\x00" in text:
            raise invalid(f"{name} must not hold NUL bytes")
    for variable, value in (params.env or {}).items():
        if not _ENV_NAME.fullmatch(variable):
            raise invalid(f"env: {variable!r} is not the name of a variable")
        if "\x00" in value:
            raise invalid(f"env: the value of {variable} must not hold NUL bytes")
    return params


def sandbox_spec(body: Mapping[str, Any]) -> SandboxSpec:
    """Return the spec of a create.

    :raises ApiError: a member can't be so, or they can't go together.
    """
    given = {name: body[name] for name in _names(SandboxSpec) if body.get(name) is not None}
    spec = _validated(SandboxSpec, given)
    if spec.region is not None and spec.region not in REGIONS:
        raise invalid(f"region must be one of {', '.join(REGIONS)}")
    return spec


def number(name: str, value: object) -> int | None:
    """Return a whole number, not negative, as a number or as text; None where there is none.

    :raises ApiError: it is something else.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        raise invalid(f"{name} must be a whole number of 0 or more")
    return value


def query_number(request: Request, name: str, default: int, *, least: int = 0, most: int = _LARGEST) -> int:
    """Return a number of a query.

    :raises ApiError: it is none, or less than `least`. More than `most` counts as `most`.
    """
    value = number(name, request.query_params.get(name))
    if value is None:
        return default
    if value < least:
        raise invalid(f"{name} must be at least {least}")
    return min(value, most)


def _names(model: type[BaseModel]) -> set[str]:
    return {
        name for field, info in model.model_fields.items() for name in (field, info.alias) if name is not None
    }


def _validated(model: type[Model], given: Mapping[str, Any]) -> Model:
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        # Never with the value, which may be a secret.
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        raise invalid(f"{where}: {problem}" if where else problem) from None
