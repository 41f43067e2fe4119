"""Results against transformers: logits of texts, and tokens and logprobs of prompts with images, computed in chunks that
end within images, and with cached prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dovetail_models_qwen_vl import dovetail_register_models
from PIL import Image

from dovetail.engine.offline.llm import LLM
from dovetail.engine.request.params import SamplingParams
from dovetail.testing import check_parity

transformers = pytest.importorskip("transformers")

(CARD,) = dovetail_register_models()
IMAGE = 90
TEXT: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
}
TOWER: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_heads": 2,
    "patch_size": 4,
    "window_size": 16,
    "out_hidden_size": 48,
    "fullatt_block_indexes": [1],
}
TINY: dict[str, Any] = {"text_config": TEXT, "vision_config": TOWER, "image_token_id": IMAGE, "video_token_id": 91}
OTHER: dict[str, Any] = {
    "text_config": {**TEXT, "rope_parameters": {**TEXT["rope_parameters"], "mrope_section": [1, 2, 3]}, "head_dim": 12},
    "vision_config": {**TOWER, "hidden_act": "gelu", "window_size": 27, "fullatt_block_indexes": [0, 2]},
    "tie_word_embeddings": True,
}
PROMPTS = [
    ([1, 2, IMAGE, 3, 4], [0]),
    ([1, 2, IMAGE, 3, 4], [1]),
    ([1, IMAGE, 3, IMAGE, 8], [0, 1]),
    ([IMAGE, 5, IMAGE, 4], [1, 0]),
]


def test_texts() -> None:
    check_parity(CARD, TINY)


class Both:
    """The same checkpoint in transformers and here."""

    def __init__(self, folder: Path, changes: dict[str, Any]) -> None:
        config = transformers.Qwen2_5_VLConfig(**{**TINY, **changes}, attn_implementation="eager")
        self.original = transformers.Qwen2_5_VLForConditionalGeneration(config).eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for value in self.original.parameters():
                noise = torch.randn(value.shape, generator=generator)
                value.copy_(1 + 0.3 * noise if value.dim() < 2 else noise * value.shape[-1] ** -0.5)
        self.original.save_pretrained(folder)
        module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
        self.processor = module.Qwen2VLImageProcessorPil(patch_size=4, min_pixels=256, max_pixels=1600)
        self.processor.save_pretrained(folder)
        self.llm = LLM(
            folder,
            dtype="float32",
            skip_tokenizer_init=True,
            use_tqdm=False,
            block_size=4,
            max_num_batched_tokens=7,
            kv_cache_memory_bytes="16M",
            max_num_seqs=4,
        )

    def ours(self, prompts: Sequence[tuple[list[int], list[Image.Image]]]) -> list[Any]:
        params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True, detokenize=False, logprobs=1)
        given = [{"prompt_token_ids": ids, "multi_modal_data": {"image": images}} for ids, images in prompts]
        return self.llm.generate(given, params, use_tqdm=False)

    def theirs(self, ids: list[int], images: list[Image.Image]) -> tuple[list[int], list[float]]:
        seen = [self.processor(image, return_tensors="pt") for image in images]
        pixels = torch.cat([each["pixel_values"] for each in seen])
        grids = torch.cat([each["image_grid_thw"] for each in seen])
        counts = iter((grids.prod(-1) // 4).tolist())
        tokens = torch.tensor([[t for i in ids for t in [i] * (next(counts) if i == IMAGE else 1)]])
        chosen: list[int] = []
        logprobs: list[float] = []
        with torch.inference_mode():
            for _ in range(8):
                types = (tokens == IMAGE).int()
                logits = self.original(
                    input_ids=tokens, pixel_values=pixels, image_grid_thw=grids, mm_token_type_ids=types
                ).logits[0, -1]
                chosen.append(int(logits.argmax()))
                logprobs.append(float(logits.log_softmax(-1)[chosen[-1]]))
                tokens = torch.cat([tokens, torch.tensor([chosen[-1:]])], 1)
        return chosen, logprobs


@pytest.fixture(params=[{}, OTHER], ids=["usual", "other"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Both:
    return Both(tmp_path, request.param)


def test_images(both: Both) -> None:
    values = np.random.default_rng(0)
    sizes = [(40, 57, 3), (61, 33, 3)]
    pictures = [Image.fromarray(values.integers(0, 256, size, dtype=np.uint8)) for size in sizes]
    prompts = [(ids, [pictures[n] for n in which]) for ids, which in PROMPTS]
    expected = [both.theirs(*prompt) for prompt in prompts]
    assert expected[0] != expected[1]
    cached = 0
    for outputs in ([both.ours([prompt])[0] for prompt in prompts], both.ours(prompts)):
        for output, (tokens, logprobs) in zip(outputs, expected, strict=True):
            (completion,) = output.outputs
            assert list(completion.token_ids) == tokens
            found = [position[token].logprob for position, token in zip(completion.logprobs, tokens, strict=True)]
            assert found == pytest.approx(logprobs, abs=1e-4)
            cached += output.num_cached_tokens
    assert cached > 100, "prefixes with images were not found again"
