"""What a user gets wrong, through the real command line: one line that says what was wanted, found, and what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ..forked import forks
from ..tiny import CONFIG, write_checkpoint

DOVETAIL = Path(sys.executable).with_name("dovetail")
SECONDS = 60
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


Serve = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    with forks(HF_HUB_OFFLINE="1") as running:

        def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
            port = () if "--port" in arguments else ("--port", "0")
            return running.run([DOVETAIL, "serve", *arguments, *port], seconds=SECONDS, **environment)

        yield run


def refused(done: subprocess.CompletedProcess[str], told: str, code: int = 1) -> None:
    """Exactly one line on stderr, the exit code, and nothing else."""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert re.search(rf"^error: {told}", lines[0]), lines[0]
    assert done.returncode == code
    assert done.stdout == ""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A checkpoint of one's own to break."""
    return shutil.copytree(tiny, tmp_path / "model")


# Checkpoints. Each of these breaks one, and may say what else to put on the command line.

Break = Callable[[Path], Any]


def configured(**changes: Any) -> Break:
    def change(folder: Path) -> None:
        config = {k: v for k, v in {**CONFIG, **changes}.items() if v is not ...}
        (folder / "config.json").write_text(json.dumps(config))

    return change


def written(text: str, name: str = "config.json") -> Break:
    return lambda folder: (folder / name).write_text(text)


