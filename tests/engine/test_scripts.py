"""Scripts as people have them for vLLM: the import paths, calls and attributes that they use, with the name changed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ..tiny import write_checkpoint
from ..tiny_lora import ATTENTION, write_adapter

PROMPTS = ["Hello, my name is", "The capital of France is", "The future of AI is"]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_checkpoint(tmp_path_factory.mktemp("tiny"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.5, "top_k": 7}))
    return str(folder)


def test_options_in_groups_of_the_script(model: str) -> None:
    from dovetail import LLM, EngineArgs
    from dovetail.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    engine = parser.add_argument_group("Engine arguments")
    EngineArgs.add_cli_args(engine)
    engine.set_defaults(model=model)
    sampling = parser.add_argument_group("Sampling parameters")
    sampling.add_argument("--max-tokens", type=int)
    sampling.add_argument("--top-k", type=int)
    args: dict[str, Any] = vars(parser.parse_args(["--max-tokens", "3", "--max-model-len", "128"]))
    max_tokens, top_k = args.pop("max_tokens"), args.pop("top_k")

    llm = LLM(**args)
    params = llm.get_default_sampling_params()
    assert (params.temperature, params.top_k) == (0.5, 7)
    params.max_tokens = max_tokens
    assert top_k is None
    outputs = llm.generate(PROMPTS, params)
    assert [output.prompt for output in outputs] == PROMPTS
    assert all(len(output.outputs[0].token_ids) <= 3 for output in outputs)


def test_one_engine_after_the_other(model: str) -> None:
    from dovetail import LLM, SamplingParams
    from dovetail.distributed import cleanup_dist_env_and_memory
    from dovetail.distributed.parallel_state import destroy_model_parallel

    prompts = ["You are an expert school principal. " * 3 + prompt for prompt in PROMPTS]
    params = SamplingParams(temperature=0.0)
    regular = LLM(model=model, enable_prefix_caching=False)
    before = [output.outputs[0].text for output in regular.generate(prompts, params)]
    del regular
    destroy_model_parallel()
    cleanup_dist_env_and_memory()
    cached = LLM(model=model, enable_prefix_caching=True)
    cached.generate(prompts[0], params)
    outputs = cached.generate(prompts, params)
    assert [output.outputs[0].text for output in outputs] == before
    assert all(output.num_cached_tokens > 0 for output in outputs)


def test_prompts_from_the_tokenizer(model: str) -> None:
    from dovetail.entrypoints.llm import LLM
    from dovetail.inputs import TokensPrompt
    from dovetail.outputs import RequestOutput
    from dovetail.sampling_params import SamplingParams
    from dovetail.transformers_utils.tokenizer import get_tokenizer

    llm = LLM(model=model)
    tokenizer = llm.get_tokenizer()
    assert len(get_tokenizer(model)) == len(tokenizer)
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    params = SamplingParams(temperature=0, max_tokens=4)
    by_text = llm.generate(
        [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats], params
    )
    by_ids = llm.generate(
        [TokensPrompt(prompt_token_ids=tokenizer.apply_chat_template(c, add_generation_prompt=True)) for c in chats],
        params,
    )
    by_chat = llm.chat(chats, params)
    found = [[output.outputs[0].token_ids for output in outputs] for outputs in (by_text, by_ids, by_chat)]
    assert found[0] == found[1] == found[2]
    assert isinstance(by_text[0], RequestOutput)
    assert tokenizer.batch_decode(found[0], skip_special_tokens=True) == [o.outputs[0].text for o in by_text]
    assert [len(ids) for ids in tokenizer(PROMPTS).input_ids] == [len(prompt) for prompt in PROMPTS]
    first = by_text[0].metrics
    assert first is not None
    assert first.finished_time is not None
    assert first.first_token_time is not None
    assert first.finished_time - first.arrival_time >= first.first_token_time - first.arrival_time > 0


def test_forms(model: str) -> None:
    from dovetail import LLM
    from dovetail.sampling_params import GuidedDecodingParams, SamplingParams, StructuredOutputsParams

    llm = LLM(model=model, max_model_len=100)
    choice = StructuredOutputsParams(choice=["Positive", "Negative"])
    (output,) = llm.generate("Classify: wonderful!", SamplingParams(structured_outputs=choice))
    assert output.outputs[0].text in ("Positive", "Negative")
    regex = GuidedDecodingParams(regex=r"a{3}@b\.com\n", backend="xgrammar", disable_fallback=True)
    (output,) = llm.generate("An address:", SamplingParams(structured_outputs=regex, stop=["\n"]))
    assert output.outputs[0].text == "aaa@b.com"


def test_adapters(model: str, tmp_path: Path) -> None:
    from dovetail import EngineArgs, LLMEngine, RequestOutput, SamplingParams
    from dovetail.lora.request import LoRARequest

    base = load_file(Path(model) / "model.safetensors")
    path = str(write_adapter(tmp_path / "sql", base, targets=ATTENTION, rank=4, seed=1))
    engine = LLMEngine.from_engine_args(
        EngineArgs(model=model, enable_lora=True, max_loras=1, max_lora_rank=8, max_cpu_loras=2, max_num_seqs=256)
    )
    params = SamplingParams(temperature=0.0, logprobs=1, prompt_logprobs=1, max_tokens=8)
    waiting = [(None, "plain"), (LoRARequest("sql-lora", 1, path), "one"), (LoRARequest("sql-lora2", 2, path), "two")]
    done: dict[str, RequestOutput] = {}
    while waiting or engine.has_unfinished_requests():
        if waiting:
            lora_request, name = waiting.pop(0)
            engine.add_request(name, PROMPTS[0], params, lora_request=lora_request)
        done |= {output.request_id: output for output in engine.step() if output.finished}
    tokens = {name: output.outputs[0].token_ids for name, output in done.items()}
    assert tokens["one"] == tokens["two"] != tokens["plain"]


def test_vectors(model: str) -> None:
    from dovetail import LLM, EngineArgs, PoolingParams
    from dovetail.outputs import EmbeddingRequestOutput
    from dovetail.utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    parser.set_defaults(model=model, task="embed", enforce_eager=True)
    llm = LLM(**vars(parser.parse_args([])))
    outputs = llm.embed(PROMPTS)
    assert all(isinstance(output, EmbeddingRequestOutput) for output in outputs)
    assert [len(output.outputs.embedding) for output in outputs] == [48] * 3
    assert llm.encode(PROMPTS[0], PoolingParams())[0].outputs.data.shape == (48,)
    assert llm.score(PROMPTS[0], PROMPTS[:2])[0].outputs.score == pytest.approx(1, abs=1e-3)


def test_streams(model: str) -> None:
    from dovetail import SamplingParams
    from dovetail.engine.arg_utils import AsyncEngineArgs
    from dovetail.engine.async_llm_engine import AsyncLLMEngine
    from dovetail.sampling_params import RequestOutputKind
    from dovetail.utils import random_uuid
    from dovetail.v1.engine.async_llm import AsyncLLM

    async def stream(engine: AsyncLLM, prompt: str, request_id: str) -> str:
        params = SamplingParams(max_tokens=10, seed=42, output_kind=RequestOutputKind.DELTA)
        text = ""
        async for output in engine.generate(request_id=request_id, prompt=prompt, sampling_params=params):
            text += "".join(completion.text for completion in output.outputs)
            if output.finished:
                break
        return text

    async def grow(engine: AsyncLLMEngine, prompt: str) -> str:
        tokenizer = await engine.get_tokenizer()
        ids = tokenizer.encode(prompt)
        before = ""
        params = SamplingParams(max_tokens=10, seed=42)
        async for output in engine.generate({"prompt_token_ids": ids}, params, random_uuid()):
            assert output.outputs[0].text.startswith(before)
            before = output.outputs[0].text
        return before

    async def main() -> None:
        engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model=model, enforce_eager=True))  # within the loop
        try:
            pieces = await asyncio.gather(*(stream(engine, p, f"stream-{i}") for i, p in enumerate(PROMPTS)))
            assert pieces == [await grow(engine, prompt) for prompt in PROMPTS]
        finally:
            engine.shutdown()

    asyncio.run(main())
