"""Values that must not stand in the log are told to Airflow's masker."""

import pytest
from airflow.exceptions import TaskDeferred

from airflow_provider_sbx.operators.process import SandboxProcessOperator
from airflow_provider_sbx.runs import parameters
from tests.unit.builders import PROCESS, SANDBOX, process_body, result_body, sse
from tests.unit.client.twins import held_stream

P = "/sandbox/processes"
ENV = {"DB_PASSWORD": "open-sesame", "N": 1}


@pytest.fixture
def masked(monkeypatch):
    """What was told to the masker, which picks by the names what it hides."""
    masked = []
    monkeypatch.setattr(parameters, "mask_secret", lambda value, name: masked.append({name: value}))
    return masked


def test_before_the_start_and_again_when_the_task_is_resumed(network, context_of, masked):
    task = SandboxProcessOperator(
        task_id="task", command="sleep 9", sandbox_id=SANDBOX, env=ENV, defer_after=0.05
    )
    network.queue("POST", P, held_stream(sse("started", process_body())))
    network.queue("POST", f"{P}/{PROCESS}/stdin", {"success": True})
    with pytest.raises(TaskDeferred):
        task.execute(context_of())
    assert masked == [{"DB_PASSWORD": "open-sesame"}]

    network.queue("POST", f"{P}/{PROCESS}/wait", {"result": result_body()})
    event = {"sandbox_id": SANDBOX, "process_id": PROCESS, "status": "exited", "exit_code": 0}
    task.execute_complete(context_of(), event)
    assert masked == [{"DB_PASSWORD": "open-sesame"}] * 2
