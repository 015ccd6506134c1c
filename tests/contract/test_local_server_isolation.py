"""The embedded server's isolation, each way that this machine allows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

is_root = os.geteuid() == 0


@pytest.fixture(scope="module")
def rooted(local_server: Any, box_of: Any) -> Any:
    """A sandbox by namespaces, with users of its own."""
    if not is_root:
        pytest.skip("namespaces need a server that is root")
    server = local_server("--isolation", "namespaces")
    box = box_of(server)
    box.server = server
    return box


@pytest.fixture(scope="module")
def wrapped(local_server: Any, box_of: Any) -> Any:
    """A sandbox by bubblewrap, with one user."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    server = local_server("--isolation", "bubblewrap")
    box = box_of(server)
    box.server = server
    return box


@pytest.fixture(params=["rooted", "wrapped"])
def isolated(request: pytest.FixtureRequest) -> Any:
    """A sandbox that is kept apart from the host, either way."""
    return request.getfixturevalue(request.param)


def test_commands_run_as_ubuntu_in_its_home(isolated: Any) -> None:
    result = isolated.exec("id -un; id -u; id -g; pwd; echo $HOME $USER; touch mine && echo written")
    expected = ["ubuntu", "1000", "1000", "/home/ubuntu", "/home/ubuntu ubuntu", "written"]
    assert result["stdout"].splitlines() == expected


def test_the_system_can_be_read_and_not_written(isolated: Any) -> None:
    result = isolated.exec("ls /usr/bin >/dev/null && echo read; touch /usr/x /bin/x /usr/bin/x")
    assert result["stdout"] == "read\n"
    assert result["exit_code"] == 1


def test_the_hosts_files_are_not_there(isolated: Any) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "secret").write_text("x")
        looked_for = [
            directory,
            str(Path.home()),
            str(Path.home() / ".bashrc"),
            "/etc/shadow-",
            "/etc/ssh",
            "/var/lib/dpkg",
        ]
        result = isolated.exec("; ".join(f"ls -A {path}/ 2>/dev/null" for path in looked_for))
    # What remains are directories on the way to the Python that the sandbox itself runs by.
    assert "secret" not in result["stdout"]
    assert ".bash" not in result["stdout"]


def test_the_hosts_processes_are_not_there(isolated: Any) -> None:
    # By its arguments: its pid may be one of the sandbox's own as well.
    seconds = f"300.{uuid.uuid4().int}"
    with subprocess.Popen(["sleep", seconds]) as on_the_host:
        try:
            own = Path(f"/proc/{on_the_host.pid}/cmdline")
            _until(lambda: seconds in own.read_text())
            arguments = isolated.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")["stdout"]
        finally:
            on_the_host.kill()
    assert "cat" in arguments
    assert seconds not in arguments
    assert len(isolated.exec("cd /proc; echo [0-9]*")["stdout"].split()) < 12


def test_a_sandbox_has_temporary_files_and_a_host_name_of_its_own(isolated: Any, box_of: Any) -> None:
    other = box_of(isolated.server)
    name = uuid.uuid4().hex
    assert isolated.exec(f"echo x >/tmp/{name}; echo x >~/{name}; hostname")["stdout"] == f"{isolated.id}\n"
    assert other.exec(f"ls /tmp/{name} ~/{name}")["exit_code"] == 2
    assert not Path("/tmp", name).exists()


def test_two_processes_of_a_sandbox_see_each_other(isolated: Any) -> None:
    process = isolated.start("echo $$ >/tmp/pid; sleep 300")
    seen = isolated.exec(
        "until [ -s /tmp/pid ]; do sleep 0.01; done; kill -0 $(cat /tmp/pid) && cat /tmp/pid"
    )
    assert seen["stdout"].strip() == str(isolated.get(process)["pid"])
    isolated.kill(process)  # may answer before the end has come
    assert isolated.wait(process)["status"] == "killed"


def test_a_sandbox_without_network_reaches_nothing_but_itself(isolated: Any, box_of: Any) -> None:
    cut_off = box_of(isolated.server, allowInternetAccess=False)
    address = isolated.server.url.removeprefix("http://").replace(":", "/")
    probe = f"exec 3<>/dev/tcp/{address} && echo reached"
    assert isolated.exec(probe)["stdout"] == "reached\n"
    assert cut_off.exec(probe)["stdout"] == ""
    assert cut_off.exec("grep -c : /proc/net/dev")["stdout"] == "1\n"
    assert cut_off.detail["network"]["allowInternetAccess"] is False


def test_python_is_there(isolated: Any) -> None:
    assert isolated.exec("python3 -c 'import ssl, sqlite3; print(6 * 7)'")["stdout"] == "42\n"


