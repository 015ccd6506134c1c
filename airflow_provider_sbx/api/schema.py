"""What all models of the service share: how they read what it sends, and how stored secrets are named."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

MAX_SECRETS = 32
"""Most environment variables that one start may fill from stored secrets."""


MISFIT = "misfit"
"""The type of the errors that `misfit` makes."""


def _blank_is_missing(value: object) -> object:
    """Read `""` as a missing value: some receivers send it where a number is unknown."""
    return None if value == "" else value


def _no_zone_is_utc(value: datetime | None) -> datetime | None:
    """Read a time without a zone as UTC, so that it can be compared with the clock."""
    return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


Int = Annotated[int | None, BeforeValidator(_blank_is_missing)]
Time = Annotated[datetime | None, BeforeValidator(_blank_is_missing), AfterValidator(_no_zone_is_utc)]


class PlainAnswer(BaseModel):
    """Something the service sent."""

    # hide_input_in_errors: an answer holds tokens, and a validation error is logged.
    model_config = ConfigDict(extra="ignore", populate_by_name=True, frozen=True, hide_input_in_errors=True)


class CamelAnswer(PlainAnswer):
    """An answer of the control plane, which writes camelCase."""

    model_config = ConfigDict(alias_generator=AliasGenerator(validation_alias=to_camel))


class ServiceRequest(BaseModel):
    """Something we send. A name we do not know is a mistake of the caller's."""

    model_config = ConfigDict(
        extra="forbid",
        populate_by_name=True,
        frozen=True,
        hide_input_in_errors=True,
        alias_generator=AliasGenerator(alias=to_camel),
    )

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON body: wire names, unset fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def misfit(names: tuple[str, ...], problem: str, remedy: str) -> PydanticCustomError:
    """Return the error of members that are right by themselves and don't go together.

    :param names: the members; none for the whole.
    :param problem: what is wrong; never holds a secret.
    :param remedy: what to write instead.
    """
    context: dict[str, Any] = {"names": names, "problem": problem, "remedy": remedy}
    return PydanticCustomError(MISFIT, "{problem}", context)


EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]


class SecretReference(ServiceRequest):
    """A stored secret by name; without a version, its latest.

    :param name: 1 to 128 letters, digits, `_` or `-`.
    :param version: a version number, or `"latest"`.
    """

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_-]{0,127}$")]
    version: Annotated[int, Field(ge=1)] | Literal["latest"] | None = None


class OnePasswordField(ServiceRequest):
    """One field of an item in a 1Password vault; names or ids."""

    item: str
    section: str | None = None
    field: str


class OnePasswordSource(ServiceRequest):
    """Environment variables read from one 1Password vault when the process starts.

    :param token: the name of the stored service-account token (not its value).
    :param vault: the 1Password vault's name or id.
    :param fields: environment variable name -> field of an item.
    """

    token: str
    vault: str
    fields: Annotated[dict[EnvName, OnePasswordField], Field(min_length=1)]


def _plain_names_are_references(value: object) -> object:
    """Take `{"ENV": "name"}` for `{"ENV": {"name": "name"}}`, as the vendor's clients do."""
    if not isinstance(value, Mapping):
        return value
    return {env: {"name": ref} if isinstance(ref, str) else ref for env, ref in value.items()}


def check_count_of_secrets(names: tuple[str, ...], count: int) -> None:
    """Refuse more variables than one start can be given.

    :param names: the members that name them.
    :param count: how many these are.
    """
    if count > MAX_SECRETS:
        raise misfit(
            names,
            f"{count} variables would come from stored secrets, and the service puts in {MAX_SECRETS} at the "
            "most",
            "Keep what belongs together in one secret, such as JSON that the command takes apart.",
        )


def _not_too_many(value: dict[str, SecretReference]) -> dict[str, SecretReference]:
    check_count_of_secrets(("secrets",), len(value))
    return value


Secrets = Annotated[
    dict[EnvName, SecretReference],
    BeforeValidator(_plain_names_are_references),
    AfterValidator(_not_too_many),
]
