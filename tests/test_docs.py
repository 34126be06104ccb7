"""The documentation: every page is there, its snippets run, and its commands exist.

A block of code is run unless the line before it says ``<!-- not run by the tests: REASON -->``; one
with a title is a file, which the blocks of its page find in their folder.
"""

from __future__ import annotations

import argparse
import importlib.util
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
HUB_MODEL = "Qwen/Qwen2-1.5B-Instruct"
BLOCK = re.compile(
    r"^(?P<skip><!-- not run by the tests: .+ -->\n)?"
    r'```(?P<kind>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    flags=re.M | re.S,
)
RUN = ("python", "py", "sh")


def facts():
    """The hook that fills in what pages say of the code."""
    spec = importlib.util.spec_from_file_location("facts", DOCS / "_build" / "facts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    return dict(facts().parsers())


def lines(text: str) -> list[list[str]]:
    """The lines of a shell block, as words."""
    joined = text.replace("\\\n", " ").splitlines()
    return [words for line in joined if (words := shlex.split(line, comments=True))]


def commands(text: str) -> list[list[str]]:
    """The ``mfenv`` commands of a shell block, as words."""
    return [words[words.index("mfenv") :] for words in lines(text) if "mfenv" in words]


def runnable(page: str) -> bool:
    return any(
        m["kind"] in RUN and not m["skip"] and not m["title"] for m in BLOCK.finditer(PAGES[page])
    )


@pytest.mark.parametrize("page", [p for p in PAGES if runnable(p)])
def test_snippets_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = [m for m in BLOCK.finditer(PAGES[page]) if not m["skip"]]
    for m in blocks:
        if m["title"]:
            path = tmp_path / m["title"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(m["text"], encoding="utf-8")
    if (tmp_path / "pyproject.toml").exists():  # a package: its entry points become known
        making = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "egg_info"]
        subprocess.run(making, check=True)
        monkeypatch.syspath_prepend(tmp_path)
    for number, m in enumerate(blocks):
        code = m["text"]
        if m["title"] or m["kind"] not in RUN:
            continue
        if HUB_MODEL in code:  # the hub cannot be reached: the same code on a checkpoint made here
            code = code.replace(HUB_MODEL, str(write_tiny(tmp_path / "model", tagged=False)))
        if m["kind"] == "sh":
            for words in lines(code):
                assert words[0] == "mfenv", f"{page}: cannot be run here: {words}"
                assert main(words[1:]) == 0, (words, capsys.readouterr().err)
        else:
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
        plain = BLOCK.sub("", text)
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
    module = facts()
    for page, text in PAGES.items():
        for name, arguments in re.findall(r"<!-- facts: (\w+) ?(.*?) -->", text):
            if name != "commands":
                assert "|" in (made := module.FACTS[name](*arguments.split())) or ":::" in made, (
                    page
                )
    listed = module.modules("mfenv", "mfenv.envs")
    assert "::: mfenv.labels" in listed
    assert "mfenv.envs" not in listed


def parser_of(words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser of a command's longest known name, and the arguments behind it."""
    for depth in (3, 2):
        if (parser := parsers().get(" ".join(words[:depth]))) is not None:
            return parser, words[depth:]
    raise AssertionError(f"no such command: {' '.join(words[:3])}")


@pytest.mark.parametrize("page", PAGES)
def test_commands_can_be_given(page):
    for m in BLOCK.finditer(PAGES[page]):
        for words in commands(m["text"]) if m["kind"] == "sh" else ():
            parser, arguments = parser_of([w for w in words if w != "&"])
            parser.parse_args(arguments)  # raises what a person would read


def test_options_in_the_text_exist():
    known = {name for p in parsers().values() for a in p._actions for name in a.option_strings}
    for page, text in PAGES.items():
        for code in re.findall(r"`((?:mfenv|--)[^`\n]*)`", BLOCK.sub("", text)):
            words = code.split()
            allowed = known
            if words[0] == "mfenv" and re.fullmatch("[a-z]+", "".join(words[1:2])):
                parser, words = parser_of(words)
                allowed = {name for a in parser._actions for name in a.option_strings}
            options = {w.partition("=")[0] for w in words if w.startswith("--")}
            assert options <= allowed, (page, code)
