"""LoRA adapters in the whole engine: each request gets what a model that was merged with its adapter would give it."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dovetail import LLM, LoRARequest, SamplingParams
from dovetail.api import RequestError
from dovetail.engine.adapters.lora_request import find_adapter
from dovetail.engine.args import EngineArgs
from dovetail.engine.messages import NewRequest, TokenOutput
from dovetail.engine.process.async_engine import AsyncEngine
from dovetail.engine.setup import make_plan
from dovetail.engine.step.core import EngineCore
from dovetail.kernel.registry import Registry

from ..tiny import CONFIG, write_checkpoint
from ..tiny_lora import ATTENTION, MLP, merged, write_adapter, write_merged

transformers = pytest.importorskip("transformers")

NAMES = (None, "qv", "all", "mlp")
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, three adapters that differ in modules, rank and scaling, and the merged models."""
    folder = tmp_path_factory.mktemp("lora")
    base = load_file(write_checkpoint(folder / "base") / "model.safetensors")
    write_adapter(folder / "qv", base, targets=("q_proj", "v_proj"), rank=8, seed=1)
    write_adapter(folder / "all", base, targets=ATTENTION + MLP, rank=3, seed=2)
    write_adapter(folder / "mlp", base, targets=MLP, rank=16, seed=3, use_rslora=True, lora_alpha=4)
    for name in NAMES[1:]:
        assert name is not None
        write_merged(folder / f"{name}-merged", folder / "base", merged(base, folder / name))
    return folder


def make_core(root: Path, *names: str, model: str = "base", **options: Any) -> EngineCore:
    """An engine with these adapters loaded."""
    defaults = {"max_num_seqs": 16, "block_size": 4, "enable_lora": True, "max_loras": 2}
    args = EngineArgs(model=str(root / model), **{**defaults, **options})
    core = EngineCore(make_plan(args), args)
    for name in names:
        add(core, name, root / name)
    return core


def add(core: EngineCore, name: str, folder: Path) -> None:
    core.add_adapter(find_adapter(name, str(folder), Registry.load()).model_dump_json())


def drive(core: EngineCore, requests: list[NewRequest], seed: int | None = None) -> dict[str, list[TokenOutput]]:
    """All outputs of requests that arrive together, or a few at a time."""
    rng, outputs, waiting = random.Random(seed), {r.id: [] for r in requests}, list(requests)
    while waiting or not core.idle:
        for _ in range(len(waiting) if seed is None else rng.randint(0, 3)):
            if waiting:
                core.add(waiting.pop(0))
        for output in core.step():
            outputs[output.id].append(output)
    return outputs


def slot_of(core: EngineCore, name: str) -> int:
    return next(adapter.slot for adapter in core.resources.adapters._loaded.values() if adapter.name == name)


def tokens_of(outputs: list[TokenOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def generate(core: EngineCore, prompt: list[int], adapter: str | None = None) -> list[int]:
    return tokens_of(drive(core, [NewRequest("r", prompt, GREEDY, adapter=adapter)])["r"])


def prompts(count: int) -> list[list[int]]:
    rng = random.Random(7)
    return [[rng.randrange(255) for _ in range(rng.randint(2, 50))] for _ in range(count)]


@pytest.fixture(scope="module")
def expected(root: Path) -> list[tuple[str | None, list[int], list[int]]]:
    """For each of some prompts, an adapter, and what transformers generates with the merged model."""
    models = {
        name: transformers.AutoModelForCausalLM.from_pretrained(
            root / (f"{name}-merged" if name else "base"), dtype=torch.float32
        ).eval()
        for name in NAMES
    }
    found = []
    for i, prompt in enumerate(prompts(24)):
        name = NAMES[i % len(NAMES)]
        with torch.inference_mode():
            ids = torch.tensor([prompt])
            tokens = models[name].generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=None
            )
        found.append((name, prompt, tokens[0, len(prompt) :].tolist()))
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"max_loras": 3},
        {},  # fewer slots than adapters
        {"max_loras": 1, "max_num_batched_tokens": 16},
        {"max_loras": 3, "async_scheduling": True},
    ],
    ids=["slots for all", "too few slots", "one slot, chunked", "overlapped"],
)
def test_a_batch_of_adapters_gives_the_tokens_of_the_merged_models(
    root: Path, expected: list[tuple[str | None, list[int], list[int]]], options: dict[str, Any]
) -> None:
    core = make_core(root, "qv", "all", "mlp", **options)
    requests = [NewRequest(str(i), prompt, GREEDY, adapter=name) for i, (name, prompt, _) in enumerate(expected)]
    outputs = drive(core, requests, seed=1)
    assert [tokens_of(outputs[str(i)]) for i in range(len(expected))] == [tokens for *_, tokens in expected]
    assert core.kv.usage == 0
    assert len(core.resources.adapters._idle_slots) == core.args.max_loras


