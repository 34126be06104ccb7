"""What is released: versions agree, and the wheel has all package data and nothing else."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import mfenv
from benchmarks.release.__main__ import Target, floors
from benchmarks.release.build import Built, inspect
from mfenv.errors import MfenvError
from tests.core_only import OURS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_is_the_same_everywhere():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\d\S*)", changelog, flags=re.M)[0] == mfenv.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {mfenv.__version__}\n" in citation


def test_supported_pythons_are_told_the_same_in_metadata_and_documentation():
    told = [
        c.rpartition(" :: ")[2]
        for c in PROJECT["project"]["classifiers"]
        if c.startswith("Programming Language :: Python :: 3.")
    ]
    assert PROJECT["project"]["requires-python"] == f">={told[0]}"
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    assert all(f"| {version} |" in page for version in told)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    """The files that setuptools would put into a wheel, by its own rules."""
    folder = tmp_path_factory.mktemp("build")
    code = (
        f"from setuptools import setup; setup(script_args=['-q', 'build', '-b', {str(folder)!r}])"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    lib = folder / "lib"
    return {p.relative_to(lib).as_posix() for p in lib.rglob("*") if p.is_file()}


def test_the_wheel_has_every_module_and_all_package_data(packaged, tmp_path):
    names = [
        path.relative_to(ROOT).as_posix()
        for package in OURS
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and ".private" not in str(path)
    ]
    wheel = tmp_path / "mfenv.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for name in packaged:
            file.write(ROOT / name, name)
    sdist = tmp_path / "mfenv.tar.gz"
    tarfile.open(sdist, "w:gz").close()
    looked = {check: (ok, note) for check, ok, note in inspect(Built(wheel, sdist), names)}
    assert looked["the wheel has every module and all package data"] == (True, "")
    assert looked["the wheel has nothing else"] == (True, "")
    assert looked["weights of at most 25 MB"][0]
    assert not looked["the sdist has code, tests, documentation, tables"][0]  # this one is empty
    for name in ("mfenv/py.typed", "agents/prompts/zh.toml", "benchmarks/leaderboard/site.css"):
        assert name in packaged


def test_floors_are_those_of_the_extra_and_of_what_it_includes(tmp_path):
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(
            "mfenv-1.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: mfenv\nVersion: 1\n"
            "Requires-Dist: numpy>=2.0\n"
            'Requires-Dist: torch>=2.8; extra == "llm"\n'
            'Requires-Dist: PEFT<1,>=0.21; extra == "llm"\n'
            'Requires-Dist: mfenv[llm]; extra == "training"\n'
            'Requires-Dist: trl>=1.16; extra == "training"\n',
        )
    assert floors(wheel, "core") == ["numpy==2.0"]
    assert floors(wheel, "training") == ["peft==0.21", "trl==1.16"]


def test_a_target_is_read_or_refused_in_one_line():
    target = Target.parse(f"{sys.executable}:core+llm@floors")
    assert (target.extras, target.floors) == (("core", "llm"), True)
    for wrong in ("python3", f"{sys.executable}:lmm", f"{sys.executable}:core@lowest"):
        with pytest.raises(MfenvError, match=r"allowed: PYTHON:EXTRA.*core"):
            Target.parse(wrong)
    with pytest.raises(MfenvError, match=r"no 'python2\.0' here"):
        Target.parse("python2.0:core")
