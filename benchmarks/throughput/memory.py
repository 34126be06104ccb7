"""GPU memory of a served model: its weights, and the keys and values of the sequences that run."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.throughput.workload import BLOCK, Workload
from mfenv.errors import MfenvError

__all__ = ["BYTES", "KNOWN", "Memory", "ModelShape", "read_shape", "sequence_tokens"]

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "fp8": 1}
"""Bytes of a number."""

_GIB = 2**30
_RESERVE = 2.0  # GiB of each GPU for activations, graphs and the runtime: an assumption


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a transformer decides about its memory."""

    layers: int
    kv_heads: int
    head_dim: int
    parameters: float

    def __post_init__(self) -> None:
        if min(self.layers, self.kv_heads, self.head_dim) < 1 or not self.parameters > 0:
            raise MfenvError("layers, kv heads, head dim and parameters must be above 0")

    def token_bytes(self, dtype: str = "bfloat16") -> int:
        """Bytes of one token's keys and values: 2 · layers · kv heads · head dim · bytes."""
        return 2 * self.layers * self.kv_heads * self.head_dim * BYTES[dtype]


# From the models' published configurations.
KNOWN = {
    "Qwen/Qwen2-1.5B-Instruct": ModelShape(28, 2, 128, 1.54e9),
    "Qwen/Qwen2-7B-Instruct": ModelShape(28, 4, 128, 7.62e9),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": ModelShape(64, 8, 128, 32.8e9),
}
"""Shapes of the paper's open backbones."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of one replica."""

    gpu: float = 80.0
    """GiB of one GPU."""
    share: float = 0.9
    """Of it that the server may use (``--gpu-memory-utilization``)."""
    gpus: int = 1
    """GPUs of one replica (tensor parallel)."""
    dtype: str = "bfloat16"
    kv_dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        if not (self.gpu > 0 and 0 < self.share <= 1 and self.gpus >= 1):
            raise MfenvError("GPU memory must be above 0, its share in (0, 1], GPUs at least 1")
        for name in (self.dtype, self.kv_dtype):
            if name not in BYTES:
                raise MfenvError(f"dtype {name!r} is not allowed; allowed: {', '.join(BYTES)}")

    def cache_tokens(self, shape: ModelShape) -> int:
        """Tokens whose keys and values fit beside the weights.

        Raises ``MfenvError`` with what would help where the weights alone do not fit.
        """
        room = self.gpus * (self.gpu * self.share - _RESERVE) * _GIB
        left = room - shape.parameters * BYTES[self.dtype]
        if left <= 0:
            weights = shape.parameters * BYTES[self.dtype] / _GIB
            each = self.gpu * self.share - _RESERVE
            more = (
                f"; allowed: --tensor-parallel {math.ceil(weights / each) + 1}" if each > 0 else ""
            )
            raise MfenvError(
                f"the weights take {weights:.1f} GiB, {max(0.0, room / _GIB):.1f} GiB are "
                f"there{more}, or a GPU with more memory (--gpu-memory)"
            )
        return int(left // shape.token_bytes(self.kv_dtype))


def sequence_tokens(workload: Workload) -> float:
    """Tokens of the cache that an acting agent needs at its longest, in whole blocks.

    The beginning that a step's agents share is held once for all of them.
    """
    act = workload.act
    later = act.known > 0  # all but the first of each step
    own = int((act.prompt - act.known)[later].max(initial=0)) or int(act.prompt.max(initial=0))
    own += int(act.written.max(initial=0))
    shared = float(act.known.max(initial=0)) / workload.batch
    return BLOCK * math.ceil(own / BLOCK) + shared


def read_shape(path: Path) -> ModelShape:
    """The shape in a ``config.json`` of a Hugging Face model of the Llama and Qwen2 kind.

    Parameters are counted: embeddings, and in each layer the four projections of the attention,
    the three of a gated feed-forward part, and two norms.
    """
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise MfenvError(f"{path}: this file is no JSON ({error})") from None
    if not isinstance(config, dict):
        raise MfenvError(f"{path}: this file must hold one object, the model's configuration")

    def number(name: str, default: int | None = None) -> int:
        value = config.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise MfenvError(f"{path}: {name} must be a whole number above 0, not {value!r}")
        return value

    hidden, layers, heads = (
        number(name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")
    )
    kv, head = number("num_key_value_heads", heads), number("head_dim", max(1, hidden // heads))
    inner, vocabulary = number("intermediate_size"), number("vocab_size")
    layer = hidden * head * (2 * heads + 2 * kv) + 3 * hidden * inner + 2 * hidden
    tied = config.get("tie_word_embeddings", False)
    parameters = vocabulary * hidden * (1 if tied else 2) + layers * layer + hidden
    return ModelShape(layers, kv, head, float(parameters))
