import enum
import errno
import subprocess
from datetime import timedelta

import pytest

from airflow_provider_sbx.api.errors import InvalidParameterError
from airflow_provider_sbx.api.models import ProcessParameters, SandboxSpec
from airflow_provider_sbx.api.validation import (
    MOST_COMMAND_BYTES,
    MOST_ENV_BYTES,
    MOST_VARIABLE_BYTES,
    check_callable,
    check_choice,
    check_command,
    check_count,
    check_env,
    check_exit_codes,
    check_flag,
    check_seconds,
    check_signal,
    check_stdin,
    check_text,
    process_parameters,
    sandbox_spec,
)


def refused(check, *args, **options):
    with pytest.raises(InvalidParameterError) as caught:
        check(*args, **options)
    assert caught.value.remedy
    return caught.value.parameter


def test_a_command_is_text_with_something_in_it():
    assert check_command(" echo x ") == " echo x "


@pytest.mark.parametrize("bad", [None, "", "  \n", 5, ["echo", "x"], b"echo", "echo \0"])
def test_what_is_no_command_is_refused(bad):
    assert refused(check_command, bad) == "command"


def test_a_command_that_no_shell_can_be_given_is_refused():
    assert check_command("x" * MOST_COMMAND_BYTES)
    assert refused(check_command, "x" * (MOST_COMMAND_BYTES + 1)) == "command"
    assert refused(check_command, "é" * (MOST_COMMAND_BYTES // 2 + 1)) == "command"


def test_numbers_in_an_environment_become_text():
    assert check_env({"A": "x", "_B1": 2, "C": 1.5, "D": ""}) == {"A": "x", "_B1": "2", "C": "1.5", "D": ""}
    assert check_env(None) is None
    assert check_env({}) == {}


@pytest.mark.parametrize("bad", [[("A", "x")], "A=x", 5])
def test_what_is_no_mapping_is_no_environment(bad):
    assert refused(check_env, bad) == "env"


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "\u00c4", "A\0", "A\n", 5, None])
def test_what_is_no_name_of_a_variable_is_refused(name):
    assert refused(check_env, {name: "x"}) == "env"


@pytest.mark.parametrize("value", [None, True, ["x"], {"x": 1}, b"x", timedelta(1), "a\0b"])
def test_what_is_no_value_of_a_variable_is_refused_by_the_variables_name(value):
    assert refused(check_env, {"OK": "x", "BAD": value}) == "env['BAD']"


def test_a_refused_value_is_not_repeated():
    with pytest.raises(InvalidParameterError) as caught:
        check_env({"BAD": ["hunter2"]})

    assert "hunter2" not in str(caught.value)


def test_a_variable_that_linux_does_not_pass_is_refused_by_its_name_and_without_its_value():
    with pytest.raises(InvalidParameterError) as caught:
        check_env({"OK": "x", "DATA": "hunter2" + "x" * 299_993})

    assert caught.value.parameter == "env['DATA']"
    assert str(caught.value) == (
        "env['DATA']: with its name it has 300,005 bytes, and Linux passes no more than 131,071. "
        "Give so much as the stdin of SandboxProcessOperator, or put it into a file or the sandbox's image."
    )


