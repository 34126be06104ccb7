"""IB-Tune's step for the mean-field model, on TRL's REINFORCE leave-one-out trainer.

    R(m) = β · mean_i log π(a*_i | x, m, s_i) − (log q(m | X) − log r(m))

(DESIGN.md, section 3.) TRL draws a group of candidates m for each history X, takes a reward
function (:mod:`training.ib_tune.relevance`) and subtracts the log-ratio of the whole sequence to a
reference model, which is what the objective asks for, but for one thing: its reference reads the
same prompt. Here it is the prior r(m), which reads the bare instruction and the topic alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from datasets import Dataset
from trl import RLOOConfig, RLOOTrainer
from trl.trainer.utils import add_fused_lm_head, pad

from agents.backbones.adapters import same_weights
from agents.backbones.hugging_face import HuggingFaceBackbone
from agents.backbones.sampling import Sampling
from agents.backbones.token_grammar import TokenGrammar
from agents.policy import BackbonePolicy
from mfenv.errors import MfenvError, MissingExtraError
from mfenv.noise import NoiseKey
from training.ib_tune.relevance import Relevance

__all__ = ["IBTuneConfig", "IBTuneTrainer", "check_vllm"]


def check_vllm(backbone: HuggingFaceBackbone, languages: Sequence[str]) -> None:
    """Raise ``MfenvError`` if vLLM cannot write the mean fields of this backbone, or is absent.

    It does not know the grammars of :mod:`agents.backbones.token_grammar`: what it draws would not
    come from the distribution that is trained.
    """
    if any(backbone.prompts.summary_grammar(x) is not None for x in languages):
        raise MfenvError(
            f"backbone {backbone.name!r} holds its mean fields to a grammar that vLLM does not "
            "know; leave --vllm off (our own decoder reads a group's prompt once), or use a "
            "backbone that writes free text"
        )
    if find_spec("vllm") is None:
        raise MissingExtraError("vllm", "generation by vLLM (--vllm)")


@dataclass
class IBTuneConfig(RLOOConfig):  # type: ignore[misc]
    """Arguments of :class:`IBTuneTrainer`; those of TRL's ``RLOOConfig`` and these."""

    relevance_weight: float = field(
        default=10.0,
        metadata={"help": "β: nats of the mean field that a nat an action is worth; 0 or more"},
    )
    relevance_warmup: float = field(
        default=0.0,
        metadata={"help": "share of the steps in which β rises linearly from 0"},
    )
    future_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of the auxiliary loss, the likelihood of mean fields that state the "
            "distributions of the next steps (nats a token); 0 is off"
        },
    )
    beta: float = field(
        default=1.0,
        metadata={"help": "weight of log q(m|X) − log r(m); 1 is the objective"},
    )
    num_generations: int | None = field(
        default=8, metadata={"help": "candidate mean fields for one history; 2 or more"}
    )
    max_completion_length: int | None = field(
        default=200, metadata={"help": "tokens of a mean field at most"}
    )

    def __post_init__(self) -> None:
        """Check what TRL does not."""
        if self.relevance_weight < 0:
            raise MfenvError(
                f"relevance_weight {self.relevance_weight} is not allowed; allowed: 0 or more"
            )
        if self.future_weight < 0:
            raise MfenvError(
                f"future_weight {self.future_weight} is not allowed; allowed: 0 or more"
            )
        if not 0 <= self.relevance_warmup <= 1:
            raise MfenvError(
                f"relevance_warmup {self.relevance_warmup} is not allowed; allowed: 0 to 1"
            )
        if self.num_generations is None or self.num_generations < 2:
            raise MfenvError(
                f"num_generations {self.num_generations} is not allowed; allowed: 2 or more, "
                "since a candidate is compared with the others of its group"
            )
        super().__post_init__()


