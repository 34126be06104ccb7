"""The leaderboard: entries that were tampered with, reruns, and the site."""

import csv
import functools
import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_models

import mfenv
from agents.prompts.fingerprint import prompts_digest
from benchmarks.fidelity.cases import digest, list_digest
from benchmarks.fidelity.conditions import Condition
from benchmarks.fidelity.entry import (
    CaseFacts,
    ConditionFacts,
    Manifest,
    Usage,
    load_entry,
    write_entry,
)
from benchmarks.fidelity.lists import official
from benchmarks.fidelity.lists.__main__ import make_list
from benchmarks.fidelity.measure import real_labels
from benchmarks.fidelity.tracks import SPLITS, TRACKS, choose
from benchmarks.leaderboard.check import check
from benchmarks.leaderboard.rerun import Agreement, Share, draw
from benchmarks.leaderboard.verification import failures, verification_path
from benchmarks.simulate import sampling_parameters
from mfenv.cli import main
from mfenv.distributions import counts
from mfenv.dynamics.assemble import build_annotator
from mfenv.dynamics.journal import canonical
from mfenv.dynamics.records import StepRecord
from mfenv.events.jsonl import write_jsonl
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.interventions import NONE
from mfenv.labels import DIMENSIONS, decode_code, encode_code

TOY = (
    *("--backbone", "toy", "--methods", "toy,toy-deaf", "--baseline", "toy-deaf"),
    *("--annotator", "toy-exact", "--warmup", "24", "--horizon", "48", "--batch", "8"),
    *("--seeds", "2"),
)
HOSTILE = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"


