"""Folders made to do harm, one case each: what random damage does not find."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dovetail.engine.step.core import EngineCore

from ..tiny import CONFIG, write_checkpoint
from ..tiny_lora import ATTENTION, write_adapter
from .folder_use import add_adapter, make_plan, start, use_model, use_tokenizer
from .trial import run_trial

MILLION, TRILLION = 10**6, 10**12
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 128


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    torch.set_num_threads(1)
    use_model(write_checkpoint(root / "model"))
    base = load_file(root / "model/model.safetensors")
    write_adapter(root / "adapter", base, targets=ATTENTION, rank=4, seed=1)
    return root


@pytest.fixture(scope="module")
def core(root: Path) -> EngineCore:
    core = start(root / "model", enable_lora=True, max_loras=1)
    add_adapter(core, root / "adapter")
    core.remove_adapter("a")
    return core


def copy(folder: Path, to: Path) -> Path:
    """The same files, as links."""
    to.mkdir(exist_ok=True)
    for file in folder.iterdir():
        (to / file.name).symlink_to(file)
    return to


def replace(file: Path, content: bytes | str) -> None:
    file.unlink(missing_ok=True)
    file.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)


def refusal(work: Callable[[], Any], **limits: float) -> str:
    """The error that a user sees, which is one that they can act on."""
    outcome = run_trial(work, **limits)
    assert outcome.problem is None
    assert outcome.message is not None, "it was accepted"
    return outcome.message


SIZES = (
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "head_dim",
)


@pytest.mark.parametrize("number", [5000, MILLION, TRILLION])
@pytest.mark.parametrize("key", SIZES)
def test_absurd_sizes(root: Path, tmp_path: Path, key: str, number: int) -> None:
    folder = copy(root / "model", tmp_path / "m")
    replace(folder / "config.json", json.dumps({**CONFIG, "head_dim": 8, key: number}))
    message = refusal(lambda: start(folder, enable_lora=True))
    assert key in message or "of the wrong shape" in message


@pytest.mark.parametrize("key", SIZES)
def test_absurd_sizes_of_random_weights(root: Path, tmp_path: Path, key: str) -> None:
    """No file contradicts them."""
    folder = copy(root / "model", tmp_path / "m")
    replace(folder / "config.json", json.dumps({**CONFIG, "head_dim": 8, key: TRILLION}))
    assert key in refusal(lambda: start(folder, load_format="dummy"))


@pytest.mark.parametrize("number", [MILLION, TRILLION])
@pytest.mark.parametrize("key", ["max_position_embeddings", "sliding_window"])
def test_absurd_lengths(root: Path, tmp_path: Path, key: str, number: int) -> None:
    """A million tokens is what some models have; more than any has is refused."""
    folder = copy(root / "model", tmp_path / "m")
    replace(folder / "config.json", json.dumps({**CONFIG, "architectures": ["MistralForCausalLM"], key: number}))
    outcome = run_trial(lambda: use_model(folder))
    assert outcome.problem is None
    assert (outcome.message is None) == (number == MILLION)
    assert number == MILLION or f"{key}: Input should be less than or equal to" in str(outcome.message)


def test_more_layers_than_tensors(root: Path, tmp_path: Path) -> None:
    folder = copy(root / "model", tmp_path / "m")
    replace(folder / "config.json", json.dumps({**CONFIG, "num_hidden_layers": 5000}))
    assert "num_hidden_layers 5000" in refusal(lambda: make_plan(folder))


def test_layers_that_the_files_do_not_have(root: Path, tmp_path: Path) -> None:
    folder = copy(root / "model", tmp_path / "m")
    replace(folder / "config.json", json.dumps({**CONFIG, "num_hidden_layers": 20}))
    assert "model.layers.3.input_layernorm.weight" in refusal(lambda: start(folder))


def test_random_weights_beyond_the_memory(root: Path, tmp_path: Path) -> None:
    folder = copy(root / "model", tmp_path / "m")
    sizes = {"num_hidden_layers": 100, "hidden_size": 2**20, "intermediate_size": 2**24, "head_dim": 128}
    replace(folder / "config.json", json.dumps({**CONFIG, **sizes}))
    assert "are free" in refusal(lambda: start(folder, load_format="dummy"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_attention_heads", 0),
        ("num_attention_heads", -6),
        ("num_attention_heads", "6"),
        ("num_attention_heads", True),
        ("num_attention_heads", [6]),
        ("num_attention_heads", float("inf")),
        ("num_attention_heads", float("nan")),
        ("num_key_value_heads", "2"),
        ("num_key_value_heads", False),
        ("num_hidden_layers", 2.5),
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", -1e-5),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", 1e30),
        ("rms_norm_eps", "1e-5"),
        ("rope_theta", 0),
        ("rope_theta", float("inf")),
        ("rope_theta", -10000.0),
        ("rope_scaling", "yarn"),
        ("rope_scaling", {**LLAMA3, "factor": float("nan")}),
        ("rope_scaling", {**LLAMA3, "factor": True}),
        ("rope_scaling", {**LLAMA3, "high_freq_factor": 0.5}),
        ("rope_scaling", {**LLAMA3, "original_max_position_embeddings": "128"}),
        ("rope_scaling", {"type": ["linear"], "factor": 2}),
        ("rope_scaling", {"type": "longrope", "long_factor": "x" * 4, "short_factor": [1.0] * 4}),
        ("rope_scaling", {"type": "longrope", "long_factor": [0, 1, 1, 1], "short_factor": [1.0] * 4}),
        ("hidden_act", "\x1b[31mevil\n"),
        ("hidden_act", 5),
        ("tie_word_embeddings", "yes"),
        ("architectures", "LlamaForCausalLM"),
        ("architectures", {"LlamaForCausalLM": 1}),
        ("eos_token_id", ["x"]),
        ("eos_token_id", [[255]]),
        ("eos_token_id", 1.5),
        ("quantization_config", [1]),
        ("quantization_config", {"quant_method": ["awq"]}),
        ("quantization_config", {"quant_method": "x\n\x1b]0;t\x07"}),
        ("torch_dtype", 16),
        ("matryoshka_dimensions", "all"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_nonsense_values(root: Path, tmp_path: Path, key: str, value: Any) -> None:
    folder = copy(root / "model", tmp_path / "m")
    replace(folder / "config.json", json.dumps({**CONFIG, key: value}))
    if key == "matryoshka_dimensions":
        replace(folder / "modules.json", "[]")
    refusal(lambda: start(folder))


def test_token_ids_beyond_the_vocabulary_end_nothing(root: Path, tmp_path: Path) -> None:
    folder = copy(root / "model", tmp_path / "m")
    replace(folder / "generation_config.json", json.dumps({"eos_token_id": [TRILLION, -5, 256, 3]}))
    assert start(folder).eos_ids == {255, 3}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[" * 200_000, "nested deeper"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested deeper"),
        (f'{{"vocab_size": {"9" * 100_000}}}', "digits"),
        (b'{"model_type": "\xff\xfe\xfa"}', "is not utf-8"),
        ('{"model_type": "\\ud800"}', "half of a surrogate pair"),
        (json.dumps({**CONFIG, "model_type": "x" * 9 * 2**20}), "larger than"),
        (b"\x00" * 64, "JSON"),
        ("", "JSON"),
    ],
    ids=["deep", "deep-object", "digits", "no-utf8", "surrogate", "large", "zeros", "empty"],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", "modules.json"])
def test_hostile_json(root: Path, tmp_path: Path, name: str, content: bytes | str, told: str) -> None:
    folder = copy(root / "model", tmp_path / "m")
    if name == "modules.json" and isinstance(content, str):
        content = f"[{content}]" if content.startswith("{") else content
    replace(folder / name, content)
    message = refusal(lambda: use_tokenizer(folder, make_plan(folder)))
    assert told in message
    assert name in message


def test_a_byte_order_mark_and_equal_keys_are_no_harm(root: Path, tmp_path: Path) -> None:
    folder = copy(root / "model", tmp_path / "m")
    text = json.dumps(CONFIG).replace('{"', '\ufeff{"vocab_size": 5, "', 1)
    replace(folder / "config.json", text)
    assert make_plan(folder).config["vocab_size"] == CONFIG["vocab_size"]


def _pipe(file: Path) -> None:
    os.mkfifo(file)


def _loop(file: Path) -> None:
    file.symlink_to(file)


def _sparse(file: Path) -> None:
    with open(file, "wb") as opened:
        opened.truncate(10 * 2**30)


@pytest.mark.parametrize("make", [_pipe, Path.mkdir, _loop, _sparse])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"])
def test_what_is_no_file_of_text(root: Path, tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    folder = copy(root / "model", tmp_path / "m")
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    assert name in refusal(lambda: use_tokenizer(folder, make_plan(folder)))


@pytest.mark.parametrize(
    "changes",
    [
        {"added_tokens_decoder": {"1000000000000": {"content": "x"}}},
        {"added_tokens_decoder": {"x": {"content": "x"}}},
        {"added_tokens_decoder": {"1": {}}},
        {"added_tokens_decoder": {"1": {"content": ["x"]}}},
        {"added_tokens_decoder": {"1": {"content": ""}}},
        {"added_tokens_decoder": {"1": {"content": "x", "special": "yes"}}},
        {"added_tokens_decoder": ["x"]},
        {"chat_template": 5},
        {"chat_template": [5]},
        {"chat_template": [{"name": "default"}]},
        {"chat_template": {"default": "x"}},
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_hostile_tokenizer_configurations(root: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = copy(root / "model", tmp_path / "m")
    replace(folder / "tokenizer_config.json", json.dumps(changes))
    message = refusal(lambda: use_tokenizer(folder, make_plan(folder)))
    assert "tokenizer_config.json" in message
    assert next(iter(changes)) in message


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("model", {"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}),
        ("model", {"type": "BPE", "vocab": {}, "merges": []}),
        ("model", {"type": "BPE", "vocab": {"a": -1}, "merges": []}),
        ("model", {"type": "BPE", "vocab": {"a": 2**40}, "merges": []}),
        ("model", {"type": "BPE", "vocab": {"a": 10**9, "b": 4 * 10**9}, "merges": []}),
        ("model", {"type": "Unigram", "unk_id": 5, "vocab": [["a", 0.0]]}),
        ("model", {"type": "Unigram", "unk_id": None, "vocab": []}),
        ("model", {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                   "max_input_chars_per_word": 100, "vocab": {"a": 0}}),
        ("added_tokens", [{"id": 4 * 10**9, "content": "<x>", "single_word": False, "lstrip": False, "rstrip": False,
                           "normalized": False, "special": True}]),
        ("post_processor", {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<none>", "type_id": 0}}],
                            "pair": [], "special_tokens": {}}),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}),
        ("normalizer", {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""}),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        ("decoder", {"type": "Strip", "content": " ", "start": 2**63, "stop": 0}),
        ("padding", {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": 0, "pad_id": 0,
                     "pad_type_id": 0, "pad_token": "x"}),
        ("truncation", {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 10**12}),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_hostile_tokenizers(root: Path, tmp_path: Path, part: str, value: Any) -> None:
    folder = copy(root / "model", tmp_path / "m")
    state = json.loads((folder / "tokenizer.json").read_text())
    replace(folder / "tokenizer.json", json.dumps({**state, part: value}))
    outcome = run_trial(lambda: use_tokenizer(folder, make_plan(folder)))
    assert outcome.problem is None
    assert "Regex" not in str(value) or "tokenizer.json" in str(outcome.message)


EVIL = "(a+)+b"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"r": TRILLION}, "r is 1000000000000"),
        ({"r": 0}, "r is 0"),
        ({"r": -4}, "r is -4"),
        ({"r": "4"}, "r is '4'"),
        ({"r": True}, "r is True"),
        ({"r": 60000}, "ranks above"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf"),
        ({"lora_alpha": 1e300}, "lora_alpha is 1e+300"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj is 0"),
        ({"rank_pattern": {"(?=a)b": 4}}, "'(?=a)b'"),
        ({"rank_pattern": {r"(\w{1000}){1000}": 4}}, "no regular expression"),
        ({"alpha_pattern": {"(" * 10_000: 4}}, "10000 characters"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern is ['q_proj']"),
        ({"peft_type": "\x1b]0;t\x07\n"}, "peft_type"),
        ({"peft_type": {"a": "b" * 10_000}}, "peft_type"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_hostile_adapter_configurations(
    root: Path, tmp_path: Path, core: EngineCore, changes: dict[str, Any], told: str
) -> None:
    folder = copy(root / "adapter", tmp_path / "a")
    before = json.loads((folder / "adapter_config.json").read_text())
    replace(folder / "adapter_config.json", json.dumps({**before, **changes}))
    assert told in refusal(lambda: add_adapter(core, folder))


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_patterns_that_would_backtrack(root: Path, tmp_path: Path, core: EngineCore, key: str) -> None:
    """They are run, and in no time: the engine does not backtrack."""
    folder = copy(root / "adapter", tmp_path / "a")
    before = json.loads((folder / "adapter_config.json").read_text())
    evil = {rf"([\w.]+)+{i}x": 4 for i in range(200)} | {r"((model|layers|\w|\.)*)*z": 4, EVIL: 4}
    replace(folder / "adapter_config.json", json.dumps({**before, key: evil}))
    outcome = run_trial(lambda: add_adapter(core, folder))
    assert outcome.problem is None
    assert outcome.message is None
