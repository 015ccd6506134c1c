"""Runs a function in a sandbox. This file is sent there as it stands, with the function and its arguments.

So it imports nothing but the standard library, of Python 3.8 or newer, and nothing of this package.
What the function prints is its process's output; what it returns is said at the very end, in marked
lines of stdout (`api.frames` reads them): as JSON, or as a failure in words.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextlib
import importlib.util
import inspect
import json
import linecache
import math
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import types
from typing import Any

_MOST_CHARACTERS = 1500


class Unfit(Exception):
    """The function could not be called, or its result can't be sent; in words."""


def run(call: dict[str, Any]) -> None:
    """Call a function, and end the process as it ended.

    :param call: `name`, and either `source`, `file`, `line`, `args` and `kwargs`, or `pickled` and
        `python`; `requirements`; `mark`, `line_bytes` and `limit_bytes` of the frame.
    """
    frame = Frame(call["mark"], call["line_bytes"], call["limit_bytes"])
    for stream in (sys.stdout, sys.stderr):
        # Whole lines as they are printed; text that the terminal's encoding lacks is no error.
        stream.reconfigure(line_buffering=True, encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    try:
        if call["requirements"]:
            install(call["requirements"])
        frame.say_result(call_function(call))
    except Unfit as unfit:
        print(f"{call['name']} {unfit}", file=sys.stderr)
        frame.say_failure(str(unfit))
        sys.exit(1)
    except SystemExit as exit_:
        if not exit_.code:  # `sys.exit()`: a function that returns nothing
            frame.say_result(None)
        raise
    except BaseException as error:  # noqa: BLE001  # whatever it is, it ends here
        # From the function's own frames on: these here are no business of its author's.
        traceback.print_exception(type(error), error, _own(error.__traceback__))
        text = f"{type(error).__name__}: {error}".rstrip(": ")
        frame.say_failure(f"raised {text}")
        sys.exit(1)


class Frame:
    """What is said to Airflow; written when all else has been, at the process's exit.

    :param mark: begins each line.
    :param line_bytes: longest line, in bytes.
    :param limit_bytes: longest frame, in bytes.
    """

    def __init__(self, mark: str, line_bytes: int, limit_bytes: int) -> None:
        self._mark = mark
        self._line_bytes = line_bytes
        self._limit_bytes = limit_bytes
        self._lines: list[str] = []
        # Of its own, since the function may close or redirect what it finds.
        self._out = os.dup(1)
        self._pid = os.getpid()
        # Handlers run last in, first out: this one after those of the function.
        atexit.register(self._write)

    def say_result(self, result: Any) -> None:
        """Say what the function returned.

        :raises Unfit: JSON can't hold it, or it is too long.
        """
        problem = misfit(result, "the result")
        if problem is not None:
            raise Unfit(
                f"returned what can't be sent: {problem}. Return text, finite numbers, lists and dicts of "
                "them, such as by .isoformat(), .tolist() or list()."
            )
        lines = self._framed({"result": result})
        size = sum(map(len, lines))
        if size > self._limit_bytes:
            raise Unfit(
                f"returned {size} bytes, as they are sent, and max_output_bytes is {self._limit_bytes}. "
                "Return less, raise it, or write the result to a store and return where it is."
            )
        self._lines = lines

    def say_failure(self, text: str) -> None:
        """Say why there is no result."""
        if len(text) > _MOST_CHARACTERS:
            text = text[:_MOST_CHARACTERS] + "..."
        self._lines = self._framed({"failure": text})

    def _framed(self, said: dict[str, Any]) -> list[str]:
        text = json.dumps(said)
        room = self._line_bytes - len(self._mark) - 24  # the numbers, the colon and the line end
        pieces = [text[at : at + room] for at in range(0, len(text), room)]
        return [f"{self._mark}{n}/{len(pieces)}:{piece}\n" for n, piece in enumerate(pieces, 1)]

    def _write(self) -> None:
        if os.getpid() != self._pid:  # a child that the function forked
            return
        for stream in (sys.stdout, sys.__stdout__):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or none
                stream.flush()  # type: ignore[union-attr]
        for line in self._lines:
            left = line.encode("ascii")
            while left:
                left = left[os.write(self._out, left) :]


def call_function(call: dict[str, Any]) -> Any:
    """Return what the function returns.

    :raises Unfit: it could not be called.
    """
    if call.get("pickled") is not None:
        function, args, kwargs = unpickled(call)
    else:
        function, args, kwargs = defined(call), call["args"], call["kwargs"]
    result = function(*args, **kwargs)
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def defined(call: dict[str, Any]) -> Any:
    """Return the function of a source, whose tracebacks show its lines as they are in its own file."""
    source, file, line = call["source"], call["file"], call["line"]
    if source[:1].isspace():  # it stood within a block, and its strings must not be dedented
        source, line = "if True:\n" + source, line - 1
    text = "\n" * (line - 1) + source
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    # In a module that others find it in, such as a process pool, and that holds nothing else.
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    # Annotations name what only the author's file imports.
    exec(compile(text, file, "exec", annotations.compiler_flag, True), module.__dict__)
    return module.__dict__[call["name"]]


def unpickled(call: dict[str, Any]) -> Any:
    """Return the function and its arguments.

    :raises Unfit: this Python can't read them.
    """
    here = ".".join(map(str, sys.version_info[:2]))
    if call["python"] != here:
        raise Unfit(
            f"was pickled by Python {call['python']}, and the sandbox's is {here}, which can't run its "
            'bytecode. Use a sandbox with the same Python, or serializer="json".'
        )
    try:
        return pickle.loads(base64.b64decode(call["pickled"]))
    except ImportError as error:
        raise Unfit(
            f"could not be unpickled: {error}. Name what the sandbox lacks in requirements, such as "
            'requirements=["cloudpickle"].'
        ) from None


def install(requirements: list[str]) -> None:
    """Install packages for this process and its children only.

    Into a directory of their own: it works in an environment that is managed by others, and for any user.

    :raises Unfit: they could not be installed.
    """
    begun = time.monotonic()
    print(f"Installing requirements: {', '.join(requirements)}")
    folder = tempfile.mkdtemp(prefix="sbx-requirements-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    listing, packages = os.path.join(folder, "requirements.txt"), os.path.join(folder, "packages")
    with open(listing, "w", encoding="utf-8") as file:
        file.write("\n".join(requirements) + "\n")
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--target", packages, "-r", listing]
    done = subprocess.run(
        [_python_with_pip(folder), "-m", "pip", "install", *options],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"},
        check=False,
    )
    if done.returncode != 0:
        raise Unfit(
            f"was not called: pip could not install its requirements (exit code {done.returncode}); what it "
            "says stands in the log."
        )
    print(f"Installed requirements in {time.monotonic() - begun:.1f} s.")
    sys.path.insert(0, packages)
    importlib.invalidate_caches()
    for name, added in (("PYTHONPATH", packages), ("PATH", os.path.join(packages, "bin"))):
        os.environ[name] = os.pathsep.join(filter(None, [added, os.environ.get(name)]))


def _python_with_pip(folder: str) -> str:
    """Return this Python, or one like it with the pip that Python brings along.

    :raises Unfit: neither can be had.
    """
    if importlib.util.find_spec("pip") is not None:
        return sys.executable
    made = os.path.join(folder, "pip")
    done = subprocess.run(
        [sys.executable, "-m", "venv", made], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False
    )
    if done.returncode != 0:
        raise Unfit(
            f"was not called: {sys.executable} has no pip, nor a venv module that brings one, to install its "
            "requirements. Use an image with pip, or one that holds the packages."
        )
    return os.path.join(made, "bin", "python")


def misfit(value: Any, where: str) -> str | None:
    """Return in words what of a value can't be sent as JSON and kept in a database; None if all can."""
    if value is None or isinstance(value, int):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{where} is {value}, which JSON has no number for"
    if isinstance(value, str):
        fits = "\0" not in value and value == value.encode("utf-8", "replace").decode("utf-8")
        return None if fits else f"{where} is text with a NUL or half a character, which no database keeps"
    try:
        if isinstance(value, dict):
            for key, member in value.items():
                problem = _key_misfit(key, where) or misfit(member, f"{where}[{key!r:.40}]")
                if problem:
                    return problem
            return None
        if isinstance(value, (list, tuple)):
            for index, member in enumerate(value):
                problem = misfit(member, f"{where}[{index}]")
                if problem:
                    return problem
            return None
    except RecursionError:
        return f"{where:.80} is nested too deeply, or holds itself"
    return f"{where} is a {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")


def _key_misfit(key: Any, where: str) -> str | None:
    # As JSON does it, numbers become text.
    if key is None or isinstance(key, (str, int, float)):
        return misfit(key, f"a key of {where}")
    return f"a key of {where} is a {type(key).__qualname__}"


def _own(trace: types.TracebackType | None) -> types.TracebackType | None:
    """Return a traceback without this file's frames at its beginning."""
    own = trace
    while own is not None and own.tb_frame.f_globals.get("run") is run:
        own = own.tb_next
    return own or trace
