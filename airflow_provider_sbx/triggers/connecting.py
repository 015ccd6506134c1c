"""A trigger's connection, with patience where a process waits for it to be had."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_sbx.hooks.sandbox import SandboxAsyncHook

_PATIENCE_SECONDS = 600.0
"""How long a connection that was there is asked for, in seconds."""

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 20.0


@asynccontextmanager
async def connected(
    make_hook: Callable[[], SandboxAsyncHook], *, is_known: bool, log: Any
) -> AsyncIterator[SandboxAsyncHook]:
    """Use a connection.

    Of one that could not be read, as where a secrets backend is busy, Airflow says that there is none
    (`_async_get_connection` of its task SDK).

    :param make_hook: makes a hook that is entered.
    :param is_known: the connection was there before, so that it is asked for again for ten minutes.
    :param log: the trigger's logger.
    :raises AirflowNotFoundException: there is none.
    :raises InvalidParameterError: it is half-filled or wrong.
    """
    give_up_at, pause = time.monotonic() + _PATIENCE_SECONDS, _FIRST_PAUSE_SECONDS
    async with AsyncExitStack() as stack:
        while True:
            try:
                hook = await stack.enter_async_context(make_hook())
                break
            except AirflowNotFoundException as error:
                if not is_known or time.monotonic() > give_up_at:
                    raise
                if pause == _FIRST_PAUSE_SECONDS:
                    log.warning("%s Or it could not be read: trying again for a while.", error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        yield hook
