"""What the pages say can be done as they say it: code that compiles, options, names and files that exist."""

import ast
import functools
import importlib
import inspect
import json
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import get_args, get_overloads, get_type_hints, is_typeddict

import pytest
import yaml
from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_sbx.compat import renders_in_triggerer
from airflow_provider_sbx.get_provider_info import get_provider_info
from airflow_provider_sbx.hooks.sandbox import SandboxHook
from airflow_provider_sbx.operators.process import SandboxExecOperator, SandboxProcessOperator
from dev import server_options

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("**/*.md")),
]
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
LINK = re.compile(r"\]\(([^)#]+?)(?:#[^)]*)?\)")
LANGUAGES = {"bash", "python", "json", "yaml"}
# In the form of a block, since the other one can be read as Python, which the formatter then does.
SNIPPET = re.compile(r"^--8<--\n([^\s:]+)(?::(\w+))?\n--8<--\n", re.MULTILINE)
SECTION_MARK = re.compile(r"^ *# --8<-- .*\n", re.MULTILINE)


def name_of(page):
    return str(page.relative_to(ROOT))


def included(match):
    """Return what a snippet's line stands for, as the pages show it."""
    path, section = match.groups()
    text = (ROOT / path).read_text()
    if section:
        _, _, text = text.partition(f"# --8<-- [start:{section}]\n")
        text, end, _ = text.partition(f"# --8<-- [end:{section}]")
        assert end, f"{path} has no section {section}"
    return SECTION_MARK.sub("", text)


def blocks_of(page):
    for indent, language, code in FENCE.findall(page.read_text()):
        yield language, SNIPPET.sub(included, textwrap.dedent(code) if indent else code)


def blocks(*languages):
    return [
        pytest.param(language, code, id=f"{name_of(page)}-{language}-{number}")
        for page in PAGES
        for number, (language, code) in enumerate(blocks_of(page), start=1)
        if not languages or language in languages
    ]


BLOCKS = blocks()
PYTHON = blocks("python")
EXAMPLES = [
    pytest.param("python", path.read_text(), id=path.name)
    for path in sorted((ROOT / "example_dags").glob("*.py"))
]


def has_dags(block):
    return "DAG(" in block.values[1]


# A section of an example needs what stands above it there; the example is read whole.
SECTIONS = [block for block in PYTHON if has_dags(block) and "import DAG" not in block.values[1]]
WHOLE = [block for block in PYTHON if block not in SECTIONS]


@functools.cache
def options():
    return set(FLAG.findall(server_options.help_text()))


def test_the_table_of_the_servers_options_is_that_of_its_help():
    page = (ROOT / "docs" / "embedded-server.md").read_text()
    shown = page.partition("<!-- options -->\n")[2].partition("<!-- /options -->")[0]

    assert shown == server_options.table(), "paste what `python -m dev.server_options` prints"
    assert set(FLAG.findall(shown)) | {"--help"} >= options()


@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_a_block_of_code_can_be_read(language, code):
    assert language in LANGUAGES
    if language == "python":
        compile(code, "block", "exec", dont_inherit=True)
    elif language == "json":
        json.loads(code)
    elif language == "yaml":
        yaml.safe_load(code)
    elif language == "bash":
        # It reads, and runs nothing.
        said = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True)
        assert (said.returncode, said.stderr) == (0, "")


@pytest.mark.parametrize(("language", "code"), [block for block in WHOLE + EXAMPLES if has_dags(block)])
def test_a_dag_is_taken_by_airflow(language, code, tmp_path):
    """The block as a file of its own, read and stored as Airflow's DAG processor does it."""
    if "start_from_trigger=True" in code and not renders_in_triggerer():
        pytest.skip("Airflow starts tasks on workers only")
    file = tmp_path / "dags_of_a_page.py"
    file.write_text(code)

    bag = dag_bag(file)

    assert bag.import_errors == {}
    assert len(bag.dags) == len(re.findall(r"\bDAG\(", code))
    for dag in bag.dags.values():
        assert dag.tasks
        assert json.dumps(serialization().to_dict(dag))