def test_a_small_cache_preempts_requests_with_adapters_and_they_go_on(
    root: Path, expected: list[tuple[str | None, list[int], list[int]]]
) -> None:
    core = make_core(root, "qv", "all", "mlp", max_model_len=64, max_num_batched_tokens=64)
    taken = [
        pool.allocate(pool.num_free - 34) for pool in core.kv.pools
    ]  # what is left holds about two of the requests
    assert all(taken)
    requests = [NewRequest(str(i), prompt, GREEDY, adapter=name) for i, (name, prompt, _) in enumerate(expected)]
    outputs = drive(core, requests)
    assert [tokens_of(outputs[str(i)]) for i in range(len(expected))] == [tokens for *_, tokens in expected]
    assert core.stats.preemptions > 0
    assert len(core.resources.adapters._idle_slots) == core.args.max_loras


def test_the_overview_names_adapters_in_use(root: Path) -> None:
    core = make_core(root, "qv", "all", "mlp", max_loras=1, max_num_seqs=2)
    for number, name in enumerate(["qv", "qv", "qv", "all", None]):
        core.add(NewRequest(str(number), prompts(1)[0], GREEDY, adapter=name))
    core.step()
    found = core.overview()
    assert (found.max_loras, found.running_adapters, found.waiting_adapters) == (1, ["qv"], ["all"])
    while not core.idle:
        core.step()
    found = core.overview()
    assert (found.running_adapters, found.waiting_adapters) == ([], [])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_alone_and_in_a_batch_logprobs_are_bitwise_the_same(root: Path, dtype: str) -> None:
    """With other neighbours the adapter also has another slot."""
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=3)
    prompt = prompts(1)[0]
    core = make_core(root, "qv", "all", "mlp", dtype=dtype, max_loras=3, enable_prefix_caching=False)
    alone = drive(core, [NewRequest("r", prompt, params, adapter="all")])["r"]
    first = slot_of(core, "all")
    core = make_core(root, "mlp", "qv", "all", dtype=dtype, max_loras=3, enable_prefix_caching=False)
    others = [NewRequest(str(i), p, GREEDY, adapter=("mlp", "qv", None)[i % 3]) for i, p in enumerate(prompts(12))]
    together = drive(core, [*others, NewRequest("r", prompt, params, adapter="all")])["r"]
    assert (first, slot_of(core, "all")) == (1, 3)
    assert [o.token_ids for o in together] == [o.token_ids for o in alone]
    assert [o.logprobs for o in together] == [o.logprobs for o in alone]


def test_adapters_share_no_cached_prefixes(root: Path) -> None:
    core = make_core(root, "qv", "all")
    prompt = prompts(3)[2]
    assert len(prompt) > 8

    def cached(adapter: str | None) -> int:
        outputs = drive(core, [NewRequest("r", prompt, GREEDY, adapter=adapter)])["r"]
        return outputs[0].cached_tokens

    for name in ("qv", "all", None):
        assert cached(name) == 0
    for name in ("qv", "all", None):
        assert cached(name) > 0


def test_an_adapter_that_is_loaded_again_brings_nothing_of_the_old_one(root: Path) -> None:
    core = make_core(root, "qv")
    prompt = prompts(3)[2]
    old, other = generate(core, prompt, "qv"), generate(make_core(root, "all"), prompt, "all")
    assert old != other
    core.remove_adapter("qv")
    with pytest.raises(RequestError, match="wanted the adapter 'qv'"):
        core.add(NewRequest("r", prompt, GREEDY, adapter="qv"))
    add(core, "qv", root / "all")
    assert generate(core, prompt, "qv") == other


def test_an_adapter_is_loaded_and_unloaded_while_requests_run(root: Path) -> None:
    core = make_core(root, "qv")
    reference = generate(core, prompts(1)[0], "qv")
    core.add(NewRequest("running", prompts(1)[0], GREEDY, adapter="qv"))
    outputs = core.step()
    core.remove_adapter("qv")
    add(core, "all", root / "all")
    core.add(NewRequest("new", prompts(2)[1], GREEDY, adapter="all"))
    while not core.idle:
        outputs += core.step()
    assert tokens_of([o for o in outputs if o.id == "running"]) == reference
    assert tokens_of([o for o in outputs if o.id == "new"]) == generate(core, prompts(2)[1], "all")


