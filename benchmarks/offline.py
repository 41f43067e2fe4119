"""Prefill and decode of the embedded model, against transformers on the same weights (dequantized, float32) in the same run.

python benchmarks/offline.py [--skip-transformers] [--dtype float32]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from common import heading

from dovetail import LLM, SamplingParams

PREFILL, PROMPT, NEW = 512, 32, 64


def ours(llm: LLM, streams: int, prompt: int, new: int) -> float:
    """Seconds for so many streams of prompts that share nothing."""
    generator = torch.Generator().manual_seed(streams * 7919 + prompt)
    prompts = [
        {"prompt_token_ids": torch.randint(1000, 40000, (prompt,), generator=generator).tolist()}
        for _ in range(streams)
    ]
    started = time.perf_counter()
    outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=new, ignore_eos=True), use_tqdm=False)
    seconds = time.perf_counter() - started
    assert all(len(o.outputs[0].token_ids) == new for o in outputs)
    return seconds


def theirs(model: torch.nn.Module, prompt: int, new: int) -> float:
    ids = torch.randint(1000, 40000, (1, prompt))
    started = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=2)  # type: ignore[operator]
    assert out.shape[1] == prompt + new
    return time.perf_counter() - started


def report(name: str, run: object) -> None:
    """Decode speed is the time for many new tokens less that for few, so that the prefill is not in it."""
    time_of = run  # (prompt, new) -> seconds
    time_of(PROMPT, 4)  # type: ignore[operator]
    prefill = min(time_of(PREFILL, 1) for _ in range(3))  # type: ignore[operator]
    decode = min(time_of(PROMPT, NEW + 4) - time_of(PROMPT, 4) for _ in range(3))  # type: ignore[operator]
    print(f"  {name:<28} decode {NEW / decode:7.1f} tokens/s   prefill {PREFILL / prefill:7.0f} tokens/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skip-transformers", action="store_true")
    parser.add_argument("--dtype", default="auto")
    args = parser.parse_args()
    print(heading(f"benchmarks/offline.py --dtype {args.dtype}"))
    # The same prompts come again, and are to be computed each time.
    llm = LLM(use_tqdm=False, max_model_len=2048, dtype=args.dtype, enable_prefix_caching=False)
    report(f"dovetail ({llm.plan.dtype}, 1 stream)", lambda prompt, new: ours(llm, 1, prompt, new))
    few, many = (min(ours(llm, 16, PROMPT, n) for _ in range(2)) for n in (4, NEW + 4))
    print(f"  dovetail (16 streams)        decode {16 * NEW / (many - few):7.1f} tokens/s")
    if not args.skip_transformers:
        from transformers import AutoModelForCausalLM

        file = Path(llm.plan.checkpoint.path)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
        report("transformers (float32)", lambda prompt, new: theirs(model, prompt, new))


if __name__ == "__main__":
    main()