def test_devices_and_pseudo_files_work(isolated: Any) -> None:
    result = isolated.exec(
        "echo x >/dev/null; head -c 4 /dev/urandom | wc -c; echo a >/dev/shm/a && cat /dev/shm/a; "
        "cat <(echo fd); echo out >/dev/stdout; python3 -c 'import pty; pty.spawn([\"true\"])' && echo pty"
    )
    assert result["stdout"].split() == ["4", "a", "fd", "out", "pty"]


def test_run_as_root_is_root_of_the_sandbox(rooted: Any) -> None:
    result = rooted.exec("id -un; pwd; echo $HOME; touch /etc/mine && chown ubuntu /etc/mine", runAs="root")
    assert result["stdout"].splitlines() == ["root", "/root", "/root"]
    assert result["exit_code"] == 0


def test_the_default_user_is_not_root_but_may_become_it(rooted: Any) -> None:
    assert rooted.exec("touch f; chown root f")["exit_code"] == 1
    if shutil.which("sudo") is None:
        pytest.skip("sudo is not installed")
    result = rooted.exec("sudo -n whoami; sudo -n -u ubuntu whoami; sudo -n env | grep -c SBX")
    assert result["stdout"].splitlines() == ["root", "ubuntu", "0"]
    assert result["stderr"] == ""


def test_a_kill_takes_what_runs_under_sudo(rooted: Any) -> None:
    if shutil.which("sudo") is None:
        pytest.skip("sudo is not installed")
    with rooted.starting("sudo -n sh -c 'trap \"\" TERM; echo up; sleep 301; true'; true") as events:
        process = next(events)[1]["id"]
        assert next(events)[1]["data"] == "up\n"
        rooted.kill(process)
        assert list(events)[-1][1]["status"] == "killed"
    assert rooted.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 30[1]'")["stdout"] == "0\n"


def test_root_of_a_sandbox_is_not_root_of_the_host(rooted: Any) -> None:
    for attempt in (
        "mount -t tmpfs none /mnt",
        "mount -o remount,rw /usr",
        "mknod /tmp/disk b 8 0",
        "echo 1 >/proc/sys/kernel/sysrq",
        "echo 0 >/proc/sysrq-trigger",
        "hostname other",
        "chroot /proc/1/root ls /usr/x",
        "touch /usr/x",
        "kill -9 1 && sleep 1 && test ! -e /proc/1",
    ):
        assert rooted.exec(attempt, runAs="root")["exit_code"] != 0, attempt
    assert rooted.exec("echo alive")["stdout"] == "alive\n"


def test_a_sandbox_that_breaks_is_closed_rather_than_answered_for(box_of: Any, local_server: Any) -> None:
    server = local_server("--isolation", "none")
    box = box_of(server)
    box.exec("kill -9 $(cut -d' ' -f4 /proc/$PPID/stat)")  # its agent, by its supervisor's parent

    def detail() -> dict[str, Any]:
        read: dict[str, Any] = box.control.get(f"/sandbox/{box.id}").json()
        return read

    _until(lambda: detail()["status"] == "closed")
    assert detail()["closeReason"] == "the sandbox ended unexpectedly"


def test_without_isolation_a_user_that_can_not_be_had_is_refused_with_the_reason(
    local_server: Any, box_of: Any
) -> None:
    server = local_server("--isolation", "none")
    _until(lambda: any("no isolation" in line for line in server.log))
    box = box_of(server)
    me = box.exec("id -un")["stdout"].strip()
    assert box.exec("id -un", runAs=me)["stdout"].strip() == me
    other = "ubuntu" if me != "ubuntu" else "root"
    answer = box.runtime.post("/exec", json={"command": "id", "runAs": other})
    assert (answer.status_code, answer.json()["code"]) == (400, "run_as_unavailable")
    assert "as root" in answer.json()["message"]
    cut_off = box.control.post("/sandbox", json={"imageName": "python", "allowInternetAccess": False})
    assert cut_off.json()["code"] == "network_off_unavailable"


def test_bubblewrap_says_that_it_has_no_root(wrapped: Any) -> None:
    answer = wrapped.runtime.post("/exec", json={"command": "id", "runAs": "root"})
    assert (answer.status_code, answer.json()["code"]) == (400, "run_as_unavailable")
    assert "bubblewrap" in answer.json()["message"]


def test_a_server_that_is_not_root_takes_the_best_that_there_is(local_server: Any, box_of: Any) -> None:
    if not is_root:
        pytest.skip("the shared server is one already")
    if not all(map(_others_may_read, (Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parent))):
        pytest.skip("another user can't run this Python")
    server = local_server(user=65534)
    expected = "bubblewrap" if shutil.which("bwrap") else "none"
    assert httpx.get(f"{server.url}/healthz").json()["isolation"] == expected
    assert box_of(server).exec("echo hi")["stdout"] == "hi\n"


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _others_may_read(path: Path) -> bool:
    return all(p.stat().st_mode & 0o005 == 0o005 for p in (path, *path.parents))