class IBTuneTrainer(RLOOTrainer):  # type: ignore[misc]
    """Trains a mean-field model by the information bottleneck.

    Rows of ``train_dataset`` are those of :func:`training.datasets.mean_field_histories` with
    their ``bare`` log-probabilities. Where the backbone holds its mean fields to a grammar, q and r
    are the distributions under it, and candidates are drawn from it.
    """

    _tag_names = ("trl", "rloo", "ib-tune")
    _name = "IB-Tune"
    control: Any

    def __init__(
        self,
        backbone: HuggingFaceBackbone,
        *,
        policy: BackbonePolicy,
        args: IBTuneConfig,
        train_dataset: Dataset,
        prior: HuggingFaceBackbone | None = None,
        peft_config: Any = None,
        validate: Callable[[HuggingFaceBackbone], dict[str, float]] | None = None,
        eval_dataset: Dataset | None = None,
        callbacks: Any = None,
    ) -> None:
        """Without ``peft_config`` all weights are trained, of a copy of the backbone's.

        ``prior`` is the model r(m) (default: the backbone as it is now), ``policy`` scores the
        actions; both stay as they are. ``validate`` takes the mean-field model as it is and gives
        the figures of an evaluation. Raises ``MfenvError`` where ``args.use_vllm`` cannot be.
        """
        languages = train_dataset.unique("language")
        if args.use_vllm:
            check_vllm(backbone, languages)
        model = backbone.model
        if peft_config is None:
            trained = copy.deepcopy(model).requires_grad_(True)
        else:
            trained = same_weights(model)
        warmup = args.relevance_warmup

        def schedule(done: float) -> float:
            return 1.0 if warmup == 0 else min(1.0, done / warmup)

        # TRL would load a reference by the model's name, or take one with the same prompt.
        weight, args.beta = args.beta, 0.0
        try:
            super().__init__(
                model=trained,
                reward_funcs=[Relevance(policy, args.relevance_weight, schedule)],
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=backbone.tokenizer,
                callbacks=callbacks,
                peft_config=peft_config,
            )
        except OSError as error:  # of the HTTP client
            if not (args.use_vllm and args.vllm_mode == "server"):
                raise
            raise MfenvError(
                f"no vLLM server answers at {args.vllm_server_host}:{args.vllm_server_port}; start "
                "one as the files in training/configs say, or use --vllm colocate"
            ) from error
        args.beta = self.beta = weight
        self._reference = backbone if prior is None else prior
        if weight != 0.0:
            reference = same_weights(self._reference.model).eval()
            add_fused_lm_head(reference, temperature=self.temperature)
            self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)
        self.backbone = backbone
        """The backbone that is tuned, as it was: its prompts and its tokenizer."""
        self.tuned = HuggingFaceBackbone(
            self.accelerator.unwrap_model(self.model).get_base_model()
            if peft_config is not None
            else self.accelerator.unwrap_model(self.model),
            backbone.tokenizer,
            name=f"{backbone.name}+ib-tune",
            prompts=backbone.prompts,
        )
        """The model in training, as a backbone."""
        self._validate = validate
        self._prior_ids: list[list[int]] = []
        form = backbone.prompts.summary_grammar(languages[0])
        self._form = form
        self._grammar: TokenGrammar | None = None
        if form is not None:
            if len(languages) > 1:
                raise MfenvError(f"histories in several languages: {', '.join(languages)}")
            self._grammar = backbone.token_grammar(form)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None in each checkpoint: it would say nothing."""

    # -- generation ------------------------------------------------------------------------

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.backbone.prompt_ids(p) for p in prompts], None, {}

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any
    ) -> list[list[int]]:
        """Candidates by our own decoder: it reads a group's prompt once and knows the grammar."""
        elsewhere = self.use_vllm or self.use_transformers_continuous_batching
        if elsewhere or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            written: list[list[int]] = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields
            )
            return written
        sampling = Sampling(
            self.temperature,
            self.top_p,
            self.top_k,
            self.repetition_penalty,
            self.max_completion_length,
        )
        first = self.accelerator.process_index * len(prompt_ids)
        keys = [
            NoiseKey(self.args.seed, first + i, self.state.global_step)
            for i in range(len(prompt_ids))
        ]
        model, training = self.tuned.model, self.model.training
        model.eval()
        try:
            draw = self.tuned.sampler(sampling, keys, grammar=self._form)
            return self.tuned.write(prompt_ids, keys, draw, sampling.max_new_tokens)
        finally:
            model.train(training)

    # -- the two log-probabilities ---------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._prior_ids = [self.backbone.prompt_ids(x["prior_prompt"]) for x in inputs]
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.beta != 0.0:
            # An upper bound of I(m; X): whatever r is, E log q/r ≥ I (Barber and Agakov).
            metrics = self._metrics["train" if self.model.training else "eval"]
            length = metrics["completions/mean_length"][-1]
            metrics["information/history"].append(metrics["kl"][-1] * length)
        if self.args.future_weight > 0:
            texts = [x["future"][i % len(x["future"])] for i, x in enumerate(inputs)]
            ids = [torch.tensor(self.backbone.completion_ids(t)) for t in texts]
            real = pad([torch.ones_like(x) for x in ids], padding_value=0)
            output["future_ids"] = pad(ids, padding_value=self._tokenizer.pad_token_id)
            output["future_mask"] = real
        return output

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss: torch.Tensor = super()._compute_loss(model, inputs)
        if "future_ids" in inputs:
            nats = self._future_loss(model, inputs)
            mode = "train" if self.model.training else "eval"
            self._metrics[mode]["future"].append(float(nats.detach()))
            loss = loss + self.args.future_weight * nats
        return loss

    def _future_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """-log q (nats a token) of mean fields that state what comes next, behind the histories.

        The long-horizon consistency of MF-MDP (arXiv 2604.05516) in the mean field's own words:
        each candidate's row takes another of the next K steps.
        """
        device = inputs["prompt_ids"].device
        ids, real = inputs["future_ids"].to(device), inputs["future_mask"].to(device)
        logps, _, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([inputs["prompt_ids"], ids], dim=1),
            torch.cat([inputs["prompt_mask"], real], dim=1),
            ids.shape[1],
        )
        nats: torch.Tensor = -(logps * real).sum() / real.sum()
        return nats

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **rest: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        if model is self.ref_model:
            input_ids, attention_mask = self._behind_the_prior(
                input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:]
            )
        if self._grammar is None:
            plain: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None] = (
                super()._get_per_token_logps_and_entropies(
                    model,
                    input_ids,
                    attention_mask,
                    logits_to_keep,
                    batch_size,
                    compute_entropy,
                    **rest,
                )
            )
            return plain
        tokens, real = input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:].bool()
        states = self._grammar.states(tokens)
        logps = torch.zeros(tokens.shape, device=tokens.device)
        entropies = torch.zeros_like(logps)
        for rows, logits in self._logits(model, input_ids, attention_mask, logits_to_keep):
            # Row after row, in the order of ``rows``: the places that the logits belong to.
            row = torch.tensor(rows, device=tokens.device).repeat_interleave(real[rows].sum(1))
            column = torch.cat([torch.nonzero(real[i])[:, 0] for i in rows])
            allowed = self._grammar.forbid(
                logits.float() / self.temperature, states[row.cpu(), column.cpu()]
            )
            log_p = allowed.log_softmax(-1)
            chosen = log_p.gather(1, tokens[row, column][:, None])[:, 0]
            logps = logps.index_put((row, column), chosen)
            if compute_entropy:
                entropies[row, column] = torch.special.entr(log_p.detach().exp()).sum(-1)
        return logps, entropies if compute_entropy else None, None

    def _logits(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, length: int
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Logits ``(N, V)`` at the real ones of the last ``length`` tokens, for some rows a part.

        On one device the prompt that a group of candidates shares is read once.
        """
        real = attention_mask.bool()
        if self.accelerator.num_processes == 1:
            before, after = (
                [ids[m].tolist() for ids, m in zip(input_ids[:, part], real[:, part], strict=True)]
                for part in (slice(None, -length), slice(-length, None))
            )
            reader = self._reference if model is self.ref_model else self.tuned
            packed = reader.packed_logits(before, after)
            if packed is not None:
                yield from packed
                return
        with self.accelerator.autocast():
            logits = model(
                input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=length + 1
            ).logits[:, :-1]
        yield list(range(len(input_ids))), logits[real[:, -length:]]

    def _behind_the_prior(
        self, completions: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same completions behind the prior's prompts, and what of it is real."""
        device = completions.device
        prompts = [torch.tensor(ids) for ids in self._prior_ids]
        ids = pad(prompts, padding_value=self._tokenizer.pad_token_id, padding_side="left")
        real = pad([torch.ones_like(p) for p in prompts], padding_value=0, padding_side="left")
        return (
            torch.cat([ids.to(device), completions], dim=1),
            torch.cat([real.to(device), mask], dim=1),
        )

    # -- evaluation ------------------------------------------------------------------------

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The figures of ``validate`` for the model as it is, as ``eval_…``."""
        metrics: dict[str, float] = {}
        if self._validate is not None:
            training = self.model.training
            self.tuned.model.eval()
            metrics = {f"eval_{k}": v for k, v in self._validate(self.tuned).items()}
            self.tuned.model.train(training)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics
