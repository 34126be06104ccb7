"""``mfenv train JOB …``: hands over to the job's module, which alone is imported."""

from __future__ import annotations

from mfenv.cli import Jobs

__all__ = ["HELP", "add_arguments", "run"]

HELP = "train an annotator, a backbone, a baseline on one, a planner, a surrogate, or opinions"

_JOBS = Jobs(
    "train",
    {
        "annotator": ("training.annotator", "the classifier that labels reactions"),
        "backbone": ("training.backbone", "a small causal language model for populations"),
        "heuristics": ("training.heuristics", "planners by rule, and the best fixed schedule"),
        "ib-tune": ("training.ib_tune.command", "mean-field and policy model, by IB-Tune"),
        "mop": ("training.mop", "personas and their gates, for the method mop"),
        "sft": ("training.sft", "an adapter that is fine-tuned on real reactions"),
        "planner-text": ("training.grpo.command", "a language model as planner, by TRL's GRPO"),
        "ngram": ("training.ngram", "an n-gram model as a backbone, counted on NumPy alone"),
        "planner": ("training.planners.command", "which intervention to choose when, with SB3"),
        "surrogate": (
            "training.fit_surrogate.command",
            "a numeric mean field, from episodes of a tier or real events",
        ),
        "opinions": ("training.opinions", "how opinions move, from people who come back"),
    },
    extra="training",
)
add_arguments = _JOBS.add_arguments
run = _JOBS.run
