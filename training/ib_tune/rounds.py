"""IB-Tune in rounds: the mean-field model, then the policy model that reads it, again and again.

In each round everybody is played teacher-forced with the mean-field model as it is (so the old
mean fields are refreshed), the mean-field model is trained for the policy model as it is, and the
policy model is trained on real actions under the new mean fields. What is finished is kept; killed
and repeated, a run goes on from its last checkpoint to the same bytes. Which round counts, and
whether a round's policy model is used, is decided on validation events alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from agents.backbones.adapters import adapted
from agents.backbones.hugging_face import HuggingFaceBackbone
from agents.learned import ADAPTER, MEAN_FIELD, TUNED, describe_folder
from agents.mean_field import BackboneMeanField
from agents.methods import Method
from agents.policy import BackbonePolicy
from mfenv.dynamics.models import Annotator
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from training.backbone import last_checkpoint
from training.datasets import Step, mean_field_histories, policy_examples, teacher_forced
from training.folders import check_settings, in_one_move
from training.ib_tune.relevance import action_log_probabilities
from training.ib_tune.trainer import IBTuneConfig, IBTuneTrainer, check_vllm
from training.ib_tune.validation import Validation
from training.sft import SFTSettings, begin_with, export_adapter, fit_adapter, lora, train

__all__ = ["PRIORS", "VLLM", "IBTuneSettings", "step_arguments", "tune"]

PRIORS = ("frozen", "marginal")
"""The prior r(m): the backbone as it is, or fine-tuned to write mean fields from topics alone."""
VLLM = ("off", "colocate", "server")
"""Who draws candidates: our own decoder, or vLLM in one of TRL's modes."""


@dataclass(frozen=True, slots=True)
class IBTuneSettings:
    """How both models are tuned."""

    rounds: int = 2
    """Rounds at most; it ends earlier when a round does not lower the validation NLL."""
    beta: float = 100.0
    """β: nats of the mean field that a nat an action is worth."""
    beta_warmup: float = 0.1
    """Share of a round's steps in which β rises from 0."""
    group: int = 8
    """Candidate mean fields for one history."""
    histories: int = 4
    """Histories a step."""
    steps: int = 100
    """Optimiser steps of the mean-field model a round."""
    learning_rate: float = 1e-4
    """Of the mean-field model; constant after 5% of warm-up."""
    horizon: int = 1
    """Steps of the population whose actions a mean field is to predict."""
    future: int = 4
    """Steps whose distributions the auxiliary loss looks at."""
    future_weight: float = 0.0
    """Weight of the auxiliary loss (nats a token); 0 is off."""
    prior: str = "frozen"
    """One of :data:`PRIORS`."""
    repetition_penalty: float = 1.0
    """On tokens that a candidate repeats, as the candidates are drawn."""
    r: int = 64
    """Rank of LoRA, of both models."""
    alpha: int = 64
    """LoRA's scale."""
    policy: SFTSettings = field(default_factory=lambda: SFTSettings(steps=200))
    """Training of the policy model in a round, none if its steps are 0; its r and alpha are those
    above."""
    agents: int = 160
    """People of each event that are played at most."""
    batch: int = 16
    """People in a step."""
    seed: int = 0
    """Seed of everything random."""
    save_steps: int = 25
    """Steps between checkpoints, and between validations."""
    report_to: str = "tensorboard"
    """Where the curves go, as ``transformers`` names it."""
    vllm: str = "off"
    """One of :data:`VLLM`. vLLM's draws do not depend on the seed alone: not the same bytes."""


def tune(
    backbone: HuggingFaceBackbone,
    events: Sequence[Event],
    validation: Validation,
    annotator: Annotator,
    settings: IBTuneSettings,
    out: Path,
) -> Path:
    """Run the rounds, or what is left of them; returns the folder for ``ib-tune:DIR``.

    Raises ``MfenvError`` if the events are too short, ``out`` holds another run, or vLLM is asked
    for and cannot be used.
    """
    described = {
        **_settings(settings),
        "events": _fingerprint(events),
        "backbone": backbone.describe(),
    }
    if settings.vllm != "off":
        check_vllm(backbone, sorted({e.language for e in events}))
    check_settings(out, described)
    result = out / "ib-tune"
    if result.exists():
        return result
    untuned = _Models(backbone, None, None)
    figures = [_recorded(out / "untuned.json", lambda: untuned.measured_by(validation))]
    _say_figures("untuned", figures[0])
    models, measured = [untuned], []
    best = 0
    for number in range(1, settings.rounds + 1):
        folder = out / f"round-{number}"
        now, record = _round(models[-1], number, events, validation, annotator, settings, folder)
        models.append(now)
        measured.append(record)
        figures.append(_that_count(record))
        if figures[-1]["nll"] < figures[best]["nll"] or best == 0:
            best = number
        else:
            break
    tuned = models[best]
    if PartialState().is_main_process:
        rows = {
            name: validation.samples(m.policy, m.mean_field)
            for name, m in (("untuned", untuned), ("tuned", tuned))
        }
        # Beside the result and not in it: they quote people.
        text = json.dumps(rows, ensure_ascii=False, indent=1)
        (out / "samples.json").write_text(text + "\n", encoding="utf-8")
    found = {
        "rounds": figures,
        "chosen": best,
        "better_than_untuned": figures[best]["nll"] < figures[0]["nll"],
        "measured": measured,
    }
    folders = {"mean-field": tuned.mean_field_folder, "policy": tuned.policy_folder}
    with in_one_move(result) as part:
        if PartialState().is_main_process:
            for name, source in folders.items():
                if source is not None:
                    shutil.copytree(source, part / name)
            (part / "validation.json").write_text(json.dumps(found, indent=1) + "\n")
            policy = "untuned" if tuned.policy_folder is None else "tuned"
            describe_folder(part, TUNED, backbone, {"chosen": best, "policy": policy})
    return result


