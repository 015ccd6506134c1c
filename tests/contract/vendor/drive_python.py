"""Drive a server with the vendor's Python client, and print as JSON what that saw.

Run by the Python of an environment that has it (`make vendor`), with `SBX_URL`, `SBX_KEY` and `SBX_CLIENT`
(`sync` or `async`) and the names of scenarios, or none for all but `plain_starts`. `drive_node.mjs` has the
same scenarios.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from hyperbrowser import AsyncHyperbrowser, Hyperbrowser
from hyperbrowser.exceptions import HyperbrowserError

Seen = dict[str, Any]

URL, CLIENT = (
    os.environ["SBX_URL"],
    {"sync": Hyperbrowser, "async": AsyncHyperbrowser}[os.environ["SBX_CLIENT"]],
)
KNOWS_SECRETS = importlib.util.find_spec("hyperbrowser.models.secret") is not None  # not in 1.3.0
NOISY = "head -c 300000 /dev/zero | tr '\\0' x"


async def done(answer: Any) -> Any:
    """Return what an operation of either client answers."""
    return await answer if inspect.isawaitable(answer) else answer


async def each(events: Any) -> list[Any]:
    return [event async for event in events] if hasattr(events, "__aiter__") else list(events)


async def refusal(operation: Callable[[], Any]) -> Seen:
    """Return the error that an operation ends with."""
    try:
        await done(operation())
    except HyperbrowserError as error:
        return {
            "status": error.status_code,
            "code": error.code,
            "service": error.service,
            "retryable": error.retryable,
            "has_request_id": bool(error.request_id),
            "message": str(error),
        }
    return {"status": "it was not refused"}


def told(result: Any) -> Seen:
    return {name: getattr(result, name) for name in ("status", "exit_code", "stdout", "stderr")}


async def sandbox_life(client: Any, _: Any) -> Seen:
    made = await done(client.sandboxes.create({"image_name": "python", "timeout_minutes": 7}))
    made_status = made.status
    read = await done(client.sandboxes.get(made.id))
    page = await done(client.sandboxes.list({"status": "active", "limit": 100, "search": made.id}))
    stopped = await done(made.stop())
    return {
        "made": made_status,
        "read": [read.id == made.id, read.status, read.timeout_minutes],
        "listed": [entry.id == made.id for entry in page.sandboxes],
        "stopped": stopped.success,
        "then": (await done(client.sandboxes.get(made.id))).status,
        "exec_by_who_stopped_it": await refusal(lambda: made.exec("true")),
        "exec_by_another": await refusal(lambda: read.exec("true")),
    }


async def run(_: Any, box: Any) -> Seen:
    options = {"cwd": "/tmp", "env": {"FOO": "bar"}, "timeout_ms": 5000, "run_as": "root"}
    return {
        "seed": told(await done(box.exec("pwd && echo $FOO && whoami", **options))),
        "default_user": told(await done(box.exec("whoami"))),
        "exit_code": told(await done(box.exec("echo no >&2; exit 3"))),
        "time_limit": told(await done(box.exec("sleep 30", timeout_ms=200))),
        "args": told(await done(box.exec({"command": "printf", "args": ["%s|", "a b", "it's"]}))),
        "not_utf8": told(await done(box.exec("printf 'a\\377b'"))),
    }


async def stdin(_: Any, box: Any) -> Seen:
    read = "read line; echo stdout:$line; echo stderr:$line 1>&2"
    text = await done(box.processes.start(read, run_as="root"))
    await done(text.write_stdin("hello\n", eof=True))
    raw = await done(box.processes.start("od -An -tx1"))
    await done(raw.write_stdin(b"\x00\xff\x80"))
    await done(raw.write_stdin(eof=True))
    seen = {"text": told(await done(text.result())), "bytes": told(await done(raw.wait()))}
    return seen | {"late": await refusal(lambda: text.write_stdin("late"))}


async def get_and_list(client: Any, _: Any) -> Seen:
    box = await done(client.sandboxes.create({"image_name": "python"}))
    handles = [await done(box.processes.start("sleep 30", run_as="root")) for _ in range(3)]
    ids = {handle.id for handle in handles}
    one = await done(box.get_process(handles[0].id))
    first = await done(box.processes.list(status="running", limit=2))
    rest = await done(box.processes.list(status=["running"], limit=2, cursor=first.next_cursor))
    started = one.to_dict()["started_at"]
    later = await done(box.processes.list(created_after=started + 3_600_000))
    # A good while before: the first was made a moment before it was started.
    span = {"created_after": started - 60_000, "created_before": started + 3_600_000}
    around = await done(box.processes.list(**span))
    ended = await done(box.processes.list(status=["exited", "killed"]))
    fourth = await done(box.processes.start("echo after the others"))
    queued = (await done(box.get_process(fourth.id))).status
    await done(handles[0].kill())
    seen = {
        "got": [one.id == handles[0].id, one.status, one.to_dict()["command"]],
        "pages": [len(first.data), len(rest.data), {p.id for p in [*first.data, *rest.data]} == ids],
        "no_page_after_the_last": rest.next_cursor is None,
        "later": len(later.data),
        "around": len(around.data),
        "ended": len(ended.data),
        "queued": [queued, told(await done(fourth.wait()))],
    }
    seen["refreshed"] = (await done(one.refresh())).status
    await done(box.stop())
    return seen


async def stream(_: Any, box: Any) -> Seen:
    handle = await done(box.processes.start("echo out; sleep 0.1; echo err 1>&2; exit 4"))
    own = await each(handle.stream())
    fetched = await done(box.get_process(handle.id))
    whole, rest = await each(fetched.stream()), await each(fetched.stream(2))
    noisy = await done(box.processes.start(NOISY))
    kept = await done(noisy.wait())
    gone = await done(box.get_process(noisy.id))

    def plain(events: list[Any]) -> list[Any]:
        return [[e.type, e.result.exit_code] if e.type == "exit" else [e.type, e.seq, e.data] for e in events]

    return {
        "own": plain(own),
        "whole": plain(whole),
        "rest": plain(rest),
        "noisy_bytes": len(kept.stdout),
        "gone": await refusal(lambda: each(gone.stream(1))),
    }


async def ends(_: Any, box: Any) -> Seen:
    asleep = await done(box.processes.start("sleep 30", run_as="root"))
    fetched = await done(box.get_process(asleep.id))
    too_short = await refusal(lambda: fetched.wait(timeout_ms=100))
    await done(fetched.signal("TERM"))
    deaf = await done(box.processes.start("trap '' TERM; while :; do sleep 1; done"))
    waiting = await done(box.processes.start("sleep 30"))
    await done(waiting.signal("SIGKILL"))
    return {
        "too_short": too_short,
        "term": told(await done(fetched.wait())),
        "kill": told(await done(deaf.kill())),
        "sigkill": told(await done(waiting.wait())),
        "unknown_signal": await refusal(lambda: fetched.signal("NOPE")),
    }


async def refusals(client: Any, box: Any) -> Seen:
    wrong = CLIENT(api_key="not-the-key", base_url=URL)
    seen = {
        "unknown_process": await refusal(lambda: box.get_process("no-such-process")),
        "unknown_sandbox": await refusal(lambda: client.sandboxes.get("no-such-sandbox")),
        "unknown_directory": await refusal(lambda: box.processes.start("true", cwd="/no/such/place")),
        "unknown_user": await refusal(lambda: box.processes.start("true", run_as="nobody-knows")),
        "unknown_image": await refusal(lambda: client.sandboxes.create({"image_name": "no-such-image"})),
        "unknown_status": await refusal(lambda: box.processes.list(status="nope")),
        "wrong_key": await refusal(lambda: wrong.sandboxes.list()),
        "files": await refusal(lambda: box.files.list("/tmp")),
    }
    await done(wrong.close())
    return seen


async def token_renewal(client: Any, box: Any) -> Seen:
    other = await done(client.sandboxes.get(box.id))
    other._runtime_session = other._runtime_session.model_copy(update={"token": "spoilt"})
    return {"exec": told(await done(other.exec("echo renewed")))}


async def plain_starts(_: Any, box: Any) -> Seen:
    return {"start": await refusal(lambda: box.processes.start("true"))}


async def secrets(_: Any, box: Any) -> Seen:
    handle = await done(box.processes.start("echo $TOKEN $OTHER", secrets={"TOKEN": "token"}, vault="team"))
    result = told(await done(handle.wait()))
    unknown = await refusal(lambda: box.processes.start("true", secrets={"TOKEN": "no-such-secret"}))
    return {"result": result, "names": sorted(entry.name for entry in handle.secrets), "unknown": unknown}


SCENARIOS: dict[str, Callable[[Any, Any], Awaitable[Seen]]] = {
    play.__name__: play
    for play in (sandbox_life, run, stdin, get_and_list, stream, ends, refusals, token_renewal)
}
MORE = {play.__name__: play for play in (plain_starts, secrets)}


async def main(names: list[str]) -> Seen:
    client = CLIENT(api_key=os.environ["SBX_KEY"], base_url=URL)
    box = await done(client.sandboxes.create({"image_name": "python"}))
    seen: Seen = {}
    for name in names or [*SCENARIOS, *(["secrets"] if KNOWS_SECRETS else [])]:
        try:
            seen[name] = await (SCENARIOS | MORE)[name](client, box)
        except Exception:  # noqa: BLE001 - told to the test, which shows it
            seen[name] = {"crashed": traceback.format_exc()}
    await done(box.stop())
    await done(client.close())
    return seen


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1:]))))
