from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from tests.unit.builders import API_KEY


class TaskInstance(SimpleNamespace):
    """What a task sees of its task instance, with XCom as a dict."""

    def xcom_push(self, key, value):
        self.pushed[key] = value

    def xcom_pull(self, key, **_):
        return self.pushed.get(key)


class Store(dict):
    """The task's state store, as far as it is used."""

    def set(self, key, value):
        self[key] = value


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def context_of(store):
    """Make the context of a try; all tries share one state store, as in Airflow."""

    def make(try_number=1, *, max_tries=0, with_store=True):
        ti = TaskInstance(
            dag_id="dag",
            task_id="task",
            run_id="run",
            map_index=-1,
            try_number=try_number,
            max_tries=max_tries,
            start_date=datetime.now(UTC),
            pushed={},
        )
        context = {"ti": ti, "dag_run": SimpleNamespace(start_date=datetime(2026, 1, 1, tzinfo=UTC))}
        return context | ({"task_state_store": store} if with_store else {})

    return make


@pytest.fixture(autouse=True)
def _connection(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_SBX_DEFAULT", f'{{"conn_type": "sbx", "password": "{API_KEY}"}}')
