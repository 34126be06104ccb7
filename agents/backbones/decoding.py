"""Reading prompts and writing tokens with a ``transformers`` model, a batch at a time.

A prefix that rows share is read once and its keys and values are handed to every row; rows that
have finished leave the batch. Pads stand to the left of the prefix and to the left of the rest, and
positions count real tokens only, so that what a row computes does not depend on its neighbours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from agents.backbones.prefixes import PrefixGroup, common_prefix

__all__ = [
    "Draw",
    "KeptPrefixes",
    "Opened",
    "Reading",
    "batches",
    "decode",
    "open_prefixes",
    "pad_left",
    "read",
    "read_completions",
    "read_packed",
    "shares_prefixes",
]

Draw = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits ``(b, V)``, row numbers ``(b,)``, what they wrote so far ``(b, t)`` → tokens ``(b,)``."""

_SIMILAR = 0.7  # lengths from this part of the longest on are read together
_PART = 8  # rows (or packed sequences) that are read together
_PACKED = 512  # tokens that are packed behind one prefix
_LEAVE = 0.9  # finished rows leave when the active ones are no more than this part of the batch


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer with room for tokens to come, so that a new token copies nothing but itself."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append states ``(B, heads, new, width)``; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        held, new = self.keys.shape[-2], key_states.shape[-2]
        if self._buffers is None or held + new > self._buffers[0].shape[-2]:
            self._hold(self.keys, self.values, held + new + self._room)
        assert self._buffers is not None
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, held : held + new] = states
        self.keys, self.values = (b[:, :, : held + new] for b in self._buffers)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Keep the rows ``beam_idx``, each as often as it stands there."""
        if self._buffers is None:
            return
        held = self.keys.shape[-2]
        keys, values = (b.index_select(0, beam_idx) for b in self._buffers)
        self._buffers = (keys, values)
        self.keys, self.values = keys[:, :, :held], values[:, :, :held]

    def _hold(self, keys: torch.Tensor, values: torch.Tensor, size: int) -> None:
        held = keys.shape[-2]
        buffers = []
        for states in (keys, values):
            buffer = states.new_empty(*states.shape[:-2], size, states.shape[-1])
            buffer[:, :, :held] = states
            buffers.append(buffer)
        self._buffers = (buffers[0], buffers[1])
        self.keys, self.values = (b[:, :, :held] for b in self._buffers)


def _cache(model: Any, room: int) -> Cache:
    """An empty cache of the model's kinds of layers; attention layers get room for new tokens."""
    cache = DynamicCache(config=model.config)
    cache.layers = [_RoomyLayer(room) if type(x) is DynamicLayer else x for x in cache.layers]
    return cache


@dataclass(slots=True)
class Opened:
    """Prefixes that have been read, a row each, with pads to their left."""

    cache: Cache
    mask: torch.Tensor  # (G, L) of real tokens; L may be 0


class Pick(NamedTuple):
    """Which kept prefix a prompt goes on from, and how many of its tokens they share."""

    part: int
    row: int
    length: int


