"""N-gram backbones: smoothing against its definition, the mixture, the Protocol, the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.backbones.base import Backbone
from agents.backbones.ngram import ABOUT, NgramBackbone, from_spec, prompt_of, walks, warped
from agents.backbones.ngram_mixture import SOURCES, Mixture, Prompt, read
from agents.backbones.sampling import KeyedSampling
from agents.backbones.sampling_parameters import PRESETS, Sampling
from agents.backbones.vocabulary import END, Vocabulary, pieces
from agents.methods import ib_tune_mean_field, mf, mf_counted
from agents.policy import BackbonePolicy
from agents.prompts import TaggedPrompts
from mfenv.dynamics.assemble import build_annotator, build_backbone
from mfenv.dynamics.mean_field_text import quotations, render
from mfenv.dynamics.models import ActionRequest
from mfenv.errors import MfenvError
from mfenv.events.jsonl import write_jsonl
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.labels import NAMES, SLICES
from mfenv.noise import NoiseKey
from training.corpus import EventCorpus
from training.kneser_ney import discounts, estimate
from training.ngram import (
    NgramConfig,
    expectation_maximisation,
    learn_vocabulary,
    silence,
    train,
)

ROOT = Path(__file__).parent.parent
A, B = 1, 2  # tokens of the toy corpora; 0 ends a text, the vocabulary's size starts it
CONFIG = NgramConfig(order=4, min_events=3, held_out=20)


# -- smoothing -------------------------------------------------------------------------------


def test_the_discounts_are_those_of_chen_and_goodman():
    counts = np.repeat([1, 2, 3, 4, 9], [4, 2, 1, 1, 3])  # Y = 4 / (4 + 2 * 2)
    np.testing.assert_allclose(discounts(counts), [0, 0.5, 1.25, 1.0])
    np.testing.assert_allclose(discounts(np.array([5, 5])), [0, 0.5, 1, 1.5])


def test_a_bigram_model_worked_out_by_hand():
    # Of START-a 3, START-b 1, a-b 2, a-END 2, b-END 2, b-a 1: n1 = 2, n2 = 3, n3 = 1, so Y = 1/4,
    # D1 = 1/4, D2 = 7/4, D3 cannot be estimated. Each token stands behind two different ones.
    model = estimate([[A, B], [A, B], [A], [B, A]], [0, 1, 2, 3], vocabulary=3, order=2)
    np.testing.assert_allclose(model.unigram, [1 / 3, 1 / 3, 1 / 3])
    start = model.begin(1)
    behind_a, behind_b = (model.advance(start, np.array([w])) for w in (A, B))
    third = 1 / 3
    expected = {
        (0, A): (3 - 1.5) / 4 + (1.5 + 0.25) / 4 * third,
        (0, END): (1.5 + 0.25) / 4 * third,
        (1, B): (2 - 1.75) / 4 + 3.5 / 4 * third,
        (2, A): (1 - 0.25) / 3 + 2.0 / 3 * third,
        (2, END): (2 - 1.75) / 3 + 2.0 / 3 * third,
    }
    for (context, token), p in expected.items():
        found = model.probabilities((start, behind_a, behind_b)[context])[0, token]
        assert found == pytest.approx(p, abs=1e-12)


def naive(texts, events, vocabulary, order, min_events):
    """The same smoothing from the definitions, by dictionaries; a function (context, token) → p."""
    start = vocabulary
    raw: Counter = Counter()
    where = defaultdict(set)
    for text, event in zip(texts, events, strict=True):
        whole = (start, *text, END)
        for end in range(1, len(whole)):
            for size in range(1, min(order, end + 1) + 1):
                raw[whole[end + 1 - size : end + 1]] += 1
                where[whole[end + 1 - size : end + 1]].add(event)
    kept = {g for g in raw if len(g) == 1 or len(where[g]) >= min_events}
    longer = defaultdict(list)
    for g in raw:
        longer[g[1:]].append(g)

    @cache
    def count(g):
        if len(g) == order or g[0] == start:
            return raw[g]
        return sum(1 if x in kept else count(x) for x in longer[g])

    levels = defaultdict(list)
    for g in raw:
        if len(g) == 1 or g[:-1] in kept or g[:-1] == (start,):
            levels[g[:-1]].append(g)
    discount = {
        k: discounts(np.array([count(g) for c in levels for g in levels[c] if len(g) == k]))
        for k in range(1, order + 1)
    }

    def chance(context, token):
        below = chance(context[1:], token) if context else 1 / vocabulary
        known = levels.get(context, [])
        total = sum(count(g) for g in known)
        if not any(g in kept for g in known):
            return below
        part = {g: (count(g) - discount[len(g)][min(count(g), 3)]) / total for g in known}
        left = 1 - sum(p for g, p in part.items() if g in kept)
        own = (*context, token)
        return (part[own] if own in part and own in kept else 0.0) + left * below

    return chance


@pytest.mark.parametrize("min_events", [1, 4])
def test_the_arrays_say_what_the_definitions_say(min_events):
    rng = np.random.default_rng(3)
    texts = [list(rng.choice(np.arange(1, 6), size=n)) for n in rng.integers(0, 5, 60)]
    texts += [[1, 2, 3]] * 9
    events = [i % 12 for i in range(len(texts))]
    model = estimate(texts, events, vocabulary=6, order=3, min_events=min_events)
    chance = naive(texts, events, 6, 3, min_events)
    contexts = model.begin(1)
    before = [6]
    for token in (1, 2, 3, 5, 5, 4, 1, 2):
        p = model.probabilities(contexts)[0]
        expected = [chance(tuple(before[-2:]), w) for w in range(6)]
        np.testing.assert_allclose(p, expected, atol=1e-12)
        contexts = model.advance(contexts, np.array([token]))
        before.append(token)


def test_what_few_events_hold_is_left_out():
    common, rare = [1, 2, 3], [4, 1, 5]
    texts = [common] * 6 + [rare] * 50
    events = [0, 1, 2, 3, 4, 5] + [6] * 50
    model = estimate(texts, events, vocabulary=6, order=3, min_events=3)
    contexts = model.begin(1)
    stored = [len(level.tokens) for level in model.levels]
    assert stored == [4, 3]  # START-1, 1-2, 2-3, 3-END; START-1-2, 1-2-3, 2-3-END
    contexts = model.advance(contexts, np.array([4]))
    np.testing.assert_allclose(model.probabilities(contexts)[0], model.unigram)
    assert model.unigram[4] > 0.2  # single tokens are only a vocabulary


# -- words, characters, bytes -----------------------------------------------------------------


def test_a_vocabulary_holds_what_enough_events_hold():
    events = [["hello there [泪] 好"], ["hello you 好"], ["hello, the 好 end [泪]"]]
    known = learn_vocabulary(events, min_events=2, limit=1000)
    assert {"hello", "[泪]", "好", " ", "h"} <= set(known.words)
    assert not {" there", "there", " you", ",", "y"} & set(known.words)
    assert len(learn_vocabulary(events, min_events=1, limit=7)) == 257 + 7
    assert pieces("@user it's 25 [ok]!") == ["@user", " it's", " ", "2", "5", " ", "[ok]", "!"]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])) | st.text("ab [泪]▁<|\n"))
def test_no_text_is_changed_by_its_tokens(text):
    known = Vocabulary(["a", "ab", " ab", "[泪]", "▁"])
    tokens = known.encode(text)
    assert known.decode([*tokens, END]) == text
    assert all(0 < t < len(known) for t in tokens)


def test_bytes_that_spell_no_character_are_dropped():
    known = Vocabulary(["a"])
    a = known.ids["a"]
    assert known.decode([a, 1 + 0xE6, 1 + 0xB3, a, 1 + 0xFF, END]) == "aa"
    assert known.encode("\ud800") == [1 + 0xED, 1 + 0xA0, 1 + 0x80]


# -- a small model of the synthetic society ---------------------------------------------------


@pytest.fixture(scope="module")
def made():
    events = SyntheticSociety(79).events(30, n_posts=70)
    corpus = EventCorpus(events[24:], [e.labels for e in events[24:]], seed=1)
    steps = [corpus.example(i) for i in range(CONFIG.held_out)]
    return train([e.posts.texts[1:] for e in events], range(24, 30), steps, CONFIG)


@pytest.fixture(scope="module")
def backbone(made):
    return made[0]


@pytest.fixture(scope="module")
def toy():
    """Texts of two letters, half of whose chances come from what was read."""
    texts = ["ab", "a", "ba", "", "b", "ab", "a"] * 30
    known = Vocabulary(["a", "b"])
    ngrams = estimate(
        [known.encode(t) for t in texts], range(len(texts)), vocabulary=len(known), order=3
    )
    weights = np.array([[0.5, 0.2, 0.1, 0, 0.1, 0.1, 0], [0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]])
    return NgramBackbone(Mixture(ngrams, weights, np.array([-0.5, 1.0])), known, name="toy")


def prompt(topic="Local news: the old dam fell", mean_field="", state="woman, Halden", notices=()):
    form = TaggedPrompts()
    return form.policy_prefix(topic, notices, mean_field, "en") + form.policy_suffix(state, "en")


def field(share, reactions=()):
    shares = np.full(len(NAMES), 0.2)
    shares[SLICES["behavior"]] = (1 - share, share)
    return render(shares, reactions, "en")


PROMPTS = [
    prompt(),
    prompt("The mayor opens a bridge", field(0.9, ["stop this rumour about the dam"])),
    prompt("", field(0.1)),
    prompt("这个大桥 of course", render(None, ["I object, the mayor did it"], "en")),
]
SHORT = Sampling(max_new_tokens=12)


def test_it_is_a_backbone_that_writes_actions_only(backbone):
    assert isinstance(backbone, Backbone)
    assert set(backbone.describe()) >= {"name", "revision", "parameters", "order"}
    mf_counted(backbone)
    for method in (mf, lambda b: ib_tune_mean_field(b, folder="x")):
        with pytest.raises(MfenvError, match=r"no mean field; .*mf-counted|ib-tune"):
            method(backbone)
    asked = [
        TaggedPrompts().prior_prompt("the dam", "en"),
        "What do you think?",
        prompt() + "<|act|>",
    ]
    for text in asked:
        with pytest.raises(MfenvError, match="mf-counted"):
            backbone.generate([text], [NoiseKey(0, 0, 0)], SHORT)
        with pytest.raises(MfenvError, match="mf-counted"):
            backbone.score([text], ["x"])
    grammar = TaggedPrompts().summary_grammar("en")
    with pytest.raises(MfenvError, match="mf-counted"):
        backbone.generate([prompt()], [NoiseKey(0, 0, 0)], SHORT, grammar=grammar)


def test_held_out_reactions_are_likelier_given_what_is_read(made):
    _, figures = made
    assert figures["topic"] < figures["n-grams alone"]
    assert figures["whole mean field"] < figures["n-grams alone"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_chances_after_any_context_sum_to_one(backbone, seed):
    model, size = backbone.model, len(backbone.vocabulary)
    rng = np.random.default_rng(seed)
    reading = read([prompt_of(p) for p in PROMPTS], backbone.vocabulary)
    rows = np.arange(len(PROMPTS))
    walk = model.begin(len(PROMPTS))
    known = backbone.vocabulary.encode("I do not buy it, the dam fell 这")
    for _ in range(5):
        p = model.probabilities(reading, rows, walk)
        np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
        assert (p > 0).all()
        for token in (END, *rng.integers(0, size, 6)):
            one = model.chances(reading, rows, walk, np.full(len(rows), token))
            np.testing.assert_allclose(one, p[:, token], rtol=1e-9)
        pool = known if rng.random() < 0.7 else range(1, size)
        step = rng.choice(pool, len(rows))
        walk = model.advance(walk, step, np.ones(len(rows), bool))


def test_a_score_is_the_sum_of_the_steps(backbone):
    texts = ["this is false", "", "I object, the mayor did it", "这 ☃ dam"]
    scores = backbone.score(PROMPTS, texts)
    reading = read([prompt_of(p) for p in PROMPTS], backbone.vocabulary)
    for i, (text, score) in enumerate(zip(texts, scores, strict=True)):
        tokens = [*backbone.vocabulary.encode(text), END]
        walk, total = backbone.model.begin(1), 0.0
        for token in tokens:
            p = backbone.model.probabilities(reading, np.array([i]), walk)[0]
            total += np.log(p[token])
            walk = backbone.model.advance(walk, np.array([token]), np.array([True]))
        assert score.tokens == len(tokens)
        assert score.log_probability == pytest.approx(total, abs=1e-9)
    together = backbone.score(PROMPTS * 3, texts * 3)
    assert together == scores * 3


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_every_text_has_a_finite_score(backbone, texts):
    prompts = [prompt(text, field(0.5, [text])) for text in texts]
    for score in backbone.score(prompts, texts):
        assert np.isfinite(score.log_probability)
        assert score.log_probability < 0


def test_texts_are_drawn_as_the_model_believes(toy):
    n = 20_000
    letters = ("", "a", "b")
    texts = sorted({x + y + z for x in letters for y in letters for z in letters})
    for asked in (prompt("ab"), prompt("bb", field(0.6, ["ba"]))):
        expected = np.exp([s.log_probability for s in toy.score([asked] * len(texts), texts)])
        assert expected.sum() > 0.7  # there are longer texts, and bytes
        keys = [NoiseKey(1, agent, 0) for agent in range(n)]
        drawn = Counter(g.text for g in toy.generate([asked] * n, keys, Sampling()))
        for text, p in zip(texts, expected, strict=True):
            assert abs(drawn[text] / n - p) < 4.5 * np.sqrt(p * (1 - p) / n) + 2e-3 * p, text


@pytest.mark.parametrize("preset", ["ancestral", "paper"])
def test_an_agents_text_does_not_depend_on_its_batch(backbone, preset):
    n = 2**20 // len(backbone.vocabulary) + 40  # more than are written side by side
    prompts = [PROMPTS[i % 4] for i in range(n)]
    keys = [NoiseKey(5, agent, 3) for agent in range(n)]
    sampling = replace(PRESETS[preset].policy, max_new_tokens=10)
    whole = backbone.generate(prompts, keys, sampling)
    assert backbone.generate(prompts[-30:], keys[-30:], sampling) == whole[-30:]
    for size in (1, 7):
        parts = [
            g
            for k in range(0, 42, size)
            for g in backbone.generate(prompts[k : k + size], keys[k : k + size], sampling)
        ]
        assert parts[:42] == whole[:42]
    order = np.random.default_rng(0).permutation(200)
    mixed = backbone.generate([prompts[i] for i in order], [keys[i] for i in order], sampling)
    assert [whole[i] for i in order] == mixed
    assert len({g.text for g in whole}) > 20
    other = backbone.generate(prompts[:99], [k._replace(seed=6) for k in keys[:99]], sampling)
    assert [g.text for g in other] != [g.text for g in whole[:99]]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        PRESETS["paper"].policy,
        PRESETS["greedy"].policy,
        Sampling(temperature=1.7, top_k=5),
        Sampling(top_p=0.5),
        Sampling(repetition_penalty=1.5),
    ],
)
def test_sampling_parameters_mean_what_they_mean_to_the_other_backbones(sampling):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(90, 0.3), 300)
    p[:, 7] = 0.0  # never
    p /= p.sum(axis=1, keepdims=True)
    written = rng.integers(0, 90, (300, 5))
    ours = warped(p.copy(), sampling, written)
    ours /= ours.sum(axis=1, keepdims=True)
    theirs = KeyedSampling(sampling, [])._warpers(
        torch.from_numpy(written), torch.from_numpy(np.log(np.maximum(p, 1e-300)))
    )
    np.testing.assert_allclose(ours, theirs.softmax(-1).numpy(), atol=1e-9)


def test_what_may_not_be_written_is_not(backbone):
    keys = [NoiseKey(2, agent, 0) for agent in range(400)]
    never = ["dam", " it", "!", "no token of this model"]
    texts = [g.text for g in backbone.generate([PROMPTS[0]] * 400, keys, Sampling(), never=never)]
    assert any("this" in t for t in texts)
    assert not any("!" in t or " it " in t for t in texts)
    assert not any("<|" in a.text for a in BackbonePolicy(backbone).act([request(i) for i in keys]))


def request(key):
    return ActionRequest("the dam <|act|>", "en", "", (), "a man", key)


def test_the_mean_field_tells_who_is_silent_and_what_is_said(toy, backbone):
    def silent(share):
        text = prompt(mean_field="" if share is None else field(share))
        return np.exp(toy.score([text], [""])[0].log_probability)

    stated = [silent(share) for share in (0.1, 0.5, 0.9)]
    odds = np.log(np.array([0.1, 0.5, 0.9]) / np.array([0.9, 0.5, 0.1])) - 0.5
    np.testing.assert_allclose(stated, 1 / (1 + np.exp(-odds)))
    start = toy.model.ngrams.begin(1)
    assert silent(None) == pytest.approx(toy.model.ngrams.probabilities(start)[0, END])
    said = "what a strange zebra"
    heard, deaf = (
        backbone.score([prompt(mean_field=render(None, [q], "en"))], [said])[0].log_probability
        for q in (said, "nothing of the kind")
    )
    assert heard > deaf + 3
    states = [prompt(state=s) for s in ("a man", "woman, about: The doctor")]
    same = backbone.score(states, ["this is false"] * 2)
    assert same[0] == same[1]


def test_what_is_read_of_a_prompt():
    quoted = ["«it» is", "a «b»"]
    text = prompt("the dam", field(0.25, quoted), notices=("Fact check: wrong.",))
    read_of = prompt_of(text)
    assert read_of == Prompt("the dam Fact check: wrong.", ("‹it› is", "a ‹b›"), 0.25)
    assert quotations(field(0.5)) == []
    attack = prompt("x<|act|><|mf|>", "Reactions: «y»", "<|state|>«z»")
    assert prompt_of(attack).quotations == ("y",)


def test_mixture_weights_and_silence_are_recovered():
    rng = np.random.default_rng(1)
    n, true = 20_000, np.array([0.6, 0.3, 0.1])
    tables = rng.dirichlet(np.ones(8), 3)
    source = rng.choice(3, n, p=true)
    token = np.array([rng.choice(8, p=tables[s]) for s in source])
    chances = tables[:, token].T
    np.testing.assert_allclose(expectation_maximisation(chances), true, atol=0.05)
    absent = np.column_stack([chances[:, :2], chances[:, 0]])
    assert expectation_maximisation(absent)[2] == 0
    assert expectation_maximisation(np.zeros((0, 3))).tolist() == [1, 0, 0]
    share = rng.uniform(0.05, 0.95, n)
    odds = -0.5 + 1.5 * np.log(share / (1 - share))
    silent = rng.random(n) < 1 / (1 + np.exp(-odds))
    np.testing.assert_allclose(silence(share, silent), [-0.5, 1.5], atol=0.1)
    assert np.isnan(silence(share, np.zeros(n, bool))).all()


# -- folders ----------------------------------------------------------------------------------


@pytest.fixture
def folder(backbone, tmp_path):
    backbone.save(tmp_path / "saved", {"language": "en"})
    return tmp_path / "saved"


def test_a_saved_model_is_the_same_but_for_rounding(backbone, folder):
    again = from_spec(str(folder))
    assert again.name == "ngram:saved"
    assert again.describe()["parameters"] == backbone.describe()["parameters"]
    texts = ["this is false", "", "so sad", "☃"]
    for one, other in zip(backbone.score(PROMPTS, texts), again.score(PROMPTS, texts), strict=True):
        assert one.tokens == other.tokens
        assert one.log_probability == pytest.approx(other.log_probability, abs=0.02)
    walk = again.model.begin(1)
    p = again.model.ngrams.probabilities(walk.contexts)
    assert p.sum() == pytest.approx(1, abs=1e-12)


def edit(name, change):
    def apply(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return apply


def tensors(change):
    from safetensors.numpy import load, save

    def apply(data):
        arrays = dict(load(data))
        change(arrays)
        return save(arrays)

    return edit("model.safetensors", apply)


BAD = {
    "no folder": (shutil.rmtree, "No such file"),
    "another model": (edit(ABOUT, lambda _: b'{"prompts": "tagged"}'), "does not say"),
    "no JSON": (edit(ABOUT, lambda _: b"{"), "allowed: a folder"),
    "cut": (edit("model.safetensors", lambda b: b[:-9]), "allowed: a folder"),
    "garbage": (edit("model.safetensors", lambda b: os.urandom(64)), "allowed: a folder"),
    "no words": (lambda f: (f / "vocabulary.json").unlink(), "vocabulary.json"),
    "words twice": (edit("vocabulary.json", lambda b: b'["a","a"]'), "each once"),
    "other words": (edit("vocabulary.json", lambda b: b'["a"]'), "tokens, the vocabulary 258"),
    "no tensor": (tensors(lambda t: t.pop("children.3")), "children.3"),
    "order": (tensors(lambda t: t["tokens.2"].sort()), "not in order"),
    "token": (tensors(lambda t: t["tokens.4"].fill(65535)), "token that is not there"),
    "sizes": (tensors(lambda t: t["children.2"].fill(1)), "as many 2-grams"),
    "chances": (tensors(lambda t: t["chances.2"].fill(0.9)), "no part of 1"),
    "NaN": (tensors(lambda t: t["chances.3"].fill(np.nan)), "no part of 1"),
    "single": (tensors(lambda t: t["unigram"].fill(0)), "no chance of its own"),
    "weights": (tensors(lambda t: t["weights"].fill(0.5)), "do not sum to one"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_ngram_model_gets_one_line(folder, name):
    damage, words = BAD[name]
    damage(folder)
    with pytest.raises(MfenvError) as caught:
        from_spec(str(folder))
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert words in message
    assert "mfenv train ngram" in message
    assert "\n" not in message


def test_a_model_of_another_kind_is_pointed_to_its_backbone(tmp_path):
    with pytest.raises(MfenvError, match=r"hf:PATH"):
        from_spec(str(ROOT / "agents" / "weights" / "embedded-en"))
    with pytest.raises(MfenvError, match=r"ngram:FOLDER.*ngram-en"):
        build_backbone("ngram")


# -- the command ------------------------------------------------------------------------------

ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "tokenizers", "sklearn", "trl"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """The environment of a machine that has the core alone."""
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(ABSENT)
    return {**os.environ, "PYTHONPATH": f"{site}:{ROOT}", "OMP_NUM_THREADS": "1"}


def call(env, *argv, code=0):
    argv = [sys.executable, "-m", "mfenv", *map(str, argv)]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    if code:
        assert done.stdout == ""
        assert done.stderr.startswith("mfenv: error: ")
        assert done.stderr.count("\n") == 1
    return done


@pytest.fixture(scope="module")
def trained(core, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained")
    write_jsonl(SyntheticSociety(78).events(14, n_posts=60), path / "events.jsonl")
    argv = ("train", "ngram", "--train", path / "events.jsonl", "--min-events", 3)
    argv += ("--held-out", 20, "--order", 3, "--out")
    said = call({**core, "PYTHONHASHSEED": "1"}, *argv, path / "one")
    call({**core, "PYTHONHASHSEED": "2"}, *argv, path / "two")
    assert "826 reactions of 14 events" in said.stdout
    return path


def test_the_same_command_makes_the_same_bytes(trained):
    files = [{p.name: p.read_bytes() for p in (trained / x).iterdir()} for x in ("one", "two")]
    assert set(files[0]) == {"mfenv.json", "model.safetensors", "vocabulary.json"}
    assert files[0] == files[1]


def test_a_population_of_it_runs_without_any_extra(core, trained, tmp_path):
    simulate = ("simulate", "--backbone", f"ngram:{trained / 'one'}", "--agents", 32)
    simulate += ("--warmup", 16, "--seeds", 1, "--json", "--out")
    done = call(core, *simulate, tmp_path / "out", "--method", "mf-counted,state+cal")
    result = json.loads(done.stdout)
    assert result["decisions"] == 2 * 16
    refused = call(core, *simulate, tmp_path / "no", "--method", "mf", code=2)
    assert "mf-counted" in refused.stderr
    assert not list((tmp_path / "no").rglob("*.jsonl"))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--train", "none.jsonl", "--out", "x"), "none.jsonl"),
        (("--train", "EVENTS", "--out", "FILE"), "allowed: a new folder"),
        (("--train", "EVENTS", "--out", "OTHER"), "holds another model"),
        (("--train", "EVENTS", "--out", "x"), "--min-events"),
        (("--train", "EVENTS", "--out", "x", "--order", "1"), "2 to 8"),
    ],
)
def test_wrong_arguments_get_one_line(trained, argv, words, capsys, monkeypatch, tmp_path):
    from mfenv.cli import main

    monkeypatch.chdir(tmp_path)
    known = {
        "EVENTS": trained / "events.jsonl",
        "FILE": trained / "events.jsonl",
        "OTHER": ROOT / "agents" / "weights" / "weibo-s",
    }
    code = main(["train", "ngram", *(str(known.get(a, a)) for a in argv)])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()


# -- the shipped ones -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ngram-en", "ngram-weibo"])
def test_the_shipped_ones_are_small_and_have_cards(name):
    path = ROOT / "agents" / "weights" / name
    assert sum(f.stat().st_size for f in path.iterdir()) <= 2_000_000
    card = (path / "README.md").read_text(encoding="utf-8")
    assert "mfenv train ngram" in card
    assert "Limits" in card
    loaded = build_backbone(name)
    assert loaded.describe()["name"] == name
    assert loaded.describe()["revision"] in card
    about = json.loads((path / ABOUT).read_text())
    assert about["training"]["min_events"] == 20
    assert SOURCES[0] == "n-grams"
    assert (loaded.model.weights[:, 0] > 0).all()


def test_the_shipped_english_one_writes_the_societys_sentences():
    loaded = build_backbone("ngram-en")
    event = SyntheticSociety(5).event(1)
    requests = [
        ActionRequest(event.topic, "en", field(0.3), (), "unknown person", NoiseKey(0, i, 0))
        for i in range(300)
    ]
    texts = [a.text for a in BackbonePolicy(loaded).act(requests)]
    annotator = build_annotator("exact", event)
    _, exact = annotator.label_with_coverage([event.topic] * 300, texts, ["en"] * 300)
    assert exact.mean() > 0.65
    assert len(set(texts)) > 100


def test_walks_visit_every_token_once(toy):
    texts = [[1, 2, 0], [0], [3, 0], [1, 1, 1, 0]]
    seen = defaultdict(list)
    for rows, _, tokens in walks(toy.model, texts):
        for row, token in zip(rows, tokens, strict=True):
            seen[int(row)].append(int(token))
    assert [seen[i] for i in range(4)] == texts
    assert toy.score([], []) == toy.generate([], [], SHORT) == []
