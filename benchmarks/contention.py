"""One stream on the CPU while other processes use the same cores: tokens a second, by how threads wait for each other.

    python benchmarks/contention.py [--loops 0 1 2] [--cpus 0 1] [--dtype bfloat16] [--waits default passive 1000 10000] [--rounds 3]

Each row is a child process of its own, on the cores of --cpus, beside so many busy loops on the same cores. ``default`` is what the command line gives a
server; ``passive`` is OMP_WAIT_POLICY=passive; ``active``, likewise; a number is GOMP_SPINCOUNT. The shape is SmolLM2-135M's, with random weights; rows are
measured in turns, and each figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import heading

SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 49152,
}
NEW, FEW = 68, 4
BUSY = [sys.executable, "-c", "while True: pass"]


def child(folder: str, dtype: str, threads: int) -> None:
    """Print the tokens a second of one stream."""
    import torch

    torch.set_num_threads(threads)
    from dovetail import LLM, SamplingParams

    llm = LLM(
        folder,
        load_format="dummy",
        dtype=dtype,
        device="cpu",
        max_model_len=512,
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        use_tqdm=False,
    )

    def seconds(new: int) -> float:
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        started = time.perf_counter()
        llm.generate({"prompt_token_ids": list(range(1000, 1032))}, params, use_tqdm=False)
        return time.perf_counter() - started

    seconds(FEW)
    few = seconds(FEW)
    print(json.dumps((NEW - FEW) / (seconds(NEW) - few)))


def wait_variables(wait: str) -> dict[str, str]:
    if wait == "default":
        return {}
    return {"OMP_WAIT_POLICY": wait} if wait in ("passive", "active") else {"GOMP_SPINCOUNT": wait}


def measure(folder: str, args: argparse.Namespace, wait: str, loops: int) -> float:
    environment = {
        k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
    }
    environment |= wait_variables(wait)
    busy = [subprocess.Popen(BUSY) for _ in range(loops)]
    try:
        command = [sys.executable, __file__, "--child", folder, "--dtype", args.dtype, "--threads", str(args.threads)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        return float(json.loads(done.stdout.strip().splitlines()[-1]))
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loops", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cpus", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--waits", nargs="+", default=["default", "passive", "1000", "10000"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child")
    args = parser.parse_args()
    if args.child:
        child(args.child, args.dtype, args.threads)
        return
    os.sched_setaffinity(0, args.cpus)
    print(heading(f"benchmarks/contention.py --cpus {args.cpus} --dtype {args.dtype} --rounds {args.rounds}"))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(SMOLLM2))
        rows: dict[str, dict[int, list[float]]] = {wait: {n: [] for n in args.loops} for wait in args.waits}
        for _ in range(args.rounds):
            for loops in args.loops:
                for wait in args.waits:
                    rows[wait][loops].append(measure(folder, args, wait, loops))
                    print(f"  {wait:<10}{loops} busy loops: {rows[wait][loops][-1]:.1f} tokens/s", flush=True)
        print(f"  {'wait':<10}" + "".join(f"{n:>4} busy loops" for n in args.loops))
        for wait, found in rows.items():
            print(f"  {wait:<10}" + "".join(f"{statistics.median(found[n]):>15.1f}" for n in args.loops))


if __name__ == "__main__":
    main()