def without(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


def truncated(keep: float, name: str = "model.safetensors") -> Break:
    def change(folder: Path) -> None:
        file = folder / name
        os.truncate(file, int(file.stat().st_size * keep))

    return change


def tensors(**changes: torch.Tensor | None) -> Break:
    """Other weights; None takes one away."""

    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        found = {**load_file(file), **{k.replace("__", "."): v for k, v in changes.items()}}
        save_file({k: v for k, v in found.items() if v is not None}, file)

    return change


def sharded(folder: Path) -> None:
    """Two shards and an index, of which the second shard is not there."""
    found = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(found)
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    save_file({n: found[n] for n in names[:9]}, folder / files[0])
    index = {"weight_map": {n: files[i >= 9] for i, n in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def container(folder: Path, type_: gguf.GGMLQuantizationType | None = None, **changes: Any) -> Path:
    """The checkpoint as a GGUF file; one weight may be of another type."""
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    metadata = {
        "context_length": CONFIG["max_position_embeddings"],
        "embedding_length": CONFIG["hidden_size"],
        "block_count": CONFIG["num_hidden_layers"],
        "feed_forward_length": CONFIG["intermediate_size"],
        "attention.head_count": CONFIG["num_attention_heads"],
        "attention.head_count_kv": CONFIG["num_key_value_heads"],
        **changes,
    }
    for key, value in metadata.items():
        if value is not None:
            writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", CONFIG["rms_norm_eps"])
    writer.add_tensor("token_embd.weight", np.zeros((CONFIG["vocab_size"], CONFIG["hidden_size"]), np.float32))
    if type_ is not None:
        block, size = gguf.GGML_QUANT_SIZES[type_]
        writer.add_tensor("blk.0.attn_q.weight", np.zeros((4, size), np.uint8), raw_shape=(4, size), raw_dtype=type_)
        assert block
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (folder / "model.safetensors").unlink()
    return folder / "model.gguf"


def with_an_unknown_type(folder: Path) -> None:
    """The number of a type that does not exist yet, where the file has F32's."""
    file = container(folder)
    data = file.read_bytes()
    name = b"token_embd.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8
    assert data[at : at + 4] == bytes(4)
    file.write_bytes(data[:at] + (99).to_bytes(4, "little") + data[at + 4 :])


def truncated_container(folder: Path) -> None:
    container(folder)
    truncated(0.7, "model.gguf")(folder)


CHECKPOINTS: dict[str, tuple[Break, str]] = {
    "an unknown architecture": (
        configured(architectures=["WalnutForCausalLM"]),
        r"wanted a model plugin for the architecture WalnutForCausalLM, found nothing that fits \(\d+ architectures, the nearest .*ForCausalLM; transformers: .* has no WalnutForCausalLM .*\); install ",
    ),
    "no architecture": (
        configured(architectures=...),
        r"\S+config\.json names no architectures; name one with --hf-overrides",
    ),
    "architectures of the wrong type": (
        configured(architectures="LlamaForCausalLM"),
        r"architectures is 'LlamaForCausalLM', wanted a list of names; for example --hf-overrides",
    ),
    "a missing key": (
        configured(hidden_size=...),
        r"LlamaConfig cannot be read from \S+config\.json: hidden_size: is missing; correct the file, or override",
    ),
    "a key of the wrong type": (
        configured(num_hidden_layers="three"),
        r"LlamaConfig cannot be read from \S+config\.json: num_hidden_layers: .*integer.* \(found 'three'\); correct",
    ),
    "keys that contradict each other": (
        configured(num_key_value_heads=5),
        r"LlamaConfig cannot be read from \S+: num_attention_heads 6 is not a multiple of num_key_value_heads 5; correct",
    ),
    "nonsense where an object should be": (
        configured(rope_scaling=5),
        r"LlamaConfig cannot be read from \S+config\.json: rope_scaling is 5, wanted an object; correct the file",
    ),
    "a malformed configuration": (
        written('{"architectures": '),
        r"\S+config\.json is not readable JSON \(.*\); repair or",
    ),
    "a configuration that is a list": (written("[]"), r"\S+config\.json holds a JSON list, wanted an object; repair"),
    "no configuration": (without("config.json"), r"wanted config\.json in \S+, found none; complete the download"),
    "no weights": (
        without("model.safetensors"),
        r"wanted weights \(consolidated\*\.safetensors, \*\.safetensors, .*\) at \S+, found config\.json, tokenizer\.json; complete the download, or install",
    ),
    "an empty weight file": (
        written("", "model.safetensors"),
        r"\S+model\.safetensors has 0 bytes, wanted .*; the file is damaged",
    ),
    "truncated weights": (
        truncated(0.7),
        r"\S+model\.safetensors holds \d+ bytes of tensors, wanted \d+; the file is damaged",
    ),
    "weights truncated in their header": (
        truncated(0.001),
        r"\S+model\.safetensors has \d+ bytes, wanted \d+ for its header alone; the file is damaged",
    ),
    "a missing shard": (
        sharded,
        r"wanted 2 files in \S+ as \S+ lists them, found 1; missing: model-00002-of-00002\.safetensors; complete",
    ),
    "a truncated GGUF": (
        truncated_container,
        r"tensor 'token_embd\.weight' in \S+model\.gguf ends at byte \d+, but the file has \d+ bytes; the file is damaged",
    ),
    "a GGUF type that does not exist": (
        with_an_unknown_type,
        r"tensor 'token_embd\.weight' in \S+model\.gguf is of the unknown ggml type 99; update ",
    ),
    "a GGUF type that nobody reads": (
        lambda folder: container(folder, gguf.GGMLQuantizationType.Q8_1, block_count=1),
        r"wanted a format that reads 1 tensors of type 'q8_1' in \S+, found nothing that fits \(.*gguf: reads .*\); install",
    ),
    "a GGUF without a key": (
        lambda folder: container(folder, block_count=None),
        r"llama: the GGUF metadata lacks the key llama\.block_count; mistral: .* convert the model again, or give",
    ),
    "weights quantized by a method that nobody reads": (
        configured(quantization_config={"quant_method": "quip", "bits": 4}),
        r"wanted a format for weights quantized by 'quip', found .*; install a plugin that reads 'quip'; the formats of this project are called dovetail-quant-NAME",
    ),
}


@pytest.mark.parametrize("fault", CHECKPOINTS)
def test_a_checkpoint_with(serve: Serve, folder: Path, fault: str) -> None:
    change, told = CHECKPOINTS[fault]
    change(folder)
    refused(serve(folder), told)


# What only the engine's process can see comes through as the same one line.


def test_tensors_that_are_missing_unexpected_or_misshapen_are_all_named(serve: Serve, folder: Path) -> None:
    tensors(
        **{
            Q_PROJ: torch.zeros(48, 40),
            "model.layers.0.mlp.up_proj.weight": torch.zeros(80),
            "model.norm.weight": torch.zeros(47),
            "model.layers.2.mlp.down_proj.weight": None,
            "model.layers.2.input_layernorm.weight": None,
            "model.layers.2.mlp.gate_proj.scales": torch.zeros(3),
            "model.layers.2.self_attn.k_proj.bias": torch.zeros(16),
            "vision_tower.weight": torch.zeros(3),
        }
    )(folder)
    done = serve(folder)
    refused(
        done,
        r"the checkpoint does not hold the tensors that the model llama \(dovetail-models-llama \S+\) expects \(of the wrong shape: ",
    )
    wrong, missing, unexpected = re.search(
        r"of the wrong shape: (.*); missing: (.*); unexpected: (.*)\); \S+ lacks them, the loader safetensors .*, or the model names "
        r"them wrongly; the architecture or its ",
        done.stderr,
    ).groups()  # type: ignore[union-attr]
    assert set(missing.split(", ")) == {
        "model.layers.2.mlp.down_proj.weight",
        "model.layers.2.input_layernorm.weight",
    }
    assert set(unexpected.split(", ")) == {
        "model.layers.2.mlp.gate_proj.scales",
        "model.layers.2.self_attn.k_proj.bias",
        "vision_tower.weight",
    }
    for name, found, wanted in (
        (Q_PROJ, [48, 40], [48, 48]),
        ("model.layers.0.mlp.up_proj.weight", [80], [80, 48]),
        ("model.norm.weight", [47], [48]),
    ):
        assert f"{name} is {found}, wanted {wanted}" in wrong


def test_a_context_that_the_cache_cannot_hold(serve: Serve, folder: Path) -> None:
    # 512 tokens take 192 KiB here.
    done = serve(folder, "--max-model-len", "512", DOVETAIL_CPU_KVCACHE_SPACE="0.0001")
    refused(
        done,
        r"--max-model-len 512 was asked for, but the KV cache holds \d+ tokens \(weights .* tokens\); lower it, or give the cache more memory",
    )


def test_a_cache_of_nonsense(serve: Serve, folder: Path) -> None:
    done = serve(folder, DOVETAIL_CPU_KVCACHE_SPACE="plenty")
    refused(done, r"DOVETAIL_CPU_KVCACHE_SPACE is 'plenty', wanted a number of GiB above 0; for example 4", code=2)


def test_no_tokenizer(serve: Serve, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    refused(
        serve(folder), r"wanted tokenizer\.json in \S+, found none.*; complete the download, or name another tokenizer"
    )


def test_a_malformed_tokenizer(serve: Serve, folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    refused(serve(folder), r"\S+tokenizer\.json cannot be read: .*; fetch it again")


def test_debug_shows_the_traceback_of_the_engine_s_process_too(serve: Serve, folder: Path) -> None:
    tensors(**{Q_PROJ: torch.zeros(48, 40)})(folder)
    done = serve(folder, "--debug")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert "In the engine's process:" in done.stderr
    assert "in sort" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "error: the checkpoint does not hold the tensors that the model llama "
    )


# References.


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("./nowhere", r"wanted a model at \./nowhere, found nothing there; correct the path"),
        ("/nowhere/at/all", "wanted a model at /nowhere/at/all, found nothing there; correct the path"),
        ("nowhere.gguf", r"wanted a model at nowhere\.gguf, found nothing there; correct the path"),
        (
            "nowhere",
            "wanted the model 'nowhere', found no folder, file or hub repository of that name; check the spelling",
        ),
        (
            "nobody/nowhere",
            r"wanted the hub repository nobody/nowhere, but the hub cannot be reached, and the model is not in the cache "
            r"\(HF_HUB_OFFLINE is set\); connect to the network, or give the folder",
        ),
        ("/dev/null", "cannot read /dev/null .*; give a folder or a weight file"),
    ],
)
def test_a_reference_that_leads_nowhere(serve: Serve, reference: str, told: str, tmp_path: Path) -> None:
    refused(serve(reference, HF_HOME=str(tmp_path)), told)


# Options.

OPTIONS = {
    "--nope": r"unknown arguments: --nope; see dovetail serve --help",
    "--hf-overrides {x": r"argument --hf-overrides: '\{x' is not JSON \(.*\); write for example '\{\"key\": 1\}'; see dovetail serve",
    "--hf-overrides [1]": r"argument --hf-overrides: '\[1\]' is a JSON list, wanted an object like ",
    "--max-model-len lots": "argument --max-model-len: 'lots' is not a number of tokens; write 4096, 32k or auto",
    "--max-model-len 1": "--max-model-len is 1: .*greater than or equal to 2; see --help",
    "--max-model-len 1k": "--max-model-len 1000 exceeds the 512 tokens that the model was made for; give at most --max-model-len 512",
    "--block-size 0": "--block-size is 0: .*greater than 0",
    "--gpu-memory-utilization 2": r"--gpu-memory-utilization is 2\.0: .*less than or equal to 1",
    "--port 99999": "--port is 99999: .*less than or equal to 65535",
    "--prefer llama": "cannot read --prefer 'llama'; write kind:name=distribution; kinds: model, ",
    "--prefer model:llama=nobody": "--prefer model:llama=nobody: that distribution does not offer it; offered by dovetail-models-llama",
    "--prefer model:llama=a --prefer model:llama=b": "--prefer model:llama names both a and b; name one of them",
    "--plugins modle:x": r"cannot read the plugin filter term 'modle:x'; write \[kind:\]distribution",
    "--ssl-keyfile x": "--ssl-keyfile needs a certificate; give it with --ssl-certfile",
    "--model other": r"two models were named, \S+ and --model other; name one",
}
CHOICES = {
    '--hf-overrides {"architectures":["OakForCausalLM"]}': "wanted a model plugin for the architecture OakForCausalLM, found nothing",
    '--hf-overrides {"architectures":5}': "architectures is 5, wanted a list of names; for example",
    '--hf-overrides {"hidden_size":"wide"}': r"LlamaConfig cannot be read from .*hidden_size: .*\(found 'wide'\)",
    "--dtype float99": "wanted the dtype float99, but the model llama claims .*; choose one of those with --dtype",
    "--device abacus": "wanted the platform 'abacus', found .*cpu; install the plugin that offers it, or choose one of those",
    "--attention-backend nope": "wanted the attention 'nope', found .*cpu-sdpa.*; install the plugin that offers it, or choose",
    "--kv-cache-dtype float7": r"wanted attention on cpu in float32 \(.*, KV cache in float7\), found .* keeps the KV cache in .*, not in float7",
    "--load-format nope": "wanted the loader 'nope', found .*safetensors.*; install the plugin",
    "--load-format gguf": r"the loader 'gguf' was asked for but does not fit: reads \*\.gguf; found .*; leave the choice to auto",
    "--quantization nope": "--quantization nope was asked for, found the formats .*gguf.*; install a plugin that offers the format 'nope'; the formats .*",
    "--quantization gguf": "--quantization gguf was asked for, but the checkpoint is read by dense; leave --quantization out",
    "--plugins -dovetail-models-llama,-dovetail-models-transformers": r"wanted a model plugin .* note that the plugin filter \(--plugins or DOVETAIL_PLUGINS\) leaves out dovetail-models-llama",
    "--tokenizer ./nowhere": r"wanted a tokenizer at \./nowhere, found nothing there; correct --tokenizer",
    "--hf-config-path ./nowhere": r"wanted a configuration at \./nowhere, found none; correct --hf-config-path",
    "--host nowhere.invalid": "the host nowhere.invalid has no address on this machine; choose another with --host",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_wrong_usage(serve: Serve, tiny: Path, option: str) -> None:
    refused(serve(tiny, *option.split(" ")), OPTIONS[option], code=2)


@pytest.mark.parametrize("option", CHOICES)
def test_a_choice_that_does_not_fit(serve: Serve, tiny: Path, option: str) -> None:
    refused(serve(tiny, *option.split(" ")), CHOICES[option])


@pytest.mark.parametrize(
    ("options", "told", "code"),
    [
        (
            ("--generation-config", "./nowhere"),
            r"wanted nowhere/generation_config\.json, found no such file; give auto",
            1,
        ),
        (
            ("--override-generation-config", '{"heat": 1}'),
            "--override-generation-config names heat, wanted sampling parameters; known: ",
            2,
        ),
        (("--override-generation-config", '{"temperature": -1}'), "the default sampling parameters do not hold: ", 1),
        (("--chat-template", "./nowhere.jinja"), r".*\./nowhere\.jinja", 1),
    ],
)
def test_defaults_that_do_not_hold(serve: Serve, tiny: Path, options: tuple[str, ...], told: str, code: int) -> None:
    refused(serve(tiny, *options), told, code)


def test_a_port_in_use_is_known_before_the_model_loads(serve: Serve, tiny: Path, folder: Path) -> None:
    # The weights are broken in a way that only loading them shows.
    tensors(**{Q_PROJ: torch.zeros(48, 40)})(folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = serve(folder, "--port", str(port))
    refused(done, rf"port {port} on 127\.0\.0\.1 is in use; stop what listens there, or choose another with --port")


@pytest.mark.parametrize("command", ["plan", "serve"])
def test_every_command_refuses_alike(folder: Path, command: str) -> None:
    """Started as users start it, while the others are forks."""
    (folder / "config.json").unlink()
    done = subprocess.run([DOVETAIL, command, folder], capture_output=True, text=True, timeout=SECONDS)
    refused(done, r"wanted config\.json in \S+, found none; complete the download")
