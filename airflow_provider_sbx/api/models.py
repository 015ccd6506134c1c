"""What the service speaks of: sandboxes, processes, their parameters, states and results.

Field names are ours (snake_case); each field's wire name stands beside it. The service
writes some fields in two spellings (`exit_code` and `exitCode`) and some numbers as
strings: both are read. Unknown fields are ignored and optional ones may be missing, so
that a newer service does not break an older provider.

Sources: the vendor's page "Sandbox Processes" for options and statuses; the behaviour of
the vendor's clients for the HTTP beneath it.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import combinations
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BeforeValidator, Field, model_validator

from airflow_provider_sbx.api.schema import (
    CamelAnswer,
    Int,
    OnePasswordSource,
    PlainAnswer,
    Secrets,
    ServiceRequest,
    Time,
    check_count_of_secrets,
    misfit,
)

IMAGES = ("node", "python", "node-chromium")
"""The vendor's base images. A team's own images have names of their own."""


class ProcessStatus(StrEnum):
    """Where a process stands. `queued` and `running` go on; the others are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    EXITED = "exited"
    FAILED = "failed"
    KILLED = "killed"
    TIMED_OUT = "timed_out"
    UNKNOWN = "unknown"
    """A status this version does not know. Never an end by itself."""

    @classmethod
    def _missing_(cls, value: object) -> ProcessStatus:
        return cls.UNKNOWN

    @property
    def is_terminal(self) -> bool:
        """Whether the process has ended."""
        return self in _TERMINAL


_TERMINAL = frozenset(
    {ProcessStatus.EXITED, ProcessStatus.FAILED, ProcessStatus.KILLED, ProcessStatus.TIMED_OUT}
)


class SandboxStatus(StrEnum):
    """Where a sandbox stands. Only an `active` one has a runtime token."""

    ACTIVE = "active"
    CLOSED = "closed"
    ERROR = "error"
    CLOSE_ERROR = "close-error"
    UNKNOWN = "unknown"
    """A status this version does not know, such as one of a sandbox still starting."""

    @classmethod
    def _missing_(cls, value: object) -> SandboxStatus:
        return cls.UNKNOWN

    @property
    def is_terminal(self) -> bool:
        """Whether the sandbox is gone for good."""
        return self in (SandboxStatus.CLOSED, SandboxStatus.ERROR, SandboxStatus.CLOSE_ERROR)


# --- processes -----------------------------------------------------------------------------


class ProcessParameters(ServiceRequest):
    """What to run and how.

    :param command: what a shell in the sandbox runs.
    :param cwd: working directory.
    :param env: environment variables, name -> value.
    :param timeout_ms: longest run, in milliseconds (wire `timeoutMs`).
    :param run_as: user of the sandbox; the service's default is `ubuntu` (wire `runAs`).
    :param secrets: environment variable -> stored secret.
    :param vault: name of a vault whose entries become environment variables.
    :param one_password: fields of a 1Password vault as environment variables.
    """

    command: str
    cwd: str | None = None
    env: dict[str, str] | None = None
    timeout_ms: Annotated[int, Field(gt=0)] | None = None
    run_as: str | None = None
    secrets: Secrets | None = None
    vault: str | None = None
    one_password: OnePasswordSource | None = None

    @property
    def uses_secrets(self) -> bool:
        """Whether the start must go through the control plane, which alone resolves secrets."""
        return bool(self.secrets) or self.vault is not None or self.one_password is not None

    @model_validator(mode="after")
    def _one_source_per_variable(self) -> Self:
        """Refuse a variable from two sources: which one wins would be a guess."""
        from_1password = self.one_password.fields if self.one_password else {}
        variables = {
            "env": set(self.env or {}),
            "secrets": set(self.secrets or {}),
            "one_password": set(from_1password),
        }
        for one, other in combinations(variables, 2):
            if twice := variables[one] & variables[other]:
                raise misfit(
                    (one, other),
                    f"{', '.join(sorted(twice))} would come from both",
                    "Name each variable in one of them.",
                )
        check_count_of_secrets(("secrets", "one_password"), len(self.secrets or {}) + len(from_1password))
        return self


_EXIT_CODE = AliasChoices("exit_code", "exitCode")
_STARTED_AT = AliasChoices("started_at", "startedAt")
_COMPLETED_AT = AliasChoices("completed_at", "completedAt")
_ID = AliasChoices("id", "processId", "process_id")


