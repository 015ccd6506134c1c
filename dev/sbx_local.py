"""The embedded sandbox server as a process of its own, for the demo and the integration tests."""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from dev.processes import Service, stop_all, uninterrupted

START_SECONDS = 30


class SbxLocal:
    """``sbx-local`` on a free port of the loopback address, with a key of its own, in a ``with`` block.

    Its log and its temporary files go below ``home``. Raises ServiceError when it doesn't get ready.
    """

    def __init__(self, home: Path) -> None:
        self.api_key = f"local-{secrets.token_hex(12)}"
        self.url = ""
        home = home.resolve()
        self._tmp = home / "tmp"
        env = {**os.environ, "SBX_LOCAL_API_KEY": self.api_key, "TMPDIR": str(self._tmp)}
        command = [str(Path(sys.executable).with_name("sbx-local")), "serve", "--host", "127.0.0.1"]
        self.service = Service(
            "sbx-local", [*command, "--port", "0"], env=env, cwd=home, log_file=home / "sbx-local.log"
        )

    @property
    def connection(self) -> str:
        """The server as an Airflow connection, in the JSON form of ``AIRFLOW_CONN_...`` variables."""
        return json.dumps({"conn_type": "sbx", "host": self.url, "password": self.api_key})

    def __enter__(self) -> Self:
        self._tmp.mkdir(parents=True, exist_ok=True)
        try:
            self.service.start()
            self.url = self.service.wait_for_line(r"^ready: (http://\S+)$", START_SECONDS).group(1)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        with uninterrupted():
            stop_all([self.service], grace_seconds=5)
