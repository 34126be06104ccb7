"""Planners on the leaderboard: entries that were tampered with, replays, boards, pages."""

import csv
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_leaderboard import HOSTILE, build, change, fix, lines, made_up, rewrite

from agents.planners.setting import Setting
from benchmarks.leaderboard.outcomes import check_outcomes
from benchmarks.leaderboard.planner_board import _ranks
from benchmarks.leaderboard.verification import verification_path
from mfenv.cli import main
from mfenv.dynamics.assemble import build_backbone

DOUBT = "doubt=by-credibility:always:fact_check/high|none"
SMALL = ["--horizon", "4", "--limit-events", "4", "--seeds", "2", "--planner", "random"]
FULL = ["--limit-events", "20", "--planner", "learned=planner-society"]
XS = ["--dynamics", "llm", "--backbone", "embedded-en-xs", "--horizon", "2", "--limit-events", "2"]


def bench(folder, *argv):
    """The entry of a run of the benchmark."""
    command = ["bench", "intervention", *argv, "--out", str(folder)]
    assert main([*command, "--results", str(folder / "results")]) == 0
    return folder / "entry"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    more = ["--planner", DOUBT, "--planner", "oracle"]
    return bench(tmp_path_factory.mktemp("small"), *SMALL, *more)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Two ranked entries in the society, and one in a surrogate of it."""
    folder = tmp_path_factory.mktemp("full")
    argv = ["--planner", "paper"], []
    first, second = (bench(folder / str(i), *FULL, *more) for i, more in enumerate(argv))
    surrogate = ["--dynamics", "surrogate", "--env", "surrogate=society"]
    return first, second, bench(folder / "surrogate", *FULL, *surrogate)


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return bench(tmp_path_factory.mktemp("llm"), *XS, "--seeds", "1", "--planner", "paper:1")


@pytest.fixture
def entry(small, tmp_path):
    return Path(shutil.copytree(small, tmp_path / "entry"))


@pytest.fixture
def secret(llm, tmp_path):
    """The same as if it had been played on real people's events."""
    folder = Path(shutil.copytree(llm, tmp_path / "secret"))
    value = facts(folder)
    ids = [hashlib.sha256(e["id"].encode()).hexdigest() for e in value["events"]]
    events = [{**e, "id": i} for e, i in zip(value["events"], ids, strict=True)]
    setting = {**value["setting"], "events": "test.parquet", "event_ids": ids}
    change(folder, events=events, setting=setting)
    return folder


def facts(folder):
    return json.loads((folder / "entry.json").read_text())


def setting(folder, **fields):
    change(folder, setting={**facts(folder)["setting"], **fields})


def label(folder, i, text):
    """Call a planner something else."""
    planners = facts(folder)["planners"]
    planners[i]["label"] = text
    change(folder, planners=planners)


def problems(folder):
    checked = check_outcomes(folder)
    assert not checked.valid
    return "\n".join(checked.problems)


GOOD = {"none": True, "random": True, "doubt": True, "oracle": True}
LANES = "lanes/01.jsonl"  # of the planner random


# -- tampering -------------------------------------------------------------------------------


