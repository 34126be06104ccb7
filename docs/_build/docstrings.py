"""Docstrings as the site shows them: the reStructuredText that is in some of them, as Markdown.

An extension of Griffe. Roles (``:func:`~a.b.c```) become links where the site documents what is
meant, literal blocks (a paragraph that ends in ``::``) and tables of ``====`` become blocks of code.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|exc):`(~?)([\w.]+)`")
_TABLE = re.compile(r"^(=+ [= ]+\n(?:.+\n)*?=+ [= ]+\n(?:.+\n)*?=+ [= ]+)$", flags=re.M)
_LITERAL = re.compile(r"^(.*)::\n\n((?:(?:    .*)?\n)*    .*)", flags=re.M)


class Markdown(griffe.Extension):
    """Rewrites every docstring of a package once all of it is loaded."""

    def on_package(self, *, pkg: griffe.Module, loader: Any, **kwargs: Any) -> None:
        """Walk the package."""
        _rewrite(pkg)


def _rewrite(thing: griffe.Object) -> None:
    if thing.docstring is not None:
        thing.docstring.value = markdown(thing.docstring.value, thing)
    for member in thing.members.values():
        if not member.is_alias:
            _rewrite(member)


def markdown(text: str, where: griffe.Object) -> str:
    """The Markdown of a docstring; ``where`` is what its names are looked up in."""
    text = _LITERAL.sub(lambda m: f"{_said(m[1])}```text\n{_dedent(m[2])}\n```", text)
    text = _TABLE.sub(r"```text\n\1\n```", text)
    return _ROLE.sub(lambda m: _link(m[2], bool(m[1]), where), text)


def _said(sentence: str) -> str:
    return f"{sentence.rstrip()}:\n\n" if sentence.strip() else ""


def _dedent(block: str) -> str:
    return "\n".join(line[4:] for line in block.splitlines())


def _link(name: str, short: bool, where: griffe.Object) -> str:
    try:
        path = where.resolve(name.partition(".")[0]) + name[len(name.partition(".")[0]) :]
    except griffe.NameResolutionError:
        path = name
    shown = name.rpartition(".")[2] if short else name
    # Left as plain code, without a warning, where the site has no such heading.
    return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'
