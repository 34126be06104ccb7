"""A backbone with a PEFT adapter, beside the same backbone without it.

Both share the weights: the adapted model is a second tree of modules over the same tensors, and
only that tree gets adapter layers. Nothing has to be switched on or off, and what the plain
backbone computes does not change by a bit.
"""

from __future__ import annotations

import copy
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from agents.backbones.base import Backbone
from agents.backbones.hugging_face import HuggingFaceBackbone
from agents.learned import ADAPTER, Kind, check_folder
from mfenv.errors import MfenvError

__all__ = ["adapted", "local", "same_weights"]


def local(backbone: Backbone) -> HuggingFaceBackbone:
    """The backbone, if it is a model in this process; an error that says what to do if not."""
    if isinstance(backbone, HuggingFaceBackbone):
        return backbone
    raise MfenvError(
        f"backbone {backbone.name!r} is no Hugging Face model in this process, so it takes no "
        f"adapter; use hf:PATH, or let the server load the adapter and use it as a backbone of its "
        f"own with the method 'state'"
    )


def same_weights(model: Any) -> Any:
    """A copy of a model's modules and configuration over the very same tensors."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, tensors)


def adapted(
    backbone: Backbone, folder: str, kind: Kind = ADAPTER
) -> tuple[HuggingFaceBackbone, str]:
    """The backbone with the adapter in ``folder``, and the adapter's revision.

    The same backbone and adapter give the same object, so that policies on it are equal. Raises
    ``MfenvError`` for a folder that holds no adapter of this kind, or that of another backbone.
    """
    path, revision = check_folder(folder, kind, backbone)
    return _adapted(local(backbone), path, revision, kind.method), revision


@lru_cache(maxsize=8)
def _adapted(
    backbone: HuggingFaceBackbone, path: Path, revision: str, method: str
) -> HuggingFaceBackbone:
    from peft import PeftModel

    try:
        with warnings.catch_warnings():  # transformers warns of a property that PEFT reads
            warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
            model = PeftModel.from_pretrained(same_weights(backbone.model), str(path))
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise MfenvError(f"the adapter in {path} cannot be loaded: {reason}") from error
    return HuggingFaceBackbone(
        model.get_base_model(),
        backbone.tokenizer,
        name=f"{backbone.name}+{method}",
        revision=f"{backbone.describe()['revision']}+{revision}",
        prompts=backbone.prompts,
        reuse_prefixes=backbone.reuse_prefixes,
    )
