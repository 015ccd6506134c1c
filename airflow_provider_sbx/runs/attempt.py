"""One try of a task, and what is known of the try before it.

Every start carries a key in its command (`api.conversations.marked`), so that its process can be
found again when the answer to the start, or the worker, was lost. On Airflow 3.3 the ids also go
to the task's state store, which outlives the try; what is stored says which try it belongs to,
since the store outlives a clear as well.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from airflow_provider_sbx.api.conversations import process_key
from airflow_provider_sbx.api.steps import Outcome
from airflow_provider_sbx.compat import AirflowRuntimeError, task_state_store

_STORE_KEY = "sbx_process"
_MOST_KEYS = 100
_MOST_OUTPUT = 256 * 1024
"""How much output an outcome may have to be kept in the store, in characters."""

_PLAIN_BYTES = 48 * 1024
"""How much is stored as it is, in bytes. Airflow warns in the log of what has more than 64 KiB."""


class Record(BaseModel):
    """What a try leaves for the next.

    :param try_number: the try that this belongs to.
    :param max_tries: how many tries the task had then; a clear gives it more.
    :param sandbox_id: where its process runs.
    :param process_id: its process; None while only the sandbox is known.
    :param owns_sandbox: the sandbox was made for this task.
    :param finished: the try failed by its process, so that this is nobody else's result.
    :param outcome: how the process ended, where its sandbox is stopped and can't be asked any more.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    try_number: int
    max_tries: int
    sandbox_id: str
    process_id: str | None = None
    owns_sandbox: bool = False
    finished: bool = False
    outcome: Outcome | None = None

    @field_validator("outcome", mode="before")
    @classmethod
    def _unpacked(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(zlib.decompress(base64.b64decode(value)))
        except zlib.error as error:
            raise ValueError("it is not what was stored") from error

    def stored(self) -> dict[str, Any]:
        """Return it as JSON, with a large outcome packed."""
        body = self.model_dump(mode="json")
        if len(outcome := json.dumps(body["outcome"])) > _PLAIN_BYTES:
            body["outcome"] = base64.b64encode(zlib.compress(outcome.encode())).decode()
        return body


class Attempt:
    """One try of a task: its name, its key, and word to the next.

    :param context: the task's context.
    """

    def __init__(self, context: Mapping[str, Any]) -> None:
        ti = context["ti"]
        self._store = task_state_store(context)
        self._identity = (ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
        # The run's start tells apart two installations, or two runs of one name, in one sandbox.
        self.run_started = getattr(context.get("dag_run"), "start_date", None)
        self.try_number: int = ti.try_number
        self._max_tries: int = getattr(ti, "max_tries", 0)
        mapped = f"[{ti.map_index}]" if ti.map_index is not None and ti.map_index >= 0 else ""
        self.label = f"{ti.dag_id}/{ti.task_id}{mapped} run {ti.run_id} try {ti.try_number}"

    @property
    def key(self) -> str:
        """The key of this try's process."""
        return self.key_of(self.try_number)

    def key_of(self, try_number: int) -> str:
        """Return the key of some try's process."""
        return process_key(*self._identity, self.run_started, try_number)

    def remember(
        self,
        sandbox_id: str,
        process_id: str | None = None,
        *,
        owns_sandbox: bool = False,
        finished: bool = False,
        outcome: Outcome | None = None,
    ) -> None:
        """Leave word for the next try, where there is a store to leave it in.

        An outcome that is too large for a row of Airflow's database is left out: then a worker that is
        lost just before Airflow knows of the end leaves the next try to run the command again.
        """
        if outcome is not None and len(outcome.stdout) + len(outcome.stderr) > _MOST_OUTPUT:
            outcome = None
        if self._store is not None:
            record = Record(
                try_number=self.try_number,
                max_tries=self._max_tries,
                sandbox_id=sandbox_id,
                process_id=process_id,
                owns_sandbox=owns_sandbox,
                finished=finished,
                outcome=outcome,
            )
            self._store.set(_STORE_KEY, record.stored())

    def disown(self, sandbox_id: str, process_id: str) -> None:
        """Leave word that a process which was ended is no later try's result: it may heed TERM with code 0.

        Afterwards: a process that is disowned and runs on would have another started beside it.
        """
        with suppress(AirflowRuntimeError):  # its end matters more than word of it
            self.remember(sandbox_id, process_id, finished=True)

    @cached_property
    def left_over(self) -> Record | None:
        """What a try left unfinished, such as when its worker was lost.

        Not only the try just before: that one may have been lost, or have found the service out of
        reach, before it could leave word of its own. Also this very try: Airflow runs a task anew in
        the same try where it could not load its DAG when it was to go on after a deferral.

        None where the last word is of a try that failed, where there is none, or where it can't be
        known (no state store before 3.3). None as well where a person cleared the task since: that
        is a wish for a new process, and the old one is being ended. A clear raises `max_tries`
        (`clear_task_instances`), a retry doesn't.

        Read once, so that what this try leaves itself does not count.
        """
        record = self._last_word
        if record is None or record.finished or record.max_tries != self._max_tries:
            return None
        return record

    @cached_property
    def unrecorded_keys(self) -> tuple[str, ...]:
        """The keys of the earlier tries that left no word, so that their processes are known by key only."""
        record = self._last_word
        since = max(record.try_number if record else 0, self.try_number - 1 - _MOST_KEYS)
        return tuple(self.key_of(number) for number in range(since + 1, self.try_number))

    @cached_property
    def _last_word(self) -> Record | None:
        if self._store is None:
            return None
        try:
            record = Record.model_validate(self._store.get(_STORE_KEY))
        except ValidationError:
            return None
        return record if record.try_number <= self.try_number else None

    @property
    def has_store(self) -> bool:
        """Whether tries can leave word for each other."""
        return self._store is not None