class KeptPrefixes:
    """Keys and values of prefixes that one call has read, for a call that follows it.

    Each has an owner, and only prompts of that owner may go on from it: what a prompt meets does
    not depend on what else a backbone has done before.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Opened, list[tuple[torch.Tensor, torch.Tensor]]]] = []
        self._entries: dict[Hashable, list[tuple[Sequence[int], int, int]]] = {}

    def add(
        self, opened: Opened, prefixes: Sequence[Sequence[int]], owners: Sequence[Hashable]
    ) -> None:
        """Keep opened prefixes: the tokens and the owner of each row. Nothing is copied."""
        layers = opened.cache.layers
        if not opened.mask.shape[1] or not all(type(x) is _RoomyLayer for x in layers):
            return
        self._parts.append((opened, [(x.keys, x.values) for x in layers]))
        for row, (tokens, owner) in enumerate(zip(prefixes, owners, strict=True)):
            entry = (tokens, len(self._parts) - 1, row)
            self._entries.setdefault(owner, []).append(entry)

    def match(self, prompts: Sequence[Sequence[int]], owners: Sequence[Hashable]) -> list[Pick]:
        """What each prompt can go on from."""
        result = []
        for prompt, owner in zip(prompts, owners, strict=True):
            best = Pick(0, 0, 0)
            for tokens, part, row in self._entries.get(owner, ()):
                # A prompt keeps at least its last token as its own.
                length = common_prefix(prompt, tokens, min(len(prompt) - 1, len(tokens)))
                if length > best.length:
                    best = Pick(part, row, length)
            result.append(best)
        return result

    def open(self, model: Any, picks: Sequence[Pick], room: int) -> Opened:
        """Prefixes to go on from, a row for each of some picks that :meth:`match` made."""
        width = max(pick.length for pick in picks)
        some = self._parts[0][1][0][0]
        cache = _cache(model, room)
        lengths = torch.tensor([pick.length for pick in picks], device=some.device)
        column = torch.arange(width, device=some.device)
        mask = (column >= width - lengths[:, None]).long()
        if not width:
            return Opened(cache, mask)
        for k, layer in enumerate(cache.layers):
            states = []
            for side in (0, 1):
                out = some.new_zeros(len(picks), some.shape[1], width, some.shape[3])
                for number in sorted({pick.part for pick in picks}):
                    at = [i for i, pick in enumerate(picks) if pick.part == number]
                    opened, kept = self._parts[number]
                    rows = torch.tensor([picks[i].row for i in at], device=some.device)
                    # Real tokens stand on the right; the wanted ones are the first of them.
                    first = opened.mask.shape[1] - opened.mask[rows].sum(1)
                    place = (first - width + lengths[at])[:, None] + column
                    source = kept[k][side][rows]
                    index = place.clamp(min=0)[:, None, :, None].expand(
                        -1, source.shape[1], -1, source.shape[3]
                    )
                    out[at] = source.gather(2, index)
                states.append(out)
            layer.update(*states)
        return Opened(cache, mask)


@dataclass(slots=True)
class Reading:
    """A batch that has been read."""

    logits: torch.Tensor  # (B, V) behind each prompt
    cache: Cache
    mask: torch.Tensor  # (B, L) of real tokens
    rows: list[int]  # which prompt each row is


def shares_prefixes(model: Any, longest: int) -> bool:
    """Whether prefixes can be read once: attention alone, and no window that ``longest`` exceeds.

    A recurrent layer would carry the pads between prefix and rest in its state, and a window would
    count them.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ("full_attention",))
    window: int | None = getattr(config, "sliding_window", None)
    if kinds <= {"full_attention"}:
        return True
    if window is None or longest >= window:
        return False
    return kinds <= {"full_attention", "sliding_attention"}