# -- entries ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """The toy models are installed for this process."""
    folder = tmp_path_factory.mktemp("site")
    toy_models.install(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        toy_models.check(folder)
        patch.setattr(sys, "argv", ["mfenv", "bench", "fidelity"])
        yield


@pytest.fixture(scope="module")
def opened(toys, tmp_path_factory):
    """An entry on an open track: the first three events of the official list."""
    folder = tmp_path_factory.mktemp("open")
    argv = ["bench", "fidelity", "--track", "synthetic", "--events", "3", *TOY]
    assert main([*argv, "--run", str(folder / "run"), "--out", str(folder / "entry")]) == 0
    return folder / "entry"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "events.jsonl"
    write_jsonl(SyntheticSociety(3).events(3, n_posts=100), path)
    return path


@pytest.fixture(scope="module")
def private(toys, data, tmp_path_factory):
    """An entry on a track of real people's posts; its texts lie beside it."""
    folder = tmp_path_factory.mktemp("private")
    argv = ["bench", "fidelity", "--track", "weibo", "--data", str(data), "--events", "2", *TOY]
    argv += ["--min-posts", "80", "--run", str(folder / "run"), "--out", str(folder / "entry")]
    assert main(argv) == 0
    return folder / "entry"


@pytest.fixture
def entry(opened, tmp_path):
    return Path(shutil.copytree(opened, tmp_path / "entry"))


@pytest.fixture
def secret(private, tmp_path):
    shutil.copytree(private.with_name("entry.private"), tmp_path / "secret.private")
    return Path(shutil.copytree(private, tmp_path / "secret"))


@functools.cache
def official_cases():
    track = TRACKS["synthetic"]
    chosen = choose(track, "validation", None, reactions=track.warmup + track.horizon)
    annotator = build_annotator("auto", chosen.cases[0].event)
    labels = [real_labels(case, annotator, Condition("core", ())) for case in chosen.cases]
    return chosen, annotator.name, labels


def made_up(folder, methods, backbone="made-up", seeds=5, seed=0, **changes):
    """An entry on the official list whose labels are the real ones, redrawn and partly at random.

    ``methods`` maps names to the share of the labels that is random; ``backbone`` is a name, or
    what an entry says of its models.
    """
    chosen, annotator, real = official_cases()
    rng = np.random.default_rng(seed)
    sizes = [len(d.labels) for d in DIMENSIONS]

    def runs(noise):
        for case, labels in enumerate(real):
            for s in range(seeds):
                steps = []
                for k, first in enumerate(range(50, 146, 16)):
                    drawn = labels[rng.integers(50, 146, 16)].copy()
                    wrong = rng.random(drawn.shape) < noise
                    drawn[wrong] = rng.integers(0, sizes, drawn.shape)[wrong]
                    steps.append(record(4 + k, first, drawn))
                yield case, s, steps

    played = {("core", m): list(runs(noise)) for m, noise in methods.items()}
    steps = [r for each in played.values() for _, _, run in each for r in run]
    n = sum(len(r.agents) for r in steps)
    usage = Usage(n, 100.0, sum(r.prompt_tokens for r in steps), 0)
    sums = np.array([960.0, 192.0, 96.0])
    manifest = Manifest(
        **{
            "track": "synthetic",
            "split": "validation",
            "data": {"file": chosen.file, "sha256": chosen.sha256},
            "events": list_digest(chosen.cases),
            "n_cases": len(real),
            "backbone": backbone
            if isinstance(backbone, list)
            else [{"name": backbone, "revision": f"r{seed}"}],
            "annotator": annotator,
            "prompts": prompts_digest(),
            "seeds": list(range(seeds)),
            "baseline": next(iter(methods)),
            "conditions": {
                "core": ConditionFacts(
                    50, 96, 16, sampling_parameters("ancestral"), {m: m for m in methods},
                    list(range(len(real))), usage,
                )
            },
            "package": mfenv.__version__,
            "machine": "2 CPU cores (x86_64), Python 3.11.7",
            "command": "mfenv bench fidelity",
            **changes,
        }
    )  # fmt: skip
    facts = [
        CaseFacts(digest(c.event.event_id), digest(c.group), c.event.domain, c.event.language, x)
        for c, x in zip(chosen.cases, real, strict=True)
    ]
    likelihoods = {key: np.tile(sums, (len(real), 1)) for key in played}
    runs_of = {key: iter(each) for key, each in played.items()}
    write_entry(folder, manifest, facts, runs_of, likelihoods, open_text=True)
    return folder


def record(step, first, labels):
    n = len(labels)
    return StepRecord(
        step=step, warmup=False, agents=np.arange(first, first + n), texts=("words",) * n,
        labels=labels, planted=np.zeros(n, bool), distribution=np.zeros(23),
        perceived=np.zeros(23), mean_field="", activity=np.zeros(6), intervention=NONE,
        prompt_tokens=10,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """Two ranked entries: one near the real people with a twin, one far from them."""
    folder = tmp_path_factory.mktemp("ranked")
    near = made_up(folder / "near", {"one": 0.02, "two": 0.02}, seed=1)
    far = made_up(folder / "far", {"noisy": 0.8}, backbone="=far+away()", seed=2)
    return near, far


# -- tampering -------------------------------------------------------------------------------


def change(folder, **fields):
    """Change fields of entry.json; ``None`` takes one out."""
    path = folder / "entry.json"
    value = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def fix(folder):
    """Make the hashes right again."""
    files = json.loads((folder / "entry.json").read_text())["files"]
    for name in files:
        if (folder / name).is_file():
            files[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    change(folder, files=files)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rewrite(path, values):
    path.write_bytes(b"".join(canonical(v) for v in values))


def edit(folder, name, number, **fields):
    values = lines(folder / name)
    values[number].update(fields)
    rewrite(folder / name, values)


def relabel(value, rng):
    """Other labels for a step, drawn from its own, with counts that fit."""
    codes = value["labels"].split()
    drawn = [codes[i] for i in rng.integers(len(codes), size=len(codes))]
    labels = np.stack([encode_code(c) for c in drawn])
    assert [decode_code(x) for x in labels] == drawn
    return {**value, "labels": " ".join(drawn), "counts": counts(labels).astype(int).tolist()}


def problems(folder):
    checked = check(folder)
    assert not checked.valid
    assert checked.scores is None or (folder / "scores.json").exists()
    return "\n".join(checked.problems)


JOURNAL = "journals/core/toy.jsonl"


def test_an_untouched_entry_is_valid(entry, secret, capsys):
    assert main(["leaderboard", "validate", str(entry)]) == 0
    out = capsys.readouterr().out
    assert out.endswith("valid\n")
    assert "track: synthetic" in out
    assert "methods: toy, toy-deaf" in out
    assert "events: first 3 of the official list" in out
    assert "decisions: 576" in out
    assert "it has 3 of the 30 events" in out
    assert main(["leaderboard", "validate", str(secret), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["valid"], found["problems"], found["events"]) == (True, [], "own list")


def test_an_edited_score(entry):
    scores = json.loads((entry / "scores.json").read_text())
    scores["kl"]["toy"]["iqm"]["mean"] -= 0.001
    (entry / "scores.json").write_text(json.dumps(scores))
    assert re.search(
        r"scores.json: kl\.toy\.iqm\.mean is [\d.]+, the journals give", problems(entry)
    )


def test_an_edited_line_of_a_journal(entry):
    edit(entry, JOURNAL, 4, labels=" ".join(["sczrnbop"] * 8))
    assert f"{JOURNAL}: record (all): field sha256: the file is not the one" in problems(entry)


def test_an_edited_line_with_its_hash(entry):
    edit(entry, JOURNAL, 4, labels=" ".join(["sczrnbop"] * 8))
    fix(entry)
    assert f"{JOURNAL}: record line 5: field counts: are not those of the labels" in problems(entry)


def test_an_edited_line_with_its_hash_and_counts_is_no_more_what_was_scored(entry):
    values = lines(entry / JOURNAL)
    values[4] = relabel(values[4], np.random.default_rng(0))
    rewrite(entry / JOURNAL, values)
    fix(entry)
    assert "scores.json: kl." in problems(entry)


def test_a_seed_that_is_missing(entry):
    rewrite(entry / JOURNAL, [v for v in lines(entry / JOURNAL) if v["seed"] == 0])
    fix(entry)
    assert f"{JOURNAL}: record line 7: field case: 1 found, 0 expected" in problems(entry)


def test_a_seed_that_is_left_out_of_entry_json(entry):
    change(entry, seeds=[0])
    assert f"{JOURNAL}: record line 7: field case: 0 found, 1 expected" in problems(entry)


def test_a_step_that_is_missing(entry):
    rewrite(entry / JOURNAL, lines(entry / JOURNAL)[:-1])
    fix(entry)
    assert f"{JOURNAL}: record (end): field case: ends before" in problems(entry)


def test_a_method_without_its_likelihood(entry):
    files = json.loads((entry / "entry.json").read_text())["files"]
    change(entry, files={k: v for k, v in files.items() if k != "likelihoods/core/toy.jsonl"})
    assert "field files: 'likelihoods/core/toy.jsonl' is missing" in problems(entry)


def test_other_events_under_the_official_hash(entry):
    edit(entry, "cases.jsonl", 1, event="0" * 64)
    fix(entry)
    assert "the events are not those of the official list, whose hash" in problems(entry)


def test_the_official_events_under_another_hash(entry):
    change(entry, events="0" * 64)
    assert "first 3 events of the official list, whose hash is" in problems(entry)


def test_events_in_groups_of_their_own(entry):
    edit(entry, "cases.jsonl", 0, group="1" * 64)
    fix(entry)
    assert "cases.jsonl: line 1: group" in problems(entry)


def test_other_labels_of_the_real_people_get_no_rank(ranked, tmp_path):
    folder = Path(shutil.copytree(ranked[1], tmp_path / "entry"))
    real = lines(folder / "cases.jsonl")[7]["real"].split()
    edit(folder, "cases.jsonl", 7, real=" ".join(real[::-1]))
    fix(folder)
    checked = check(folder)
    assert checked.valid
    assert checked.standing.unranked == [
        "the labels of the real people are not the official ones in cases 7"
    ]


def test_a_case_that_is_there_twice(entry):
    values = lines(entry / "cases.jsonl")
    rewrite(entry / "cases.jsonl", [values[0], values[0], values[2]])
    fix(entry)
    assert "cases.jsonl: record (all): field event: a case is there twice" in problems(entry)


@pytest.mark.parametrize("name", ["../outside.jsonl", "/etc/passwd", "journals/../../x"])
def test_a_path_that_leaves_the_folder(entry, name):
    files = json.loads((entry / "entry.json").read_text())["files"]
    change(entry, files={**files, name: "0" * 64})
    assert f"field files: '{name}' is not part of an entry" in problems(entry)


@pytest.mark.parametrize("name", ["../core", "a/b", "..", "", "x" * 101, "a\nb"])
@pytest.mark.parametrize("of", ["conditions", "methods"])
def test_a_name_that_leaves_the_folder(entry, name, of):
    conditions = json.loads((entry / "entry.json").read_text())["conditions"]
    if of == "conditions":
        conditions = {name: conditions["core"]}
    else:
        conditions["core"]["methods"] = {name: "toy"}
    change(entry, conditions=conditions)
    assert f"field conditions{'' if of == 'conditions' else '.core.methods'}:" in problems(entry)


def test_a_link_to_a_file(entry, tmp_path):
    shutil.move(entry / JOURNAL, tmp_path / "elsewhere")
    (entry / JOURNAL).symlink_to(tmp_path / "elsewhere")
    assert f"'{JOURNAL}' is a link; an entry holds plain files only" in problems(entry)


def test_a_link_to_a_folder(entry, tmp_path):
    shutil.move(entry / "journals", tmp_path / "elsewhere")
    (entry / "journals").symlink_to(tmp_path / "elsewhere")
    assert "'journals' is a link" in problems(entry)


def test_entry_json_that_is_a_link(entry, tmp_path):
    shutil.move(entry / "entry.json", tmp_path / "elsewhere")
    (entry / "entry.json").symlink_to(tmp_path / "elsewhere")
    assert "entry.json: is missing, or no plain file" in problems(entry)


def test_files_that_are_no_part_of_an_entry(entry):
    (entry / "run.sh").write_text("true")
    (entry / "notes").mkdir()
    os.mkfifo(entry / "journals" / "pipe")
    found = problems(entry)
    for name in ("run.sh", "notes", "journals/pipe"):
        assert f"'{name}' is no part of an entry; take it out" in found


@pytest.mark.parametrize("name", ["entry.json", "cases.jsonl", JOURNAL, "scores.json"])
def test_a_file_of_a_gigabyte(entry, name):
    os.truncate(entry / name, 2**30)  # sparse: it takes no room
    assert "1,073,741,824 bytes; allowed: at most" in problems(entry)


def test_an_entry_that_is_large_in_all(entry):
    for part in ("journals", "likelihoods", "texts"):
        for method in ("toy", "toy-deaf"):
            os.truncate(entry / part / "core" / f"{method}.jsonl", 2**26)
    os.truncate(entry / "cases.jsonl", 2**26)
    os.truncate(entry / "scores.json", 2**26 + 1)
    assert "bytes in all; allowed: at most 536,870,912" in problems(entry)


BOMBS = {
    "deep nesting": "[" * 200_000 + "]" * 200_000,
    "no number": '{"case":NaN}',
    "infinity": '{"case":1e999}',
    "a number of many digits": '{"case":' + "9" * 5000 + "}",
    "a name twice": '{"case":0,"case":1}',
    "no object": "[[]]",
    "no text": "\ufeff{}",
    "half a character": '"\\ud800"',
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_in_a_line(entry, bomb):
    for name in (JOURNAL, "cases.jsonl", "likelihoods/core/toy.jsonl", "texts/core/toy.jsonl"):
        original = (entry / name).read_text()
        (entry / name).write_text(bomb + "\n" + original)
        fix(entry)
        assert f"{name}: record line 1: " in problems(entry)
        (entry / name).write_text(original)


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_in_entry_json_and_in_the_scores(entry, bomb):
    text = (entry / "entry.json").read_text()
    (entry / "scores.json").write_text(bomb)
    assert "scores.json: " in problems(entry)
    (entry / "scores.json").unlink()
    for field in ("seeds", "backbone", "cost", "conditions", "n_cases"):
        (entry / "entry.json").write_text(f'{{"{field}":{bomb},' + text.lstrip()[1:])
        assert "entry.json: record (all): " in problems(entry)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cost", {"USD": 10**400}), ("cost", {"USD": -1}), ("n_cases", 10**30), ("seeds", [2**60]),
        ("seeds", [0, 0]), ("seeds", [True]), ("backbone", []), ("backbone", [{"name": 1}]),
        ("data", {"file": "x", "sha256": "y", "more": "z"}), ("note", "a post"), ("track", None),
    ],
)  # fmt: skip
def test_fields_that_no_entry_has(entry, field, value):
    change(entry, **{field: value})
    found = problems(entry)
    assert f"entry.json: record (all): field {field}" in found or "field 'note': is not" in found


@pytest.mark.parametrize(("track", "split"), [("nowhere", "validation"), ("synthetic", "train")])
def test_a_track_that_is_not_there(entry, track, split):
    change(entry, track=track, split=split)
    assert "unknown; known: synthetic, weibo" in problems(entry)


def test_a_cost_that_was_not_journalled(entry):
    conditions = json.loads((entry / "entry.json").read_text())["conditions"]
    conditions["core"]["usage"]["prompt_tokens"] = 1
    change(entry, conditions=conditions)
    assert "usage.prompt_tokens: 1 found, the journals have 5760" in problems(entry)


def test_a_method_that_calls_itself_a_baseline(entry):
    conditions = json.loads((entry / "entry.json").read_text())["conditions"]
    conditions["core"]["methods"] = {"persistence": "persistence", "toy": "toy"}
    change(entry, conditions=conditions)
    assert "method 'persistence' has the name of a baseline" in problems(entry)


def test_an_open_text_that_was_edited(entry):
    values = lines(entry / "texts/core/toy.jsonl")
    values[3]["actions"][0] += "!"
    rewrite(entry / "texts/core/toy.jsonl", values)
    fix(entry)
    assert "texts/core/toy.jsonl: record line 4: field (all): is not the text of" in problems(entry)


def test_open_texts_that_are_missing(entry):
    (entry / "texts/core/toy.jsonl").unlink()
    assert "texts/core/toy.jsonl: is missing" in problems(entry)


POST = "somebody wrote this and did not ask to be here"


def _in_entry(field, value):
    return lambda folder: change(folder, **{field: value})


def _in_sampling(folder):
    conditions = json.loads((folder / "entry.json").read_text())["conditions"]
    conditions["core"]["sampling"] = POST
    change(folder, conditions=conditions)


def _in_cases(folder):
    edit(folder, "cases.jsonl", 0, domain=POST)
    fix(folder)


def _in_a_field(folder):
    edit(folder, "cases.jsonl", 0, text=POST)
    fix(folder)


def _in_the_journal(folder):
    edit(folder, JOURNAL, 0, text=POST)
    fix(folder)


def _in_texts(folder):
    shutil.copytree(folder.with_name("secret.private") / "texts", folder / "texts")


SMUGGLED = {
    "backbone": (_in_entry("backbone", [{"name": POST}]), "backbone.0.name: 'somebody wrote"),
    "a field of the backbone": (_in_entry("backbone", [{POST: "x"}]), "backbone.0: 'somebody"),
    "machine": (_in_entry("machine", POST), "machine: 'somebody wrote"),
    "annotator": (_in_entry("annotator", POST), "annotator: 'somebody wrote"),
    "command": (_in_entry("command", f"mfenv bench fidelity {POST}"), "is not 'mfenv bench"),
    "quoted command": (
        _in_entry("command", f"mfenv bench fidelity --name '{POST}'"), "is not 'mfenv bench",
    ),
    "sampling": (_in_sampling, "conditions.core.sampling: 'somebody"),
    "file": (_in_entry("data", {"file": POST, "sha256": "0" * 64}), "data.file: 'somebody"),
    "cost": (_in_entry("cost", {POST: 1}), "cost: 'somebody wrote"),
    "domain": (_in_cases, "cases.jsonl: line 1: domain: 'somebody wrote"),
    "another field": (_in_a_field, "has fields that no case has"),
    "journal": (_in_the_journal, "must be a hash of 32 hexadecimal digits"),
    "texts": (_in_texts, "texts is there, but what is written on track weibo can quote real"),
    "readme": (lambda f: (f / "README.md").write_text(POST), "README.md is there, but"),
}  # fmt: skip


@pytest.mark.parametrize("case", SMUGGLED.values(), ids=SMUGGLED)
def test_a_text_in_a_private_entry(secret, case):
    smuggle, message = case
    smuggle(secret)
    assert message in problems(secret)


def test_every_problem_gets_a_line_and_no_terminal_code(entry, capsys):
    edit(entry, JOURNAL, 0, labels="\x1b[2J" * 400)
    (entry / "\x1b[31mred").write_text("")
    fix(entry)
    edit(entry, "cases.jsonl", 0, event="x")
    assert main(["leaderboard", "validate", str(entry)]) == 2
    out = capsys.readouterr()
    assert "valid" not in out.out.splitlines()
    assert len(out.err.splitlines()) == 3
    assert all(line.startswith("mfenv: error: ") for line in out.err.splitlines())
    assert "\x1b" not in out.err + out.out
    assert max(map(len, out.err.splitlines())) < 450


def test_damage_of_any_kind_is_a_problem_and_nothing_else(entry, tmp_path):
    rng = np.random.default_rng(5)
    names = sorted(p.relative_to(entry).as_posix() for p in entry.rglob("*") if p.is_file())
    whole = {name: (entry / name).read_bytes() for name in names}
    for trial in range(60):
        name = names[rng.integers(len(names))]
        data = bytearray(whole[name])
        kind, at = trial % 3, int(rng.integers(len(data)))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del data[at : at + int(rng.integers(1, 200))]
        else:
            data[at:at] = bytes(data[: int(rng.integers(1, 200))])
        (entry / name).write_bytes(data)
        if trial % 2 and name != "entry.json":
            fix(entry)
        checked = check(entry)
        assert checked.valid == (not checked.problems)
        if bytes(data) != whole[name] and not trial % 2 and name not in ("entry.json", "README.md"):
            # Only white space and the last decimals of scores may go unseen.
            assert not checked.valid or name == "scores.json"
        (entry / name).write_bytes(whole[name])
        (entry / "entry.json").write_bytes(whole["entry.json"])


def test_a_folder_that_is_no_entry(tmp_path, capsys):
    assert main(["leaderboard", "validate", str(tmp_path / "nothing")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["leaderboard", "validate", str(tmp_path)]) == 2
    assert "it has no entry.json" in capsys.readouterr().err


# -- the official lists ----------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_the_synthetic_lists_are_what_the_rule_gives(split):
    assert make_list(TRACKS["synthetic"], split, None) == official("synthetic", split)


@pytest.mark.realdata
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("track", ["weibo", "rumoureval"])
def test_the_lists_of_real_events_are_what_the_rule_gives(track, split):
    root = Path(os.environ.get("MFENV_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (root / track).is_dir():
        pytest.skip(f"needs the {track} data (MFENV_DATA)")
    assert make_list(TRACKS[track], split, root / track) == official(track, split)


def test_lists_hold_hashes_only():
    for track in TRACKS:
        for split in SPLITS:
            found = official(track, split)
            assert found is not None
            for value in (*found.events, *found.prefixes):
                assert re.fullmatch(r"[0-9a-f]{64}", value)
            assert [case.event for case in found.core] == found.events[: len(found.core)]
            assert len(found.prefixes) == len(found.core) <= len(found.events)
            for case in found.core:
                assert all(re.fullmatch(r"[0-9a-f]{64}", getattr(case, name))
                           for name in ("event", "group", "real"))  # fmt: skip


# -- verification ----------------------------------------------------------------------------


def verify(folder, *argv):
    code = main(["leaderboard", "verify", str(folder), "--annotator", "toy-exact", *argv])
    path = verification_path(folder)
    return code, json.loads(path.read_text()) if path.exists() else None


def test_a_true_entry_is_reproduced_step_by_step(entry, capsys):
    code, found = verify(entry)
    assert code == 0
    assert found["methods"] == {"toy": True, "toy-deaf": True}
    assert found["entry"] == hashlib.sha256((entry / "entry.json").read_bytes()).hexdigest()
    for each in found["found"]:
        assert len(each["runs"]) == 5  # of six
        assert each["steps"] == {"compared": [6] * 5, "same": [6] * 5}
        assert each["relabelled"] == {"compared": [48] * 5, "same": [48] * 5}
        for name in ("texts", "labels"):
            assert each[name]["compared"] == each[name]["same"]
            assert min(each[name]["compared"]) > 30  # silent in both is not counted
        assert each["likelihood"] < 1e-12
    assert "verified: toy, toy-deaf" in capsys.readouterr().out


def test_a_true_entry_is_reproduced_freely_and_with_private_texts(secret, data):
    code, found = verify(secret, "--data", str(data))  # the texts beside it are found
    assert code == 0
    assert all(each["texts"]["same"] for each in found["found"])
    shutil.rmtree(secret.with_name("secret.private"))
    code, found = verify(secret, "--data", str(data), "--methods", "toy", "--fraction", "1")
    assert code == 0
    assert found["methods"] == {"toy": True}
    assert [each["texts"] for each in found["found"]] == [None]
    labels = found["found"][0]["labels"]
    assert labels["same"] == labels["compared"]
    assert len(labels["same"]) == 4


def test_labels_that_were_drawn_anew_are_found(entry, secret, data):
    """A forged journal of which every hash and count is right."""
    rng = np.random.default_rng(0)
    for folder, argv in ((entry, ()), (secret, ("--data", str(data)))):
        rewrite(folder / JOURNAL, [relabel(v, rng) for v in lines(folder / JOURNAL)])
        fix(folder)
        (folder / "scores.json").unlink()
        assert check(folder).valid
        code, found = verify(folder, *argv)
        assert code == 2
        assert found["methods"] == {"toy": False, "toy-deaf": True}
    shutil.rmtree(secret.with_name("secret.private"))
    code, found = verify(secret, "--data", str(data))
    assert (code, found["methods"]["toy"]) == (2, False)


def test_runs_of_other_seeds_are_found(entry):
    """The runs of both seeds change places: each is a true run, of another seed."""
    for name in (JOURNAL, "texts/core/toy.jsonl"):
        values = lines(entry / name)
        for v in values:
            v["seed"] = 1 - v["seed"]
        values.sort(key=lambda v: (v["case"], v["seed"], v["step"]))
        rewrite(entry / name, values)
    texts = lines(entry / "texts/core/toy.jsonl")
    values = lines(entry / JOURNAL)
    for value, text in zip(values, texts, strict=True):
        value["text"] = hashlib.sha256(canonical(text)).hexdigest()[:32]
    rewrite(entry / JOURNAL, values)
    fix(entry)
    (entry / "scores.json").unlink()
    assert check(entry).valid
    code, found = verify(entry)
    assert code == 2
    assert found["methods"] == {"toy": False, "toy-deaf": True}


def test_likelihoods_that_were_improved_are_found(entry):
    path = "likelihoods/core/toy.jsonl"
    rewrite(entry / path, [{**v, "sums": [0.97 * v["sums"][0], *v["sums"][1:]]}
                           for v in lines(entry / path)])  # fmt: skip
    fix(entry)
    (entry / "scores.json").unlink()
    code, found = verify(entry)
    assert code == 2
    assert found["methods"] == {"toy": False, "toy-deaf": True}
    assert any("a case's likelihood differs by 3.09%" in line for line in found["lines"])


def test_what_is_drawn_depends_on_the_entry_and_on_the_seed(opened):
    entry = load_entry(opened)

    def runs(key, seed, fraction=0.1, methods=("toy", "toy-deaf")):
        return [list(c.runs) for c in draw(entry, key, fraction, seed, methods)]

    assert runs("ab" * 32, 0) == runs("ab" * 32, 0)
    assert len({str(runs("ab" * 32, seed)) for seed in range(8)}) > 4
    assert len({str(runs(key * 32, 0)) for key in ("ab", "cd", "ef", "01", "23")}) > 2
    whole = [(case, seed) for case in range(3) for seed in range(2)]
    assert runs("ab" * 32, 0, fraction=1) == [whole, whole]
    assert runs("ab" * 32, 0, methods=["toy-deaf"]) == runs("ab" * 32, 0)[1:]


def agreement(same, compared, *, texts=True, tokens=(100, 100), **more):
    share = Share(np.array(compared), np.array(same))
    whole = Share(np.array([1]), np.array([1]))
    return Agreement(**{"labels": share, "texts": share if texts else None, "steps": whole,
                        "relabelled": whole, "tokens": tokens, **more})  # fmt: skip


@pytest.mark.parametrize(
    ("found", "calibrated", "words"),
    [
        (agreement([96, 96, 68], [96, 96, 96]), False, ""),  # 70%, the worst run too
        (agreement([96, 96, 67], [96, 96, 96]), False, "1 of 3 runs have too few"),
        (agreement([96, 96, 66], [96, 96, 96]), True, ""),
        (agreement([60, 60, 60], [96, 96, 96]), False, "62% of the actions have the same texts"),
        (agreement([96, 96, 37], [96, 96, 96]), True, "39% in the worst, 40% needed"),
        (agreement([96, 2], [96, 8]), False, ""),  # few are not silent
        (agreement([96, 1], [96, 8]), False, "1 of 2 runs"),
        (agreement([0, 0], [0, 0]), False, ""),  # all are silent, as they were
        (agreement([96, 20], [96, 96], texts=False), False, ""),
        (agreement([96, 19], [96, 96], texts=False), False, "60% needed"),
        (agreement([96, 96, 19], [96, 96, 96], texts=False), False, "1 of 3 runs"),
        (agreement([96], [96], texts=False), True, "only be rerun step by step"),
        (agreement([96], [96], tokens=(100, 106)), False, "106 tokens in the rerun, 100 in"),
        (agreement([96], [96], relabelled=Share(np.array([100]), np.array([98]))), False, "98.0%"),
    ],
)
def test_the_rule(found, calibrated, words):
    text = "; ".join(failures(found, None, calibrated=calibrated))
    assert (words in text) if words else not text


@pytest.mark.parametrize(
    ("fields", "argv", "message"),
    [
        ({"backbone": [{"name": "hf:evil/model"}]}, (), "is not loaded by itself: give --backbone"),
        ({"backbone": [{"name": "toy", "revision": "2"}]}, (), "toy 2, toy is toy 1"),
        ({"backbone": [{"name": "toy"}]}, (), "toy ?, toy is toy 1"),
        (
            {"backbone": [{"name": "toy", "revision": "1", "precision": "bfloat16"}]},
            (),
            "the entry's backbone is toy 1",
        ),
        ({"prompts": "0" * 64}, (), "made with other prompts"),
        ({"data": {"file": "f", "sha256": "0" * 64}}, (), "the entry was made with f"),
        ({}, ("--methods", "state"), "state is none of the entry's: toy, toy-deaf"),
        ({}, ("--fraction", "0"), "above 0, to 1"),
        ({}, ("--texts", "nowhere"), "has no folder 'texts'"),
    ],
)
def test_what_cannot_be_verified_says_so(entry, capsys, fields, argv, message):
    change(entry, **fields)
    code, found = verify(entry, *argv)
    assert (code, found) == (2, None)
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


# -- the site --------------------------------------------------------------------------------


def build(folder, *entries, argv=(), code=0):
    assert main(["leaderboard", "build", *map(str, entries), "--site", str(folder), *argv]) == code
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def rows(site):
    return json.loads(site["leaderboard.json"])["boards"][0]["rows"]


@pytest.fixture(scope="module")
def site(ranked, opened, tmp_path_factory):
    return build(tmp_path_factory.mktemp("built") / "site", *ranked, opened)


def test_the_same_entries_give_the_same_bytes(site, ranked, opened, tmp_path):
    moved = [Path(shutil.copytree(p, tmp_path / f"copy{i}" / p.name)) for i, p in enumerate(ranked)]
    assert build(tmp_path / "b", opened, *moved[::-1]) == site
    assert len(site) == 6 + 3


def test_ranks_count_who_is_clearly_better(site, opened):
    found = {r["method"]: r for r in rows(site) if r["events"] == "official"}
    assert [found[m]["rank"] for m in ("one", "two", "noisy")] == [1, 1, 3]
    assert (found["one"]["persistence"], found["noisy"]["persistence"]) == ("better", "worse")
    assert found["noisy"]["floor"] == "above"
    assert found["persistence"]["rank"] is None
    assert found["noise floor"]["kl"]["mean"] > 0
    scores = json.loads((opened / "scores.json").read_text())
    own = [r for r in rows(site) if r["events"] != "official"]
    assert {r["method"] for r in own} > {"toy", "toy-deaf", "persistence"}
    assert all(r["rank"] is None and r["unranked"] for r in own)
    toy = next(r for r in own if r["method"] == "toy")
    assert toy["kl"] == {k: scores["kl"]["toy"][k] for k in ("mean", "low", "high")}
    assert toy["tokens"] == 3 * 2 * 48 * 15
    # Ranked rows come first, the best on top.
    kl = [r["kl"]["mean"] for r in rows(site) if not r["unranked"]]
    assert kl == sorted(kl)
    assert not any(r["unranked"] for r in rows(site)[: len(kl)])


def test_the_table_is_no_spreadsheet_formula(site):
    table = list(csv.DictReader(site["leaderboard.csv"].decode().splitlines()))
    assert {r["backbone"] for r in table} == {"", "toy", "made-up", "'=far+away()"}
    noisy, same = (next(r for r in x if r["method"] == "noisy") for x in (table, rows(site)))
    assert float(noisy["kl_mean"]) == same["kl"]["mean"]
    assert (noisy["verified"], noisy["rank"], noisy["seeds"]) == ("", "3", "5")


def test_an_invalid_entry_stops_the_site_or_is_named(private, entry, tmp_path, capsys):
    change(entry, seeds=[0])
    build(tmp_path / "site", private, entry, code=2)
    err = capsys.readouterr().err
    assert "journals/core/toy.jsonl: record line 7" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "site").exists()
    entry = entry.rename(tmp_path / "broken")
    site = build(tmp_path / "site", private, entry, argv=["--skip-invalid"])
    assert "left out: " in capsys.readouterr().err
    page = site["index.html"].decode()
    assert "1 entry is invalid and left out" in page
    assert "record line 7" in page
    assert str(tmp_path) not in page
    assert json.loads(site["leaderboard.json"])["left_out"].keys() == {"broken"}
    build(tmp_path / "site", private, private, code=2)
    assert "is there twice" in capsys.readouterr().err


def test_the_site_replaces_nothing_but_a_site(private, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    build(tmp_path / "mine", private, code=2)
    assert "is no site of a leaderboard" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    build(tmp_path / "site", private)
    (tmp_path / "site" / "old.html").write_text("from another time")
    assert "old.html" not in build(tmp_path / "site", private)


def test_verified_belongs_to_one_version_of_an_entry(entry, tmp_path, capsys):
    verify(entry)
    site = build(tmp_path / "site", entry)
    assert {r["verified"] for r in rows(site) if r["kind"] == "method"} == {True}
    assert "steps 30 of 30" in next(v for k, v in site.items() if "entries" in k).decode()
    change(entry, machine="1 CPU cores (x86_64), Python 3.11.7")
    site = build(tmp_path / "site", entry)
    assert {r["verified"] for r in rows(site) if r["kind"] == "method"} == {None}
    assert "another version of the entry" in capsys.readouterr().err


def colours(css):
    """Variables of the light and of the dark look."""
    blocks = re.findall(r":root\s*\{(.*?)\}", css, flags=re.S)
    light, dark = (dict(re.findall(r"(--[a-z0-9-]+):\s*(#[0-9a-f]{6})", b)) for b in blocks)
    assert light.keys() == dark.keys()
    return light, dark


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(a, b):
    """WCAG 2.2's contrast ratio."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_all_text_has_contrast_in_light_and_dark(site):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)
    page = site["index.html"].decode()
    css = re.search(r"<style>(.*?)</style>", page, flags=re.S)[1]
    for look in colours(css):
        for ground in ("--bg", "--card"):
            for text in ("--ink", "--muted", "--link"):
                assert contrast(look[text], look[ground]) >= 4.5, (text, ground)
        for k in range(5):
            assert contrast(look["--ink"], look[f"--h{k}"]) >= 4.5
        for kind in ("good", "bad"):
            assert contrast(look[f"--{kind}"], look[f"--{kind}-bg"]) >= 4.5
        assert contrast(look["--ink"], look["--bad-bg"]) >= 4.5
        for line in ("--c1", "--c2", "--c3", "--c4", "--focus"):
            assert contrast(look[line], look["--bg"]) >= 3  # drawings and outlines


# -- in a browser ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    import browser as chromium

    if chromium.find() is None:
        pytest.skip("there is no Chromium here (apt-get install chromium)")
    with chromium.Browser() as found:
        yield found


@pytest.fixture(scope="module")
def pages(ranked, opened, tmp_path_factory):
    """A site with a hostile name, an unranked entry and a verified one."""
    folder = tmp_path_factory.mktemp("pages")
    hostile = made_up(folder / "hostile", {"h": 0.4}, backbone=HOSTILE, seed=3)
    mine = Path(shutil.copytree(opened, folder / "mine"))
    assert verify(mine)[0] == 0
    build(folder / "site", *ranked, mine, hostile)
    return folder / "site"


def visible(browser, column="cells[2].dataset.value"):
    return browser.run(
        "[...document.querySelectorAll('.board tbody tr[data-text]')]"
        f".filter(r => r.offsetParent !== null).map(r => r.{column})"
    )


def test_no_page_asks_for_anything_or_complains(browser, pages):
    for page in sorted(pages.rglob("*.html")):
        browser.open(page)
        assert browser.complaints() == []
        outside = [u for u in browser.requests() if not u.startswith(("file:", "data:"))]
        assert outside == []
        asked = browser.run("performance.getEntriesByType('resource').map(e => e.name)")
        assert [u for u in asked if not u.startswith("data:")] == []
        assert browser.run("document.title") != "pwned"
        assert browser.run("document.images.length") == 0
        assert browser.run("document.documentElement.lang") == "en"
        # Every link leads somewhere in the site.
        links = browser.run("[...document.links].map(a => a.href)")
        assert all(Path(u.removeprefix("file://").partition("#")[0]).is_file() for u in links)


def test_a_hostile_name_is_text(browser, pages):
    browser.open(pages / "index.html")
    names = browser.run("[...document.querySelectorAll('tbody th a')].map(a => a.textContent)")
    assert any(name.startswith("<img src=x onerror=") for name in names)
    page = next(p for p in (pages / "entries").glob("*.html") if "img-src" in p.name)
    browser.open(page)
    assert browser.run("document.querySelector('h1').textContent") == HOSTILE
    assert browser.run("document.querySelectorAll('main script, main img').length") == 0


def test_headings_sort_both_ways_with_the_keyboard(browser, pages):
    browser.open(pages / "index.html")
    find = "[...document.querySelectorAll('th button')].find(b => b.textContent === 'Mean KL')"
    values = "cells[3].dataset.value"
    ranked_rows = "r.dataset.ranked === 'yes'"

    def shown():
        return browser.run(
            "[...document.querySelectorAll('.board tbody tr[data-text]')]"
            f".filter(r => {ranked_rows}).map(r => Number(r.{values}))"
        )

    start = shown()
    assert len(start) > 8
    browser.run(f"{find}.focus()")
    browser.press("Enter")
    assert browser.run(f"{find}.closest('th').ariaSort") == "ascending"
    assert shown() == sorted(start)
    browser.press("Enter")
    assert browser.run(f"{find}.closest('th').ariaSort") == "descending"
    assert shown() == sorted(start, reverse=True)
    other = find.replace("Mean KL", "Rank")
    browser.run(f"{other}.click()")
    assert (
        browser.run("document.querySelectorAll('th[aria-sort]:not([aria-sort=none])').length") == 1
    )
    ranks = browser.run(
        "[...document.querySelectorAll('.board tbody tr[data-text]')]"
        f".filter(r => {ranked_rows}).map(r => r.cells[0].dataset.value)"
    )
    assert ranks[:4] == ["1", "1", "3", "4"]
    assert set(ranks[4:]) == {""}  # who has none comes last


def test_filters_leave_what_was_asked_for(browser, pages):
    browser.open(pages / "index.html")
    assert browser.run("document.getElementById('shown').textContent") == "6 of 6 results shown"

    def put(name, value):
        field = f"document.getElementById('filters').elements.{name}"
        kind = "checked" if isinstance(value, bool) else "value"
        browser.run(f"{field}.{kind} = {json.dumps(value)}")
        browser.run(f"{field}.dispatchEvent(new Event('input', {{bubbles: true}}))")

    put("baselines", False)
    assert sorted(visible(browser)) == ["h", "noisy", "one", "toy", "toy-deaf", "two"]
    put("text", "FAR+")
    assert visible(browser) == ["noisy"]
    assert browser.run("document.getElementById('shown').textContent") == "1 of 6 results shown"
    put("text", "")
    put("ranked", True)
    assert sorted(visible(browser)) == ["h", "noisy", "one", "two"]
    put("verified", True)
    assert visible(browser) == []
    put("ranked", False)
    assert sorted(visible(browser)) == ["toy", "toy-deaf"]
    put("verified", False)
    put("board", "synthetic-validation")
    assert len(visible(browser)) == 6


@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_their_screen_and_can_be_walked_by_keyboard(browser, pages, width):
    for page in ("index.html", "method.html"):
        browser.open(pages / page, width=width)
        assert browser.run("document.documentElement.scrollWidth") <= width
        browser.press("Tab")
        assert browser.run("document.activeElement.className") == "skip"
        assert browser.run("document.activeElement.getBoundingClientRect().width") > 0
        browser.press("Tab")
        assert browser.run("document.activeElement.tagName") == "A"
        style = "getComputedStyle(document.activeElement)"
        assert browser.run(f"{style}.outlineStyle") == "solid"
        assert browser.run(f"parseFloat({style}.outlineWidth)") >= 2
    browser.open(pages / "index.html", width=width)
    assert browser.run("[...document.querySelectorAll('table')].every(t => t.caption)")
    assert browser.run(
        "[...document.querySelectorAll('input, select')].every(f => f.labels.length === 1)"
    )
    # At a phone's width no figure of a card is cut.
    assert browser.run(
        "[...document.querySelectorAll('.board td')].every(c => c.offsetParent === null "
        f"|| c.getBoundingClientRect().right <= {width} || {width} > 820)"
    )
