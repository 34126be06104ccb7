"""The models that come with the package: small, readable without code, and they do their jobs."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest

from agents.backbones.embedded import WEIGHTS
from agents.planners.learned import SHIPPED as PLANNERS
from agents.planners.learned import planner_society
from agents.policy import BackbonePolicy
from benchmarks.metrics import student
from benchmarks.response import model_effects
from mfenv.distributions import shares
from mfenv.dynamics.assemble import build_annotator, build_backbone, make_method
from mfenv.dynamics.mean_field_text import parse_shares, render
from mfenv.dynamics.models import ActionRequest
from mfenv.errors import MfenvError
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.interventions import (
    N_ACTIONS,
    Intervention,
    Kind,
    action_name,
    decode_action,
    encode_action,
)
from mfenv.labels import NAMES, SLICES
from mfenv.noise import NoiseKey
from mfenv.states import UNKNOWN, state_text

MEGABYTE = 1_000_000
SHIPPED = ("embedded-en", "embedded-en-xs", "weibo-s")
HIGH = 2
COSTS = np.array([decode_action(a).cost for a in range(N_ACTIONS)])


@pytest.fixture(scope="module")
def events():
    return SyntheticSociety(2).events(8)


def test_all_weights_keep_to_their_budget():
    size = {p.name: sum(f.stat().st_size for f in p.rglob("*")) for p in WEIGHTS.iterdir()}
    assert size["annotator"] <= 3 * MEGABYTE
    for name in SHIPPED:
        assert (WEIGHTS / name / "model.safetensors").stat().st_size <= 8 * MEGABYTE
    assert sum(size[name] for name in SHIPPED) <= 16 * MEGABYTE
    assert sum(size.values()) <= 25 * MEGABYTE
    allowed = {".safetensors", ".json", ".md"}
    assert {f.suffix for f in WEIGHTS.rglob("*") if f.is_file()} <= allowed


@pytest.mark.parametrize("name", SHIPPED)
def test_each_has_a_card_and_says_how_it_is_asked(name):
    settings = json.loads((WEIGHTS / name / "mfenv.json").read_text())
    assert settings["prompts"] == "tagged"
    card = (WEIGHTS / name / "README.md").read_text(encoding="utf-8")
    assert "mfenv train backbone" in card
    assert "Limits" in card
    assert build_backbone(name).describe()["name"] == name


def test_the_tuned_mean_field_model_is_found_by_its_backbone():
    tuned = make_method("ib-tune", build_backbone("weibo-s"))
    plain = make_method("mf", build_backbone("weibo-s"))
    assert tuned.policy == plain.policy  # the same requests, so one call for both
    assert tuned.mean_field != plain.mean_field
    with pytest.raises(MfenvError, match="make one: mfenv train ib-tune"):
        make_method("ib-tune", build_backbone("embedded-en"))
    config = json.loads((WEIGHTS / "ib-tune-weibo-s/mean-field/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "weibo-s"  # and no folder of a disk
    assert "Limits" in (WEIGHTS / "ib-tune-weibo-s" / "README.md").read_text(encoding="utf-8")


def _act(name, language, mean_field, notices=(), n=192):
    event = SyntheticSociety(2).event(3)
    topic = event.topic if language == "en" else "网传某地大桥昨晚垮塌，多人受伤"
    states = (
        [state_text(p, "en") for p in event.posts.profiles[1 : n + 1]]
        if language == "en"
        else [UNKNOWN["zh"]] * n
    )
    requests = [
        ActionRequest(topic, language, mean_field, notices, state, NoiseKey(4, i, 0))
        for i, state in enumerate(states)
    ]
    texts = [a.text for a in BackbonePolicy(build_backbone(name)).act(requests)]
    annotator = build_annotator("exact" if language == "en" else "classifier", event)
    return texts, annotator.label([topic] * n, texts, [language] * n)


def _field(language, **leaning):
    distribution = np.zeros(len(NAMES))
    for name, values in {
        "stance": (0.35, 0.3, 0.35),
        "sentiment_state": (0.2, 0.3, 0.15, 0.1, 0.1, 0.15),
        "behavior": (0.55, 0.45),
        "belief": (0.5, 0.5),
        "intent": (0.2, 0.35, 0.45),
        **leaning,
    }.items():
        distribution[SLICES[name]] = values
    return render(distribution, [], language)


def test_the_english_model_writes_what_the_grammar_reads_and_heeds_the_mean_field():
    believing = _field("en", belief=(0.9, 0.1), stance=(0.6, 0.1, 0.3))
    doubting = _field("en", belief=(0.1, 0.9), stance=(0.1, 0.6, 0.3))
    texts, labels = _act("embedded-en", "en", believing)
    annotator = build_annotator("exact", SyntheticSociety(2).event(3))
    exact = annotator.label_with_coverage(["x"] * len(texts), texts, ["en"] * len(texts))[1]
    assert exact.mean() > 0.85
    _, doubt = _act("embedded-en", "en", doubting)
    i = NAMES.index("belief/believe")
    assert shares(labels)[i] > shares(doubt)[i] + 0.1


def test_the_chinese_model_heeds_the_mean_field():
    silent = _field("zh", behavior=(0.1, 0.9), intent=(0.02, 0.9, 0.08))
    talking = _field("zh", behavior=(0.95, 0.05), intent=(0.1, 0.05, 0.85))
    quiet, few = _act("weibo-s", "zh", silent)
    texts, many = _act("weibo-s", "zh", talking)
    i = NAMES.index("behavior/share")
    assert shares(few)[i] > shares(many)[i] + 0.3
    spoken = [t for t in texts if t]
    assert len(set(spoken)) > 0.8 * len(spoken)
    chinese = [t for t in spoken if any("一" <= c <= "鿿" for c in t)]
    assert len(chinese) > 0.7 * len(spoken)
    assert not any("�" in t for t in quiet + texts)


def test_the_english_model_writes_mean_fields_that_can_be_read(events):
    from agents.mean_field import BackboneMeanField

    model = BackboneMeanField(build_backbone("embedded-en"))
    drawn = model.prior(
        [e.topic for e in events], ["en"] * len(events), [NoiseKey(0, -1, i) for i in range(8)]
    )
    read = [parse_shares(d.text) for d in drawn]
    assert all(r is not None for r in read)


@pytest.mark.slow
def test_the_english_model_reacts_to_interventions_as_the_society_does(events):
    model, exact = model_effects(
        events[:6], method="mf-counted", backbone="embedded-en", steps=3, seed=1
    )
    fact_check = encode_action(Intervention(Kind.FACT_CHECK, HIGH))
    friction = encode_action(Intervention(Kind.FRICTION, HIGH))
    assert model.mean[fact_check, NAMES.index("belief/believe")] < -0.08
    assert model.mean[friction, NAMES.index("behavior/share")] < -0.15
    assert (model.mean[0] == 0).all()
    assert exact > 0.85


def test_the_shipped_planner_does_less_harm_than_a_schedule():
    """Against fact-checks whenever the budget pays, on validation events with the same noise."""
    planner = planner_society()
    folder = PLANNERS / "planner-society"
    assert sum(f.stat().st_size for f in folder.iterdir()) < 300_000
    assert "mfenv train planner" in (folder / "README.md").read_text(encoding="utf-8")
    names = [action_name(a) for a in range(N_ACTIONS)]
    check = names.index("fact_check/high")
    harm = {}
    for name in ("none", "schedule", "learned"):
        env = gymnasium.make_vec("mfenv:MFLLM-Society-v0", num_envs=112, split="validation")
        observation, info = env.reset(seed=7)
        planner.reset(np.arange(112))
        total = np.zeros(112)
        for _ in range(16):
            masks = info["budget_left"][:, None] + 1e-9 >= COSTS
            actions = {
                "none": np.zeros(112, dtype=np.int64),
                "schedule": np.where(masks[:, check], check, 0),
                "learned": planner.act(observation, masks),
            }[name]
            observation, _, _, _, info = env.step(actions)
            total += info["harm"]
        harm[name] = total
    assert student(harm["schedule"] - harm["learned"]).low > 1.0
    assert student(harm["none"] - harm["learned"]).low > 2.0
