"""Models are held to the form of a mean field: what is written can be read, whatever they are."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from agents.backbones.embedded import embedded_en, weibo_s
from agents.backbones.sampling import Sampling
from agents.backbones.token_grammar import TokenGrammar
from agents.mean_field import BackboneMeanField
from mfenv.dynamics.mean_field_text import grammar, parse_shares, render
from mfenv.dynamics.models import Reaction, SummaryRequest
from mfenv.labels import SILENT_REPOST
from mfenv.noise import NoiseKey
from tests.tiny_models import lively_backbone

LINE = {"en": r"\nIntent:( (question|promotion|opinion) \d+%){3}", "zh": r"\n意图：(\w\w\d+%){3}"}


@pytest.fixture(scope="module")
def lively():
    return lively_backbone()


def requests(n, language="en"):
    reactions = tuple(Reaction(f"reaction {k}", "", SILENT_REPOST) for k in range(4))
    return [
        SummaryRequest(
            f"topic {i}", language, "", reactions, (), np.full(23, 0.2), NoiseKey(5, -1, i)
        )
        for i in range(n)
    ]


def compiled(backbone, language):
    size = backbone.model.config.vocab_size
    return TokenGrammar.compile(grammar(language), backbone.tokenizer, backbone.ends, size)


@pytest.mark.parametrize(
    "sampling", [Sampling(max_new_tokens=200), Sampling(top_k=1, max_new_tokens=200)]
)
def test_whatever_a_model_writes_can_be_read(lively, sampling):
    free = lively.generate(
        [lively.prompts.summary_prompt(r) for r in requests(24)],
        [r.key for r in requests(24)],
        sampling,
    )
    assert not any(re.search(LINE["en"] + "$", g.text) for g in free)  # it is untrained
    held = BackboneMeanField(lively, sampling).summarise(requests(24))
    quoted = 0
    for each in held:
        shares = parse_shares(each.text)
        assert shares is not None
        assert np.isfinite(shares).all()
        assert re.search(LINE["en"] + "$", each.text), each.text
        quotations = re.findall(r" «([^»]+)»", each.text)
        assert each.text.count("«") == len(quotations) <= 3
        # Characters and not tokens are counted: a loop over a long token does not fill a page.
        assert all(len(q) <= grammar("en").characters + 3 for q in quotations)
        assert each.text.rpartition("»")[2].count("%") == 16
        quoted += len(quotations)
    assert quoted
    assert len({each.text for each in held}) > 12


@pytest.mark.parametrize(("make", "language"), [(embedded_en, "en"), (weibo_s, "zh")])
def test_every_mean_field_that_code_writes_is_allowed(make, language):
    backbone = make()
    form, rng = compiled(backbone, language), np.random.default_rng(0)
    words = ["", "so it is", "真的吗？", "x" * 60, "a «quote» in it", "\n立场：", "Stance:"]
    for case in range(40):
        said = [words[i] for i in rng.integers(1, len(words), case % 4)]
        text = render(rng.dirichlet(np.ones(23)) * 3, said, language)
        ids = [*backbone.tokenizer(text, add_special_tokens=False).input_ids, backbone.ends[0]]
        states = form.start(1)
        for token in ids:
            logits = form.forbid(torch.zeros(1, form.width), states)
            assert logits[0, token] == 0, (text, backbone.tokenizer.decode([token]))
            states = form.advance(states, torch.tensor([token]))


def test_a_quotation_ends_where_the_longest_may(lively):
    form, tokenizer = compiled(lively, "en"), lively.tokenizer
    longest = grammar("en").characters + 3
    known = tokenizer.get_vocab()
    opening, closing = (known[q] for q in grammar("en").quotes)
    ids = tokenizer("Reactions:", add_special_tokens=False).input_ids
    texts = {t: tokenizer.decode([t]) for t in range(len(tokenizer))}
    words = [t for t in texts if t not in tokenizer.added_tokens_decoder and texts[t].isalnum()]
    word = max(words, key=lambda t: len(texts[t]))
    size = len(texts[word])
    assert size > 3
    states = form.start(1)
    for token in [*ids, opening, *[word] * (longest // size)]:
        assert form.forbid(torch.zeros(1, form.width), states)[0, token] == 0
        states = form.advance(states, torch.tensor([token]))
    allowed = form.forbid(torch.zeros(1, form.width), states)[0] == 0
    assert allowed[closing]
    assert not allowed[word]
    left = [len(texts[int(t)]) for t in torch.nonzero(allowed)[:, 0] if t != closing]
    assert max(left, default=0) <= longest % size


def test_rows_follow_their_own_texts(lively):
    model = BackboneMeanField(lively, Sampling(top_k=1, max_new_tokens=200))
    together = model.summarise(requests(12))
    assert together == [model.summarise([r])[0] for r in requests(12)]
    assert together[::-1] == model.summarise(requests(12)[::-1])


def test_a_tokenizer_without_the_phrases_is_not_held(lively):
    assert compiled(lively, "zh") is None
    assert compiled(lively, "en") is not None
    written = BackboneMeanField(lively, Sampling(max_new_tokens=8)).summarise(requests(2, "zh"))
    assert all(parse_shares(each.text) is None for each in written)


def test_shares_are_medians_of_what_the_model_believes(lively):
    request = requests(1)[0]
    prompt = lively.prompt_ids(lively.prompts.summary_prompt(request))
    sampling = Sampling(temperature=0.5, max_new_tokens=200, median_shares=True)
    draw = lively.sampler(sampling, [request.key], grammar=grammar("en"))
    (written,) = lively.write([prompt], [request.key], draw, 200)
    with torch.inference_mode():
        logits = lively.model(torch.tensor([[*prompt, *written]])).logits[0, len(prompt) - 1 :]
    known, checked = lively.tokenizer.get_vocab(), 0
    for _, slots in grammar("en").lines:
        for slot in slots:
            tokens = torch.tensor([known[p] for p in slot])
            place = max(k for k, t in enumerate(written) if t in tokens.tolist())
            at_most = logits[place, tokens].softmax(0).double().cumsum(0)
            chosen = tokens.tolist().index(written[place])
            assert at_most[chosen] > 0.5
            assert chosen == 0 or at_most[chosen - 1] < 0.5
            checked += 1
    assert checked == 16
