"""A Griffe extension for `make docs`; it runs in that target's environment alone.

Docstrings are reST, and their pages Markdown. Both indent a block of code by four spaces, but only reST
announces it by two colons, which Markdown would show. And models have no `__init__` that could be read: it is
their fields.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

from griffe import (  # type: ignore[import-not-found]  # it is in the environment of `make docs` alone
    Attribute,
    Extension,
    Function,
    Parameter,
    ParameterKind,
    Parameters,
)

_TREE = re.compile(r"^\w+\n(?:[├│└].*\n?)+", re.MULTILINE)
_PARAMETER = re.compile(r"^:param (\w+):", re.MULTILINE)


class Pages(Extension):  # type: ignore[misc]  # see the import
    """Make docstrings Markdown, and give models their parameters."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        """Rewrite an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)

    def on_class(self, *, cls: Any, **kwargs: Any) -> None:
        """Give a class without `__init__` those of its fields as parameters that its docstring names."""
        if "__init__" in cls.members or cls.docstring is None:
            return
        named = set(_PARAMETER.findall(cls.docstring.value))
        fields = [
            member
            for name, member in cls.members.items()
            if name in named and isinstance(member, Attribute) and member.annotation is not None
        ]
        if fields:
            made = [
                Parameter(
                    field.name,
                    annotation=field.annotation,
                    default=field.value,
                    kind=ParameterKind.keyword_only,
                )
                for field in fields
            ]
            cls.set_member("__init__", Function("__init__", parameters=Parameters(*made)))


def as_markdown(text: str) -> str:
    """Return a docstring without the colons that announce a block, and with a drawn tree as a block."""
    text = _TREE.sub(lambda tree: "\n" + textwrap.indent(tree[0], "    "), text)
    text = re.sub(r"\n[ ]*::\n(?=\n)", "\n", text)
    return re.sub(r"::\n(?=\n)", ":\n", text)
