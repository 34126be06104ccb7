"""Small untrained checkpoints that tests write themselves and load as a user would."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from agents.backbones.hugging_face import HuggingFaceBackbone
from agents.prompts import TaggedPrompts
from mfenv.dynamics import mean_field_text
from mfenv.events.synthetic.generator import SyntheticSociety
from training.backbone import BackboneConfig, export, new_model
from training.tokenizer import train_tokenizer

TINY = BackboneConfig(
    name="tiny", vocabulary=300, hidden=48, layers=2, heads=3, intermediate=64, steps=8, batch=2
)


def tiny_tokenizer():
    events = SyntheticSociety(77).events(24, n_posts=40)
    return train_tokenizer(
        [[e.topic, *e.posts.texts] for e in events],
        vocabulary=TINY.vocabulary,
        phrases=mean_field_text.phrases("en"),
        min_events=2,
    )


def write_tiny(path: Path, *, tagged: bool = True, spread: float = 8.0) -> Path:
    """A random model whose next-token distributions are far from uniform."""
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = new_model(TINY, tokenizer)
        with torch.no_grad():
            model.model.embed_tokens.weight.mul_(spread)
    export(model, tokenizer, path, TINY, "en")
    if not tagged:
        (path / "mfenv.json").unlink()
    return path


def lively_backbone():
    """A random model whose texts wander and depend on their prompts; those of tied ones do not."""
    tokenizer = tiny_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.4,
        tie_word_embeddings=False, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = Qwen2ForCausalLM(config)
    return HuggingFaceBackbone(model, tokenizer, name="lively", prompts=TaggedPrompts())
