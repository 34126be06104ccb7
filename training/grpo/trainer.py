"""TRL's GRPO on decisions of a planner: what is drawn and what it is worth, and nothing else.

Rows of the dataset name a start: ``scenario``, ``seed`` and ``step``. TRL repeats each row for its
group; its ``rollout_func`` plays the episodes (:mod:`training.grpo.episodes`) and gives back
prompts, answers and returns, and the reward function hands the returns over. Advantages, loss and
optimiser are TRL's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from peft import PeftModel
from trl import GRPOConfig, GRPOTrainer

from agents.backbones.hugging_face import HuggingFaceBackbone
from mfenv.envs.social_text import SocialTextEnv
from mfenv.noise import generator
from training.grpo.episodes import Start, decide

__all__ = ["PlannerTrainer", "episode_return", "starts"]

_STREAM = 62  # of the random generator


def starts(env: SocialTextEnv, size: int, seed: int) -> Dataset:
    """``size`` decisions to train on: every scenario about as often as any other.

    Columns ``prompt`` (which start it is: the text that is read comes from the episode),
    ``scenario``, ``seed`` and ``step``.
    """
    rng = generator(_STREAM, seed)
    ids = env.scenarios.ids
    order = [int(i) for _ in range(-(-size // len(ids))) for i in rng.permutation(len(ids))]
    rows = [
        {
            "scenario": ids[i],
            "seed": int(rng.integers(2**31)),
            "step": int(rng.integers(env.horizon)),
        }
        for i in order[:size]
    ]
    return Dataset.from_list(
        [{"prompt": f"{r['scenario']}, seed {r['seed']}, step {r['step']}", **r} for r in rows]
    )


def episode_return(
    prompts: Sequence[str],
    completions: Sequence[str],
    returns: Sequence[float],
    unreadable: Sequence[bool],
    log_metric: Any = None,
    **_: Any,
) -> list[float]:
    """The reward function: each episode's return, as the environment gave it."""
    if log_metric is not None:
        log_metric("unreadable", sum(unreadable) / len(unreadable))
    return [float(x) for x in returns]


class PlannerTrainer(GRPOTrainer):  # type: ignore[misc]
    """Trains a language model as the planner of an environment."""

    _tag_names = ("trl", "grpo", "planner")

    def __init__(
        self,
        backbone: HuggingFaceBackbone,
        env: SocialTextEnv,
        *,
        model: Any,
        args: GRPOConfig,
        train_dataset: Dataset,
    ) -> None:
        """``model`` is trained, a ``PeftModel`` or whole; ``train_dataset`` of :func:`starts`."""
        self.backbone, self._env = backbone, env
        self._starts: list[Start] = []
        super().__init__(
            model=model,
            reward_funcs=[episode_return],
            args=args,
            train_dataset=train_dataset,
            processing_class=backbone.tokenizer,
            rollout_func=_rollout,
        )

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None in each checkpoint: it would say nothing."""

    def planning(self) -> HuggingFaceBackbone:
        """The model as it is now, as a backbone that has read nothing yet."""
        model = self.accelerator.unwrap_model(self.model)
        if isinstance(model, PeftModel):
            model = model.get_base_model()
        name = f"{self.backbone.name}+grpo"
        return HuggingFaceBackbone(
            model, self.backbone.tokenizer, name=name, prompts=self.backbone.prompts
        )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # TRL shows a rollout function the prompts alone.
        self._starts = [Start(x["scenario"], int(x["seed"]), int(x["step"])) for x in inputs]
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return output

    def rollout(self) -> dict[str, Any]:
        """Play the starts of the batch at hand."""
        training = self.model.training
        try:
            decisions = decide(
                self.planning(), self._env, self._starts, temperature=self.temperature
            )
        finally:
            self.model.train(training)
        return {
            "prompt_ids": decisions.prompts,
            "completion_ids": decisions.completions,
            "logprobs": None,
            "returns": decisions.returns.tolist(),
            "unreadable": decisions.unreadable.tolist(),
        }


def _rollout(prompts: Sequence[str], trainer: PlannerTrainer) -> dict[str, Any]:
    return trainer.rollout()