def test_an_untouched_entry_is_valid_and_says_why_it_has_no_rank(entry, full, capsys):
    assert main(["leaderboard", "validate", str(entry)]) == 0
    out = capsys.readouterr().out
    assert out.endswith("valid\n")
    assert "tier: society" in out
    assert "planners: none, random, doubt, oracle" in out
    assert "fidelity: exact" in out
    for reason in ("4 events, 20 are needed", "horizon is 4, the official one 16", "2 seeds, 5"):
        assert reason in out
    assert main(["leaderboard", "validate", str(full[0]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["valid"], found["rank"]) == (True, "yes")
    assert found["events"] == "20 of the 28 official events"


def test_scores_that_are_claimed_must_be_those_of_the_lanes(entry):
    scores = check_outcomes(entry).scores
    (entry / "scores.json").write_text(json.dumps(scores))
    assert check_outcomes(entry).valid
    scores["planners"]["doubt"]["net"]["mean"] += 0.01
    (entry / "scores.json").write_text(json.dumps(scores))
    assert re.search(r"planners\.doubt\.net\.mean is .*, the journals give", problems(entry))


def test_an_edited_lane_with_and_without_its_hash(entry):
    values = lines(entry / LANES)
    values[0]["counts"] = values[1]["counts"]
    values[0]["wanted"] = [0, 0, 0, 0]
    rewrite(entry / LANES, values)
    assert "the file is not the one that was entered" in problems(entry)
    fix(entry)
    own = [sum(c[:2]) for c in values[0]["counts"]]
    if set(own) == {16}:  # nobody planted anything: make it so that somebody is missing
        values[0]["counts"][0] = [0] * 23
        rewrite(entry / LANES, values)
        fix(entry)
    assert "people reacted; with this action" in problems(entry)


def test_more_than_the_budget_pays_changes_who_reacts(entry):
    """Seeding that the budget cannot pay plants nobody, so its counts give it away."""
    values = lines(entry / "lanes/02.jsonl")
    values[0]["wanted"] = [9, 9, 9, 9]
    rewrite(entry / "lanes/02.jsonl", values)
    fix(entry)
    assert "lanes/02.jsonl: event 0, seed 0, step 0: 16 people reacted" in problems(entry)


def _without_a_seed(folder):
    rewrite(folder / LANES, [v for v in lines(folder / LANES) if v["seed"] == 0])
    fix(folder)


def _other_events(folder):
    value = facts(folder)
    value["events"][0]["id"] = "synthetic-2-13"
    ids = [e["id"] for e in value["events"]]
    change(folder, events=value["events"], setting={**value["setting"], "event_ids": ids})


def _other_truth(folder):
    events = facts(folder)["events"]
    events[0]["truth"] = not events[0]["truth"]
    change(folder, events=events)


def _other_credibility(folder):
    values = lines(folder / LANES)
    values[0]["credibility"] = 0.5
    rewrite(folder / LANES, values)
    fix(folder)


def _in_lanes(key, value):
    def tamper(folder):
        values = lines(folder / LANES)
        values[0][key] = value
        rewrite(folder / LANES, values)
        fix(folder)

    return tamper


def _in_files(name):
    return lambda folder: change(folder, files={**facts(folder)["files"], name: "0" * 64})


def _linked(folder):
    shutil.move(folder / LANES, folder.parent / "elsewhere")
    (folder / LANES).symlink_to(folder.parent / "elsewhere")


TAMPERED = {
    "a missing seed": (_without_a_seed, "some episodes are missing"),
    "a seed that is left out": (lambda f: change(f, seeds=1), "is unknown or stands twice"),
    "other events": (_other_events, "synthetic-2-13"),
    "another truth": (_other_truth, "is another one"),
    "another credibility": (_other_credibility, "is not that of the same episodes"),
    "no action": (_in_lanes("wanted", [0, 0, 0, 19]), "actions from 0 to 18"),
    "half an action": (_in_lanes("wanted", [0, 0, 0, 0.5]), "actions from 0 to 18"),
    "rows of other lengths": (_in_lanes("counts", [[1], [1, 2]]), "4 × 23 counts"),
    "a text in a lane": (_in_lanes("note", "somebody's post"), "and nothing else"),
    "a path": (_in_files("../outside.jsonl"), "'../outside.jsonl' is not part of an entry"),
    "an absolute path": (_in_files("/etc/passwd"), "'/etc/passwd' is not part of an entry"),
    "a link": (_linked, "is a link; an entry holds plain files only"),
    "another file": (lambda f: (f / "run.sh").write_text("true"), "is no part of an entry"),
    "a budget of text": (lambda f: setting(f, budget="12"), "setting.budget: must be a number"),
    "no tier": (lambda f: setting(f, dynamics="public"), "setting.dynamics: unknown"),
    "an argument": (lambda f: setting(f, more={"render_mode": "x"}), "setting.more.'render_mode'"),
    "another field": (lambda f: change(f, note="x"), "'note': is not known"),
    "a huge horizon": (lambda f: setting(f, horizon=10**9), "allowed: 1 to 1000"),
    "many seeds": (lambda f: change(f, seeds=10**6), "allowed: 1 to 200"),
    "a model": (lambda f: change(f, models={"backbone": {"name": "x"}}), "models: backbone"),
    "a long label": (lambda f: label(f, 1, "x" * 201), "201 characters"),
    "not a number": (
        lambda f: (f / "entry.json").write_text('{"format": "mfenv-intervention/1", "seeds": NaN}'),
        "NaN is not allowed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED.values(), ids=TAMPERED)
def test_what_was_tampered_with_is_said(entry, case, capsys):
    tamper, message = case
    tamper(entry)
    assert main(["leaderboard", "validate", str(entry)]) == 2
    err = capsys.readouterr().err
    assert message in err or message in problems(entry)
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["entry.json", LANES, "scores.json"])
def test_a_file_of_a_gigabyte(entry, name, capsys):
    (entry / name).touch()
    os.truncate(entry / name, 2**30)  # sparse: it takes no room
    assert main(["leaderboard", "validate", str(entry)]) == 2
    assert "1,073,741,824 bytes; allowed: at most" in capsys.readouterr().err


def test_damage_of_any_kind_is_a_problem_and_nothing_else(entry):
    rng = np.random.default_rng(5)
    names = ["entry.json", LANES]
    whole = {name: (entry / name).read_bytes() for name in names}
    for trial in range(40):
        name = names[trial % 2]
        data = bytearray(whole[name])
        at = int(rng.integers(len(data)))
        if trial % 3:
            data[at] ^= 1 << int(rng.integers(8))
        else:
            del data[at : at + int(rng.integers(1, 200))]
        (entry / name).write_bytes(data)
        if trial % 4 == 1:
            fix(entry)
        check_outcomes(entry)  # whatever it finds, it raises nothing
        for each, before in whole.items():
            (entry / each).write_bytes(before)


POST = "somebody wrote this and did not ask to be here"
SMUGGLED = {
    "label": (lambda f: label(f, 1, POST), "planners.1.label: 'somebody"),
    "machine": (lambda f: change(f, machine=POST), "machine: 'somebody"),
    "command": (lambda f: change(f, command=f"mfenv bench intervention --name '{POST}'"), "is not"),
    "events": (lambda f: setting(f, events=POST), "setting.events: 'somebody"),
    "backbone": (
        lambda f: change(f, models={"backbone": {"name": POST, "revision": "1"}}),
        "models.backbone.name: 'somebody",
    ),
    "readme": (lambda f: (f / "README.md").write_text(POST), "README.md is there, but can quote"),
}  # fmt: skip


@pytest.mark.parametrize("case", SMUGGLED.values(), ids=SMUGGLED)
def test_no_text_travels_with_real_events(secret, case):
    assert check_outcomes(secret).valid, check_outcomes(secret).problems
    smuggle, message = case
    smuggle(secret)
    assert message in problems(secret)


# -- ranks -----------------------------------------------------------------------------------


def test_ranks_count_different_planners_that_are_clearly_better_on_common_events():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, 24)
    events = [f"e{i}" for i in range(24)]

    def values(shift, of=slice(None), own=0.0):
        extra = rng.normal(0, own, 24) if own else np.zeros(24)
        return dict(zip(events[of], (noise + extra + shift).tolist()[of], strict=True))

    best, twin, unclear = values(0.3), values(0.3), values(0.0, own=0.5)
    worst, part = values(-2.0), values(0.2, slice(4))
    who = [("a", ""), ("a", ""), ("b", ""), ("c", ""), ("d", "")]
    # The twin of the best counts once; what is below it on the four events they share is third.
    assert _ranks([best, twin, unclear, worst, part], who)[:2] == [1, 1]
    ranks = _ranks([best, twin, worst, part], [who[0], who[1], who[3], who[4]])
    assert ranks == [1, 1, 3, 2]
    assert _ranks([values(0.1), values(0.2)], [("a", "1"), ("a", "2")]) == [2, 1]
    assert _ranks([], []) == []


# -- the site --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A fidelity entry of the backbone that the planners' entry was played in."""
    backbone = build_backbone("embedded-en-xs").describe()
    folder = tmp_path_factory.mktemp("measured")
    return made_up(folder / "xs", {"mf": 0.3, "state": 0.4}, backbone=[backbone])


@pytest.fixture(scope="module")
def hostile(small, tmp_path_factory):
    folder = Path(shutil.copytree(small, tmp_path_factory.mktemp("hostile") / "entry"))
    label(folder, 1, HOSTILE)
    planners = facts(folder)["planners"]
    planners[2]["name"] = "=cmd()"
    change(folder, planners=planners)
    return folder


@pytest.fixture(scope="module")
def folder(full, llm, measured, hostile, tmp_path_factory):
    built = tmp_path_factory.mktemp("built") / "site"
    build(built, *full, llm, measured, hostile)
    return built


def boards(folder):
    return json.loads((folder / "leaderboard.json").read_text())["planners"]


def test_the_order_of_entries_changes_nothing(folder, full, llm, measured, hostile, tmp_path):
    again = build(tmp_path / "site", hostile, measured, llm, *full[::-1])
    assert again == {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def test_planners_are_ranked_within_a_simulator(folder):
    made = {(b["simulator"]["tier"], b["objective"]): b["rows"] for b in boards(folder)}
    assert set(made) == {("llm", "misbelief"), ("society", "misbelief"), ("surrogate", "misbelief")}
    rows = made["society", "misbelief"]
    ranked = [r for r in rows if not r["unranked"]]
    assert [r["label"] for r in ranked if r["kind"] == "baseline"] == ["none"]
    planners = [r for r in ranked if r["kind"] == "method"]
    # Both entries have the same planner: it counts once, and the paper's is behind it.
    assert [(r["label"], r["rank"]) for r in planners] == [
        ("learned", 1), ("learned", 1), ("paper", 2),
    ]  # fmt: skip
    # An oracle is a bound, with which others are compared.
    assert {r["label"]: r["kind"] for r in rows if r["unranked"]}["oracle"] == "baseline"
    assert {r["fidelity"]["source"] for r in rows} == {None}
    assert all(r["rank"] is None for r in rows if r["unranked"])
    # What the surrogate of the society promised, and what is left of it there.
    cheap = next(r for r in made["surrogate", "misbelief"] if r["label"] == "learned")
    share = planners[0]["survives"]
    assert planners[0]["survives_from"] == "surrogate society"
    assert share["mean"] == pytest.approx(
        planners[0]["net"]["mean"] / cheap["net"]["mean"], rel=1e-3
    )
    assert (cheap["survives"], cheap["rank"]) == (None, 1)


def test_outcomes_and_fidelity_find_each_other(folder, llm):
    value = json.loads((folder / "leaderboard.json").read_text())
    row = next(r for r in value["boards"][0]["rows"] if r["method"] == "mf")
    board = next(b for b in value["planners"] if b["simulator"]["tier"] == "llm")
    paper = next(r for r in board["rows"] if r["label"] == "paper:1")
    assert row["outcomes"] == [
        {"objective": "misbelief", "planner": "paper:1", "net": paper["net"], "board": board["id"]}
    ]
    others = [r for r in value["boards"][0]["rows"] if r["method"] != "mf"]
    assert all(not r["outcomes"] for r in others)
    # Its fidelity is that of the entry on this site, not of the project's own results.
    assert paper["fidelity"]["kl"]["mean"] == row["kl"]["mean"]
    assert (folder / "entries" / f"{paper['fidelity_page']}.html").is_file()
    assert any("seeds" in reason for reason in paper["unranked"])


def test_without_a_fidelity_there_is_no_rank(full, tmp_path):
    entry = Path(shutil.copytree(full[2], tmp_path / "entry"))
    change(entry, models={"surrogate": {"name": "society", "revision": "of another"}})
    build(tmp_path / "site", entry)
    (board,) = boards(tmp_path / "site")
    assert all(r["rank"] is None and r["fidelity"] is None for r in board["rows"])
    assert all("fidelity of its simulator is unknown" in r["unranked"][-1] for r in board["rows"])
    for page in ("planners.html", f"entries/{board['rows'][0]['entry']}.html"):
        text = (tmp_path / "site" / page).read_text()
        assert "Fidelity unknown" in text


def test_the_table_is_no_spreadsheet_formula(folder):
    table = list(csv.DictReader((folder / "planners.csv").read_text().splitlines()))
    assert sum(len(b["rows"]) for b in boards(folder)) == len(table)
    assert {r["planner"] for r in table} >= {"'=cmd()", "paper:1"}
    assert not any(value.startswith("=") for r in table for value in r.values())
    paper = next(r for r in table if r["label"] == "paper")
    assert (paper["tier"], paper["rank"], paper["fidelity"]) == (
        "society", "2", "exact, not of people",
    )  # fmt: skip


# -- verification ----------------------------------------------------------------------------


def verify(folder, *argv):
    code = main(["leaderboard", "verify", str(folder), *argv])
    path = verification_path(folder)
    return code, json.loads(path.read_text()) if path.exists() else None


def test_true_entries_are_reproduced_exactly(entry, full, llm, tmp_path):
    copies = [Path(shutil.copytree(x, tmp_path / str(i))) for i, x in enumerate((full[2], llm))]
    for folder in (entry, *copies):
        code, found = verify(folder)
        assert code == 0
        assert all(found["methods"].values())
        for each in found["found"]:
            assert each["counts"]["same"] == each["counts"]["compared"]
            assert each["actions"]["same"] == each["actions"]["compared"]
    site = build(tmp_path / "site", entry)
    assert b'class="chip good">verified' in site["planners.html"]


def test_episodes_that_were_made_up_are_found(entry):
    values = lines(entry / LANES)
    for v in values:  # fewer believe, and everything adds up
        for step in v["counts"]:
            step[16], step[17] = step[17], step[16]
    rewrite(entry / LANES, values)
    fix(entry)
    code, found = verify(entry)
    assert (code, found["methods"]) == (2, {**GOOD, "random": False})


def test_actions_that_a_planner_would_not_have_chosen_are_found(entry):
    """The episodes are true, but another planner's: the simulator agrees, the planner does not."""
    shutil.copy(entry / LANES, entry / "lanes/02.jsonl")
    fix(entry)
    code, found = verify(entry)
    assert (code, found["methods"]["doubt"]) == (2, False)
    mine = next(f for f in found["found"] if f["planner"] == "doubt")
    assert mine["counts"]["same"] == mine["counts"]["compared"]
    assert sum(mine["actions"]["same"]) < sum(mine["actions"]["compared"])


def test_a_planner_that_nobody_has_is_named_and_its_simulator_still_verified(entry, capsys):
    planners = facts(entry)["planners"]
    planners[2] |= {"name": "sb3:planner", "revision": "05f2efbf951ddfca"}
    change(entry, planners=planners)
    code, found = verify(entry)
    assert (code, found["methods"]) == (0, {k: v for k, v in GOOD.items() if k != "doubt"})
    assert "doubt: the planner was not rerun: its folder is not here" in found["lines"]
    mine = next(f for f in found["found"] if f["planner"] == "doubt")
    assert mine["actions"] is None
    assert mine["counts"]["same"] == mine["counts"]["compared"]
    capsys.readouterr()
    assert verify(entry, "--planner", "doubt=paper")[0] == 2
    assert "--planner doubt: paper" in capsys.readouterr().err


def test_another_simulator_than_the_entrys_is_refused(llm, tmp_path, capsys):
    folder = Path(shutil.copytree(llm, tmp_path / "entry"))
    change(folder, models={"backbone": {"name": "hf:evil/model", "revision": "1"}})
    assert verify(folder)[0] == 2
    assert "is not loaded by itself: give --backbone" in capsys.readouterr().err
    assert verify(folder, "--backbone", "embedded-en-xs")[0] == 2
    assert "the entry's backbone is hf:evil/model 1" in capsys.readouterr().err
    assert Setting().backbone == "embedded-en"  # what would have been taken by mistake


# -- in a browser ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    import browser as chromium

    if chromium.find() is None:
        pytest.skip("there is no Chromium here (apt-get install chromium)")
    with chromium.Browser() as found:
        yield found


def visible(browser):
    return browser.run(
        "[...document.querySelectorAll('.board tbody tr[data-text]')]"
        ".filter(r => r.offsetParent !== null).map(r => r.cells[1].dataset.value)"
    )


@pytest.mark.parametrize("width", [390, 1280])
def test_pages_ask_for_nothing_and_fit_the_screen(browser, folder, width):
    pages = [folder / "planners.html", folder / "index.html", *folder.glob("entries/planners*")]
    assert len(pages) == 2 + 5
    for page in pages:
        browser.open(page, width=width)
        assert browser.complaints() == []
        assert [u for u in browser.requests() if not u.startswith(("file:", "data:"))] == []
        assert browser.run("document.title") != "pwned"
        assert browser.run("document.querySelectorAll('main script, main img').length") == 0
        assert browser.run("document.documentElement.scrollWidth") <= width
        links = browser.run("[...document.links].map(a => a.href)")
        assert all(Path(u.removeprefix("file://").partition("#")[0]).is_file() for u in links)
        places = browser.run(
            "[...document.querySelectorAll('a[href*=\"planners.html#\"]')].map(a => a.hash)"
        )
        text = (folder / "planners.html").read_text()
        assert all(f'id="{place[1:]}"' in text for place in places)
        assert bool(places) == (page.name == "index.html")
        assert browser.run(
            "[...document.querySelectorAll('.board td')].every(c => c.offsetParent === null "
            f"|| c.getBoundingClientRect().right <= {width} || {width} > 820)"
        )
        assert browser.run("[...document.querySelectorAll('table')].every(t => t.caption)")


def test_a_hostile_label_is_text(browser, folder):
    browser.open(folder / "planners.html")
    assert any(name.startswith("<img src=x onerror=") for name in visible(browser))


def test_the_planners_table_sorts_and_filters(browser, folder):
    browser.open(folder / "planners.html")
    everyone = visible(browser)
    find = "[...document.querySelectorAll('th button')].filter(b => b.textContent === 'Cost')[1]"
    costs = (
        f"[...{find}.closest('table').tBodies[0].querySelectorAll('tr[data-text]')]"
        ".map(r => Number(r.querySelector('[data-label=Cost]').dataset.value))"
    )
    before = browser.run(costs)
    assert len(before) == 4
    browser.run(f"{find}.focus()")
    browser.press("Enter")
    assert browser.run(costs) == sorted(before)
    browser.press("Enter")
    assert browser.run(costs) == sorted(before, reverse=True)

    def put(name, value):
        field = f"document.getElementById('filters').elements.{name}"
        kind = "checked" if isinstance(value, bool) else "value"
        browser.run(f"{field}.{kind} = {json.dumps(value)}")
        browser.run(f"{field}.dispatchEvent(new Event('input', {{bubbles: true}}))")

    put("ranked", True)
    assert sorted(visible(browser)) == ["learned", "learned", "learned", "none", "none", "paper"]
    put("baselines", False)
    assert sorted(visible(browser)) == ["learned", "learned", "learned", "paper"]
    put("text", "PAPER")
    assert visible(browser) == ["paper"]
    put("text", "")
    society = next(b["id"] for b in boards(folder) if b["simulator"]["tier"] == "society")
    put("board", society)
    assert sorted(visible(browser)) == ["learned", "learned", "paper"]
    put("verified", True)
    assert visible(browser) == []
    assert "0 of" in browser.run("document.getElementById('shown').textContent")
    put("verified", False)
    put("ranked", False)
    put("baselines", True)
    put("board", "")
    assert sorted(visible(browser)) == sorted(everyone)
