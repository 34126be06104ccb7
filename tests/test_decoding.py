"""Reading shared prefixes once, decoding in batches: the same result as the plain path."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from agents.backbones.decoding import batches, decode, read
from agents.backbones.hugging_face import HuggingFaceBackbone
from agents.backbones.prefixes import PrefixGroup, shared_prefixes
from agents.backbones.sampling import KeyedSampling, Sampling, inverse_cdf
from mfenv.noise import NoiseKey, uniform
from tests.tiny_models import lively_backbone, write_tiny

LIMIT = 24


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return HuggingFaceBackbone.load(write_tiny(tmp_path_factory.mktemp("tiny") / "m"), device="cpu")


@pytest.fixture(scope="module")
def lively():
    return lively_backbone()


def random_prompts(rng, worlds, agents, vocabulary=300):
    """Token ids of worlds whose agents share a prefix, some of them with the same state."""
    rows = []
    for _ in range(worlds):
        prefix = rng.integers(20, vocabulary, rng.integers(1, 60)).tolist()
        states = [rng.integers(20, vocabulary, rng.integers(1, 20)).tolist() for _ in range(agents)]
        rows += [prefix + states[int(rng.integers(agents))] for _ in range(agents)]
    return rows


# -- which prompts share a prefix ------------------------------------------------------------


def partitions(rows):
    if not rows:
        yield []
        return
    for rest in partitions(rows[1:]):
        for k in range(len(rest)):
            yield [*rest[:k], [rows[0], *rest[k]], *rest[k + 1 :]]
        yield [[rows[0]], *rest]


def shared(prompts, rows):
    most = min(len(prompts[i]) for i in rows) - 1
    first = prompts[rows[0]]
    return next((k for k in range(most) if any(prompts[i][k] != first[k] for i in rows)), most)


def test_no_split_saves_more_tokens():
    rng = np.random.default_rng(0)
    for case in range(400):
        n = int(rng.integers(1, 7))
        prompts = [rng.integers(0, 2 + case % 3, rng.integers(1, 8)).tolist() for _ in range(n)]
        groups = shared_prefixes(prompts, least=1)
        assert sorted(i for g in groups for i in g.rows) == list(range(n))
        for group in groups:
            assert group.length <= shared(prompts, group.rows)
        saved = sum((len(g.rows) - 1) * g.length for g in groups)
        best = max(
            sum((len(rows) - 1) * shared(prompts, rows) for rows in split)
            for split in partitions(list(range(n)))
        )
        assert saved == best, prompts


def test_every_row_keeps_a_token_of_its_own():
    assert shared_prefixes([[7] * 20] * 3) == [PrefixGroup((0, 1, 2), 19)]
    assert shared_prefixes([]) == []
    short = shared_prefixes([[1, 2, 3], [1, 2, 4]])  # too short to be worth it
    assert [g.length for g in short] == [0, 0]


def test_batches_hold_every_row_once_and_stay_small():
    rng = np.random.default_rng(1)
    prompts = random_prompts(rng, 9, 13)
    groups = shared_prefixes(prompts)
    lengths = [len(p) for p in prompts]
    made = list(batches(groups, lengths, 10, tokens=1500, rows=20))
    assert sorted(i for b in made for g in b for i in g.rows) == list(range(len(prompts)))
    assert made == list(batches(groups, lengths, 10, tokens=1500, rows=20))
    for batch in made:
        rows = [i for g in batch for i in g.rows]
        assert len(rows) <= 20
        width = max(g.length for g in batch) + 10
        width += max(lengths[i] - g.length for g in batch for i in g.rows)
        assert len(rows) * width <= 1500 or len(rows) == 1


# -- the same as the plain path --------------------------------------------------------------


def plain_greedy(backbone, prompt, ends):
    out = backbone.model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        generation_config=GenerationConfig(
            do_sample=False, max_new_tokens=LIMIT, eos_token_id=ends, pad_token_id=0
        ),
    )
    return out[0, len(prompt) :].tolist()


def greedy(logits, rows, written):
    return logits.argmax(-1)


def written(backbone, prompts, draw, rows=256, limit=LIMIT, ends=None):
    """Tokens written behind each prompt."""
    result, groups = [None] * len(prompts), shared_prefixes(prompts)
    lengths = [len(p) for p in prompts]
    for batch in batches(groups, lengths, limit, tokens=100_000, rows=rows):
        reading = read(backbone.model, prompts, batch, 0, room=limit)
        done = decode(backbone.model, reading, draw, ends=ends or backbone.ends, limit=limit)
        for i, tokens in zip(reading.rows, done, strict=True):
            result[i] = tokens
    return result


def test_greedy_decoding_is_that_of_transformers(lively):
    prompts = random_prompts(np.random.default_rng(2), 5, 6)
    assert any(g.length for g in shared_prefixes(prompts))
    endless = written(lively, prompts, greedy, rows=16, ends=[0])
    ends = sorted({t for tokens in endless for t in tokens})[::6]  # rows end at different times
    ours = written(lively, prompts, greedy, rows=16, ends=ends)
    assert ours == [plain_greedy(lively, p, ends) for p in prompts]
    assert len({len(t) for t in ours}) > 5


def test_shared_prefixes_change_no_score(backbone, monkeypatch):
    rng = np.random.default_rng(3)
    text = backbone.tokenizer.decode
    prompts, completions = [], []
    for world in range(6):
        topic = "<|topic|>" + text(rng.integers(20, 300, 40).tolist()) + f" {world}<|mf|>"
        for _ in range(5):
            prompts.append(topic + "<|state|>" + text(rng.integers(20, 300, 6).tolist()))
            completions.append(text(rng.integers(20, 300, rng.integers(0, 30)).tolist()))
    plain = HuggingFaceBackbone(
        backbone.model, backbone.tokenizer, name="plain", prompts=backbone.prompts,
        reuse_prefixes=False,
    )  # fmt: skip
    for a, b in zip(
        backbone.score(prompts, completions), plain.score(prompts, completions), strict=True
    ):
        assert a.tokens == b.tokens
        assert a.log_probability == pytest.approx(b.log_probability, abs=1e-4)
    assert backbone._packing is True
    for way in ("small pieces", "unpacked"):
        if way == "unpacked":
            monkeypatch.setattr(backbone, "_packing", False)
        monkeypatch.setattr("agents.backbones.decoding._PACKED", 60)
        for a, b in zip(
            backbone.score(prompts, completions), plain.score(prompts, completions), strict=True
        ):
            assert a.tokens == b.tokens
            assert a.log_probability == pytest.approx(b.log_probability, abs=1e-4)
    keys = [NoiseKey(0, i, 0) for i in range(len(prompts))]
    for sampling in (Sampling(top_k=1, max_new_tokens=12), Sampling(max_new_tokens=12)):
        assert backbone.generate(prompts, keys, sampling) == plain.generate(prompts, keys, sampling)
    assert backbone.score([], []) == []
    assert backbone.generate([], [], Sampling()) == []


def test_a_model_that_cannot_be_packed_is_found_out(monkeypatch):
    backbone = lively_backbone()
    forward = backbone.model.model.forward

    def blind(*args, attention_mask=None, **named):  # keeps to plain masks, as ALiBi models do
        if attention_mask is not None and attention_mask.ndim == 4:
            attention_mask = None
        return forward(*args, attention_mask=attention_mask, **named)

    monkeypatch.setattr(backbone.model.model, "forward", blind)
    start = "<|topic|>a rumour that is known to all of them<|mf|><|state|>"
    prompts = [start + "one<|act|>", start + "another<|act|>"]
    together = backbone.score(prompts, ["so it is", "no"])
    assert backbone._packing is False
    alone = [backbone.score([p], [c])[0] for p, c in zip(prompts, ["so it is", "no"], strict=True)]
    for a, b in zip(together, alone, strict=True):
        assert a.log_probability == pytest.approx(b.log_probability, abs=1e-4)


def test_scores_do_not_need_the_output_layer_to_be_found(backbone, monkeypatch):
    prompts = ["<|topic|>a<|mf|><|state|>b<|act|>", "<|topic|>c<|mf|><|act|>", "<|topic|>a<|mf|>"]
    completions = ["so it is", "", "it is so, and it is so again"]
    usual = backbone.score(prompts, completions)
    alone = [backbone.score([p], [c])[0] for p, c in zip(prompts, completions, strict=True)]
    monkeypatch.setattr(backbone.model, "get_output_embeddings", lambda: None)
    plain = backbone.score(prompts, completions)
    for scored in (alone, plain, [backbone.score(prompts[2:], completions[2:])[0]]):
        expected = usual if len(scored) == 3 else usual[2:]
        for a, b in zip(scored, expected, strict=True):
            assert a.tokens == b.tokens
            assert a.log_probability == pytest.approx(b.log_probability, abs=1e-4)
    assert len({s.tokens for s in usual}) == 3


def test_a_call_goes_on_from_what_the_one_before_it_read(lively):
    """As summaries do behind the actions of their step; greedy texts are those of a plain model."""
    rng = np.random.default_rng(8)
    starts = [rng.integers(20, 300, rng.integers(15, 60)).tolist() for _ in range(7)]
    tail = [rng.integers(20, 300, 9).tolist() for _ in range(40)]
    acting = [starts[i % 6] + tail[i] for i in range(40)]  # the last start is not read here
    rewriting = [s[: len(s) - k] + tail[k] + s for k, s in enumerate(starts)]
    sampling = Sampling(top_k=1, max_new_tokens=LIMIT)

    def write(backbone, prompts, step):
        keys = [NoiseKey(3, agent, step) for agent in range(len(prompts))]
        draw = backbone.sampler(sampling, keys)
        before = backbone.usage.reused_tokens
        texts = backbone.write(prompts, keys, draw, LIMIT)
        return texts, backbone.usage.reused_tokens - before

    plain = HuggingFaceBackbone(
        lively.model, lively.tokenizer, name="plain", prompts=lively.prompts, reuse_prefixes=False
    )
    expected, _ = write(plain, rewriting, 4)
    assert write(plain, rewriting, 4) == (expected, 0)
    write(lively, acting, 4)
    again, reused = write(lively, rewriting, 4)
    assert again == expected
    assert len({tuple(t) for t in again}) == 7
    assert reused == sum(len(s) - k for k, s in enumerate(starts[:6]))
    # Once only, and only for the step that read them: what came before changes nothing else.
    assert write(lively, rewriting, 4) == (expected, 0)
    write(lively, acting, 4)
    assert write(lively, rewriting, 5) == (expected, 0)


# -- noise that belongs to the agent ---------------------------------------------------------


class Recorded:
    """Draws like the sampler and keeps, for each row and token, probabilities and the uniform."""

    def __init__(self, keys):
        self.sample, self.keys, self.seen = KeyedSampling(Sampling(), keys), keys, {}

    def __call__(self, logits, rows, so_far):
        t = so_far.shape[1]
        for row, p in zip(rows.tolist(), logits.double().log_softmax(-1), strict=True):
            self.seen[row, t] = p
        return self.sample(logits, rows, so_far)


def test_an_agents_tokens_do_not_depend_on_its_batch(backbone):
    rng = np.random.default_rng(4)
    prompts = random_prompts(rng, 8, 8)
    keys = [NoiseKey(11, agent, 2) for agent in range(len(prompts))]
    whole = Recorded(keys)
    together = written(backbone, prompts, whole, rows=64)
    assert together == written(backbone, prompts, Recorded(keys), rows=64)  # the same plan, exactly
    order = rng.permutation(len(prompts))
    runs = {"alone": [[i] for i in range(len(prompts))], "shuffled": [order.tolist()]}
    runs["sevens"] = [order[k : k + 7].tolist() for k in range(0, len(order), 7)]
    total = equal = 0
    for parts in runs.values():
        for rows in parts:
            other = Recorded([keys[i] for i in rows])
            for k, tokens in enumerate(written(backbone, [prompts[i] for i in rows], other)):
                i = rows[k]
                for t, (a, b) in enumerate(zip(together[i], tokens, strict=False)):
                    p, q = whole.seen[i, t], other.seen[k, t]
                    # Far below anything that is drawn, an absolute difference says nothing.
                    likely = p > -20
                    assert (p - q)[likely].abs().max() < 1e-4
                    total += 1
                    equal += a == b
                    if a != b:
                        u = float(uniform(*keys[i], t))
                        cdf = p.exp().cumsum(0)
                        between = cdf[min(a, b) : max(a, b)]
                        assert (between - u).abs().max() < 1e-4
                        break
    assert total > 2000
    assert equal >= 0.999 * total


def test_the_inverse_cdf_is_exact_at_its_edges():
    p = torch.zeros(6, 200)
    p[:, 3], p[:, 64], p[:, 130] = 0.25, 0.5, 0.25
    u = torch.tensor([0.0, 0.2499999, 0.25, 0.7499999, 0.75, 1 - 2**-53], dtype=torch.double)
    assert inverse_cdf(p, u).tolist() == [3, 3, 64, 64, 130, 130]
    rng = np.random.default_rng(0)
    q = torch.from_numpy(rng.dirichlet(np.full(1000, 0.05), 50)).float()
    for _ in range(40):
        v = torch.from_numpy(rng.random(50))
        ours = inverse_cdf(q, v)
        cdf = q.double().cumsum(1)
        plain = torch.searchsorted(cdf, v[:, None] * cdf[:, -1:], right=True)[:, 0]
        assert (ours == plain).all()
        assert (q.gather(1, ours[:, None]) > 0).all()