def dag_bag(file):
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # before 3.2, when it also had Airflow's own examples
        from airflow.models.dagbag import DagBag

        return DagBag(str(file), include_examples=False, safe_mode=False)
    return DagBag(str(file), safe_mode=False)


def serialization():
    from airflow.serialization import serialized_objects

    # Since 3.2 a class of its own.
    return getattr(serialized_objects, "DagSerialization", None) or serialized_objects.SerializedDAG


@pytest.mark.parametrize(("language", "code"), [block for block in WHOLE if not has_dags(block)])
def test_a_block_of_python_without_a_dag_runs(language, code, monkeypatch):
    # The pages speak of a project that has a DAG in dags/nightly_report.py.
    project, of_the_project = types.ModuleType("dags"), types.ModuleType("dags.nightly_report")
    of_the_project.dag = object()
    monkeypatch.setitem(sys.modules, "dags", project)
    monkeypatch.setitem(sys.modules, "dags.nightly_report", of_the_project)

    exec(compile(code, "block", "exec", dont_inherit=True), {"__name__": "block_of_a_page"})


@pytest.mark.parametrize(("language", "code"), SECTIONS)
def test_a_block_without_imports_is_a_section_of_an_example(language, code):
    assert any(code in SECTION_MARK.sub("", example.values[1]) for example in EXAMPLES)


@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_a_block_gives_the_server_only_options_and_variables_that_it_has(language, code):
    source = (ROOT / "airflow_provider_sbx" / "local" / "cli.py").read_text()
    for line in re.sub(r"\\\n", " ", code).splitlines():
        if "sbx-local serve" in line:
            assert set(FLAG.findall(line)) <= options()
    if "def sbx_local_options" in code:
        assert set(FLAG.findall(code)) <= options()
    assert all(f'"{name}"' in source for name in re.findall(r"SBX_LOCAL_\w+", code))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_pages_text_names_only_options_of_the_server_or_of_this_repositorys_scripts(page):
    text = FENCE.sub("", page.read_text())  # blocks have other programs, too

    assert set(FLAG.findall(text)) <= options() | {"--write"}


@pytest.mark.parametrize(("language", "code"), PYTHON)
def test_a_block_imports_names_that_exist_and_gives_them_parameters_that_they_take(language, code):
    tree = ast.parse(code)
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("airflow_provider_sbx"):
            for alias in node.names:
                imported[alias.asname or alias.name] = getattr(
                    importlib.import_module(node.module), alias.name
                )
    for plugin in re.findall(r'"(airflow_provider_sbx\.[\w.]+)"', code):
        importlib.import_module(plugin)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in imported:
            given = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
            assert given <= parameters(imported[node.func.id])


def overloads(function):
    return get_overloads(function) if inspect.isfunction(function) else []


def parameters(called):
    """Return the names of all parameters, those that a class hands on to its bases included."""
    made = [cls.__init__ for cls in inspect.getmro(called)] if inspect.isclass(called) else [called]
    if overloads(called):  # a decorator, which hands on what it does not know to the operator
        made.append(BaseOperator.__init__)
    made = [overload for function in made for overload in overloads(function) or [function]]
    names = {name for function in made for name in inspect.signature(function).parameters}
    # `**options: Unpack[Options]`: the members of Options.
    options = [
        member
        for function in made
        if "Unpack[" in str(getattr(function, "__annotations__", {}))
        for hint in get_type_hints(function).values()
        for member in get_args(hint)
        if is_typeddict(member)
    ]
    return names.union(*(member.__annotations__ for member in options))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_links_to_files_that_exist(page):
    links = [link for link in LINK.findall(page.read_text()) if ":" not in link]

    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_names_make_targets_that_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE))

    assert named <= targets


# --- the page of the connection --------------------------------------------------------------------------

