"""Images in scripts, on a tiny model that sees."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dovetail.api import RequestError, UsageError
from dovetail.engine.args import EngineArgs
from dovetail.engine.async_llm.async_llm import AsyncLLM
from dovetail.engine.images import make_image_inputs
from dovetail.engine.images.inputs import PromptWithImages
from dovetail.engine.messages import NewRequest
from dovetail.engine.offline.llm import LLM
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.setup import make_plan
from dovetail.engine.step.core import EngineCore
from dovetail.kernel.plan_parts import Choice
from tests.fake_device import FakeDevice
from tests.tiny import write_checkpoint
from tests.tiny_vision import IMAGE, IMAGE_TOKENS, data_url, picture, write_axes_checkpoint, write_vision_checkpoint

pytest.importorskip("PIL")

OPTIONS: dict[str, Any] = {"dtype": "float32", "use_tqdm": False, "block_size": 4, "max_num_batched_tokens": 16}
PARAMS = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True, logprobs=0)
ASK = {"type": "text", "text": "What is it?"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vision_checkpoint(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder, kv_cache_memory_bytes="16M", limit_mm_per_prompt="image=3", max_image_pixels=10_000, **OPTIONS)


def logprobs(output: Any) -> list[float]:
    (completion,) = output.outputs
    return [next(iter(position.values())).logprob for position in completion.logprobs]


def see(llm: LLM, *images: Any, text: str | None = None) -> list[float]:
    text = "<image>" * len(images) + "What is it?" if text is None else text
    (output,) = llm.generate({"prompt": text, "multi_modal_data": {"image": list(images)}}, PARAMS, use_tqdm=False)
    return logprobs(output)


def test_every_form_of_an_image_gives_the_same(llm: LLM) -> None:
    parts = [
        {"type": "image_pil", "image_pil": picture(1)},
        {"type": "image_url", "image_url": {"url": data_url(picture(1))}},
        {"type": "image_url", "image_url": data_url(picture(1))},
    ]
    conversations = [[{"role": "user", "content": [part, ASK]}] for part in parts]
    outputs = llm.chat(conversations, PARAMS, use_tqdm=False)
    first, *others = map(logprobs, outputs)
    assert others == [first, first]
    assert outputs[0].prompt_token_ids.count(IMAGE) == IMAGE_TOKENS
    rendered = "user: <image>What is it?assistant: "
    assert see(llm, picture(1), text=rendered) == first
    assert see(llm, picture(2), text=rendered) != first
    (one,) = llm.generate(
        {
            "prompt_token_ids": llm.get_tokenizer().encode("<image>What is it?"),
            "multi_modal_data": {"image": picture(1)},
        },
        PARAMS,
        use_tqdm=False,
    )
    assert logprobs(one) == see(llm, picture(1))


def test_images_with_equal_placeholders_share_no_blocks(llm: LLM) -> None:
    llm.reset_prefix_cache()
    alone = []
    for images in ([picture(1), picture(2)], [picture(2), picture(1)], [picture(1), picture(3)]):
        alone.append(see(llm, *images))
        llm.reset_prefix_cache()
    together = [see(llm, picture(1), picture(2)), see(llm, picture(2), picture(1)), see(llm, picture(1), picture(3))]
    assert together == alone
    assert len({tuple(each) for each in alone}) == 3
    before = llm.llm_engine.core.kv.hits
    assert see(llm, picture(1), picture(3)) == alone[2]
    assert llm.llm_engine.core.kv.hits - before >= 2 * IMAGE_TOKENS


def test_preempted_prompts_see_their_images_again(folder: Path, llm: LLM) -> None:
    small = LLM(folder, num_gpu_blocks_override=42, enable_prefix_caching=False, max_model_len=128, **OPTIONS)
    long = SamplingParams(max_tokens=50, temperature=0, ignore_eos=True, logprobs=0)
    prompts = [
        {"prompt": "<image>What is <image>?", "multi_modal_data": {"image": [picture(n), picture(n + 1)]}}
        for n in range(4)
    ]
    found = small.generate(prompts, long, use_tqdm=False)
    assert small.llm_engine.core.scheduler.preemptions > 0
    assert list(map(logprobs, found)) == list(map(logprobs, llm.generate(prompts, long, use_tqdm=False)))


def test_async_scripts_see_images(folder: Path, llm: LLM) -> None:
    prompt = {"prompt": "<image>What is it?", "multi_modal_data": {"image": picture(1)}}

    async def ask() -> tuple[Any, str]:
        async with AsyncLLM(EngineArgs(model=str(folder), dtype="float32", kv_cache_memory_bytes="4M")) as engine:
            last = None
            async for output in engine.generate(prompt, PARAMS):
                last = output
            params = SamplingParams(max_tokens=2, truncate_prompt_tokens=3)
            with pytest.raises(RequestError, match="truncate_prompt_tokens is set for a prompt with images") as caught:
                async for _ in engine.generate(prompt, params):
                    pass
            return last, str(caught.value)

    output, _ = asyncio.run(ask())
    assert logprobs(output) == pytest.approx(see(llm, picture(1)), abs=1e-5)


def test_completions_of_one_prompt_see_the_same(llm: LLM) -> None:
    params = SamplingParams(n=3, max_tokens=4, temperature=0, ignore_eos=True)
    (output,) = llm.generate({"prompt": "<image>?", "multi_modal_data": {"image": picture(1)}}, params, use_tqdm=False)
    assert len({tuple(completion.token_ids) for completion in output.outputs}) == 1


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ({"prompt": "<image>", "multi_modal_data": {"image": [picture(1)] * 2}}, "has 1 places .* and 2 images"),
        ({"prompt": "none", "multi_modal_data": {"image": picture(1)}}, "has 0 places"),
        ({"prompt": "<image>" * 4, "multi_modal_data": {"image": [picture(1)] * 4}}, "4 images .* the limit is 3"),
        ({"prompt": "<image>", "multi_modal_data": {"image": picture(1, 101, 100)}}, "more than 10000 pixels"),
        ({"prompt": "<image>", "multi_modal_data": {"image": 7}}, "an image is a int"),
        ({"prompt": "<image>", "multi_modal_data": {"image": "file:///etc/passwd"}}, "no files may be read"),
        ({"prompt": "<image>", "multi_modal_data": {"image": "http://127.0.0.1/x"}}, "from no host"),
        ({"prompt": "<image>", "multi_modal_data": {"audio": 7}}, "only images are read"),
        ({"prompt": "<image>", "images": 7}, "has images"),
    ],
)
def test_what_does_not_fit_is_refused(llm: LLM, prompt: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        llm.generate(prompt, PARAMS, use_tqdm=False)


def test_a_model_of_texts_refuses_images(tmp_path: Path) -> None:
    llm = LLM(write_checkpoint(tmp_path), kv_cache_memory_bytes="4M", **OPTIONS)
    with pytest.raises(RequestError, match="takes no images"):
        see(llm, picture(1))


def test_processed_images_are_kept_up_to_a_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOVETAIL_MM_INPUT_CACHE_GIB", "0.00002")  # 21 KB: three of these images, of 7 KB each
    llm = LLM(folder, kv_cache_memory_bytes="4M", **OPTIONS)
    inputs = llm.llm_engine._images
    assert inputs is not None
    processed = []
    original = inputs.processor.process
    monkeypatch.setattr(inputs.processor, "process", lambda image: processed.append(1) or original(image))
    for n in (1, 2, 1, 3, 4, 1, 2):  # the fourth image pushes out the second
        see(llm, picture(n))
    assert len(processed) == 5
    assert 0 < inputs.cache.size <= inputs.cache.max_bytes
    monkeypatch.setenv("DOVETAIL_MM_INPUT_CACHE_GIB", "much")
    with pytest.raises(UsageError, match="DOVETAIL_MM_INPUT_CACHE_GIB is 'much'"):
        LLM(folder, kv_cache_memory_bytes="4M", **OPTIONS)


def test_keys_that_the_processor_does_not_read_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="--mm-processor-kwargs has crop, which this model's processor does not read"):
        LLM(folder, mm_processor_kwargs={"crop": 3}, **OPTIONS)


SCRIPT = """
import sys
from dovetail.engine.offline.llm import LLM
from dovetail.engine.request.params import SamplingParams
llm = LLM(sys.argv[1], dtype="float32", kv_cache_memory_bytes="4M", use_tqdm=False)
llm.generate("a text", SamplingParams(max_tokens=2), use_tqdm=False)
found = [name for name in sys.modules if name.startswith(("PIL", "dovetail.engine.images.", "dovetail.pixels"))]
print([*found, *(name for name in sys.modules if name == "dovetail.engine.step.images")])
"""


@pytest.mark.parametrize(("sees", "allowed"), [(False, set()), (True, {"dovetail.engine.images.", "dovetail.pixels"})])
def test_texts_import_nothing_of_images(folder: Path, tmp_path: Path, sees: bool, allowed: set[str]) -> None:
    model = folder if sees else write_checkpoint(tmp_path)
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(model)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = eval(done.stdout.splitlines()[-1])
    assert [name for name in found if not name.startswith(tuple(allowed) or "-")] == []


AXES: dict[str, Any] = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "vocab_size": 264,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rope_scaling": {"type": "mrope", "mrope_section": [1, 2, 3]},
    "image_token_id": IMAGE,
    "vision_config": {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_heads": 2,
        "patch_size": 4,
        "window_size": 16,
        "out_hidden_size": 48,
        "fullatt_block_indexes": [1],
    },
}


@pytest.mark.parametrize("axes", [False, True], ids=["llava", "axes"])
def test_captured_steps_follow_images(folder: Path, tmp_path: Path, axes: bool) -> None:
    """Text, which has usual positions, and prompts with images run in the same captured steps."""
    model = write_axes_checkpoint(tmp_path, AXES) if axes else folder
    args = EngineArgs(model=str(model), dtype="float32", max_num_seqs=4, block_size=8, max_num_batched_tokens=32)
    plan = make_plan(args)
    inputs = make_image_inputs(plan, args)
    assert inputs is not None
    prompts = [PromptWithImages([5, 6, 7, 8], [])]
    prompts += [inputs.prepare([1, IMAGE, 3, IMAGE, 4], [picture(n), picture(n + 1)]) for n in range(2)]

    def moved(choice: Choice, name: str) -> Choice:
        target = f"{FakeDevice.__module__}:{name}"
        return choice.model_copy(update={"part": choice.part.model_copy(update={"target": target})})

    update = {"platform": moved(plan.platform, "FakeDevice"), "attention": moved(plan.attention, "FakeAttention")}
    replayed = FakeDevice.replayed
    results = []
    for each in (plan, plan.model_copy(update=update)):
        core = EngineCore(each, args)
        for name, prompt in zip("abc", prompts, strict=True):
            params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=0)
            core.add(NewRequest(name, prompt.token_ids, params, images=prompt.images or None))
        found: dict[str, list[float]] = {name: [] for name in "abc"}
        while not core.idle:
            for output in core.step():
                assert output.error is None
                found[output.id] += [position.logprobs[0] for position in output.logprobs or ()]
        results.append(found)
    assert FakeDevice.replayed > replayed
    assert all(len(values) == 12 for values in results[0].values())
    for name in "abc":
        assert results[1][name] == pytest.approx(results[0][name], abs=1e-4)
