"""The Python snippets of the README run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tiny_models import write_tiny

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, flags=re.M | re.S)
HUB_MODEL = "Qwen/Qwen2-1.5B-Instruct"


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet(number, tmp_path, monkeypatch, capsys):
    code = SNIPPETS[number]
    if HUB_MODEL in code:  # the hub cannot be reached: the same code on a checkpoint made here
        assert len(code.strip().splitlines()) <= 22
        code = code.replace(HUB_MODEL, str(write_tiny(tmp_path / "model", tagged=False)))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"README snippet {number}", "exec"), {})


def test_links_lead_to_files():
    root = Path(__file__).parent.parent
    links = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [x for x in links if not x.startswith("http") and not (root / x).exists()]
    assert not missing