CONNECTION_PAGE = ROOT / "docs" / "connection.md"


def connection_forms():
    """Return each way in which pages write the connection: a variable's value, or the JSON alone."""
    forms = []
    for page in PAGES:
        for language, code in blocks_of(page):
            forms += re.findall(r"AIRFLOW_CONN_SBX_DEFAULT='([^']+)'", code)
            if language == "json" and "conn_type" in code:
                forms.append(code)
    return sorted(set(forms))


@pytest.mark.parametrize("form", connection_forms())
def test_a_written_connection_is_read_by_airflow_and_by_the_hook(form, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_SBX_DEFAULT", form)

    hook = SandboxHook()

    assert hook.get_connection("sbx_default").conn_type == "sbx"
    settings = hook.settings
    assert settings.api_key in ("your-key", "local-key", "ci-only")
    local = "127.0.0.1" in form
    assert settings.base_url == ("http://127.0.0.1:8900/api" if local else "https://api.hyperbrowser.ai/api")
    assert settings.sandbox_id == ("sbx-shared" if "sbx-shared" in form else None)
    assert settings.patience_seconds == (120 if "patience_seconds=120" in form else 600)


def test_the_page_of_the_connection_shows_it_as_json_and_as_uri():
    forms = connection_forms()

    assert len([form for form in forms if form.startswith("{")]) >= 3
    assert len([form for form in forms if form.startswith("sbx://")]) == 2


def test_the_vendors_variables_of_the_page_are_read_by_the_hook(monkeypatch):
    for name, value in re.findall(r"export (HYPERBROWSER_\w+)=(\S+)", CONNECTION_PAGE.read_text()):
        monkeypatch.setenv(name, value)

    settings = SandboxHook().settings

    assert (settings.api_key, settings.base_url) == ("your-key", "https://api.hyperbrowser.ai/api")


def test_the_page_of_the_connection_tells_the_labels_and_placeholders_of_the_form():
    (connection,) = get_provider_info()["connection-types"]
    behaviour = connection["ui-field-behaviour"]
    text = CONNECTION_PAGE.read_text()

    shown = [*behaviour["relabeling"].values(), *behaviour["placeholders"].values()]
    shown += [field["label"] for field in connection["conn-fields"].values()]
    shown += [f"extra `{name}`" for name in connection["conn-fields"]]
    assert [what for what in shown if what not in text] == []


# --- the site ----------------------------------------------------------------------------------------------


def test_every_page_stands_in_the_sites_navigation():
    config = (ROOT / "mkdocs.yml").read_text()
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").glob("**/*.md")}

    assert set(re.findall(r"[\w/-]+\.md", config)) == pages


def test_every_example_stands_on_a_page():
    shown = "".join(page.read_text() for page in PAGES)

    assert [path.name for path in (ROOT / "example_dags").glob("*.py") if path.name not in shown] == []


def test_the_pages_know_every_operator_that_airflow_is_told_of():
    text = (ROOT / "docs" / "operators" / "index.md").read_text()
    info = get_provider_info()

    for module in [
        name for room in ("operators", "sensors") for e in info[room] for name in e["python-modules"]
    ]:
        names = getattr(importlib.import_module(module), "__all__", None) or re.findall(
            r"^class (Sandbox\w+(?:Operator|Sensor))",
            inspect.getsource(importlib.import_module(module)),
            re.M,
        )
        assert [name for name in names if name not in text] == []
    assert [d["name"] for d in info["task-decorators"] if f"@task.{d['name']}`" not in text] == []


def test_the_table_of_parameters_has_each_of_the_operators():
    text = (ROOT / "docs" / "operators" / "index.md").read_text()
    own = set(inspect.signature(SandboxExecOperator.__init__).parameters)
    own |= set(inspect.signature(SandboxProcessOperator.__init__).parameters)

    assert [name for name in own - {"self", "kwargs"} if f"`{name}`" not in text] == []
