"""``mfenv doctor``: what it says of a machine is so, and its exit code can be relied on."""

import json
import re
from dataclasses import fields
from importlib import metadata
from pathlib import Path

import pytest

from agents.backbones.served import ServerSettings
from mfenv import plugins
from mfenv.cli import main
from mfenv.doctor.command import VARIABLES
from mfenv.events import write_jsonl
from mfenv.events.synthetic.generator import SyntheticSociety
from tests import core_only

ROOT = Path(__file__).parent.parent
KEY = "sk-a-secret-of-mine"

# A distribution of somebody else's: one backbone works, one talks while it is imported, one fails
# with an error that would colour a terminal, and one ends the process.
PLUGIN = {
    "theirs-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n",
    "theirs-1.0.dist-info/entry_points.txt": (
        "[mfenv.backbones]\n"
        "good = theirs_good:load\nbroken = theirs_broken:load\nquitter = theirs_quits:load\n"
    ),
    "theirs_good.py": "print('loading')\ndef load(): pass\n",
    "theirs_broken.py": "raise RuntimeError('no \\x1b[31mluck\\n today')\n",
    "theirs_quits.py": "raise SystemExit(3)\n",
}


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    return core_only.install(tmp_path_factory.mktemp("core") / "site")


def doctor(core, *argv, **options):
    return core_only.python(core, "-m", "mfenv", "doctor", *argv, **options)


def test_here_everything_registered_loads_and_versions_are_those_installed(capsys):
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert report["core_problem"] is None
    extras = {extra["name"]: extra for extra in report["extras"]}
    assert set(extras) == {"core", *metadata.metadata("mfenv").get_all("Provides-Extra")}
    for name in ("core", "llm", "training", "serving", "reports", "fast"):
        assert extras[name]["problems"] == [], name
        for package in extras[name]["packages"]:
            assert package["installed"] == metadata.version(package["name"])
    inner = {p["name"] for p in extras["llm"]["packages"]}
    assert inner < {p["name"] for p in extras["training"]["packages"]}
    found = {(p["group"], p["name"]) for p in report["plugins"] if not (p["error"] or p["extra"])}
    for group in ("backbones", "methods", "planners", "surrogates", "annotators", "commands"):
        assert {(group, name) for name in plugins.names(f"mfenv.{group}")} <= found


def test_without_extras_the_core_works_and_each_missing_one_has_its_command(core):
    result = doctor(core)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    assert "core        works" in result.stdout
    for extra in ("llm", "training", "serving", "reports", "ray", "fast"):
        assert f"pip install 'mfenv[{extra}]'" in result.stdout
    assert "torch is missing (needs >=2.8)" in result.stdout
    assert re.search(r"embedded-en, .*hf.*: need the extra llm", result.stdout)
    assert max(len(line) for line in result.stdout.splitlines()) < 120


def test_an_extra_that_is_asked_for_decides_the_exit_code(core):
    (code, out, _), (unknown, _, told) = core_only.calls(
        core, ["doctor", "--extra", "llm", "--json"], ["doctor", "--extra", "lmm"]
    )
    assert code == 1
    assert json.loads(out)["missing"] == ["extra llm: pip install 'mfenv[llm]'"]
    assert unknown == 2
    assert told.count("\n") == 1
    assert "'lmm'" in told
    assert "llm, training" in told


def test_a_version_below_the_floor_is_not_installed(core, tmp_path):
    info = tmp_path / "site" / "matplotlib-3.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: matplotlib\nVersion: 3.1.0\n")
    result = doctor(core, "--extra", "reports", also=[tmp_path / "site"])
    assert result.returncode == 1
    assert "matplotlib 3.1.0 is installed (needs >=3.10)" in result.stdout


def test_a_core_below_its_floor_does_not_work(core, tmp_path):
    info = tmp_path / "site" / "rich-12.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rich\nVersion: 12.0\n")
    result = core_only.python(tmp_path / "site", "-m", "mfenv", "doctor", also=[core])
    assert result.returncode == 1
    assert "rich 12.0 is installed (needs >=13): pip install mfenv" in result.stdout


def test_somebody_elses_broken_plugin_is_named_with_its_error(core, tmp_path):
    for name, text in PLUGIN.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (_, out, _), (code, shown, _) = core_only.calls(
        core, ["doctor", "--json"], ["doctor"], also=[tmp_path / "site"]
    )
    plugins_found = json.loads(out)["plugins"]  # what the module prints is not among it
    assert {p["name"] for p in plugins_found if p["error"]} == {"broken", "quitter"}
    assert code == 0
    assert "good (theirs 1.0)" in shown
    said = " ".join(shown.split())
    assert "broken of theirs 1.0 cannot be loaded: RuntimeError: no [31mluck today" in said
    assert "quitter of theirs 1.0 cannot be loaded: SystemExit: 3" in said
    assert "\x1b" not in shown


def test_keys_are_told_as_set_and_never_shown(core):
    environ = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"http://user:{KEY}@127.0.0.1/v1"}
    results = core_only.calls(core, ["doctor"], ["doctor", "--json"], environ=environ)
    for code, out, err in results:
        assert code == 0
        assert KEY not in out + err
    variables = json.loads(out)["variables"]
    assert variables["OPENAI_API_KEY"]
    assert not variables["MFENV_CACHE"]


def test_every_variable_that_the_code_reads_is_looked_at():
    folders = ("mfenv", "agents", "training", "benchmarks")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    read = set(re.findall(r"\bMFENV_[A-Z_]*[A-Z]\b", "\n".join(p.read_text() for p in paths)))
    read |= {f"MFENV_OPENAI_{field.name.upper()}" for field in fields(ServerSettings)}
    assert read - {"MFENV_OPENAI"} <= set(VARIABLES)


def test_data_is_counted_by_the_loaders_and_what_is_wrong_is_told(core, tmp_path):
    good = tmp_path / "good"
    good.mkdir()
    events = SyntheticSociety(3).events(2)
    write_jsonl(events, good / "events.jsonl")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "cut.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "empty").mkdir()
    folders = [damaged, tmp_path / "empty", tmp_path / "nowhere"]
    (fine, out, _), (wrong, told, _) = core_only.calls(
        core,
        ["doctor", "--data", str(good), "--json"],
        ["doctor", "--json", *(word for path in folders for word in ("--data", str(path)))],
    )
    assert fine == 0
    (file,) = json.loads(out)["data"]
    assert (file["events"], file["posts"]) == (2, sum(len(e.posts) for e in events))
    assert wrong == 1
    problems = {Path(f["path"]).name: f["problem"] for f in json.loads(told)["data"]}
    assert "cut off" in problems["cut.parquet"]
    assert "no events" in problems["empty"]
    assert "no such file" in problems["nowhere"]
