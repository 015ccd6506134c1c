"""What runs in the sandbox, run here by itself as it is run there."""

import ast
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from airflow_provider_sbx.api.frames import LINE_BYTES, MARK, read_frame, without_frame
from airflow_provider_sbx.decorators import runner
from airflow_provider_sbx.decorators.operators import _BOOTSTRAP

RUNNER = Path(runner.__file__).read_text()


def run(source, *args, name="fn", limit=65_536, env=None, **call):
    """Run a function's source as a sandbox would, and return what came of it."""
    call = {
        "runner": RUNNER,
        "name": name,
        "source": textwrap.dedent(source),
        "file": "etl.py",
        "line": 7,
        "args": list(args),
        "kwargs": {},
        "requirements": [],
        "mark": MARK,
        "line_bytes": LINE_BYTES,
        "limit_bytes": limit,
    } | call
    done = subprocess.run(
        [sys.executable, "-c", _BOOTSTRAP],
        input=json.dumps(call),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
        env={**os.environ, **(env or {})},
    )
    shown = [text for line in done.stdout.splitlines() if (text := without_frame(line)) is not None]
    return SimpleNamespace(
        code=done.returncode, said=read_frame(done.stdout), shown=shown, stderr=done.stderr, raw=done.stdout
    )


# --- results ---------------------------------------------------------------------------------


def test_a_function_is_called_with_its_arguments_and_what_it_returns_is_said():
    ran = run("def fn(a, *, b):\n    return {'sum': a + b, 3: (1, 2)}\n", 1, kwargs={"b": 2})

    assert (ran.code, ran.said, ran.shown, ran.stderr) == (0, {"result": {"sum": 3, "3": [1, 2]}}, [], "")


def test_an_async_function_is_awaited():
    assert run("async def fn():\n    return 1\n").said == {"result": 1}


@pytest.mark.parametrize("value", [None, True, 0, 1.5, "", "é\u2028\U0001f600\n", [], {"a": {"b": [None]}}])
def test_what_json_holds_comes_as_it_is(value):
    assert run("def fn(value):\n    return value\n", value).said == {"result": value}


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        ("{'a': [1, {2}]}", "the result['a'][1] is a set"),
        ("b'x'", "the result is a bytes"),
        ("__import__('datetime').date(2026, 1, 1)", "the result is a datetime.date"),
        ("{(1, 2): 3}", "a key of the result is a tuple"),
        ("[float('nan')]", "the result[0] is nan"),
        ("'a\\0'", "the result is text with a NUL"),
        ("'\\ud800'", "the result is text with a NUL or half a character"),
        ("fn", "the result is a function"),
        ("(lambda x: x.append(x) or x)([])", "nested too deeply, or holds itself"),
    ],
)
def test_what_json_can_not_hold_is_refused_with_where_it_is_and_the_remedy(returned, problem):
    ran = run(f"def fn():\n    return {returned}\n")

    assert ran.code == 1
    assert problem in ran.said["failure"]
    assert "Return text, finite numbers" in ran.said["failure"]
    assert f"fn {ran.said['failure']}" in ran.stderr


def test_a_large_result_comes_in_lines_that_no_other_writer_can_cut():
    ran = run("def fn(n):\n    return 'x' * n\n", 50_000)

    assert len(ran.said["result"]) == 50_000
    assert 900 < max(map(len, ran.raw.splitlines())) < LINE_BYTES


def test_a_result_beyond_the_limit_is_refused_with_both_sizes():
    ran = run("def fn(n):\n    return 'x' * n\n", 5_000, limit=5_000)

    assert (ran.code, "result" in ran.said) == (1, False)
    assert re.search(r"returned 5\d\d\d bytes.* max_output_bytes is 5000", ran.said["failure"])


# --- output ----------------------------------------------------------------------------------


def test_what_is_printed_is_output_and_no_result():
    ran = run(
        "def fn():\n    import sys\n    print('out')\n    print('why', file=sys.stderr)\n    return 1\n"
    )

    assert (ran.said, ran.shown, ran.stderr) == ({"result": 1}, ["out"], "why\n")


def test_the_result_comes_after_all_that_is_printed_until_the_process_ends():
    source = """\
    def fn():
        import atexit, threading, time
        atexit.register(print, "at exit", end="")
        print("no line end", end="")
        threading.Thread(target=lambda: (time.sleep(0.2), print("in a thread"))).start()
        return 1
    """
    ran = run(source)

    assert ran.said == {"result": 1}
    assert ran.shown == ["no line endin a thread", "at exit"]
    assert ran.raw.splitlines()[-1].startswith("at exit" + MARK)


@pytest.mark.parametrize(
    "spoiled",
    ["sys.stdout.close()", "os.close(1)", "sys.stdout = None", "os.dup2(os.open(os.devnull, 1), 1)"],
)
def test_a_function_may_close_or_redirect_its_output(spoiled):
    assert run(f"def fn():\n    import os, sys\n    {spoiled}\n    return 1\n").said == {"result": 1}


def test_a_child_that_the_function_forks_says_no_result():
    source = """\
    def fn():
        import os, sys
        child = os.fork()
        if not child:
            sys.exit()
        os.waitpid(child, 0)
        return "parent"
    """

    ran = run(source)
    assert ran.said == {"result": "parent"}
    assert ran.raw.count(MARK) == 1