@dataclass(frozen=True, slots=True)
class _Models:
    """The backbone and the adapters that are in use."""

    backbone: HuggingFaceBackbone
    mean_field_folder: Path | None
    policy_folder: Path | None

    @property
    def mean_field(self) -> BackboneMeanField:
        if self.mean_field_folder is None:
            return BackboneMeanField(self.backbone)
        return BackboneMeanField(adapted(self.backbone, str(self.mean_field_folder), MEAN_FIELD)[0])

    @property
    def policy(self) -> BackbonePolicy:
        if self.policy_folder is None:
            return BackbonePolicy(self.backbone)
        return BackbonePolicy(adapted(self.backbone, str(self.policy_folder))[0])

    def measured_by(self, validation: Validation) -> dict[str, float]:
        return validation.measure(self.policy, self.mean_field)


def _round(
    models: _Models,
    number: int,
    events: Sequence[Event],
    validation: Validation,
    annotator: Annotator,
    settings: IBTuneSettings,
    out: Path,
) -> tuple[_Models, dict[str, Any]]:
    """The models after a round, and what was measured of them.

    The new policy model is used if the validation NLL is not worse with it than with the one
    before, both under the new mean fields.
    """
    seed = settings.seed + 1000 * number  # of the rounds' data and noise

    def played(now: _Models) -> list[list[Step]]:
        _say(f"round {number}: {len(events)} events are played with the mean fields as they are")
        return list(
            teacher_forced(
                events,
                Method("mf", now.policy, now.mean_field),
                annotator,
                agents=settings.agents,
                batch=settings.batch,
                seed=seed,
            )
        )

    field_folder = out / "mean-field" / MEAN_FIELD.name
    if not field_folder.exists():
        histories = mean_field_histories(
            played(models),
            models.backbone.prompts,
            seed=seed,
            horizon=settings.horizon,
            future=settings.future,
            limit=settings.steps * settings.histories,
        )
        _tune_mean_field(models, histories, validation, settings, seed, out)
    tuned = _Models(models.backbone, field_folder, models.policy_folder)
    sft = settings.policy
    policy_folder = out / "policy" / ADAPTER.name
    if sft.steps > 0 and not policy_folder.exists():
        actions = policy_examples(played(tuned), seed=seed, limit=sft.steps * sft.batch)
        _say(f"round {number}: the policy model is trained on {len(actions)} actions")
        train(
            models.backbone,
            actions,
            sft,
            out / "policy",
            method="mf",
            initial=models.policy_folder,
        )
    both = None if sft.steps == 0 else _Models(models.backbone, field_folder, policy_folder)

    def record() -> dict[str, Any]:
        only = tuned.measured_by(validation)
        after = None if both is None else both.measured_by(validation)
        worse = after is not None and not after["nll"] <= only["nll"]
        return {"mean_field_only": only, "both": after, "policy_rejected": worse}

    found = _recorded(out / "validation.json", record)
    _say_figures(f"round {number}, mean-field model", found["mean_field_only"])
    if both is None:
        return tuned, found
    _say_figures(f"round {number}, both models", found["both"])
    if found["policy_rejected"]:
        _say(
            f"round {number}: the validation NLL is better with the policy model as it was, so "
            "that one is kept"
        )
        return tuned, found
    return both, found


def _that_count(record: Mapping[str, Any]) -> dict[str, float]:
    """A round's figures with the policy model that is used after it."""
    kept = record["both"] is None or record["policy_rejected"]
    figures: dict[str, float] = record["mean_field_only" if kept else "both"]
    return figures