def test_the_longest_variable_is_told_in_bytes_with_its_name():
    longest = MOST_VARIABLE_BYTES - len("DATA=")
    assert check_env({"DATA": "x" * longest})
    assert refused(check_env, {"DATA": "x" * (longest + 1)}) == "env['DATA']"
    assert refused(check_env, {"DATA": "é" * (longest // 2 + 1)}) == "env['DATA']"


def test_the_longest_variable_is_what_this_linux_passes():
    longest = "x" * (MOST_VARIABLE_BYTES - len("A="))

    subprocess.run(["/bin/true"], env={"A": longest}, check=True)
    with pytest.raises(OSError, match="too long") as caught:
        subprocess.run(["/bin/true"], env={"A": longest + "x"}, check=True)
    assert caught.value.errno == errno.E2BIG


def test_variables_that_linux_does_not_pass_together_are_refused():
    each = MOST_ENV_BYTES // 64 - len("A00=") - 1
    assert check_env({f"A{n}": "x" * each for n in range(10, 74)})
    assert refused(check_env, {f"A{n}": "x" * each for n in range(10, 74)} | {"B": ""}) == "env"


@pytest.mark.parametrize("bad", ["", " ", 5, "a\0"])
def test_an_optional_text_is_text_or_missing(bad):
    assert refused(check_text, "cwd", bad, what="a directory") == "cwd"
    assert check_text("cwd", None, what="a directory") is None
    assert check_text("cwd", "/w", what="a directory") == "/w"


def test_input_is_text_bytes_or_missing_and_may_be_empty_or_hold_nul():
    for value in (None, "", "x\0", b"\0"):
        assert check_stdin(value) == value


@pytest.mark.parametrize("bad", [5, ["x"], {"a": 1}, True, "half a character: \ud800"])
def test_what_can_not_be_written_is_refused(bad):
    assert refused(check_stdin, bad) == "stdin"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(5, 5.0), (0.5, 0.5), ("7.5", 7.5), (timedelta(minutes=1), 60.0), (timedelta(milliseconds=1), 0.001)],
)
def test_a_duration_is_a_timedelta_or_seconds_also_as_text(value, seconds):
    assert check_seconds("timeout", value) == seconds
    assert check_seconds("timeout", None) is None


@pytest.mark.parametrize(
    "bad",
    [0, -1, 0.0, "0", "-3", "soon", "", timedelta(0), timedelta(-1), True, False, [5], float("nan"), "inf"],
)
def test_what_is_no_duration_above_zero_is_refused(bad):
    assert refused(check_seconds, "timeout", bad) == "timeout"


def test_a_duration_may_have_to_last_for_some_time():
    assert check_seconds("poll_interval", 0.5, at_least=0.5) == 0.5
    with pytest.raises(InvalidParameterError, match=r"poll_interval: 0\.4 is not of 0\.5 or more\. Give a"):
        check_seconds("poll_interval", 0.4, at_least=0.5)


def test_a_choice_is_one_of_a_few():
    assert check_choice("wait_strategy", "poll", ("poll", "wait")) == "poll"
    assert refused(check_choice, "wait_strategy", "guess", ("poll", "wait")) == "wait_strategy"


@pytest.mark.parametrize("bad", [-1, 1.5, "3", True, None])
def test_a_count_is_a_whole_number_that_is_not_too_small(bad):
    assert refused(check_count, "max_output_bytes", bad) == "max_output_bytes"
    assert check_count("max_output_bytes", 0) == 0
    assert refused(check_count, "n", 0, least=1) == "n"


# --- parameters and specs --------------------------------------------------------------------


def test_process_parameters_come_from_a_command_and_options_or_ready_made():
    params = process_parameters("make", {"cwd": "/w", "env": {"N": 1}})

    assert params == ProcessParameters(command="make", cwd="/w", env={"N": "1"})
    assert process_parameters(params, {}) is params


def test_options_beside_ready_made_parameters_are_a_mistake():
    assert refused(process_parameters, ProcessParameters(command="x"), {"cwd": "/"}) == "cwd"


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"cwdd": "/"}, "cwdd"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"timeout_ms": "soon"}, "timeout_ms"),
        ({"env": {"1": "x"}}, "env"),
        ({"env": {"A": "x"}, "secrets": {"A": "n"}}, "env, secrets"),
        ({"secrets": {f"A{n}": "n" for n in range(33)}}, "secrets"),
        ({"one_password": {"token": "t", "vault": "v", "fields": {}}}, "one_password.fields"),
        ({"secrets": {"A": {"name": "no/slash"}}}, "secrets.A.name"),
        ({"run_as": 5}, "run_as"),
        ({"cwd": "/\0"}, "cwd"),
        ({"vault": "a\0"}, "vault"),
    ],
)
def test_an_option_that_can_not_be_right_is_refused_by_its_name(options, parameter):
    assert refused(process_parameters, "x", options) == parameter


def test_an_unknown_option_is_answered_with_the_known_ones():
    with pytest.raises(InvalidParameterError, match="run_as"):
        process_parameters("x", {"user": "root"})


def test_a_spec_comes_from_a_dict_or_ready_made():
    spec = sandbox_spec({"image_name": "python", "cpu": 2})

    assert spec == SandboxSpec(image_name="python", cpu=2)
    assert sandbox_spec(spec) is spec


