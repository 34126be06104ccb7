"""The documentation: every page is there, its snippets run, and its commands exist.

Every block of Python or shell on the site's pages and in the README is run, those of a page in one
folder and in order, as a reader would, unless the page says otherwise (docs/_build/blocks.py has
the words for it). A block with a title is a file, which the others of its page find.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import pkgutil
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from mfenv.cli import main
from tests.tiny_models import write_tiny

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {p.relative_to(DOCS).as_posix(): p.read_text("utf-8") for p in sorted(DOCS.rglob("*.md"))}
TEXTS = {**PAGES, "README": (ROOT / "README.md").read_text("utf-8")}
HUB_MODEL = "Qwen/Qwen2-1.5B-Instruct"
RUN = ("python", "py", "sh", "bash")
ELSEWHERE = {"leaderboard.md": "names of entries to come; the tutorial runs the same commands"}
OTHERS = ("text", "toml", "yaml", "json", "html")


def built(name):
    """A module of what builds the site."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "_build" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


facts, parse = built("facts"), built("blocks")
BLOCKS = {page: parse.blocks(text) for page, text in TEXTS.items()}


@cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    return dict(facts.parsers())


def runnable(page: str) -> bool:
    if page in ELSEWHERE:
        return False
    return any(b.kind in RUN and not b.skip and not b.title for b in BLOCKS[page])


@pytest.mark.parametrize("page", TEXTS)
def test_every_block_is_known(page):
    """Nothing that looks like code escapes the tests: no other fence, no unknown language."""
    fences = re.findall(r"^[ >]*(?:```|~~~).*$", TEXTS[page], flags=re.M)
    assert len(fences) == 2 * len(BLOCKS[page])
    assert {b.kind for b in BLOCKS[page]} <= {*RUN, *OTHERS}


@pytest.mark.parametrize("page", [p for p in TEXTS if runnable(p)])
def test_snippets_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = [b for b in BLOCKS[page] if not b.skip]
    for b in blocks:
        if b.title:
            path = tmp_path / b.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(b.text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    if (tmp_path / "pyproject.toml").exists():  # a package: its entry points become known
        making = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "egg_info"]
        subprocess.run(making, check=True)
        importlib.invalidate_caches()
    for number, b in enumerate(blocks):
        if b.title or b.kind not in RUN:
            continue
        if b.kind in ("sh", "bash"):
            assert len(b.add) in (1, len(b.words)), f"{page}: one part for each command: {b.add}"
            for words, more in itertools.zip_longest(b.words, b.add, fillvalue=""):
                assert words[0] == "mfenv", f"{page}: cannot be run here: {words}"
                assert main([*words[1:], *shlex.split(more)]) == 0, capsys.readouterr().err
            continue
        code = b.text
        if HUB_MODEL in code:  # the hub cannot be reached: the same code on a checkpoint made here
            code = code.replace(HUB_MODEL, str(write_tiny(tmp_path / "model", tagged=False)))
        exec(compile(code, f"{page}, block {number}", "exec"), {})


def test_navigation_has_every_page_and_no_other():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))

    def leaves(node):
        if isinstance(node, str):
            return [node]
        return [
            leaf for x in (node.values() if isinstance(node, dict) else node) for leaf in leaves(x)
        ]

    assert sorted(leaves(config["nav"])) == sorted(PAGES)


def test_links_lead_to_pages():
    generated = {"results": ROOT / "benchmarks" / "results", "models": ROOT / "agents" / "weights"}
    missing = []
    for page, text in PAGES.items():
        plain = parse.without_blocks(text)
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", plain):
            if "://" in link:
                continue
            path = (DOCS / page).parent.joinpath(link).resolve()
            folder = generated.get(path.parent.name)
            if folder is not None:
                card = folder / path.stem / "README.md"
                path = card if path.parent.name == "models" else folder / path.name
            if not path.exists():
                missing.append((page, link))
    assert not missing


def test_facts_are_those_of_the_code():
    for page, text in PAGES.items():
        for name, arguments in re.findall(r"<!-- facts: (\w+) ?(.*?) -->", text):
            if name != "commands":
                assert "|" in (made := facts.FACTS[name](*arguments.split())) or ":::" in made, page
    listed = facts.modules("mfenv", "mfenv.envs")
    assert "::: mfenv.labels" in listed
    assert "mfenv.envs" not in listed


def test_reference_has_everything_public():
    text = "\n".join(facts.on_page_markdown(page) for page in PAGES.values())
    whole = r"^::: ([\w.]+)\n    options: \{show_root_full_path: true\}$"
    modules = set(re.findall(whole, text, flags=re.M))
    names = set(re.findall(r"^::: ([\w.]+)$", text, flags=re.M))
    for module, members in re.findall(r"^::: ([\w.]+)\n.*members: \[(.+)\]", text, flags=re.M):
        names |= {f"{module}.{member.strip()}" for member in members.split(",")}
    missing = []
    for package in ("mfenv", "agents", "training", "benchmarks"):
        found = pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
        for module in (m.name for m in found if not m.ispkg):
            if module in modules or any(part.startswith("_") for part in module.split(".")):
                continue
            public = getattr(importlib.import_module(module), "__all__", ())
            # A package may be documented by what it exports.
            places = (module, module.rpartition(".")[0])
            missing += [
                f"{module}.{name}"
                for name in public
                if not any(f"{place}.{name}" in names for place in places)
            ]
    assert not missing


def parser_of(words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser of a command's longest known name, and the arguments behind it."""
    for depth in (3, 2):
        if (parser := parsers().get(" ".join(words[:depth]))) is not None:
            return parser, words[depth:]
    raise AssertionError(f"no such command: {' '.join(words[:3])}")


@pytest.mark.parametrize("page", [p for p in TEXTS if p not in ELSEWHERE])
def test_commands_can_be_given(page):
    for b in BLOCKS[page]:
        for line in b.words if b.kind in ("sh", "bash") else ():
            start = next((i for i, word in enumerate(line) if "=" not in word), 0)
            if line[start : start + 1] == ["mfenv"] or line[start + 1 : start + 3] == [
                "-m",
                "mfenv",
            ]:
                words = [w for w in line[line.index("mfenv") :] if w != "&"]
                parser, arguments = parser_of(words)
                parser.parse_args(arguments)  # raises what a person would read


def test_options_in_the_text_exist():
    known = {name for p in parsers().values() for a in p._actions for name in a.option_strings}
    for page, text in TEXTS.items():
        for code in re.findall(r"`((?:mfenv|--)[^`\n]*)`", parse.without_blocks(text)):
            words = code.split()
            allowed = known
            if words[0] == "mfenv" and re.fullmatch("[a-z]+", "".join(words[1:2])):
                parser, words = parser_of(words)
                allowed = {name for a in parser._actions for name in a.option_strings}
            options = {w.partition("=")[0] for w in words if w.startswith("--")}
            assert options <= allowed, (page, code)