def _tune_mean_field(
    models: _Models,
    histories: Dataset,
    validation: Validation,
    settings: IBTuneSettings,
    seed: int,
    out: Path,
) -> None:
    """Train the mean-field model's adapter into ``out / "mean-field"``."""
    folder, backbone = out / "mean-field", models.backbone
    described = {
        **_settings(settings),
        "method": "ib-tune",
        "examples": _digest(histories["prompt"]),
        "backbone": backbone.describe(),
    }
    check_settings(folder, described)
    columns = ("topic", "language", "states", "actions")
    bare = action_log_probabilities(
        models.policy, [""] * len(histories), **{k: histories[k] for k in columns}
    )
    histories = histories.add_column("bare", [float(x) for x in bare])
    prior = _prior(backbone, histories, settings, out)
    on_gpu = backbone.model.device.type != "cpu"
    warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
    trainer = IBTuneTrainer(
        backbone,
        policy=models.policy,
        prior=prior,
        args=step_arguments(settings, folder / "checkpoints", seed=seed, on_gpu=on_gpu),
        train_dataset=histories,
        eval_dataset=histories.select(range(1)),  # evaluated by what validates, not by its rows
        validate=lambda tuned: validation.measure(models.policy, BackboneMeanField(tuned)),
        peft_config=lora(settings.r, settings.alpha),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Progress)
    if models.mean_field_folder is not None:
        begin_with(trainer.model, models.mean_field_folder)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder / "checkpoints"))
    with in_one_move(folder / MEAN_FIELD.name) as part:
        export_adapter(trainer, part)
        (part / "curves.json").write_text(json.dumps(trainer.state.log_history, indent=1) + "\n")
        describe_folder(part, MEAN_FIELD, backbone, described)


def step_arguments(
    settings: IBTuneSettings, checkpoints: Path, *, seed: int, on_gpu: bool
) -> IBTuneConfig:
    """The trainer's arguments for a round of the mean-field model."""
    return IBTuneConfig(
        output_dir=str(checkpoints),
        relevance_weight=settings.beta,
        relevance_warmup=settings.beta_warmup,
        future_weight=settings.future_weight,
        num_generations=settings.group,
        per_device_train_batch_size=settings.group * settings.histories,
        per_device_eval_batch_size=settings.group,
        max_steps=settings.steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=max(1, settings.steps // 20),
        repetition_penalty=settings.repetition_penalty,
        use_vllm=settings.vllm != "off",
        vllm_mode="server" if settings.vllm == "server" else "colocate",
        gradient_checkpointing=on_gpu,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        eval_strategy="steps",
        eval_steps=settings.save_steps,
        save_steps=settings.save_steps,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_nll",
        greater_is_better=False,
        logging_steps=1,
        log_completions=False,
        report_to=settings.report_to,
        seed=seed,
        data_seed=seed,
        disable_tqdm=True,
    )


def _prior(
    backbone: HuggingFaceBackbone, histories: Dataset, settings: IBTuneSettings, out: Path
) -> HuggingFaceBackbone:
    """The model r(m): the backbone's, or one that has learned the mean fields' marginal."""
    if settings.prior == "frozen":
        return backbone
    written = histories["mean_field"]
    examples = list(zip(histories["prior_prompt"], written, strict=True))
    sft = settings.policy
    folder = fit_adapter(
        backbone,
        examples,
        sft,
        out / "prior",
        kind=MEAN_FIELD,
        described={**asdict(sft), "method": "prior", "examples": _digest(written)},
    )
    return adapted(backbone, str(folder), MEAN_FIELD)[0]


def _recorded(path: Path, record: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What stands in a file, which ``record`` gives where there is none yet."""
    with PartialState().main_process_first():
        if not path.exists():
            text = json.dumps(record(), indent=1) + "\n"
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(path.name + ".part")
            part.write_text(text)
            part.replace(path)
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept


def _say_figures(name: str, figures: Mapping[str, float]) -> None:
    _say(f"{name}: " + ", ".join(f"{k} {v:.4f}" for k, v in figures.items()))


def _settings(settings: IBTuneSettings) -> Mapping[str, Any]:
    for name, value, allowed in (
        ("prior", settings.prior, PRIORS),
        ("vllm", settings.vllm, VLLM),
    ):
        if value not in allowed:
            raise MfenvError(f"{name} {value!r} is unknown; allowed: {', '.join(allowed)}")
    if settings.prior == "marginal" and settings.policy.steps == 0:
        raise MfenvError(
            "the prior 'marginal' is trained for as many steps as the policy model, and those are "
            "0; allowed: policy steps of 1 or more, or the prior 'frozen'"
        )
    return {k: v for k, v in asdict(settings).items() if k != "report_to"}


def _fingerprint(events: Sequence[Event]) -> str:
    return _digest([f"{e.event_id} {len(e.posts)}" for e in events])


def _digest(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return "sha256:" + digest.hexdigest()[:16]


class _Progress(TrainerCallback):  # type: ignore[misc]
    """A line for every tenth step and every validation, in place of all figures of all steps."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "eval_nll" in logs:
            shown = {k.removeprefix("eval_"): v for k, v in logs.items() if k.startswith("eval_")}
        elif "relevance" in logs and state.global_step % 10 == 0:
            names = ("relevance", "information/actions", "information/history")
            shown = {k: logs[k] for k in names if k in logs}
        else:
            return
        figures = ", ".join(f"{k} {float(v):.3f}" for k, v in shown.items())
        _say(f"  step {state.global_step} of {state.max_steps}: {figures}")


def _say(text: str) -> None:
    if PartialState().is_main_process:
        print(text, file=sys.stderr, flush=True)
