"""The embedded server's control plane: sandboxes from their making to their end, stored secrets."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

SECRETS = {
    "secrets": {"db-password": ["old-value", "new-value"], "token": "token-value"},
    "vaults": {"prod": {"DB_PASSWORD": "db-password", "TOKEN": "token"}},
}


@pytest.fixture(scope="module")
def secret_box(local_server: Any, box_of: Any) -> Any:
    server = local_server(env={"SBX_LOCAL_SECRETS": json.dumps(SECRETS)})
    box = box_of(server)
    box.server = server
    return box


def test_a_sandbox_shows_all_that_the_vendors_clients_read(box: Any) -> None:
    detail = box.control.get(f"/sandbox/{box.id}").json()
    assert (detail["status"], detail["region"]) == ("active", "us")
    assert detail["runtime"]["transport"] == "regional_proxy"
    assert detail["runtime"]["baseUrl"].endswith(f"/sandbox/{box.id}")
    assert detail["sessionUrl"].endswith(f"/sessions/{box.id}")
    assert datetime.fromisoformat(detail["tokenExpiresAt"]) > datetime.now(UTC)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", detail["createdAt"])
    assert isinstance(detail["duration"], int)
    assert detail["containsSecrets"] is False
    assert detail["network"] == {"allowInternetAccess": True, "allowOut": [], "denyOut": []}


def test_a_spec_is_taken_over(sbx_local: Any, box_of: Any) -> None:
    box = box_of(
        sbx_local,
        region="us-east",
        timeoutMinutes=7,
        vcpus=3,
        memMiB=512,
        diskSizeMiB=1024,
        exposedPorts=[{"port": 8080, "auth": True}],
        enableRecording=True,
    )
    detail = box.detail
    assert [detail[k] for k in ("region", "timeoutMinutes", "vcpus", "memMiB", "diskSizeMiB")] == [
        "us-east",
        7,
        3,
        512,
        1024,
    ]
    assert detail["exposedPorts"] == [{"port": 8080, "auth": True, "url": "http://127.0.0.1:8080/"}]


@pytest.mark.parametrize(
    ("spec", "status", "words"),
    [
        ({}, 400, "exactly one"),
        ({"imageName": "python", "snapshotName": "s"}, 400, "exactly one"),
        ({"imageId": "i"}, 400, "exactly one"),
        ({"imageName": "python", "snapshotId": "s"}, 400, "snapshot_id needs"),
        ({"snapshotName": "s", "vcpus": 2}, 400, "snapshot"),
        ({"imageName": "python", "timeoutMinutes": 0}, 400, "timeoutMinutes"),
        ({"imageName": "python", "region": "moon"}, 400, "region"),
        ({"imageName": "python", "exposedPorts": [{"port": 99999}]}, 400, "port"),
        ({"imageName": "windows"}, 404, "Image windows not found"),
        ({"snapshotName": "s"}, 404, "Snapshot s not found"),
        ({"imageName": "python", "mounts": {"/data": {"id": "v"}}}, 501, "volumes"),
    ],
)
def test_a_spec_that_can_not_be_right_is_refused(box: Any, spec: Any, status: int, words: str) -> None:
    answer = box.control.post("/sandbox", json=spec)
    assert answer.status_code == status
    assert words in answer.json()["message"]


@pytest.mark.parametrize("image", ["node", "python", "node-chromium"])
def test_the_vendors_images_are_listed_and_known(box: Any, image: str) -> None:
    answer = box.control.get("/images", params={"search": image}).json()
    assert image in [i["imageName"] for i in answer["images"]]
    assert box.control.get("/images", params={"source": "team"}).json()["images"] == []
    assert box.control.get("/snapshots").json()["snapshots"] == []


def test_sandboxes_are_listed_by_pages_and_filters(local_server: Any, box_of: Any) -> None:
    server = local_server("--sandbox", "alpha", "--sandbox", "beta", "--isolation", "none")
    box = box_of(server, timeoutMinutes=5)

    def listed(**query: Any) -> list[str]:
        return [s["id"] for s in box.control.get("/sandboxes", params=query).json()["sandboxes"]]

    assert listed() == [box.id, "beta", "alpha"]
    box.control.put("/sandbox/beta/stop")
    assert listed(status="active") == [box.id, "alpha"]
    assert listed(status="closed") == ["beta"]
    assert listed(search="alp") == ["alpha"]
    assert listed(end=1) == []
    assert listed(start=1) == [box.id, "beta", "alpha"]
    page = box.control.get("/sandboxes", params={"page": 2, "limit": 2}).json()
    assert [s["id"] for s in page["sandboxes"]] == ["alpha"]
    assert (page["totalCount"], page["page"], page["perPage"]) == (3, 2, 2)
    assert "token" not in page["sandboxes"][0]
    assert box.control.get("/sandboxes", params={"status": "odd"}).status_code == 400


def test_a_stopped_sandbox_runs_nothing_and_says_so(sbx_local: Any, box_of: Any) -> None:
    box = box_of(sbx_local)
    with box.starting("trap '' TERM; sleep 300") as events:
        process = next(events)[1]["id"]
        assert box.control.put(f"/sandbox/{box.id}/stop").json() == {"success": True}
        name, done = list(events)[-1]
    assert (name, done["status"]) == ("done", "killed")
    detail = box.control.get(f"/sandbox/{box.id}").json()
    assert (detail["status"], detail["closeReason"]) == ("closed", "stopped")
    assert "token" not in detail
    assert detail["endTime"] >= detail["startTime"]
    for answer in (
        box.runtime.get(f"/processes/{process}"),
        box.runtime.post("/exec", json={"command": "true"}),
        box.runtime.get("/processes"),
        box.control.post(f"/sandbox/{box.id}/processes", json={"command": "true"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "sandbox_not_running")
    assert box.control.put(f"/sandbox/{box.id}/stop").json() == {"success": True}


def test_an_unknown_sandbox_is_not_found(box: Any) -> None:
    for method, path in (("GET", "/sandbox/none"), ("PUT", "/sandbox/none/stop")):
        answer = box.control.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (404, "sandbox_not_found")


def test_a_sandbox_may_have_a_host_of_its_own(local_server: Any, box_of: Any) -> None:
    server = local_server("--base-url-style", "host", "--sandbox", "mine", "--isolation", "none")
    port = server.url.rpartition(":")[2]
    key = {"x-api-key": server.api_key}
    detail = httpx.get(f"{server.url}/api/sandbox/mine", headers=key, timeout=30).json()
    assert detail["runtime"]["baseUrl"] == f"http://mine.localhost:{port}"
    assert detail["runtime"]["host"] == f"mine.localhost:{port}"
    # By its address: not every machine resolves names below localhost.
    own = httpx.Client(
        base_url=server.url,
        headers={"authorization": f"Bearer {detail['token']}", "host": f"mine.localhost:{port}"},
        timeout=30,
    )
    assert own.post("/sandbox/exec", json={"command": "echo hi"}).json()["result"]["stdout"] == "hi\n"
    assert len(own.get("/sandbox/processes").json()["data"]) == 1
    assert own.get("/processes").status_code == 404
    # The other shape works as well, whatever the server says of itself.
    shared = own.get("/sandbox/mine/processes", headers={"host": f"localhost:{port}"})
    assert len(shared.json()["data"]) == 1


def test_the_page_for_people_shows_processes_but_neither_commands_nor_output(box: Any) -> None:
    process = box.start("echo hush-hush")
    box.wait(process)
    page = httpx.get(box.detail["sessionUrl"], timeout=30)
    assert page.status_code == 200
    assert process in page.text
    assert "hush" not in page.text
    assert httpx.get(box.detail["sessionUrl"] + "x", timeout=30).status_code == 404


def test_stored_secrets_reach_the_process_and_nobody_else(secret_box: Any) -> None:
    body = {
        "command": 'test "$A $B $C $D" = "new-value old-value token-value plain"',
        "env": {"D": "plain"},
        "secrets": {
            "A": {"name": "db-password"},
            "B": {"name": "db-password", "version": 1},
            "C": {"name": "token", "version": "latest"},
        },
    }
    answer = secret_box.control.post(f"/sandbox/{secret_box.id}/processes", json=body)
    assert answer.status_code == 200, answer.text
    assert "value" not in json.dumps(answer.json()["secrets"])
    assert [(s["env"], s["name"], s["version"]) for s in answer.json()["secrets"]] == [
        ("A", "db-password", 2),
        ("B", "db-password", 1),
        ("C", "token", 1),
    ]
    assert secret_box.wait(answer.json()["process"]["id"])["exit_code"] == 0
    assert secret_box.control.get(f"/sandbox/{secret_box.id}").json()["containsSecrets"] is True
    assert not any("-value" in line for line in secret_box.server.log)


def test_a_vault_fills_variables_and_a_named_secret_wins_over_it(secret_box: Any) -> None:
    body = {"command": "echo $DB_PASSWORD $TOKEN", "vault": "prod"}
    body["secrets"] = {"DB_PASSWORD": {"name": "db-password", "version": 1}}  # type: ignore[assignment]
    answer = secret_box.control.post(f"/sandbox/{secret_box.id}/processes", json=body).json()
    assert secret_box.wait(answer["process"]["id"])["stdout"] == "old-value token-value\n"
    origins = {s["env"]: (s["source"], s.get("overrides")) for s in answer["secrets"]}
    vault = {"type": "vault", "name": "prod"}
    assert origins == {"DB_PASSWORD": ({"type": "secrets"}, [vault]), "TOKEN": (vault, None)}


@pytest.mark.parametrize(
    ("params", "status", "code"),
    [
        ({"secrets": {"A": {"name": "none"}}}, 404, "SECRET_NOT_FOUND"),
        ({"secrets": {"A": {"name": "token", "version": 9}}}, 404, "SECRET_VERSION_NOT_FOUND"),
        ({"vault": "none"}, 404, "SECRET_VAULT_NOT_FOUND"),
        ({"secrets": {"A": {"name": "bad name"}}}, 400, "invalid_request"),
        ({"secrets": {"A-B": {"name": "token"}}}, 400, "invalid_request"),
        ({"secrets": {f"A{n}": {"name": "token"} for n in range(33)}}, 400, "invalid_request"),
        ({"secrets": {"A": {"name": "token"}}, "env": {"A": "x"}}, 400, "invalid_request"),
        (
            {"onePassword": {"token": "t", "vault": "v", "fields": {"A": {"item": "i", "field": "f"}}}},
            501,
            "not_supported",
        ),
    ],
)
def test_secrets_that_can_not_be_delivered_are_refused(
    secret_box: Any, params: dict[str, Any], status: int, code: str
) -> None:
    answer = secret_box.control.post(
        f"/sandbox/{secret_box.id}/processes", json={"command": "true", **params}
    )
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_token_opens_its_own_sandbox_only(local_server: Any, box_of: Any) -> None:
    server = local_server("--isolation", "none")
    one, two = box_of(server), box_of(server)
    assert one.runtime.get("/processes").status_code == 200
    crossed = one.runtime.get("/processes", headers={"authorization": f"Bearer {two.detail['token']}"})
    assert crossed.status_code == 401


def test_a_token_opens_its_sandbox_only_for_its_time(local_server: Any, box_of: Any) -> None:
    one = box_of(local_server("--token-seconds", "1", "--isolation", "none"))
    ends = datetime.fromisoformat(one.detail["tokenExpiresAt"]).timestamp()
    time.sleep(max(0.0, ends - time.time()) + 0.01)
    expired = one.runtime.get("/processes")
    assert (expired.status_code, expired.json()["code"]) == (401, "unauthorized")
    assert "expired" in expired.json()["message"]

    def opened_by_a_fresh_one() -> bool:
        token = one.control.get(f"/sandbox/{one.id}").json()["token"]
        answer = one.runtime.get("/processes", headers={"authorization": f"Bearer {token}"})
        return bool(answer.status_code == 200)

    # More than one try: a slow machine may take longer than a token lasts.
    assert any(opened_by_a_fresh_one() for _ in range(5))


@pytest.mark.parametrize(
    ("plane", "method", "path"),
    [
        ("runtime", "GET", "/files?path=/"),
        ("runtime", "POST", "/files/upload"),
        ("runtime", "POST", "/pty"),
        ("runtime", "GET", "/terminal/1"),
        ("control", "POST", "/sandbox/{id}/snapshot"),
        ("control", "POST", "/sandbox/{id}/expose"),
        ("control", "PUT", "/sandbox/{id}/network"),
        ("control", "POST", "/images/builds"),
        ("control", "GET", "/volumes"),
    ],
)
def test_what_the_server_does_not_have_it_says_that_it_has_not(
    box: Any, plane: str, method: str, path: str
) -> None:
    answer = getattr(box, plane).request(method, path.format(id=box.id), json={})
    assert (answer.status_code, answer.json()["code"]) == (501, "not_supported")
    assert "processes only" in answer.json()["message"]