@pytest.mark.parametrize(
    ("spec", "parameter"),
    [
        ("python", "sandbox"),
        ({}, "sandbox"),
        ({"image": "python"}, "sandbox['image']"),
        ({"image_name": "python", "cpu": "many"}, "sandbox['cpu']"),
        ({"image_name": ""}, "sandbox['image_name']"),
        ({"image_name": "a\0"}, "sandbox['image_name']"),
        ({"image_name": "a", "allow_out": ["h", "\0"]}, "sandbox['allow_out']"),
        ({"image_name": "a", "mounts": {"/m": {"id": "\0"}}}, "sandbox['mounts']['/m']['id']"),
    ],
)
def test_a_spec_that_can_not_be_right_is_refused_by_its_member(spec, parameter):
    assert refused(sandbox_spec, spec) == parameter


@pytest.mark.parametrize(
    ("spec", "parameter", "says"),
    [
        (
            {"image_name": "a", "snapshot_name": "b"},
            "sandbox['image_name'], sandbox['snapshot_name']",
            "both are given ('a', 'b'). Give image_name to start from an image",
        ),
        ({"imageName": "a", "snapshotName": "b"}, "sandbox['image_name'], sandbox['snapshot_name']", "both"),
        ({"region": "us"}, "sandbox", "neither is given. Name an image, such as 'python'"),
        (
            {"snapshot_name": "b", "cpu": 2},
            "sandbox['cpu']",
            "('b'): a snapshot brings its own. Leave",
        ),
        ({"snapshot_name": "b", "image_id": "i"}, "sandbox['image_id']", "needs image_name. Give image_name"),
    ],
)
def test_members_of_a_spec_that_do_not_go_together_are_told_with_the_remedy(spec, parameter, says):
    with pytest.raises(InvalidParameterError) as caught:
        sandbox_spec(spec)
    assert caught.value.parameter == parameter
    assert says in str(caught.value)


def test_an_option_by_itself_is_told_by_its_own_name():
    with pytest.raises(InvalidParameterError) as caught:
        sandbox_spec({"image_name": "python", "region": "\0"}, "")
    assert caught.value.parameter == "region"


@pytest.mark.parametrize(
    ("given", "name"),
    [("TERM", "TERM"), ("sigint", "INT"), (9, "KILL"), ("10", "USR1"), (12, "USR2"), (19, "STOP")],
)
def test_a_signal_has_one_name_and_the_number_that_a_sandbox_gives_it(given, name):
    assert check_signal(given) == name


@pytest.mark.parametrize("bad", [0, -9, 11, "11", "", "FOO", None, True, 1.0, [9]])
def test_what_is_no_signal_that_can_be_sent_is_refused(bad):
    assert refused(check_signal, bad) == "signal"


@pytest.mark.parametrize("bad", ["yes", "no", "", None, 0, 1, object()])
def test_a_yes_or_no_is_a_bool(bad):
    check_flag("log_output", True)
    check_flag("log_output", False)
    assert refused(check_flag, "log_output", bad) == "log_output"


def test_what_is_to_be_called_can_be_or_is_missing():
    check_callable("output_processor", None)
    check_callable("output_processor", len)
    with pytest.raises(InvalidParameterError, match=r"output_processor: 'len' can't be called\. Give a func"):
        check_callable("output_processor", "len")


class Exit(enum.IntEnum):
    SKIP = 99


class Odd:
    def __contains__(self, code):
        return code % 2 == 1


@pytest.mark.parametrize(
    "given", [[], [0, 255], (1, 2), {3}, frozenset({4}), range(1, 1000), [Exit.SKIP], Odd()]
)
def test_exit_codes_are_whole_numbers_in_something_to_look_them_up_in(given):
    assert check_exit_codes("skip_on_exit_code", given) == given


def test_one_exit_code_is_one_of_one():
    assert check_exit_codes("skip_on_exit_code", None) == ()
    assert check_exit_codes("skip_on_exit_code", 0) == (0,)
    assert check_exit_codes("skip_on_exit_code", Exit.SKIP) == (99,)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (256, "256"),
        (-9, "-9"),
        ([1, 256], "256"),
        ((1, -1), "-1"),
        ({1000}, "1000"),
        (frozenset({1000}), "1000"),
        ([1, "99"], "'99'"),
        ([True], "True"),
        (True, "True"),
        ("99", "'99'"),
        (1.5, "1.5"),
    ],
)
def test_what_is_no_exit_code_of_a_process_is_refused_by_its_value(bad, named):
    with pytest.raises(InvalidParameterError) as caught:
        check_exit_codes("skip_on_exit_code", bad)

    assert str(caught.value) == (
        f"skip_on_exit_code: {named} is no exit code. "
        "Give a whole number from 0 to 255, a list of some, or None."
    )
