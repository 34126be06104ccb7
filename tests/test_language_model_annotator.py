"""A language model as the annotator: a real server on a real (untrained) model, and bad answers."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from agents.annotators.language_model import LanguageModelAnnotator, from_spec, schema
from agents.backbones.base import UnusableAnswersError
from agents.backbones.json_answers import mismatch
from agents.backbones.retries import RetryPolicy
from agents.backbones.served import ServedBackbone, ServerSettings
from mfenv.cli import main
from mfenv.dynamics.assemble import build_annotator
from mfenv.errors import MfenvError
from mfenv.events import load_events, write_jsonl
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.labels import DIMENSIONS, SILENT_REPOST
from tests.http_servers import CompletionsServer
from tests.tiny_models import lively_backbone

TOPICS = ["A dam fell"] * 5 + ["A bridge rose"] * 3
TEXTS = ["so sad", "is it true?", "so sad", "", "Repost", "great news", "fake", "so sad"]


class LabellingServer(CompletionsServer):
    """Answers a schema of labels: for each entry and dimension what its model finds likeliest."""

    def __init__(self, backbone, spoil=lambda entries: entries):
        super().__init__(backbone)
        self.spoil, self.sizes, self.texts = spoil, Counter(), []

    def _chosen(self, text, schema):
        entry = schema["properties"]["labels"]["items"]["properties"]
        lines = text.split("\nReactions:\n")[1].splitlines()
        self.sizes[len(lines)] += 1
        self.texts += lines
        entries = []
        for number, line in enumerate(lines, start=1):
            answer = super()._chosen(line, {"properties": {d: entry[d] for d in list(entry)[1:]}})
            said = answer["choices"][0]["message"]["content"]
            labels = json.loads(said[said.index("{") : said.rindex("}") + 1])
            entries.append({"id": number, **labels})
        said = json.dumps({"labels": self.spoil(entries)})
        message = {"role": "assistant", "content": said}
        usage = {"prompt_tokens": 7, "completion_tokens": 5}
        return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


@pytest.fixture(scope="module")
def tiny():
    return lively_backbone()


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MFENV_CACHE", str(tmp_path / "responses.sqlite"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def annotator(server, batch=2):
    settings = ServerSettings(give_up=20, timeout=20)
    quick = RetryPolicy(first=0.001, longest=0.01, unusable=2)
    served = ServedBackbone("tiny", server.url, settings=settings, retries=quick)
    return LanguageModelAnnotator(served, batch=batch)


def label(server, **more):
    return annotator(server, **more).label(TOPICS, TEXTS, ["en"] * len(TEXTS))


def test_every_reaction_gets_the_labels_of_its_own_entry(tiny):
    with LabellingServer(tiny) as server:
        labels = label(server)
        assert labels.shape == (8, 8)
        assert labels.dtype == np.int8
        assert (labels[[3, 4]] == SILENT_REPOST).all()  # by rule, never asked
        asked = [line.split("<<<")[1] for line in server.texts]
        assert Counter(asked) == {"so sad>>>": 2, "is it true?>>>": 1, "great news>>>": 1,
                                  "fake>>>": 1}  # fmt: skip
        assert (labels[0] == labels[2]).all()
        assert len({tuple(row) for row in labels}) > 3
        # Two to a batch, topic by topic.
        numbers = {0: 1, 1: 2, 5: 1, 6: 2, 7: 1}
        for i, number in numbers.items():
            line = f"{number}. <<<{TEXTS[i]}>>>"
            assert line in server.texts
            for d, dimension in enumerate(DIMENSIONS):
                scores = tiny.score(
                    [f"{line}\n{dimension.name}: "] * len(dimension.labels), dimension.labels
                )
                best = np.argmax([s.log_probability / s.tokens for s in scores])
                assert labels[i, d] == best
        one_hot = annotator(server).probabilities(TOPICS, TEXTS, ["en"] * 8)
        assert (one_hot.sum(axis=1) == 8).all()
        before = sum(server.sizes.values())
        assert (label(server) == labels).all()  # from the cache
        assert sum(server.sizes.values()) == before


def test_answers_of_the_wrong_length_or_number_are_asked_for_one_by_one(tiny):
    with LabellingServer(tiny) as server:
        right = label(server, batch=1)

    def twice_the_same(entries):
        return [entries[0]] * len(entries)

    def too_few(entries):
        return entries[:-1] if len(entries) > 1 else entries

    def unknown(entries):
        return [{**e, "stance": "maybe"} for e in entries] if len(entries) > 1 else entries

    def backwards(entries):
        return entries[::-1]

    for spoil in (twice_the_same, too_few, unknown):
        with LabellingServer(tiny, spoil) as server:
            assert label(server, batch=3).shape == (8, 8)
            assert server.sizes[1] == 5, spoil  # each distinct reaction, alone
    with LabellingServer(tiny, twice_the_same) as server:
        assert (label(server, batch=3) == right).all()
    with LabellingServer(tiny, backwards) as server:
        label(server, batch=3)
        assert server.sizes[1] == 0  # the numbers say which is which


def test_a_reaction_without_a_usable_answer_is_raised_never_guessed(tiny):
    def never(entries):
        return [{**e, "id": 7} for e in entries]

    with LabellingServer(tiny, never) as server, pytest.raises(UnusableAnswersError) as raised:
        label(server)
    assert "5 of 5 reactions" in str(raised.value)
    assert raised.value.indices == (0, 1, 2, 3, 4)


def test_the_schema_takes_what_is_asked_for_and_nothing_else():
    entry = {"id": 1, **{d.name: d.labels[0] for d in DIMENSIONS}}
    assert mismatch({"labels": [entry]}, schema(1)) is None
    assert mismatch({"labels": [entry]}, schema(2))
    assert mismatch({"labels": [{**entry, "stance": "maybe"}]}, schema(1))
    assert mismatch({"labels": [{k: v for k, v in entry.items() if k != "intent"}]}, schema(1))


def test_names(tiny):
    with pytest.raises(MfenvError, match="llm needs a backbone"):
        from_spec()
    with pytest.raises(MfenvError, match="cannot be asked for JSON"):
        from_spec("embedded-en")
    with LabellingServer(tiny) as server:
        named = build_annotator(f"llm:openai:tiny@{server.url}")
        assert named.name.startswith("llm:openai:tiny")


def test_the_command_labels_and_compares(tiny, tmp_path, capsys):
    events = SyntheticSociety(5).events(2, n_posts=12)
    write_jsonl(events, tmp_path / "events.jsonl")
    out = tmp_path / "labelled.jsonl"
    assert (
        main(
            ["annotate", str(tmp_path / "events.jsonl"), "--annotator", "exact", "--out", str(out)]
        )
        == 0
    )
    for before, after in zip(events, load_events(out), strict=True):
        assert (before.labels[1:] == after.labels[1:]).all()
    capsys.readouterr()
    with LabellingServer(tiny) as server:
        name = f"llm:openai:tiny@{server.url}"
        arguments = ["--compare", f"exact,{name}", "--limit", "9", "--json"]
        assert main(["annotate", str(tmp_path / "events.jsonl"), *arguments]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["reactions"] == 9
    (kappas,) = result["kappa"].values()
    assert set(kappas) == {*(d.name for d in DIMENSIONS), "mean"}
    assert main(["annotate", str(tmp_path / "events.jsonl"), "--compare", "exact,exact"]) == 0
    assert main(["annotate", "--compare", "nobody"]) == 2
    assert "known: " in capsys.readouterr().err
