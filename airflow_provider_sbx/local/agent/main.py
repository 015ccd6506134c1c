"""The agent's life: prepare the sandbox, start what is asked for, end everything."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Any, NoReturn

from airflow_provider_sbx.local.agent import etc, linux, rootfs, wire
from airflow_provider_sbx.local.agent.supervisor import Supervisor
from airflow_provider_sbx.local.agent.tree import kill_descendants


def main(descriptor: int) -> NoReturn:
    """Run an agent.

    :param descriptor: the file descriptor of the socket to the server.
    """
    control = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    received = wire.receive(control)
    if received is None:
        os._exit(0)
    config, _ = received
    try:
        _prepare(config)
    except OSError as error:
        wire.send(control, {"failed": str(error)})
        os._exit(1)
    wire.send(control, {"ready": True})
    # What is set up now is never collected: forked supervisors then share its memory.
    gc.collect()
    gc.freeze()
    with contextlib.suppress(EOFError, ConnectionResetError):
        _serve(control)
    _end(config)


def _prepare(config: dict[str, Any]) -> None:
    linux.rename_process("sbx-init")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Ended supervisors and orphans vanish by themselves.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if config["kind"] == "namespaces":
        rootfs.build(config)
    elif config["kind"] == "bubblewrap":
        etc.write(Path("/etc"), config)
    elif config["kind"] == "plain":
        linux.become_subreaper()


def _serve(control: socket.socket) -> None:
    while (received := wire.receive(control)) is not None:
        request, descriptors = received
        if os.fork() == 0:
            control.close()
            *stdio, channel = descriptors
            Supervisor(request, stdio, socket.socket(fileno=channel)).run()
        for fd in descriptors:
            os.close(fd)


def _end(config: dict[str, Any]) -> NoReturn:
    if os.getpid() != 1:
        # As process 1 of a namespace the kernel does it, at once and for all.
        kill_descendants(lambda: None)
    if config["kind"] == "plain":
        shutil.rmtree(config["scratch"], ignore_errors=True)
    os._exit(0)
