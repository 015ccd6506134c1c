"""Send each request once with the vendor's Python client, to a server that records them.

Run by the Python of an environment that has it (`make vendor`), with `SBX_URL` and `SBX_KEY` and the names
of cases as `box/case`; before each, the server is told its name at `POST /mark/<name>`.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

from hyperbrowser import Hyperbrowser
from values import COMMON, IMAGE, ONE_PASSWORD, RUN, SECRETS, SOME, STORED, TEAM

CASES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "create": lambda client, box, process: client.sandboxes.create({"image_name": "python"}),
    "create_image": lambda client, box, process: client.sandboxes.create({**IMAGE, **COMMON}),
    "create_stored": lambda client, box, process: client.sandboxes.create({"image_name": "python", **STORED}),
    "create_snapshot": lambda client, box, process: client.sandboxes.create(
        {"snapshot_name": "snap", "snapshot_id": "snap-1", **COMMON}
    ),
    "get_sandbox": lambda client, box, process: client.sandboxes.get(box.id),
    "stop_sandbox": lambda client, box, process: client.sandboxes.stop(box.id),
    "list_sandboxes": lambda client, box, process: client.sandboxes.list(TEAM),
    "list_sandboxes_all": lambda client, box, process: client.sandboxes.list(),
    "list_images": lambda client, box, process: client.sandboxes.list_images(SOME),
    "list_images_all": lambda client, box, process: client.sandboxes.list_images(),
    "list_snapshots": lambda client, box, process: client.sandboxes.list_snapshots(SOME),
    "start": lambda client, box, process: box.processes.start("echo 'a b'"),
    "start_options": lambda client, box, process: box.processes.start("true", **RUN),
    "start_seconds": lambda client, box, process: box.processes.start("true", timeout_sec=5),
    "start_secrets": lambda client, box, process: box.processes.start("true", secrets=SECRETS, **RUN),
    "start_vault": lambda client, box, process: box.processes.start("true", vault="team"),
    "start_1password": lambda client, box, process: box.processes.start("true", one_password=ONE_PASSWORD),
    "exec": lambda client, box, process: box.exec("echo 'a b'"),
    "exec_options": lambda client, box, process: box.exec("true", **RUN),
    "get_process": lambda client, box, process: box.get_process("proc-1"),
    "list_processes_all": lambda client, box, process: box.processes.list(),
    "list_processes": lambda client, box, process: box.processes.list(
        status=["running", "queued"], limit=5, cursor="c&1", created_after=1, created_before=2
    ),
    "list_processes_status": lambda client, box, process: box.processes.list(status="exited"),
    "wait": lambda client, box, process: process.wait(timeout_ms=5000),
    "wait_default": lambda client, box, process: process.wait(),
    "stream": lambda client, box, process: list(process.stream()),
    "stream_from_1": lambda client, box, process: list(process.stream(1)),
    "stream_from_7": lambda client, box, process: list(process.stream(7)),
    "stdin_text": lambda client, box, process: process.write_stdin("hello\n"),
    "stdin_text_eof": lambda client, box, process: process.write_stdin("caf\u00e9", eof=True),
    "stdin_bytes": lambda client, box, process: process.write_stdin(b"\x00\xff", eof=False),
    "stdin_eof": lambda client, box, process: process.write_stdin(eof=True),
    "signal": lambda client, box, process: process.signal("TERM"),
    "signal_sig": lambda client, box, process: process.signal("SIGINT"),
    "kill": lambda client, box, process: process.kill(),
}


def main(names: list[str]) -> None:
    url = os.environ["SBX_URL"]
    client = Hyperbrowser(api_key=os.environ["SBX_KEY"], base_url=url)
    boxes = {id_: client.sandboxes.get(id_) for id_ in {name.partition("/")[0] for name in names}}
    processes = {id_: box.get_process("proc-1") for id_, box in boxes.items()}
    for name in names:
        id_, _, case = name.partition("/")
        urllib.request.urlopen(urllib.request.Request(f"{url}/mark/{name}", method="POST")).close()
        CASES[case](client, boxes[id_], processes[id_])
    client.close()
    print(json.dumps(names))


if __name__ == "__main__":
    main(sys.argv[1:])
