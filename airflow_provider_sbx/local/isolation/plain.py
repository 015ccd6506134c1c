"""No isolation: plain processes of the server's own user, and a home of their own."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

from airflow_provider_sbx.local.errors import ApiError
from airflow_provider_sbx.local.isolation.rooms import SYSTEM_PATH, Account, Isolation, Room


class Plain(Isolation):
    """Commands see the host, its files and its processes, as the server's own user."""

    name = "none"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know when the server starts."""
        return (
            "no isolation: commands run as this user and see this machine's files and processes; "
            "run as root, or install bubblewrap, to keep them apart",
        )

    def room(self, sandbox_id: str, *, network: bool) -> Room:
        """Return a new sandbox's room: a directory for its home.

        :raises ApiError: it should have no network, which can't be kept from plain processes.
        """
        if not network:
            raise ApiError(
                501,
                "network_off_unavailable",
                "allowInternetAccess false needs isolation: run the server as root, or install bubblewrap",
            )
        scratch = Path(tempfile.mkdtemp(prefix="sbx-local-"))
        home = scratch / "home"
        home.mkdir()
        account = Account(_own_name(), os.getuid(), os.getgid(), str(home))
        return Room(
            prefix=(),
            config={"kind": "plain", "scratch": str(scratch)},
            accounts=(account,),
            path=os.environ.get("PATH", SYSTEM_PATH),
            missing=(
                f"without isolation commands run as the server's own user, {account.name}; "
                "run the server as root on a machine that allows namespaces"
            ),
        )

    def obstacle(self) -> str | None:
        """Nothing stands in its way."""
        return None


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())  # a container may run as a number without a name
