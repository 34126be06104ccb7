"""Every direct dependency has a licence that is known, and the page says which."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def licences():
    path = ROOT / "docs" / "_build" / "licences.py"
    spec = importlib.util.spec_from_file_location("licences", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_direct_dependency_has_a_known_licence_and_a_row_on_the_page():
    module = licences()
    names = module.direct()
    assert {"numpy", "torch", "ray", "mkdocs-material", "pytest"} <= set(names)
    stated = {}
    for name in names:
        try:
            stated[name] = module.licence(name)
        except ValueError as error:
            if "not installed" not in str(error) or "dev" in names[name]:
                raise
    assert len(stated) > 25
    text = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w.-]+) \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", text, flags=re.M)
    table = {name: (extras, licence) for name, extras, licence in rows if name != "package"}
    assert set(table) == set(names) == set(module.PURPOSES)
    assert all(table[name][0] == ", ".join(by) for name, by in names.items())
    for name, licence in stated.items():  # parts that a package bundles change with its versions
        if " AND " not in licence:
            assert table[name][1] == licence, name


def test_a_licence_that_was_not_looked_at_is_refused(tmp_path, monkeypatch):
    info = tmp_path / "secretive-1.0.dist-info"
    info.mkdir()
    head = "Metadata-Version: 2.4\nName: secretive\nVersion: 1.0\n"
    monkeypatch.syspath_prepend(tmp_path)
    for line in ("", "License-Expression: LicenseRef-Proprietary\n"):
        (info / "METADATA").write_text(head + line)
        with pytest.raises(ValueError, match="not known"):
            licences().licence("secretive")