def test_output_is_utf_8_in_any_locale():
    ran = run("def fn():\n    print('é \\ud800')\n    return 'é'\n", env={"LC_ALL": "C", "PYTHONUTF8": "0"})

    assert (ran.said, ran.shown) == ({"result": "é"}, ["é \\ud800"])


def test_a_function_finds_its_input_at_its_end():
    assert run("def fn():\n    import sys\n    return sys.stdin.read()\n").said == {"result": ""}


# --- ends ------------------------------------------------------------------------------------


def test_an_exception_shows_its_traceback_in_lines_of_its_own_file_and_is_named():
    source = """\
    def fn():
        def inner():
            raise ValueError("é no")
        inner()
    """
    ran = run(source)

    assert (ran.code, ran.said) == (1, {"failure": "raised ValueError: é no"})
    assert '  File "etl.py", line 10, in fn\n    inner()\n' in ran.stderr
    assert 'line 9, in inner\n    raise ValueError("é no")\n' in ran.stderr
    assert "runner" not in ran.stderr


def test_an_exception_without_text_is_named_by_its_type():
    assert run("def fn():\n    raise KeyError\n").said == {"failure": "raised KeyError"}


def test_a_long_exception_is_cut():
    assert len(run("def fn():\n    raise KeyError('x' * 9999)\n").said["failure"]) < 1600


def test_an_exit_with_a_code_has_no_result_and_keeps_its_code():
    ran = run("def fn():\n    import sys\n    sys.exit(99)\n")

    assert (ran.code, ran.said) == (99, None)


def test_an_exit_without_a_code_returns_nothing():
    assert run("def fn():\n    import sys\n    sys.exit()\n").said == {"result": None}


def test_a_function_that_ends_its_process_says_nothing():
    ran = run("def fn():\n    import os\n    os._exit(0)\n")

    assert (ran.code, ran.said) == (0, None)


# --- the function ----------------------------------------------------------------------------


def test_a_function_from_within_a_block_keeps_its_texts_as_they_are():
    source = '        def fn():\n            return """a\n  b\nc"""\n'

    assert run(source).said == {"result": "a\n  b\nc"}


def test_annotations_are_not_evaluated():
    assert run("def fn(a: Anything = 1) -> NotThere[pd]:\n    return a\n").said == {"result": 1}


def test_a_function_may_call_itself_and_a_pool_of_processes():
    source = """\
    def fn(n):
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context
        if n == 0:
            return 0
        with ProcessPoolExecutor(1, get_context("fork")) as pool:
            return 1 + pool.submit(fn, n - 1).result()
    """

    assert run(source, 1).said == {"result": 1}


def test_a_function_finds_nothing_of_the_runner():
    assert run("def fn():\n    return [n for n in globals() if not n.startswith('__')]\n").said == {
        "result": ["fn"]
    }


def test_a_pickle_of_another_python_is_not_read():
    ran = run("", pickled="AAAA", python="3.1")

    assert ran.code == 1
    assert "was pickled by Python 3.1, and the sandbox's is 3." in ran.said["failure"]
    assert 'serializer="json"' in ran.said["failure"]


def test_a_function_that_does_not_arrive_is_not_waited_for_for_ever():
    command = _BOOTSTRAP.replace("600", "0.2")
    with subprocess.Popen(
        [sys.executable, "-c", command], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.wait(30) == 1
        assert "did not arrive on standard input" in waiting.stderr.read()


# --- requirements ----------------------------------------------------------------------------


def wheel(folder, name="sbx_greeting", version="1.2"):
    """Make a wheel by hand, so that nothing has to be built."""
    import zipfile

    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "WORD = 'hello'\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_requirements_are_there_for_the_function_and_its_children_and_are_removed(tmp_path):
    source = """\
    def fn():
        import subprocess, sys, sbx_greeting
        child = subprocess.run([sys.executable, "-c", "import sbx_greeting as g; print(g.WORD)"])
        return [sbx_greeting.WORD, child.returncode, sbx_greeting.__file__]
    """
    lines = ["--no-index", str(wheel(tmp_path))]
    ran = run(source, requirements=lines)

    word, code, file = ran.said["result"]
    assert (word, code, Path(file).exists()) == ("hello", 0, False)
    assert ran.shown[0] == f"Installing requirements: {', '.join(lines)}"
    assert re.fullmatch(r"Installed requirements in \d+\.\d s\.", ran.shown[1])
    assert ran.shown[2:] == ["hello"]


def test_requirements_that_can_not_be_installed_fail_before_the_call():
    ran = run("def fn():\n    print('called')\n", requirements=["--no-index", "sbx-no-such-thing"])

    assert ran.code == 1
    assert "was not called: pip could not install its requirements (exit code 1)" in ran.said["failure"]
    assert "sbx-no-such-thing" in ran.stderr
    assert "called" not in ran.shown


# --- what it is made of ----------------------------------------------------------------------


def test_it_is_python_3_8_and_of_the_standard_library_alone():
    tree = ast.parse(RUNNER, feature_version=(3, 8))
    names = {
        alias.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names
    }
    names |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}

    assert names <= sys.stdlib_module_names
    # What the parser takes of 3.8 though it fails when run: `X | Y` and `list[X]` outside of annotations.
    assert not re.search(r"isinstance\([^()]*\|", RUNNER)
