"""The report of an IB-Tune run: its curves in one HTML file, and the model card of its result."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agents.backbones.hugging_face import HuggingFaceBackbone
from agents.learned import MEAN_FIELD, has_policy
from mfenv.errors import MissingExtraError
from training.ib_tune.rounds import IBTuneSettings

__all__ = ["verdict", "write_report"]

_PANELS = (
    ("information/history", "I(m; X) at most, nats a mean field"),
    ("information/actions", "I(m; Y | x, s), nats an action"),
    ("relevance", "log-likelihood of the next actions, nats an action"),
    ("reward", "relevance reward (β included)"),
    ("completions/mean_length", "length of a mean field, tokens"),
    ("eval_nll", "validation NLL with the mean field, nats a token"),
    ("eval_gap", "validation: nats an action that the mean field saves"),
    ("eval_kl", "validation KL of short rollouts, nats"),
)
_TABLE = ("nll", "nll_without", "gap", "kl", "mean_field_characters")


def write_report(
    folder: Path,
    out: Path,
    settings: IBTuneSettings,
    backbone: HuggingFaceBackbone,
    events: int,
    unseen: int,
) -> Path:
    """Write ``out/report.html`` and the card ``folder/README.md``; returns the report's path.

    ``folder`` holds the result, ``events`` and ``unseen`` count the training and the validation
    events.
    """
    found = json.loads((folder / "validation.json").read_text())
    curves = [
        json.loads(path.read_text())
        for path in sorted(
            out.glob(f"round-*/mean-field/{MEAN_FIELD.name}/curves.json"),
            key=lambda p: int(p.parts[-4].removeprefix("round-")),
        )
    ]
    lines = [
        f"Backbone {backbone.name} ({backbone.describe()['revision']}). Trained on {events} "
        f"events, chosen on {unseen} validation events, seed {settings.seed}.",
        verdict(found),
        *_kept_policies(found),
    ]
    with_policy = has_policy(str(folder))
    (folder / "README.md").write_text(_card(lines, found, settings, with_policy), encoding="utf-8")
    path = out / "report.html"
    samples = json.loads((out / "samples.json").read_text(encoding="utf-8"))
    path.write_text(_page(lines, found, curves, samples, settings), encoding="utf-8")
    return path


def verdict(found: Mapping[str, Any]) -> str:
    """Which round was chosen, and whether it is better than no tuning at all.

    ``found`` is what ``validation.json`` holds.
    """
    untuned, chosen = found["rounds"][0]["nll"], found["rounds"][found["chosen"]]["nll"]
    text = f"Round {found['chosen']} of {len(found['rounds']) - 1} has the lowest validation NLL"
    if found["better_than_untuned"]:
        return f"{text}, {chosen:.4f}; untuned it is {untuned:.4f}."
    return f"{text}, {chosen:.4f}, but untuned it is {untuned:.4f}: the tuning did not help."


def _kept_policies(found: Mapping[str, Any]) -> list[str]:
    """A sentence for each round whose tuned policy model is not used."""
    return [
        f"In round {k} the tuned policy model made it worse, {row['both']['nll']:.4f} instead of "
        f"{row['mean_field_only']['nll']:.4f}, and the policy model from before was kept."
        for k, row in enumerate(found["measured"], start=1)
        if row["policy_rejected"]
    ]


def _rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = [("untuned", found["rounds"][0])]
    for k, row in enumerate(found["measured"], start=1):
        rows.append((f"round {k}, mean-field model", row["mean_field_only"]))
        if row["both"] is not None:
            unused = " (not used)" if row["policy_rejected"] else ""
            rows.append((f"round {k}, policy model too{unused}", row["both"]))
    return [(name, *(f"{row[k]:.4f}" for k in _TABLE)) for name, row in rows]


def _card(
    lines: Sequence[str], found: Mapping[str, Any], settings: IBTuneSettings, with_policy: bool
) -> str:
    table = [("model", *_TABLE), ("---",) * (len(_TABLE) + 1), *_rows(found)]
    what = (
        "PEFT LoRA adapters of a mean-field model (`mean-field/`) and a policy model (`policy/`)"
        if with_policy
        else "A PEFT LoRA adapter of a mean-field model (`mean-field/`), for the untuned policy "
        "model"
    )
    return "\n".join(
        [
            "# IB-Tune adapters",
            "",
            f"{what}, made by `mfenv train ib-tune`; use it with the method `ib-tune:DIR`.",
            "",
            *lines,
            "",
            "Validation (teacher-forced NLL in nats a token, with and without the mean field; "
            "`gap`: nats an action that the mean field saves; `kl`: rollouts after the warm-up, "
            "real to simulated, mean over the eight dimensions, labels by the annotator):",
            "",
            *("| " + " | ".join(row) + " |" for row in table),
            "",
            "Settings: "
            + ", ".join(f"{k} {v}" for k, v in asdict(settings).items() if k != "policy")
            + ".",
            "",
            "**Limits.** Good for the backbone, language and kind of event that they were trained "
            "on. The figures above chose the round, so they flatter it; measure on other events. "
            "**Licence.** That of the backbone and of the training data.",
            "",
        ]
    )


def _page(
    lines: Sequence[str],
    found: Mapping[str, Any],
    curves: Sequence[Sequence[Mapping[str, Any]]],
    samples: Mapping[str, Sequence[Sequence[str]]],
    settings: IBTuneSettings,
) -> str:
    def table(rows: Sequence[Sequence[str]], tag: str = "td") -> str:
        return "".join(
            "<tr>" + "".join(f"<{tag}>{html.escape(x)}</{tag}>" for x in row) + "</tr>"
            for row in rows
        )

    written = [
        (topic, before, after)
        for (topic, before), (_, after) in zip(samples["untuned"], samples["tuned"], strict=True)
    ]
    picture = base64.b64encode(_picture(curves)).decode()
    shown = [(k, str(v)) for k, v in asdict(settings).items()]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>IB-Tune</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
td, th {{ padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #ddd }}
td {{ vertical-align: top; white-space: pre-line }}
img {{ max-width: 100% }}
</style></head><body>
<h1>IB-Tune</h1>
{"".join(f"<p>{html.escape(x)}</p>" for x in lines)}
<h2>Validation</h2>
<p>Teacher-forced NLL in nats a token with the mean field and without it; the nats an action that it
saves; KL of short rollouts; characters of a mean field.</p>
<table>{table([("model", *_TABLE)], "th")}{table(_rows(found))}</table>
<h2>Curves</h2>
<img alt="curves of the training" src="data:image/png;base64,{picture}">
<h2>Mean fields</h2>
<p>After the warm-up of some validation events.</p>
<table>{table([("topic", "untuned", "tuned")], "th")}{table(written)}</table>
<h2>Settings</h2>
<table>{table(shown)}</table>
</body></html>
"""


def _picture(curves: Sequence[Sequence[Mapping[str, Any]]]) -> bytes:
    """The panels as a PNG; rounds follow each other on the x axis."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("reports", "the report of a training") from error
    figure = Figure(figsize=(12, 10), layout="constrained")
    axes = figure.subplots(4, 2)
    for axis, (name, title) in zip(axes.flat, _PANELS, strict=True):
        start = 0
        for number, log in enumerate(curves, start=1):
            points = [(start + row["step"], row[name]) for row in log if name in row]
            if points:
                style = "o-" if name.startswith("eval") else "-"
                axis.plot(*zip(*points, strict=True), style, ms=3, label=f"round {number}")
            start += max((row["step"] for row in log), default=0)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    axes[0, 0].legend()
    axes[-1, 0].set_xlabel("step")
    axes[-1, 1].set_xlabel("step")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
