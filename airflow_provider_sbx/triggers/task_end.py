"""Ending a task in the triggerer, with no worker to resume on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException
from airflow.triggers.base import TaskFailedEvent, TaskSkippedEvent, TaskSuccessEvent, TriggerEvent
from pydantic import BaseModel, ConfigDict

from airflow_provider_sbx.api.errors import ProcessError
from airflow_provider_sbx.api.steps import Outcome
from airflow_provider_sbx.compat import AirflowRuntimeError, push
from airflow_provider_sbx.runs.ending import raise_unless_success, result_of

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger


class TaskEnd(BaseModel):
    """How a task ends here.

    :param output_bytes: how much of each of stdout and stderr its result keeps, in bytes.
    :param skip_on_exit_code: exit codes that skip it.
    :param pushes: its result goes to XCom.
    :param fails: a failure ends it here as well. Else a worker resumes it to fail, which must be where it
        left word in its state store for the next try: no trigger can reach that.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    output_bytes: int
    skip_on_exit_code: tuple[int, ...]
    pushes: bool
    fails: bool

    async def event(
        self, trigger: BaseTrigger, sandbox_id: str, process_id: str, outcome: Outcome
    ) -> TriggerEvent | None:
        """Return the event that ends the task, or None where a worker must end it.

        :param trigger: the task's trigger.
        :param outcome: how the process ended.
        """
        code = "" if outcome.exit_code is None else f", exit code {outcome.exit_code}"
        skip_on = set(self.skip_on_exit_code)
        try:
            raise_unless_success(sandbox_id, process_id, outcome, skip_on_exit_code=skip_on)
        except AirflowSkipException as skip:
            trigger.log.info("%s", skip)
            return TaskSkippedEvent()
        except ProcessError as failure:
            return self.failed(trigger, failure)
        trigger.log.info("Process %s: %s%s.", process_id, outcome.status.value, code)
        return await self.success(trigger, result_of(sandbox_id, process_id, outcome))

    async def success(self, trigger: BaseTrigger, result: dict[str, Any]) -> TriggerEvent | None:
        """Return the event of a success, once its result is in XCom; None where a worker must put it there.

        :param result: what the task returns.
        """
        # Here, since no DAG file needs it: it brings Airflow's database models along.
        from airflow.providers.common.compat.sdk import XCOM_RETURN_KEY

        try:
            # Not by the event's own `xcoms`: Airflow encodes these twice (`TaskInstance.xcom_push`), so that
            # a task would pull the text of a dict.
            if self.pushes:
                await push(trigger, XCOM_RETURN_KEY, result)
        except AirflowRuntimeError as error:
            trigger.log.warning("XCom could not take the result from here: a worker is to. %s", error)
            return None
        return TaskSuccessEvent()

    def failed(self, trigger: BaseTrigger, failure: Exception) -> TriggerEvent | None:
        """Return the event of a failure, which Airflow may retry; None where a worker must fail."""
        if not self.fails:
            return None
        trigger.log.error("%s", failure)
        return TaskFailedEvent()