def batches(
    groups: Sequence[PrefixGroup], lengths: Sequence[int], new: int, *, tokens: int, rows: int
) -> Iterator[list[PrefixGroup]]:
    """Put groups of similar length together, as far as ``tokens`` and ``rows`` allow.

    ``lengths`` are the tokens of each row, ``new`` those to come. A group that is too large for a
    batch is cut. A pure function of its arguments.
    """
    batch: list[PrefixGroup] = []
    count = prefix = rest = 0
    order = sorted(groups, key=lambda g: (-g.length, -max(lengths[i] for i in g.rows), g.rows))
    for group in order:
        left = sorted(group.rows, key=lambda i: (-lengths[i], i))
        while left:
            longest = max(rest, lengths[left[0]] - group.length)
            width = max(prefix, group.length) + longest + new
            held = min(rows, tokens // width)
            # Beside much longer prefixes a batch holds few rows of a group with a short one.
            odd = 2 * held < min(rows, tokens // (group.length + longest + new))
            if count and (held <= count or odd):
                yield batch
                batch, count, prefix, rest = [], 0, 0, 0
                continue
            room = max(1, held - count)
            taken, left = left[:room], left[room:]
            batch.append(PrefixGroup(tuple(taken), group.length))
            count, prefix, rest = count + len(taken), max(prefix, group.length), longest
    if batch:
        yield batch


@torch.inference_mode()
def read(
    model: Any,
    prompts: Sequence[Sequence[int]],
    groups: Sequence[PrefixGroup],
    pad: int,
    *,
    room: int = 0,
    opened: Opened | None = None,
) -> Reading:
    """Read the prompts (token ids) of some groups.

    ``room`` is how many tokens will be written behind each; ``opened`` are the groups' prefixes, if
    they have been read.
    """
    rows = [(k, i) for k, g in enumerate(groups) for i in g.rows]
    opened = opened or open_prefixes(model, prompts, groups, pad, room)
    logits, mask = _read_rests(model, prompts, groups, rows, opened.cache, opened.mask, pad)
    return Reading(logits[:, -1], opened.cache, mask, [i for _, i in rows])


@torch.inference_mode()
def read_completions(
    model: Any,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    groups: Sequence[PrefixGroup],
    pad: int,
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Read completions (token ids, at least one each) behind their prompts.

    Prefixes are read once, the rests in parts of similar length. Gives for each part its rows and
    the logits ``(N, V)`` of all tokens of their completions, row after row.
    """
    whole = [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
    rows = [(k, i) for k, g in enumerate(groups) for i in g.rows]
    room = max(len(whole[i]) - groups[k].length for k, i in rows)
    opened = open_prefixes(model, prompts, groups, pad, room)
    rows.sort(key=lambda r: (len(whole[r[1]]) - groups[r[0]].length, r))
    while rows:
        longest = len(whole[rows[-1][1]]) - groups[rows[-1][0]].length
        size = sum(len(whole[i]) - groups[k].length > _SIMILAR * longest for k, i in rows)
        part = rows[-max(size, _PART) :]
        rows = rows[: -len(part)]
        wanted = [len(completions[i]) for _, i in part]
        cache = copy.copy(opened.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]  # the states are shared
        width = max(wanted) + 1
        place = torch.arange(width) - (width - 1)
        chosen = (place < 0) & (place >= -torch.tensor(wanted)[:, None])
        with _only_these(model, chosen.to(model.device)) as pick:
            logits, _ = _read_rests(model, whole, groups, part, cache, opened.mask, pad, width)
        yield [i for _, i in part], pick(logits)


def read_packed(
    model: Any,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    groups: Sequence[PrefixGroup],
    pad: int,
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """The same as :func:`read_completions` in one pass a part, for models that take any mask.

    A group is one sequence: its prefix and behind it the rests of its rows, each of which sees the
    prefix and itself, at the positions that it has behind the prefix alone. Gradients pass.
    """
    whole = [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
    sequences = [piece for g in groups for piece in _pieces(g, whole)]

    def length(g: PrefixGroup) -> int:
        return g.length + sum(len(whole[i]) - g.length for i in g.rows)

    sequences.sort(key=lambda g: (length(g), g.rows))
    while sequences:
        longest = length(sequences[-1])
        size = sum(length(g) > _SIMILAR * longest for g in sequences[-_PART:])
        part, sequences = sequences[-size:], sequences[:-size]
        ids = torch.full((size, longest), pad)
        positions = torch.zeros(size, longest, dtype=torch.long)
        segments = torch.full((size, longest), -1)
        chosen = torch.zeros(size, longest, dtype=torch.bool)
        for k, g in enumerate(part):
            prefix = whole[g.rows[0]][: g.length]
            ids[k, : g.length] = torch.tensor(prefix, dtype=torch.long)
            positions[k, : g.length] = torch.arange(g.length)
            segments[k, : g.length] = 0
            at = g.length
            for segment, i in enumerate(g.rows, start=1):
                rest = whole[i][g.length :]
                end = at + len(rest)
                ids[k, at:end] = torch.tensor(rest)
                positions[k, at:end] = torch.arange(g.length, len(whole[i]))
                segments[k, at:end] = segment
                chosen[k, end - len(completions[i]) - 1 : end - 1] = True
                at = end
        key, query = segments[:, None, :], segments[:, :, None]
        seen = torch.ones(longest, longest, dtype=torch.bool).tril()
        seen = seen & ((key == query) | ((key == 0) & (query > 0)))
        mask = torch.zeros(seen.shape, dtype=model.dtype)
        mask = mask.masked_fill(~seen, torch.finfo(model.dtype).min)[:, None]
        device = model.device
        with _only_these(model, chosen.to(device)) as pick:
            logits = model(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                position_ids=positions.to(device),
                use_cache=False,
            ).logits
        yield [i for g in part for i in g.rows], pick(logits)


def _pieces(group: PrefixGroup, whole: Sequence[Sequence[int]]) -> Iterator[PrefixGroup]:
    """Cut a group so that the rests of each piece have few tokens: attention is quadratic."""
    rows: list[int] = []
    count = 0
    for i in group.rows:
        rest = len(whole[i]) - group.length
        if rows and count + rest > _PACKED:
            yield PrefixGroup(tuple(rows), group.length)
            rows, count = [], 0
        rows.append(i)
        count += rest
    yield PrefixGroup(tuple(rows), group.length)


@contextmanager
def _only_these(
    model: Any, chosen: torch.Tensor
) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Have logits computed only where a mask ``(B, K)`` says: the vocabulary is much of the work.

    Hands out what takes the model's logits and gives those ``(N, V)`` that were asked for: it gives
    ``(1, N, V)``, or all ``(B, K, V)`` if its output layer is called in no usual way.
    """

    def pick(logits: torch.Tensor) -> torch.Tensor:
        return logits[chosen] if logits.shape[:2] == chosen.shape else logits[0]

    def select(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        hidden, *others = inputs
        if hidden.shape[:2] != chosen.shape:
            return None
        return (hidden[chosen][None], *others)

    layer = model.get_output_embeddings()
    if layer is None:
        yield pick
        return
    handle = layer.register_forward_pre_hook(select)
    try:
        yield pick
    finally:
        handle.remove()


@torch.inference_mode()
def open_prefixes(
    model: Any, prompts: Sequence[Sequence[int]], groups: Sequence[PrefixGroup], pad: int, room: int
) -> Opened:
    """Read the prefixes of some groups, a row each; ``room`` tokens will be written behind."""
    cache = _cache(model, room)
    prefixes = [prompts[g.rows[0]][: g.length] for g in groups]
    ids, mask = pad_left(prefixes, pad, model.device)
    if ids.shape[1]:
        model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=_positions(mask),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    return Opened(cache, mask)


def _read_rests(
    model: Any,
    prompts: Sequence[Sequence[int]],
    groups: Sequence[PrefixGroup],
    rows: Sequence[tuple[int, int]],
    cache: Cache,
    prefix_mask: torch.Tensor,
    pad: int,
    keep: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read what follows the prefixes of some rows ``(group, prompt)``, which the cache then holds.

    Returns logits ``(B, keep, V)`` of the last places and the mask ``(B, L)`` of real tokens.
    """
    ids, mask = pad_left([prompts[i][groups[k].length :] for k, i in rows], pad, model.device)
    if prefix_mask.shape[1]:
        index = torch.tensor([k for k, _ in rows], device=model.device)
        cache.reorder_cache(index)
        mask = torch.cat([prefix_mask[index], mask], dim=1)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=_positions(mask)[:, -ids.shape[1] :],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
    ).logits
    return logits, mask


@torch.inference_mode()
def decode(
    model: Any, reading: Reading, draw: Draw, *, ends: Sequence[int], limit: int
) -> list[list[int]]:
    """Write up to ``limit`` tokens behind each row, its end included; in the order of its rows."""
    cache, mask = reading.cache, reading.mask
    device = mask.device
    rows = torch.tensor(reading.rows, device=device)
    active = torch.arange(len(rows), device=device)  # place in the batch of each row still held
    alive = torch.ones(len(rows), dtype=torch.bool, device=device)
    written = torch.full((len(rows), limit), ends[0], device=device)
    length = torch.full((len(rows),), limit, device=device)
    stops = torch.tensor(list(ends), device=device)
    logits = reading.logits
    for t in range(limit):
        tokens = draw(logits, rows[active], written[active, :t])
        written[active, t] = torch.where(alive, tokens, stops[0])
        ended = alive & torch.isin(tokens, stops)
        length[active[ended]] = t + 1
        alive &= ~ended
        left = int(alive.sum())
        if not left or t + 1 == limit:
            break
        if left <= _LEAVE * len(alive):
            stay = alive.nonzero()[:, 0]
            cache.reorder_cache(stay)
            active, mask, tokens, alive = active[stay], mask[stay], tokens[stay], alive[stay]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits = model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=mask.sum(dim=1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    return [w[:n] for w, n in zip(written.tolist(), length.tolist(), strict=True)]


def pad_left(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad on the left: ids and mask ``(B, L)``."""
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), pad)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for k, row in enumerate(rows):
        if row:
            ids[k, length - len(row) :] = torch.tensor(row)
            mask[k, length - len(row) :] = 1
    return ids.to(device), mask.to(device)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)