@pytest.mark.parametrize("level", [1, 2])
def test_requests_with_adapters_go_on_after_a_sleep(root: Path, level: int) -> None:
    core = make_core(root, "qv")
    prompt = prompts(1)[0]
    reference = generate(core, prompt, "qv")
    core.add(NewRequest("r", prompt, GREEDY, adapter="qv"))
    outputs = core.step()
    core.sleep(level)
    core.wake_up()
    while not core.idle:
        outputs += core.step()
    assert tokens_of(outputs) == reference


def test_an_adapter_for_another_model_is_refused_and_the_batch_goes_on(root: Path, tmp_path: Path) -> None:
    wide = write_checkpoint(tmp_path / "wide", hidden_size=96, num_hidden_layers=4)
    write_adapter(tmp_path / "wrong", load_file(wide / "model.safetensors"), targets=ATTENTION, rank=32, seed=1)
    core = make_core(root, "qv")
    prompt = prompts(1)[0]
    core.add(NewRequest("r", prompt, GREEDY, adapter="qv"))
    outputs = core.step()
    with pytest.raises(RequestError) as error:
        add(core, "wrong", tmp_path / "wrong")
    for reason in (
        "the adapter 'wrong'",
        "modules that the model does not have: model.layers.3.self_attn",
        "layers.0.self_attn.q_proj.lora_A.weight is [32, 96], wanted [32, 48]",
        "ranks above the --max-lora-rank of 16",
    ):
        assert reason in error.value.problem
    while not core.idle:
        outputs += core.step()
    assert tokens_of(outputs) == generate(core, prompt, "qv")


def test_adapters_need_their_flag(root: Path) -> None:
    core = make_core(root, enable_lora=False)
    for action in (
        lambda: add(core, "qv", root / "qv"),
        lambda: core.add(NewRequest("r", [1], GREEDY, adapter="qv")),
    ):
        with pytest.raises(RequestError, match="--enable-lora"):
            action()
    assert len(generate(core, [1, 2, 3])) == 12


# -- a quantized model

