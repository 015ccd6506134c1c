"""What an isolation gives to a sandbox: a room to run commands in, and the accounts there."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_sbx.local.errors import ApiError, invalid

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Account:
    """A user of a sandbox."""

    name: str
    uid: int
    gid: int
    home: str


UBUNTU = Account("ubuntu", 1000, 1000, "/home/ubuntu")
ROOT = Account("root", 0, 0, "/root")


@dataclass(frozen=True)
class Room:
    """Where one sandbox's commands run.

    :param prefix: the command line that the agent is started by, up to the agent's own.
    :param config: what the agent is told.
    :param accounts: the users that a command may run as, the default first.
    :param path: where programs are looked for.
    :param switches: whether commands change to their account; else they are born as it.
    :param missing: why there are no other accounts, for one who asks for them.
    """

    prefix: tuple[str, ...]
    config: Mapping[str, Any]
    accounts: tuple[Account, ...]
    path: str
    switches: bool = False
    missing: str = ""

    def account(self, run_as: str | None) -> Account:
        """Return the account that a command runs as.

        :raises ApiError: there is no such user.
        """
        if run_as is None:
            return self.accounts[0]
        for account in self.accounts:
            if account.name == run_as:
                return account
        if run_as in (UBUNTU.name, ROOT.name):
            raise ApiError(400, "run_as_unavailable", f"can't run as {run_as}: {self.missing}")
        raise invalid(f"unknown user {run_as!r}: runAs must be a user of the sandbox", "unknown_user")

    def remove(self) -> None:
        """Remove what the room left on the host's disk."""
        if (scratch := self.config.get("scratch")) is not None:
            shutil.rmtree(scratch, ignore_errors=True)

    def environment(self, account: Account) -> dict[str, str]:
        """Return what every command of an account finds in its environment. Nothing of the server's."""
        return {
            "PATH": self.path,
            "HOME": account.home,
            "USER": account.name,
            "LOGNAME": account.name,
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
        }


class Isolation(ABC):
    """A way to keep sandboxes apart from the host."""

    name: str

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know when the server starts."""
        return ()

    @abstractmethod
    def room(self, sandbox_id: str, *, network: bool) -> Room:
        """Return a new sandbox's room.

        :param network: whether it shares the host's network; else it has none but its own loopback.
        :raises ApiError: the room can't be as it is asked for.
        """

    @abstractmethod
    def obstacle(self) -> str | None:
        """Return why this way can't be used here; None where it seems that it can."""
