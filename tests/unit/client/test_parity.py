"""The twins differ by `async` and `await` alone."""

import ast
import inspect
import re
import textwrap

import pytest

from airflow_provider_sbx import operations
from airflow_provider_sbx.client import AsyncSandboxClient, SandboxClient
from airflow_provider_sbx.hooks.sandbox import SandboxAsyncHook, SandboxHook
from airflow_provider_sbx.operations import AsyncSandboxOperations, SandboxOperations

OPERATIONS = (SandboxOperations, AsyncSandboxOperations)
TWINS = [OPERATIONS, (SandboxClient, AsyncSandboxClient)]
# Building a TLS context holds a loop up, so that the async one has a maker of its own.
ONLY_ASYNC = {AsyncSandboxClient: {"make"}}


def public(cls):
    return {
        name
        for name, member in inspect.getmembers(cls)
        if not name.startswith("_") and (callable(member) or isinstance(member, property))
    }


def plain(annotation):
    """Return an annotation without what the twins must differ in."""
    text = re.sub(
        r"\bAbstractAsync|\bAsync(?=(Sandbox|Iterator|Generator|BaseTransport))", "", str(annotation)
    )
    return text.replace("AbstractContextManager", "ContextManager").replace("httpx.AsyncBase", "httpx.Base")


def signature(member):
    found = inspect.signature(member)
    parameters = [(p.name, p.kind, p.default, plain(p.annotation)) for p in found.parameters.values()]
    return parameters, plain(found.return_annotation)


@pytest.mark.parametrize(("sync", "asynchronous"), TWINS)
def test_both_twins_have_the_same_public_names(sync, asynchronous):
    assert public(sync) == public(asynchronous) - ONLY_ASYNC.get(asynchronous, set())


@pytest.mark.parametrize(
    ("sync", "asynchronous", "name"),
    [(*pair, name) for pair in TWINS for name in sorted(public(pair[0])) if callable(getattr(pair[0], name))],
)
def test_each_operation_has_the_same_signature_in_both(sync, asynchronous, name):
    assert signature(getattr(sync, name)) == signature(getattr(asynchronous, name))


@pytest.mark.parametrize(("sync", "asynchronous"), TWINS)
def test_both_are_made_of_the_same_arguments(sync, asynchronous):
    assert signature(sync.__init__) == signature(asynchronous.__init__)


def test_both_hooks_have_every_operation_and_a_stream():
    assert public(SandboxOperations) <= public(SandboxHook)
    assert public(AsyncSandboxOperations) <= public(SandboxAsyncHook)
    assert not inspect.isabstract(SandboxHook)
    assert not inspect.isabstract(SandboxAsyncHook)


class _Synchronous(ast.NodeTransformer):
    """Take `async` and `await` out of code, and docstrings with them."""

    def visit_AsyncFunctionDef(self, node):
        self.generic_visit(node)
        return ast.FunctionDef(**{name: getattr(node, name) for name in node._fields})

    def visit_AsyncFor(self, node):
        self.generic_visit(node)
        return ast.For(**{name: getattr(node, name) for name in node._fields})

    def visit_Await(self, node):
        self.generic_visit(node)
        return node.value

    def visit_Expr(self, node):
        self.generic_visit(node)
        # `yield from` does not exist on a loop: both forms are taken for one.
        match node.value:
            case ast.Constant():
                return None
            case ast.YieldFrom(value=value):
                return ast.For(
                    target=ast.Name(id="process", ctx=ast.Store()),
                    iter=value,
                    body=[ast.Expr(ast.Yield(ast.Name(id="process", ctx=ast.Load())))],
                    orelse=[],
                )
        return node


def body(cls, name):
    tree = ast.parse(textwrap.dedent(inspect.getsource(vars(cls)[name])))
    tree = ast.fix_missing_locations(_Synchronous().visit(tree))
    text = "\n".join(ast.unparse(statement) for statement in tree.body[0].body)
    return re.sub(r"[()]", "", text)


@pytest.mark.parametrize("name", sorted(name for name in vars(SandboxOperations) if not name.startswith("_")))
def test_each_operation_does_the_same_in_both(name):
    assert body(SandboxOperations, name) == body(AsyncSandboxOperations, name)


def test_the_operations_stand_in_the_same_order():
    names = [[name for name in vars(cls) if not name.startswith("_")] for cls in OPERATIONS]

    assert names[0] == names[1]
    assert operations.__doc__