QUANTIZED = {**CONFIG, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "head_dim": 16}
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    module = name.removesuffix(".weight")
    if module.startswith("model.layers."):
        _, _, layer, rest = module.split(".", 3)
        return f"blk.{layer}.{GGUF_NAMES[rest]}.weight"
    return {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}[module] + ".weight"


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows in GGUF's order: the two of a rotary pair side by side."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_quantized(file: Path, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The model as a GGUF file of Q8_0 matrices; the tensors that its weights stand for."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_vocab_size(QUANTIZED["vocab_size"])
    writer.add_context_length(QUANTIZED["max_position_embeddings"])
    writer.add_embedding_length(QUANTIZED["hidden_size"])
    writer.add_block_count(QUANTIZED["num_hidden_layers"])
    writer.add_feed_forward_length(QUANTIZED["intermediate_size"])
    writer.add_head_count(QUANTIZED["num_attention_heads"])
    writer.add_head_count_kv(QUANTIZED["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(QUANTIZED["rms_norm_eps"])
    writer.add_rope_dimension_count(QUANTIZED["head_dim"])
    kind = gguf.GGMLQuantizationType.Q8_0
    found = {}
    for name, tensor in tensors.items():
        value = tensor.numpy()
        if tensor.ndim == 1:
            writer.add_tensor(gguf_name(name), value)
            found[name] = tensor
            continue
        packed = gguf.quants.quantize(value, kind)
        found[name] = torch.from_numpy(gguf.quants.dequantize(packed, kind).reshape(value.shape).copy())
        if "q_proj" in name or "k_proj" in name:
            heads = QUANTIZED["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            packed = gguf.quants.quantize(np.ascontiguousarray(interleaved(value, heads)), kind)
        writer.add_tensor(gguf_name(name), packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return found


def test_adapters_run_on_a_quantized_model_by_the_names_of_the_original(tmp_path: Path) -> None:
    """Rows of q and k stand in another order in the file, which an adapter does not know."""
    original = write_checkpoint(tmp_path / "original", **QUANTIZED)
    base = write_quantized(tmp_path / "base.gguf", load_file(original / "model.safetensors"))
    write_adapter(tmp_path / "all", base, targets=ATTENTION + MLP, rank=8, seed=1)
    write_adapter(tmp_path / "qk", base, targets=("q_proj", "k_proj"), rank=8, seed=2)
    core = make_core(tmp_path, "all", "qk", model="base.gguf", dtype="float32")
    assert not any("dense" in kernel for kernel in core.info.kernels), core.info.kernels
    for name in (None, "all", "qk"):
        tensors = merged(base, tmp_path / name) if name else base
        reference = make_core(
            tmp_path, model=write_merged(tmp_path / f"m-{name}", original, tensors).name, dtype="float32"
        )
        for prompt in prompts(4):
            assert generate(core, prompt, name) == generate(reference, prompt)


# -- in the engine's own process


def test_adapters_are_loaded_by_flag_and_at_run_time_and_a_bad_one_harms_nobody(root: Path, tmp_path: Path) -> None:
    prompt = prompts(1)[0]
    core = make_core(root, "qv", "all")
    wanted = {name: generate(core, prompt, name) for name in (None, "qv", "all")}
    assert len(set(map(tuple, wanted.values()))) == 3
    args = EngineArgs(model=str(root / "base"), enable_lora=True, lora_modules=[f"flag={root / 'qv'}"])
    wide = load_file(write_checkpoint(tmp_path / "wide", hidden_size=96) / "model.safetensors")
    wrong = write_adapter(tmp_path / "wrong", wide, targets=ATTENTION, rank=4, seed=1)

    async def main() -> None:
        engine = await AsyncEngine.start(make_plan(args), args)

        async def one(name: str | None, request_id: str = "r") -> list[int]:
            batches = [d async for d in engine.generate(request_id, prompt, GREEDY, adapter=name)]
            return [token for deltas in batches for delta in deltas for token in delta.token_ids]

        try:
            await engine.add_adapter("late", str(root / "all"))
            assert engine.adapters == {"flag": str(root / "qv"), "late": str(root / "all")}
            running = asyncio.gather(*(one(name, str(i)) for i, name in enumerate(["flag", "late", None] * 3)))
            for name, path, reason in (
                ("bad", wrong, r"lora_A.weight is \[4, 96\], wanted \[4, 48\]"),
                ("bad", tmp_path / "nowhere", "found nothing there"),
                ("late", root / "qv", "is loaded already"),
            ):
                with pytest.raises(RequestError, match=reason):
                    await engine.add_adapter(name, str(path))
            assert await running == [wanted["qv"], wanted["all"], wanted[None]] * 3
            await engine.remove_adapter("late")
            ((refused,),) = [d async for d in engine.generate("r", prompt, GREEDY, adapter="late")]
            assert refused.finish_reason == "error"
            assert refused.error is not None
            assert "wanted the adapter 'late', found 'flag'" in refused.error
            with pytest.raises(RequestError, match="wanted the adapter 'late'"):
                await engine.remove_adapter("late")
            assert await one("flag") == wanted["qv"]
        finally:
            await engine.stop()

    asyncio.run(main())


def test_the_offline_api_loads_an_adapter_when_it_is_first_named(root: Path) -> None:
    llm = LLM(str(root / "base"), use_tqdm=False, enable_lora=True, max_loras=2, lora_modules=[f"mlp={root / 'mlp'}"])
    prompt = {"prompt_token_ids": list(range(3, 20))}
    qv = LoRARequest("qv", 1, str(root / "qv"))
    mixed = llm.generate(
        [prompt] * 3, GREEDY, use_tqdm=False, lora_request=[None, qv, LoRARequest("mlp", 2, str(root / "mlp"))]
    )
    wanted = [
        LLM(str(root / folder), use_tqdm=False).generate(prompt, GREEDY, use_tqdm=False)[0].outputs[0].token_ids
        for folder in ("base", "qv-merged", "mlp-merged")
    ]
    assert [o.outputs[0].token_ids for o in mixed] == wanted
    with pytest.raises(RequestError, match="a name of its own"):
        llm.generate(prompt, GREEDY, use_tqdm=False, lora_request=LoRARequest("qv", 1, str(root / "all")))
    with pytest.raises(RequestError, match="nothing there"):
        llm.generate(prompt, GREEDY, use_tqdm=False, lora_request=LoRARequest("new", 3, str(root / "nowhere")))
    with pytest.raises(RequestError, match="enable_lora"):
        LLM(str(root / "base"), use_tqdm=False).generate(prompt, GREEDY, use_tqdm=False, lora_request=qv)
