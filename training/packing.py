"""Packing a step for training: one shared prefix with the step's n actions behind it.

Block-diagonal attention and reset positions make every action see the prefix and itself only, as
if each stood alone behind its own copy of the prompt, but the prefix is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["IGNORED", "Packed", "collate", "pack"]

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Packed:
    """One packed sequence of length L: arrays ``(L,)``."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    segments: NDArray[np.int64]  # 0 is the prefix, 1..n its continuations
    targets: NDArray[np.int64]  # the token to predict at this place, or IGNORED
    kind: int = 0  # job of the sequence, for separate losses


def pack(
    prefix: Sequence[int],
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    kind: int = 0,
) -> Packed:
    """Lay ``prompts[i] + completions[i]`` behind one prefix; only completions are targets.

    A prompt may be empty if the prefix ends where the completion begins.
    """
    ids, positions, segments = [list(prefix)], [np.arange(len(prefix))], [np.zeros(len(prefix))]
    targets = [np.full(len(prefix), IGNORED)]
    for s, (prompt, completion) in enumerate(zip(prompts, completions, strict=True), start=1):
        own = [*prompt, *completion]
        ids.append(own)
        positions.append(len(prefix) + np.arange(len(own)))
        segments.append(np.full(len(own), s))
        shifted = np.full(len(own), IGNORED)
        if prompt:
            shifted[len(prompt) - 1 : -1] = completion
        else:
            shifted[:-1] = completion[1:]
            if len(prompts) != 1:
                raise ValueError("an empty prompt needs a prefix of its own")
            targets[0][-1] = completion[0]
        targets.append(shifted)
    return Packed(
        np.concatenate(ids).astype(np.int64),
        np.concatenate(positions).astype(np.int64),
        np.concatenate(segments).astype(np.int64),
        np.concatenate(targets).astype(np.int64),
        kind,
    )


def collate(batch: Sequence[Packed], pad: int) -> dict[str, torch.Tensor]:
    """Pad packed sequences on the right: ids, positions and targets ``(B, L)``, mask ``(B,1,L,L)``.

    The mask is True where a place may look: at earlier places of the prefix and of its own
    segment. Padding looks at itself, so that no row of the softmax is empty. ``lengths (B,)`` are
    those before padding.
    """
    length = max(len(p.ids) for p in batch)

    def padded(name: str, fill: int) -> torch.Tensor:
        out = np.full((len(batch), length), fill, dtype=np.int64)
        for row, packed in zip(out, batch, strict=True):
            values = getattr(packed, name)
            row[: len(values)] = values
        return torch.from_numpy(out)

    segments = padded("segments", -1)
    key, query = segments[:, None, :], segments[:, :, None]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = causal & ((key == query) | ((key == 0) & (query > 0)))
    return {
        "input_ids": padded("ids", pad),
        "position_ids": padded("positions", 0),
        "attention_mask": mask[:, None],
        "targets": padded("targets", IGNORED),
        "lengths": torch.tensor([len(p.ids) for p in batch]),
    }
