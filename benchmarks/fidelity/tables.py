"""A run's scores as a document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.compare import FLOOR
from benchmarks.fidelity.scores import TURN_STEP, TURN_SWING, TURN_TOLERANCE
from benchmarks.metrics import WIDTH, WINDOWS
from mfenv.labels import DIMENSIONS

__all__ = ["markdown", "show"]

_CALIBRATED = (
    "- `+cal`: calibrated in the warm-up. The reactions of a step are chosen jointly, so their "
    "shares have less sampling noise than independent reactions (those of the other methods and of "
    "the baselines), and the squared error, which subtracts that of independent ones, is too low. "
    "With `+cal+draws=1` they are chosen independently. Its likelihood is the policy model's.",
)


def show(x: Mapping[str, float | None], digits: int = 4, sign: bool = False) -> str:
    """A mean with its interval."""
    form = f"{'+' if sign else ''}.{digits}f"
    if x["low"] is None or x["high"] is None:
        return f"{x['mean']:{form}}"
    return f"{x['mean']:{form}} [{x['low']:{form}}, {x['high']:{form}}]"


def _clear(x: Mapping[str, float | None]) -> bool:
    """Whether an interval excludes 0."""
    low, high = x["low"], x["high"]
    return low is not None and high is not None and (low > 0 or high < 0)


def _verdict(result: Mapping[str, Any]) -> list[str]:
    """Who wins, in words."""
    ranked, paired, nll = result["ranked"], result["paired"], result["nll"]
    best = ranked[0]
    lines = [f"**Rollout: {best} has the lowest mean KL** ({show(result['kl'][best])})."]
    for other in ranked[1:]:
        gap = paired[f"{best} - {other}"]
        word = "clear" if _clear(gap) else "not clear: the interval includes 0"
        lines.append(f"{best} against {other}: {show(gap, sign=True)} ({word}).")
    baseline = result["baseline"]
    for method, row in nll.items():
        if method == baseline or baseline not in nll:
            continue
        gap = row["minus_baseline_per_token"]
        word = f"than that of `{baseline}`: {show(gap, sign=True)} nats a token."
        if _clear(gap):
            lower = "lower" if gap["mean"] < 0 else "higher"
            lines.append(f"Likelihood: the NLL of `{method}` is {lower} {word}")
        else:
            lines.append(f"Likelihood: the NLL of `{method}` is not clearly other {word}")
    return lines


def markdown(result: Mapping[str, Any]) -> str:
    """The result as a document."""
    settings, cases = result["settings"], result["cases"]
    lines = [
        f"# Fidelity: {result['track']}, {result['split']}",
        "",
        *[f"- {line}" for line in _verdict(result)],
        "",
        "## KL to the real population",
        "",
        f"KL(real ‖ simulated) in nats, 0.5 added to every count, mean over three windows of the "
        f"{settings['horizon']} reactions after a warm-up of {settings['warmup']}, eight "
        f"dimensions, {settings['seeds']} seeds and {cases['count']} cases. Brackets: 95% "
        f"bootstrap interval over {cases['groups']} events. Every method has the same number of "
        f"reactions as the real side; the noise floor is real resampled against real at these "
        f"sizes, and excess is the KL minus it. The squared error is that of the expected shares, "
        f"without its sampling part. IQM: interquartile mean over events and seeds.",
        "",
        *_kl_table(result),
        "",
        *_dimension_table(result),
        "",
        "Paired differences of the mean KL:",
        "",
        "| | difference |",
        "|---|---|",
        *(f"| {name} | {show(gap, sign=True)} |" for name, gap in result["paired"].items()),
        "",
        "Probability that a run of the first has a lower KL than one of the other (ties half):",
        "",
        "| | probability |",
        "|---|---|",
        *(f"| {name} | {show(p, 2)} |" for name, p in result["improvement"].items()),
        "",
        *_distance_table(result),
        *_domain_table(result),
        *_group_table(result),
        *_judge_tables(result),
        *_likelihood_table(result),
        *_study_tables(result),
        *_how(result),
    ]
    return "\n".join(lines)


def _names(result: Mapping[str, Any]) -> list[str]:
    return [*result["ranked"], FLOOR]


def _kl_table(result: Mapping[str, Any]) -> list[str]:
    lines = [
        f"| | mean KL | IQM | excess KL | squared error | {' | '.join(WINDOWS)} |",
        "|---|---|---|---|---|" + "---|" * len(WINDOWS),
    ]
    for name in _names(result):
        row = result["kl"][name]
        windows = " | ".join(f"{row['per_window'][w]:.4f}" for w in WINDOWS)
        iqm = show(row["iqm"]) if "iqm" in row else ""
        lines.append(
            f"| {name} | {show(row)} | {iqm} | {show(row['excess'])} | "
            f"{show(row['squared_error'])} | {windows} |"
        )
    return lines


def _dimension_table(result: Mapping[str, Any]) -> list[str]:
    dimensions = [d.name for d in DIMENSIONS]
    return [
        f"| mean KL | {' | '.join(dimensions)} |",
        "|---|" + "---|" * len(dimensions),
        *(
            f"| {name} | "
            + " | ".join(
                f"{result['kl'][name]['per_dimension'][d]['mean']:.4f}" for d in dimensions
            )
            + " |"
            for name in _names(result)
        ),
    ]


_OTHER = {
    "jensen_shannon": "Jensen-Shannon",
    "total_variation": "total variation",
    "wasserstein": "Wasserstein",
    "dtw": "DTW",
    "f1_macro": "macro-F1",
    "f1_micro": "micro-F1",
    "entropy": "label entropy",
}


def _distance_table(result: Mapping[str, Any]) -> list[str]:
    return [
        "Other measures: distances of the windows' shares, of the trajectories of shares (dynamic "
        "time warping, a point for every 16 reactions), agreement of each person's own labels, and "
        "the entropy of what was written (nats).",
        "",
        f"| | {' | '.join(_OTHER.values())} |",
        "|---|" + "---|" * len(_OTHER),
        *(
            f"| {name} | "
            + " | ".join(f"{result['kl'][name][key]['mean']:.4f}" for key in _OTHER)
            + " |"
            for name in result["ranked"]
        ),
        "",
        *_turn_table(result),
        *_diversity_table(result),
    ]


def _turn_table(result: Mapping[str, Any]) -> list[str]:
    turns = {name: result["kl"][name]["turning_points"] for name in result["ranked"]}
    real = next(iter(turns.values()))["real"]
    return [
        f"Turning points of the shares after the warm-up (a movement of {TURN_SWING:g} there and "
        f"back, in a moving average over {WIDTH} steps of {TURN_STEP} reactions; {real:.1f} in a "
        f"real population, over all labels). A hit is one of the same direction at most "
        f"{TURN_TOLERANCE} steps away; those of a population without any trend are chance.",
        "",
        "| | real ones hit | simulated ones that are real | delay of the hits, steps |",
        "|---|---|---|---|",
        *(
            f"| {name} | {_share(row['hit'])} | {_share(row['true'])} | "
            + ("" if row["delay"] is None else f"{row['delay']:+.2f}")
            + " |"
            for name, row in turns.items()
        ),
        "",
    ]


def _share(x: float | None) -> str:
    return "" if x is None else f"{x:.0%}"


def _diversity_table(result: Mapping[str, Any]) -> list[str]:
    if not result.get("diversity"):
        return []
    names = {"distinct_1": "distinct-1", "distinct_2": "distinct-2", "self_bleu": "self-BLEU"}
    return [
        "How varied the texts of a run are (characters in Chinese, words elsewhere), mean over "
        "runs; the last row is what the real people wrote:",
        "",
        f"| | {' | '.join(names.values())} |",
        "|---|" + "---|" * len(names),
        *(
            f"| {name} | "
            + " | ".join(f"{row[key]:.4f}" if key in row else "" for key in names)
            + " |"
            for name, row in result["diversity"].items()
        ),
        "",
    ]


def _domain_table(result: Mapping[str, Any]) -> list[str]:
    if not result["per_domain"]:
        return []
    names = _names(result)
    return [
        "Mean KL by domain, of those with at least ten events:",
        "",
        f"| domain | events | {' | '.join(names)} |",
        "|---|---|" + "---|" * len(names),
        *(
            f"| {domain} | {row['cases']} | " + " | ".join(show(row[n]) for n in names) + " |"
            for domain, row in result["per_domain"].items()
        ),
        "",
    ]


def _group_table(result: Mapping[str, Any]) -> list[str]:
    if "per_group" not in result:
        return []
    names = _names(result)
    return [
        "By event, with intervals over its own segments:",
        "",
        f"| event | segments | {' | '.join(names)} |",
        "|---|---|" + "---|" * len(names),
        *(
            f"| {group} | {row['cases']} | " + " | ".join(show(row[n]) for n in names) + " |"
            for group, row in result["per_group"].items()
        ),
        "",
    ]


def _likelihood_table(result: Mapping[str, Any]) -> list[str]:
    if not result["nll"]:
        return []
    lines = [
        "## Likelihood of the real actions",
        "",
        f"Teacher-forced: nats for each token of the real actions after the warm-up "
        f"({result['tokens']:,} tokens, the end of the text included), given the mean field that "
        f"the real actions led to; paired differences from `{result['baseline']}`, which sees no "
        f"mean field.",
        "",
        "| | nats per token | difference | nats per action | difference |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["nll"].items():
        gaps = [row.get(f"minus_baseline_per_{unit}") for unit in ("token", "action")]
        token, action = (
            "" if gap is None else show(gap, digits, sign=True)
            for gap, digits in zip(gaps, (4, 3), strict=True)
        )
        lines.append(
            f"| {name} | {show(row['per_token'])} | {token} | {show(row['per_action'], 3)} | "
            f"{action} |"
        )
    return [*lines, ""]


def _judge_tables(result: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    if (fixed := result["corrected"]) is not None:
        lines += [
            "## The annotator's own errors",
            "",
            f"Shares corrected for what the annotator is known to confuse (measured on its test "
            f"part; {fixed['silent']:.0%} of the real reactions are silent reposts, which a rule "
            f"reads). The excess KL of the corrected shares, without the bias of sampling; the "
            f"uncertainty of the confusion is part of the interval.",
            "",
            "| | corrected excess KL | against the best |",
            "|---|---|---|",
        ]
        best = fixed["ranked"][0]
        for name in fixed["ranked"]:
            gap = "" if name == best else show(fixed["paired"][f"{best} - {name}"], sign=True)
            lines.append(f"| {name} | {show(fixed['kl'][name])} | {gap} |")
        lines.append("")
    if result["judges"]:
        judges = result["judges"].values()
        lines += [
            "## Under another judge",
            "",
            f"| mean KL | {result['annotator']} | {' | '.join(j['annotator'] for j in judges)} |",
            "|---|---|" + "---|" * len(judges),
        ]
        for name in next(iter(judges))["kl"]:
            cells = " | ".join(show(j["kl"][name]) for j in judges)
            lines.append(f"| {name} | {show(result['kl'][name])} | {cells} |")
        lines.append("")
        for row in result["reversed"]:
            pairs = "; ".join(f"{a} before {b}" for a, b in row["pairs"])
            lines.append(
                f"**The ranking depends on the judge**: under {row['judge']} these pairs stand the "
                f"other way round: {pairs}."
            )
        lines.append("")
    return lines


def _study_tables(result: Mapping[str, Any]) -> list[str]:
    if not result["studies"]:
        return []
    lines = [
        "## One thing changed at a time",
        "",
        "Mean KL and excess over the matched floor, with fewer cases where events are too short.",
        "",
        "| condition | cases | method | mean KL | excess KL | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, study in {"core": result, **result["studies"]}.items():
        shown = next(iter(result["studies"].values()))["kl"]
        for method in (m for m in study["ranked"] if m in shown):
            row = study["kl"][method]
            lines.append(
                f"| {name} | {study['cases']['count']} | {method} | {show(row)} | "
                f"{show(row['excess'])} | {study['seconds']:,.0f} |"
            )
    return [*lines, ""]


def _how(result: Mapping[str, Any]) -> list[str]:
    settings, cases = result["settings"], result["cases"]
    backbones = "; ".join(
        ", ".join(f"{k} {v}" for k, v in sorted(b.items())) for b in result["backbone"]
    )
    half = f", the {cases['half']} half of those that are long enough" if "half" in cases else ""
    left_out = f" ({cases['left_out']} shorter streams are left out)" if cases["left_out"] else ""
    return [
        "## How it was measured",
        "",
        f"- Data: `{result['data']['file']}`, SHA-256 `{result['data']['sha256'][:16]}…`; "
        f"{cases['count']} cases with at least {cases['min_posts']} posts{left_out}{half}, list "
        f"SHA-256 `{cases['sha256'][:16]}…`",
        f"- Backbone: {backbones}",
        f"- Methods: {', '.join(result['methods'])}",
        *(_CALIBRATED if any("+cal" in method for method in result["methods"]) else ()),
        f"- Annotator: {result['annotator']}; sampling: {settings['sampling']}; batch "
        f"{settings['batch']}; seeds 0 to {settings['seeds'] - 1}",
        f"- {result['decisions']:,} decisions in {result['seconds']:,.0f} s on {result['machine']}",
        "",
        "```",
        result["command"],
        "```",
        "",
    ]
