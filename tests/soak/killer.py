"""Kills parts of a cluster at random, and starts them again."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

from dev.cluster import SCHEDULERS, TRIGGERERS, WORKERS, Cluster

# Between two kills, and from a kill to the new start, in seconds.
PAUSE_SECONDS = (3, 10)
DOWN_SECONDS = (1, 8)

_PARTS = {"worker": WORKERS, "triggerer": TRIGGERERS, "scheduler": SCHEDULERS}


class Killer:
    """Kills one part after the other by SIGKILL: machines with all that runs on them, and single tasks.

    seed: the same seed makes the same choices, but for which of the tasks that run then.
    """

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.kills: Counter[str] = Counter()
        self._cluster = cluster
        self._chance = random.Random(seed)
        self._down: dict[str, float] = {}

    def run(self, seconds: float, between: Callable[[], None]) -> None:
        """Kill for so long, calling ``between`` before each kill; all runs again afterwards."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self._chance.uniform(*PAUSE_SECONDS))
            self._start_again()
            between()
            kind = self._chance.choice(["task", "task", *_PARTS])
            if kind == "task":
                self._kill_a_task()
            else:
                self._lose(kind, self._chance.choice(_PARTS[kind]))
        while self._down:
            time.sleep(0.5)
            self._start_again()

    def _lose(self, kind: str, name: str) -> None:
        back_after = self._chance.uniform(*DOWN_SECONDS)
        if name not in self._down:
            self._cluster.lose(name)
            self.kills[kind] += 1
            self._down[name] = time.monotonic() + back_after
            self._tell(f"lost {name}")

    def _kill_a_task(self) -> None:
        # Its supervisor goes on: killed alone, it would leave the task running beside the next try.
        if pids := sorted(self._cluster.task_processes()):
            pid = self._chance.choice(pids)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            self.kills["task"] += 1
            self._tell(f"killed the task process {pid}")

    def _start_again(self) -> None:
        for name, at in list(self._down.items()):
            if time.monotonic() >= at:
                del self._down[name]
                self._cluster.start_component(name)
                self._tell(f"started {name}")

    @staticmethod
    def _tell(what: str) -> None:
        # To compare with the times in Airflow's logs.
        print(f"{time.strftime('%H:%M:%S', time.gmtime())} {what}", flush=True)