class ProcessSummary(PlainAnswer):
    """A process as `get`, `list`, `start`, `signal` and `kill` show it. Times in milliseconds."""

    id: Annotated[str, Field(validation_alias=_ID, min_length=1)]
    status: ProcessStatus
    command: str = ""
    args: list[str] | None = None
    cwd: str | None = None
    pid: Int = None
    exit_code: Annotated[Int, Field(validation_alias=_EXIT_CODE)] = None
    started_at: Annotated[Int, Field(validation_alias=_STARTED_AT)] = None
    completed_at: Annotated[Int, Field(validation_alias=_COMPLETED_AT)] = None


class ProcessResult(PlainAnswer):
    """How a process ended, with the output that the receiver still retains. Times in milliseconds.

    `output_truncated` says that `stdout` and `stderr` are not everything; `last_seq` is the
    sequence number of the last output event that there was.
    """

    id: Annotated[str, Field(validation_alias=_ID, min_length=1)]
    status: ProcessStatus
    exit_code: Annotated[Int, Field(validation_alias=_EXIT_CODE)] = None
    stdout: str = ""
    stderr: str = ""
    started_at: Annotated[Int, Field(validation_alias=_STARTED_AT)] = None
    completed_at: Annotated[Int, Field(validation_alias=_COMPLETED_AT)] = None
    error: str | None = None
    output_truncated: Annotated[
        bool, Field(validation_alias=AliasChoices("output_truncated", "outputTruncated"))
    ] = False
    last_seq: Annotated[Int, Field(validation_alias=AliasChoices("last_seq", "lastSeq"))] = None


class ProcessPage(PlainAnswer):
    """One page of a listing; `next_cursor` is None on the last."""

    data: list[ProcessSummary]
    next_cursor: Annotated[
        str | None,
        BeforeValidator(lambda v: None if v is None else str(v)),
        Field(validation_alias=AliasChoices("next_cursor", "nextCursor")),
    ] = None


class ResolvedSecret(CamelAnswer):
    """Which stored secret a variable received. Never its value."""

    env: str | None = None
    name: str | None = None
    version: Int = None


class StartedProcess(PlainAnswer):
    """A start's answer."""

    process: ProcessSummary
    secrets: list[ResolvedSecret] | None = None


# --- sandboxes -----------------------------------------------------------------------------


class ExposedPort(ServiceRequest):
    """A port to reach from outside; with `auth`, only by a token."""

    port: Annotated[int, Field(ge=1, le=65535)]
    auth: bool | None = None


class Mount(ServiceRequest):
    """A volume to mount: its id, `rw` or `ro`, and whether other sandboxes share it."""

    id: str
    type: Literal["rw", "ro"] | None = None
    shared: bool | None = None


