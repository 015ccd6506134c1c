"""Airflow's REST API, as far as the demo and the integration tests need it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx

PAGE = 100

_PATIENCE_SECONDS = 30.0
"""How long a question is asked again that was not answered, in seconds."""


class AirflowApiError(RuntimeError):
    """Airflow's API refused a request.

    Attributes: ``status`` is the HTTP status, ``body`` the text of the answer.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.body = response.text
        request = response.request
        super().__init__(f"{request.method} {request.url.path}: HTTP {self.status}: {self.body[:2000]}")


@dataclass(frozen=True)
class TaskInstance:
    """One task of one run as the API shows it; ``raw`` has the rest of its fields."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    start_date: str | None
    raw: dict[str, Any] = field(repr=False)

    @property
    def label(self) -> str:
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


class AirflowApi:
    """A client of one Airflow, logged in by user and password. Times out after 30 s a request."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self.url = url
        self.username = username
        self.password = password
        # trust_env=False: a proxy of the environment has no business with a loopback address.
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False)
        self._token: str | None = None

    def close(self) -> None:
        self._http.close()

    def login(self) -> str:
        """Get a token, keep it and return it."""
        body = {"username": self.username, "password": self.password}
        response = self._http.post("/auth/token", json=body)
        if response.is_error:
            raise AirflowApiError(response)
        token: str = response.json()["access_token"]
        self._token = token
        return token

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int | bool] | None = None,
        body: Any = None,
    ) -> Any:
        """Send one request below ``/api/v2`` and return the decoded answer.

        A question that is not answered, or by an error of the server, is asked again for a while.

        Raises AirflowApiError for an error status, httpx.TransportError where no answer comes.
        """
        response = self._patiently(method, path, params, body)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            self._token = None
            response = self._send(method, path, params, body)
        if response.is_error:
            raise AirflowApiError(response)
        return response.json() if response.content else None

    def health(self) -> dict[str, Any]:
        """Return the components' health; needs no login."""
        response = self._http.get("/api/v2/monitor/health", timeout=5)
        if response.is_error:
            raise AirflowApiError(response)
        health: dict[str, Any] = response.json()
        return health

    def dags(self) -> list[dict[str, Any]]:
        return list(self._pages("/dags", "dags"))

    def import_errors(self) -> dict[str, str]:
        """Return ``{file relative to the DAGs folder: traceback}``."""
        errors = self._pages("/importErrors", "import_errors")
        return {error["filename"]: error["stack_trace"] for error in errors}

    def create_run(self, dag_id: str, conf: Mapping[str, Any] | None, logical_date: datetime | None) -> str:
        """Start a run of a DAG that Airflow knows and return the run's id."""
        body = {"logical_date": logical_date and logical_date.isoformat(), "conf": dict(conf or {})}
        run = self.request("POST", f"/dags/{_quote(dag_id)}/dagRuns", body=body)
        run_id: str = run["dag_run_id"]
        return run_id

    def run_state(self, dag_id: str, run_id: str) -> str:
        state: str = self.request("GET", _run(dag_id, run_id))["state"]
        return state

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        """Mark a whole run ``success`` or ``failed``, as a person does in the UI."""
        self.request("PATCH", _run(dag_id, run_id), body={"state": state})

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """Return the run's task instances, in the order in which they started."""
        raw = self._pages(f"{_run(dag_id, run_id)}/taskInstances", "task_instances")
        found = [
            TaskInstance(
                task_id=item["task_id"],
                map_index=item["map_index"],
                state=item["state"],
                try_number=item["try_number"],
                start_date=item["start_date"],
                raw=item,
            )
            for item in raw
        ]
        return sorted(found, key=lambda ti: (ti.start_date or "9", ti.task_id, ti.map_index))

    def task_instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> TaskInstance:
        """Return one task instance. Raises KeyError where the run has none such (yet)."""
        for found in self.task_instances(dag_id, run_id):
            if (found.task_id, found.map_index) == (task_id, map_index):
                return found
        raise KeyError(f"no task instance {task_id}[{map_index}] in {dag_id}/{run_id}")

    def task_log(
        self, dag_id: str, run_id: str, task_id: str, try_number: int, map_index: int = -1
    ) -> list[dict[str, Any]]:
        """Return the log of one try, one structured record a line, as far as it is written yet."""
        path = f"{_task(dag_id, run_id, task_id)}/logs/{try_number}"
        params = {"map_index": map_index, "full_content": True}
        answer = self.request("GET", path, params=params)
        return [line if isinstance(line, dict) else {"event": line} for line in answer["content"]]

    def event_logs(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return what Airflow noted of a run's tasks, such as ``heartbeat timeout``, oldest first."""
        params = {"dag_id": dag_id, "run_id": run_id, "order_by": "event_log_id"}
        return list(self._pages("/eventLogs", "event_logs", params))

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1
    ) -> Any:
        """Return one XCom's value. Raises AirflowApiError with status 404 where there is none."""
        path = f"{_task(dag_id, run_id, task_id)}/xcomEntries/{_quote(key)}"
        return self.request("GET", path, params={"map_index": map_index})["value"]

    def xcoms(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """Return all XComs of a task instance, by key."""
        path = f"{_task(dag_id, run_id, task_id)}/xcomEntries"
        entries = self._pages(path, "xcom_entries", {"map_index": map_index})
        keys = sorted(entry["key"] for entry in entries if entry["map_index"] == map_index)
        return {key: self.xcom(dag_id, run_id, task_id, key, map_index) for key in keys}

    def set_task_state(
        self, dag_id: str, run_id: str, task_id: str, state: str, map_index: int | None = None
    ) -> None:
        """Mark a task ``success``, ``failed`` or ``skipped``, as a person does in the UI."""
        path = _task(dag_id, run_id, task_id)
        if map_index is not None and map_index >= 0:
            path += f"/{map_index}"
        self.request("PATCH", path, body={"new_state": state})

    def clear(
        self,
        dag_id: str,
        run_id: str,
        task_ids: Sequence[str | tuple[str, int]] | None = None,
        *,
        downstream: bool = False,
    ) -> None:
        """Clear tasks of a run (all of them for None), whatever their state, so that they run again."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "only_failed": False,
            "task_ids": None if task_ids is None else list(task_ids),
            "include_downstream": downstream,
        }
        self.request("POST", f"/dags/{_quote(dag_id)}/clearTaskInstances", body=body)

    def _send(
        self, method: str, path: str, params: Mapping[str, str | int | bool] | None, body: Any
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._token or self.login()}", "Accept": "application/json"}
        return self._http.request(method, f"/api/v2{path}", params=params, json=body, headers=headers)

    def _patiently(
        self, method: str, path: str, params: Mapping[str, str | int | bool] | None, body: Any
    ) -> httpx.Response:
        give_up_at = time.monotonic() + _PATIENCE_SECONDS
        while True:
            is_over, is_question = time.monotonic() > give_up_at, method == "GET"
            try:
                response = self._send(method, path, params, body)
            except httpx.TransportError:
                if is_over or not is_question:
                    raise
            else:
                # SQLite gives way to another writer: what was to be done was not.
                gave_way = "database is locked" in response.text if response.is_server_error else False
                if is_over or not (gave_way or (is_question and response.is_server_error)):
                    return response
            time.sleep(1)

    def _pages(
        self, path: str, key: str, params: Mapping[str, str | int | bool] | None = None
    ) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            page = self.request("GET", path, params={**(params or {}), "limit": PAGE, "offset": offset})
            yield from page[key]
            offset += len(page[key])
            if not page[key] or offset >= page["total_entries"]:
                return


def render_log(lines: Sequence[Mapping[str, Any]], *, sources: bool = False) -> str:
    """Return a log as text, ``time  line``, with ``!`` before what came on stderr.

    The group of lines in which Airflow names the files it read is left out unless ``sources``.
    """
    rendered = []
    in_sources = False
    for line in lines:
        event = str(line.get("event", ""))
        in_sources = in_sources or event.startswith("::group::Log message source")
        if sources or not in_sources:
            time = _clock(line.get("timestamp"))
            mark = "!" if line.get("stream") == "stderr" else " "
            level = str(line.get("level", ""))
            prefix = f"{level.upper()}: " if level in ("warning", "error", "critical") else ""
            rendered.append(f"{time} {mark} {prefix}{event}{_error(line)}")
        if event == "::endgroup::":
            in_sources = False
    return "\n".join(rendered)


def _error(line: Mapping[str, Any]) -> str:
    causes = line.get("error_detail") or []
    return "".join(f"\n{'':15}{cause.get('exc_type')}: {cause.get('exc_value')}" for cause in causes)


def _clock(timestamp: str | None) -> str:
    if not timestamp:
        return " " * 12
    return datetime.fromisoformat(timestamp).astimezone(UTC).strftime("%H:%M:%S.%f")[:12]


def _quote(name: str) -> str:
    return quote(name, safe="")


def _run(dag_id: str, run_id: str) -> str:
    return f"/dags/{_quote(dag_id)}/dagRuns/{_quote(run_id)}"


def _task(dag_id: str, run_id: str, task_id: str) -> str:
    return f"{_run(dag_id, run_id)}/taskInstances/{_quote(task_id)}"
