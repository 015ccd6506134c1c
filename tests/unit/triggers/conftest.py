"""Airflow's supervisor as a trigger sees it, and a trigger of a task."""

from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import ErrorResponse, TaskStatesResult, XComResult

from airflow_provider_sbx.triggers.process import SandboxProcessTrigger
from tests.unit.builders import PROCESS, SANDBOX


class Supervisor:
    """It answers awaited messages: XCom, and the state of the one task."""

    def __init__(self):
        self.xcom, self.asked, self.broken, self.state = {}, [], False, "deferred"
        self.held = None

    async def asend(self, message):
        self.asked.append(message.type)
        if self.held is not None:
            await self.held.wait()
        if self.broken:
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR))
        if message.type == "GetTaskStates":
            states = {} if self.state is None else {"t": self.state}
            return TaskStatesResult(task_states={"r": states})
        if message.type == "MaskSecret":
            return None
        if message.type == "SetXCom":
            self.xcom[message.key] = message.value
            return None
        if message.type == "DeleteXCom":
            self.xcom.pop(message.key, None)
            return None
        return XComResult(key=message.key, value=self.xcom.get(message.key))

    def send(self, message):
        """Before 3.3 a secret is masked by this one."""
        self.asked.append(message.type)


@pytest.fixture
def supervisor(monkeypatch):
    made = Supervisor()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", made, raising=False)
    return made


def of_a_task(**options):
    made = SandboxProcessTrigger(sandbox_id=SANDBOX, process_id=PROCESS, **options)
    made.task_instance = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1)
    return made
