"""Commands and script files, and what is known at parse time."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.operators.command import (
    check_connection,
    check_if_known,
    is_known,
    is_python_file,
    is_script_file,
    naming,
    python_script,
)


@pytest.mark.parametrize(
    "name", ["job.py", "scripts/job.py", "./run.sh", "nightly.bash", "{{dag.dag_id}}.sh"]
)
def test_one_word_with_a_scripts_suffix_is_a_file(name):
    assert is_script_file(name)
    assert is_python_file(name) is name.endswith(".py")


@pytest.mark.parametrize(
    "command",
    ["python main.py", "sh run.sh", "cat job.py | wc", "job.pyc", "job.py ", "", "echo a\nrun.sh", None, 5],
)
def test_anything_else_is_a_command(command):
    assert not is_script_file(command)
    assert not is_python_file(command)


def run(command, *, stdin="", shell="/bin/sh"):
    # The script runs under `python3`, which is to be the one of the tests.
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        [shell, "-c", command], input=stdin, capture_output=True, text=True, env={"PATH": path}, check=False
    )


@pytest.mark.parametrize(
    "source",
    [
        "import sys; print(sys.stdin.read(), end='')",
        "import sys\nprint(sys.stdin.read(), end='')\n",
        "import sys\n" + f"# {'x' * 78}\n" * 1000 + "print(sys.stdin.read(), end='')\n",
    ],
    ids=["no line end", "line end", "longer than a pipe holds"],
)
def test_a_python_script_runs_with_its_standard_input_left_free(source):
    done = run(python_script(source), stdin="the input")

    assert (done.stdout, done.stderr, done.returncode) == ("the input", "", 0)


def test_a_python_script_ends_with_its_own_exit_code_and_traceback():
    done = run(python_script("import sys\nsys.exit(7)"))
    assert done.returncode == 7

    done = run(python_script("x = 1\nraise RuntimeError('boom')", "jobs/it's.py"))
    assert done.returncode == 1
    frames = [line.strip() for line in done.stderr.splitlines() if not line.strip().startswith(("^", "~"))]
    assert frames == [
        "Traceback (most recent call last):",
        """File "jobs/it's.py", line 2, in <module>""",
        "raise RuntimeError('boom')",
        "RuntimeError: boom",
    ]


def test_a_python_script_with_an_error_of_its_syntax_shows_its_line():
    done = run(python_script("x = 1\nif x\n", "job.py"))

    assert done.returncode == 1
    assert 'File "job.py", line 2\n    if x\n' in done.stderr
    assert "Traceback" not in done.stderr


def test_a_python_script_may_report_an_error_itself_and_go_on():
    source = """
import sys
try:
    1 / 0
except ZeroDivisionError:
    sys.excepthook(*sys.exc_info())
print("on")
"""
    done = run(python_script(source, "job.py"))

    assert (done.stdout, done.returncode) == ("on\n", 0)
    assert 'File "job.py", line 4, in <module>\n    1 / 0\n' in done.stderr


def test_a_python_script_runs_as_the_main_module():
    source = """
import pickle, sys

class Own:
    pass

print(__name__, __file__, sys.argv, sorted(set(globals()) - {"Own", "pickle", "sys"} - set(dir(pickle))))
print(type(pickle.loads(pickle.dumps(Own()))) is Own)
"""
    first, second = run(python_script(source, "job.py")).stdout.splitlines()

    assert first.startswith("__main__ job.py ['job.py'] [")
    assert "'run'" not in first
    assert second == "True"


@pytest.mark.parametrize(
    "text", ["$HOME `exit 3` \\ \\n", "EOF", "SBX_0", "'\"", "\u20ac\u2028", "$(exit 3)"]
)
def test_the_shell_reads_nothing_of_a_python_script(text):
    done = run(python_script(f"print(r'''{text} ''', end='')"))

    assert (done.stdout, done.returncode) == (f"{text} ", 0)


def test_a_python_script_that_holds_another_one_runs_as_well():
    inner = "print('inner')\n"
    outer = f"import subprocess\nsubprocess.run(['/bin/sh', '-c', {python_script(inner)!r}], check=True)\n"

    assert run(python_script(outer)).stdout == "inner\n"


@pytest.mark.parametrize(
    "value", ["x", "", None, 5, 0.5, True, b"x", timedelta(1), {"a": ["b", {"c": 1}]}, [], ("x",), "{x}"]
)
def test_plain_values_are_known_at_parse_time(value):
    assert is_known(value)


@pytest.mark.parametrize(
    "value",
    ["{{ ds }}", "a {% if x %}", "{# c #}", {"A": "{{ x }}"}, {"{{ x }}": "a"}, ["{{ x }}"], object()],
)
def test_templates_and_results_of_other_tasks_are_not(value):
    assert not is_known(value)


def test_what_is_not_known_is_not_checked_yet():
    checked = []
    for value in ("known", "{{ unknown }}", object()):
        check_if_known(value, checked.append)

    assert checked == ["known"]


@pytest.mark.parametrize("known_later", ["{{ conn_id }}", object()])
def test_a_connection_is_named_or_not_known_yet(known_later):
    check_connection("mine")
    check_connection(known_later)


@pytest.mark.parametrize("bad", [None, "", " ", 5, ["mine"]])
def test_what_is_no_connections_name_is_refused(bad):
    with pytest.raises(InvalidParameterError, match="is not the id of a connection") as caught:
        check_connection(bad)
    assert caught.value.parameter == "sbx_conn_id"


def test_an_error_about_a_parameter_names_the_task_and_another_is_let_through():
    with pytest.raises(InvalidParameterError, match=r"^Task 't': cwd: it is empty\. Leave"), naming("t"):
        raise InvalidParameterError("cwd", "it is empty", "Leave it out.")
    with pytest.raises(InvalidParameterError, match=r"^cwd: it is empty"), naming(None):
        raise InvalidParameterError("cwd", "it is empty", "Leave it out.")
    with pytest.raises(ValueError, match="else"), naming("t"):
        raise ValueError("else")
