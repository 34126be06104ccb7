"""The README: its links lead somewhere, and a plain model is the population in few lines.

That its snippets run, tests/test_docs.py shows.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [x for x in links if not x.startswith("http") and not (ROOT / x).exists()]
    assert not missing


def test_a_hugging_face_model_is_the_population_in_22_lines():
    snippets = re.findall(r"^```python\n(.*?)^```", README, flags=re.M | re.S)
    (plain,) = [code for code in snippets if "AutoModelForCausalLM" in code]
    assert len(plain.strip().splitlines()) <= 22
