"""A server in the background: start it, wait until it answers, use it, end it, and check how it ended."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_sbx.operators.process import (
    SandboxExecOperator,
    SandboxProcessOperator,
    SandboxSignalOperator,
)
from airflow_provider_sbx.operators.sandbox_group import sandbox_group
from airflow_provider_sbx.sensors.process import SandboxProcessSensor

# It takes a port that is free, and tells which in a file.
SERVER = """
import http.server, pathlib, signal, sys

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
pathlib.Path("port").write_text(str(server.server_port))
print("serving", flush=True)
try:
    server.serve_forever()
finally:
    print("served", flush=True)
"""

CLIENT = """
import pathlib, urllib.request

address = f"http://127.0.0.1:{pathlib.Path('port').read_text()}/"
print(urllib.request.urlopen(address).status)
"""


def python(script: str) -> str:
    return f"python3 - <<'EOF'\n{script}EOF\n"


# --8<-- [start:tasks]
with (
    DAG("sandbox_background_server", tags=["sandbox"]),
    sandbox_group("web", image_name="python", timeout_minutes=30),
):
    start = SandboxProcessOperator(
        task_id="start", command=f"exec {python(SERVER)}", wait_for_completion=False
    )
    answers = SandboxExecOperator(
        task_id="answers",
        command=f"ask() {{\n{python(CLIENT)}}}\nuntil ask 2>/dev/null; do sleep 0.2; done",
        timeout=timedelta(minutes=1),
    )
    use = SandboxExecOperator(task_id="use", command=python(CLIENT) * 3)
    end = SandboxSignalOperator(task_id="end", process=start.output, signal="TERM")
    check = SandboxProcessSensor(task_id="check", process=start.output, timeout=60, deferrable=True)
    # Should one of them fail, the server ends with the group's sandbox.
    start >> answers >> use >> end >> check
# --8<-- [end:tasks]