class SandboxSpec(ServiceRequest):
    """What sandbox to make. Exactly one of `image_name` and `snapshot_name`.

    :param image_name: a base image (`node`, `python`, `node-chromium`) or one of the team's.
    :param image_id: a build of that image; needs `image_name`.
    :param snapshot_name: a snapshot to start from.
    :param snapshot_id: a version of that snapshot; needs `snapshot_name`.
    :param region: where it runs, such as `us-east`.
    :param timeout_minutes: how long it lives, in minutes.
    :param cpu: virtual CPUs (wire `vcpus`); image only.
    :param memory_mib: memory in MiB (wire `memMiB`); image only.
    :param disk_mib: disk in MiB (wire `diskSizeMiB`); image only.
    :param enable_recording: record the session.
    :param exposed_ports: ports to reach from outside.
    :param mounts: path in the sandbox -> volume.
    :param allow_internet_access: whether it reaches the internet.
    :param allow_out: hosts or networks that it may reach.
    :param deny_out: hosts or networks that it may not reach.
    :param secrets: stored secrets for the image's startup command; image only.
    :param vault: a vault for the image's startup command; image only.
    :param one_password: 1Password fields for the image's startup command; image only.
    """

    image_name: Annotated[str, Field(min_length=1)] | None = None
    image_id: str | None = None
    snapshot_name: Annotated[str, Field(min_length=1)] | None = None
    snapshot_id: str | None = None
    region: str | None = None
    timeout_minutes: Annotated[int, Field(ge=1)] | None = None
    cpu: Annotated[int | None, Field(ge=1, alias="vcpus")] = None
    memory_mib: Annotated[int | None, Field(ge=1, alias="memMiB")] = None
    disk_mib: Annotated[int | None, Field(ge=1, alias="diskSizeMiB")] = None
    enable_recording: bool | None = None
    exposed_ports: list[ExposedPort] | None = None
    mounts: dict[str, Mount] | None = None
    allow_internet_access: bool | None = None
    allow_out: list[str] | None = None
    deny_out: list[str] | None = None
    secrets: Secrets | None = None
    vault: str | None = None
    one_password: OnePasswordSource | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        image, snapshot = self.image_name, self.snapshot_name
        if image is not None and snapshot is not None:
            raise misfit(
                ("image_name", "snapshot_name"),
                f"exactly one of them is needed, and both are given ({image!r}, {snapshot!r})",
                "Give image_name to start from an image, or snapshot_name to start from a snapshot.",
            )
        if image is None and snapshot is None:
            raise misfit(
                (),
                "exactly one of image_name and snapshot_name is needed, and neither is given",
                f"Name an image, such as {IMAGES[1]!r}, or a snapshot.",
            )
        for id_name, name in (("image_id", "image_name"), ("snapshot_id", "snapshot_name")):
            if getattr(self, id_name) is not None and getattr(self, name) is None:
                raise misfit((id_name,), f"{id_name} needs {name}", f"Give {name}, or leave it out.")
        if snapshot is not None:
            image_only = ("cpu", "memory_mib", "disk_mib", "secrets", "vault", "one_password")
            given = tuple(name for name in image_only if getattr(self, name) is not None)
            if given:
                raise misfit(
                    given,
                    f"{', '.join(given)} can't be given with snapshot_name ({snapshot!r}): a snapshot "
                    "brings its own",
                    "Leave it out, or make the sandbox from an image.",
                )
        return self


class RuntimeTarget(CamelAnswer):
    """Where a sandbox's runtime plane is reached."""

    transport: str | None = None
    host: str | None = None
    base_url: str


class NetworkPolicy(CamelAnswer):
    """What a sandbox may reach."""

    allow_internet_access: bool | None = None
    allow_out: list[str] = Field(default_factory=list)
    deny_out: list[str] = Field(default_factory=list)


class Sandbox(CamelAnswer):
    """A sandbox as the control plane shows it. `start_time` and `end_time` in milliseconds.

    `token` opens the runtime plane until `token_expires_at`; it stands in no repr and only
    while the status is `active`.
    """

    id: Annotated[str, Field(min_length=1)]
    status: SandboxStatus
    team_id: str | None = None
    region: str | None = None
    created_at: Time = None
    updated_at: Time = None
    start_time: Int = None
    end_time: Int = None
    timeout_minutes: Int = None
    duration: Int = None
    close_reason: str | None = None
    session_url: str | None = None
    cpu: Annotated[Int, Field(validation_alias="vcpus")] = None
    memory_mib: Annotated[Int, Field(validation_alias="memMiB")] = None
    disk_mib: Annotated[Int, Field(validation_alias="diskSizeMiB")] = None
    runtime: RuntimeTarget | None = None
    exposed_ports: list[dict[str, Any]] | None = None
    network: NetworkPolicy | None = None
    contains_secrets: bool = False
    token: Annotated[str | None, Field(repr=False)] = None
    token_expires_at: Time = None

    @property
    def page(self) -> str | None:
        """The page for people: `session_url`, if it is a web address and opens nothing by itself."""
        url = self.session_url or ""
        if not url.lower().startswith(("https://", "http://")) or (self.token and self.token in url):
            return None
        return url


class SandboxPage(CamelAnswer):
    """One page of a listing of sandboxes."""

    sandboxes: list[Sandbox]
    total_count: Int = None
    page: Int = None
    per_page: Int = None


class Image(CamelAnswer):
    """An image to make sandboxes from."""

    id: str
    image_name: str
    namespace: str | None = None
    ready: bool | None = None


class ImagePage(CamelAnswer):
    """One page of a listing of images."""

    images: list[Image]
    total_count: Int = None


class Snapshot(CamelAnswer):
    """A snapshot to make sandboxes from."""

    id: str
    snapshot_name: str
    status: str | None = None
    image_name: str | None = None


class SnapshotPage(CamelAnswer):
    """One page of a listing of snapshots."""

    snapshots: list[Snapshot]
    total_count: Int = None


class Acknowledged(PlainAnswer):
    """The answer of a call that only succeeds or fails."""

    success: bool = True
