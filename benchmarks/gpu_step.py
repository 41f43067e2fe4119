"""One decode step of the engine on a GPU, with random weights: milliseconds by batch size, with captured graphs and without.

    python benchmarks/gpu_step.py [--config FOLDER] [--batches 1 16 64 256] [--prompt 128] [--new 144] [--dtype bfloat16]

Each mode runs in a process of its own. Every batch is run twice, the second time with torch refusing calls that wait for the device; only that run is timed,
over the steps in which all streams decode. Both runs and both modes must give the same greedy tokens. Without --config, the shape is that of
Llama-3.1-8B. Needs the plugins dovetail-backends-cuda, dovetail-loaders-dummy and dovetail-models-llama.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import heading

from dovetail.engine.args import EngineArgs
from dovetail.engine.messages import NewRequest
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.setup import make_plan
from dovetail.engine.step.core import EngineCore

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}


def run(core: EngineCore, prompts: list[list[int]], new: int, check: bool) -> tuple[float, float, dict[str, list[int]]]:
    """Seconds to the last first token, seconds of a decode step, and the tokens of each stream."""
    params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
    for i, prompt in enumerate(prompts):
        core.add(NewRequest(id=str(i), prompt_token_ids=prompt, params=params))
    found: dict[str, list[int]] = {str(i): [] for i in range(len(prompts))}
    started, marks = time.perf_counter(), []
    while not core.idle:
        for output in core.step():
            found[output.id] += output.token_ids
        # The second token of every stream has landed: from here on all steps are decode steps, until the first stream ends.
        if min(map(len, found.values())) >= 2 and max(map(len, found.values())) < new:
            if check and not marks:
                torch.cuda.set_sync_debug_mode("error")
            marks.append(time.perf_counter())
        else:
            torch.cuda.set_sync_debug_mode("default")
    torch.cuda.set_sync_debug_mode("default")
    return marks[0] - started, (marks[-1] - marks[0]) / (len(marks) - 1), found


def measure(args: argparse.Namespace, folder: str) -> dict[str, list[list[int]]]:
    """Print a line for each batch size; the tokens of each, by stream."""
    began = time.perf_counter()
    options = EngineArgs(
        model=folder,
        load_format="dummy",
        device="cuda",
        dtype=args.dtype,
        max_model_len=args.prompt + args.new + 8,
        max_num_seqs=max(args.batches),
        max_num_batched_tokens=8192,
        enable_prefix_caching=False,
        enforce_eager=args.eager,
        max_decode_slowdown=0.0,
    )
    core = EngineCore(make_plan(options), options)
    mode = "without graphs" if args.eager else "with graphs"
    print(
        f"{mode}: ready after {time.perf_counter() - began:.1f} s; {core.info.device}; {core.info.budget}", flush=True
    )
    tokens = {}
    for batch in args.batches:
        draw = random.Random(batch)
        prompts = [[draw.randrange(core.vocab_size) for _ in range(args.prompt)] for _ in range(batch)]
        first = run(core, prompts, args.new, check=False)
        prefill, step, found = run(core, prompts, args.new, check=True)
        same = "the same tokens twice" if found == first[2] else "OTHER TOKENS THE SECOND TIME"
        print(
            f"  batch {batch:4d}: {step * 1e3:7.3f} ms a step, {batch / step:9.1f} tokens/s, prefill {prefill * 1e3:7.1f} ms; {same}",
            flush=True,
        )
        tokens[str(batch)] = [found[str(i)] for i in range(batch)]
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="folder with a config.json")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=144)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--eager", action="store_true", help="measure without graphs alone, in this process")
    parser.add_argument("--graphs", action="store_true", help="measure with graphs alone, in this process")
    parser.add_argument("--tokens", help="write the tokens to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if args.config is None:
            (Path(scratch) / "config.json").write_text(json.dumps(LLAMA))
        if args.eager or args.graphs:
            tokens = measure(args, args.config or scratch)
            if args.tokens:
                Path(args.tokens).write_text(json.dumps(tokens))
            return
        print(heading("benchmarks/gpu_step.py"))
        found = []
        for mode in ("--graphs", "--eager"):
            file = Path(scratch) / f"{mode}.json"
            subprocess.run([sys.executable, *sys.argv, mode, "--tokens", str(file)], check=True)
            found.append(json.loads(file.read_text()))
    for batch, streams in found[0].items():
        digest = hashlib.sha256(json.dumps(streams).encode()).hexdigest()[:12]
        other = sum(a != b for a, b in zip(streams, found[1][batch], strict=True))
        print(
            f"  batch {batch:>4}: tokens {digest}, "
            + (f"{other} STREAMS DIFFER without graphs" if other else "the same without graphs")
        )
        if other:
            sys.exit(1)


if __name__ == "__main__":
    main()
