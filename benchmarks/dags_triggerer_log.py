"""The DAGs of `bench_triggerer_log`, and the bare trigger beside which ours is measured.

The triggerer imports the trigger from here, so the repository must be on its path.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import BaseOperator
from airflow.sdk import DAG
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_sbx.api.output import Line
from airflow_provider_sbx.compat import task_logger
from airflow_provider_sbx.operators.process import SandboxProcessOperator
from airflow_provider_sbx.tasklog import MERGED_STEP_US, emitter
from benchmarks.bench_triggerer_log import LINE, LINES, TASK_ID, WAITING

BATCH = 200
"""Lines between two turns for other triggers, as in `airflow_provider_sbx.follow`."""


class BareTrigger(BaseTrigger):
    """Logs lines that it has already.

    :param by_emitter: by our emitter, instead of by `self.log.info`.
    :param go: the file that lets the lines come; the trigger ends when it is gone again, since what the
        supervisor has not read when a trigger ends does not get into its task's log.
    :param lines: how many.
    """

    def __init__(self, *, by_emitter: bool, go: str, lines: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is untyped
        self.by_emitter = by_emitter
        self.go = go
        self.lines = lines

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer builds this trigger from."""
        # Not `__module__`: the DAG processor has this file under another name.
        return (
            "benchmarks.dags_triggerer_log.BareTrigger",
            {"by_emitter": self.by_emitter, "go": self.go, "lines": self.lines},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Log, and fire one event."""
        texts = [LINE % n for n in range(1, self.lines + 1)]
        now = time.time_ns() // 1000
        entries = [Line("stdout", text, n, now + n * MERGED_STEP_US) for n, text in enumerate(texts)]
        emit = emitter(task_logger(self.log))
        while not await asyncio.to_thread(Path(self.go).exists):
            self.log.info(WAITING)
            await asyncio.sleep(0.2)
        for begin in range(0, self.lines, BATCH):
            if self.by_emitter:
                emit(entries[begin : begin + BATCH])
            else:
                for text in texts[begin : begin + BATCH]:
                    self.log.info(text)
            await asyncio.sleep(0)
        while await asyncio.to_thread(Path(self.go).exists):  # noqa: ASYNC110  # of another process
            await asyncio.sleep(0.2)
        yield TriggerEvent({})  # type: ignore[no-untyped-call]  # Airflow's is untyped


class BareOperator(BaseOperator):
    """Defers to a bare trigger."""

    def __init__(self, *, by_emitter: bool, go: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.by_emitter = by_emitter
        self.go = go

    def execute(self, context: Any) -> None:
        """Defer."""
        trigger = BareTrigger(by_emitter=self.by_emitter, go=self.go, lines=LINES)
        self.defer(trigger=trigger, method_name="resumed")

    def resumed(self, context: Any, event: Any) -> None:
        """Do nothing: all was done in the triggerer."""


def _add_dags() -> None:
    folder = os.environ["SBX_BENCH_GO"]
    for dag_id, by_emitter in (("self_log", False), ("emitter", True)):
        with DAG(dag_id):
            BareOperator(task_id=TASK_ID, by_emitter=by_emitter, go=f"{folder}/{dag_id}")
    with DAG("whole_path"):
        SandboxProcessOperator(
            task_id=TASK_ID,
            command=f"until [ -e go ]; do echo {WAITING}; sleep 0.2; done; rm go; seq -f '{LINE}' {LINES}",
            defer_after=0,
        )


if not __name__.startswith("benchmarks."):  # the triggerer, which imports the trigger, needs no DAGs
    _add_dags()
