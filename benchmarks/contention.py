"""Inference on the CPU while other processes use the same cores: tokens a second, by how threads wait for each other.

    python benchmarks/contention.py [--loops 0 1 2] [--cpus 0 1] [--waits default torch passive 1000 100000] [--rounds 3] [--dtype bfloat16]

A row is a child process, pinned to the cores of --cpus, with a thread for each. ``default`` is what Dovetail sets; ``torch`` is what torch does by itself;
``passive`` and ``active`` are OMP_WAIT_POLICY; a number is GOMP_SPINCOUNT. The children are measured one at a time and in turns, quiet and beside so many
busy loops on the same cores (a number that is given twice is measured twice in a round); where the machine has other cores, the children start up there,
all at once. Each figure is the median of the rounds. The shape is SmolLM2-135M's, with random weights: one stream, 16 streams, a prefill of 480 tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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
BUSY = [sys.executable, "-c", "while True: pass"]
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
NEW, PROMPT = 24, 480
COLUMNS = ("1 stream", "16 streams", "prefill")


# -- the child


def child(folder: str, args: argparse.Namespace) -> None:
    """Load, then answer each line of stdin with a line of figures."""
    from dovetail import LLM, SamplingParams

    llm = LLM(
        folder,
        load_format="dummy",
        dtype=args.dtype,
        device="cpu",
        max_model_len=512,
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        use_tqdm=False,
    )

    def seconds(streams: int, prompt: int, new: int) -> float:
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        prompts = [{"prompt_token_ids": list(range(1000 + i, 1000 + i + prompt))} for i in range(streams)]
        started = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - started

    def decode(streams: int) -> float:
        return streams * NEW / seconds(streams, 16, NEW)

    for streams, prompt in ((1, 16), (16, 16), (1, PROMPT)):
        seconds(streams, prompt, 4)
    print("ready", flush=True)
    for _ in sys.stdin:
        for task in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(task), args.cpus)
        figures = (
            median_within(lambda: decode(1)),
            median_within(lambda: decode(16)),
            median_within(lambda: PROMPT / seconds(1, PROMPT, 1)),
        )
        print(json.dumps(figures), flush=True)


def median_within(measure: Callable[[], float], limit: float = 1.0, most: int = 3) -> float:
    """The median of up to three, as many as start within the limit of seconds."""
    started = time.perf_counter()
    found: list[float] = []
    while not found or (len(found) < most and time.perf_counter() - started < limit):
        found.append(measure())
    return statistics.median(found)


# -- the parent


def environment(wait: str) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    if wait == "default":
        return others
    if wait == "torch":
        return others | {"GOMP_SPINCOUNT": "300000"}  # what libgomp takes by itself
    return others | ({"OMP_WAIT_POLICY": wait} if wait in ("passive", "active") else {"GOMP_SPINCOUNT": wait})


def start(folder: str, args: argparse.Namespace, wait: str, cpus: list[int]) -> subprocess.Popen[str]:
    numbers = [str(cpu) for cpu in args.cpus]
    command = [sys.executable, __file__, "--child", folder, "--dtype", args.dtype, "--cpus", *numbers]
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)  # the child's OpenMP counts the cores that it starts on
    try:
        return subprocess.Popen(
            command, env=environment(wait), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def busy(loops: int, cpus: list[int]) -> Iterator[None]:
    processes = [subprocess.Popen(BUSY) for _ in range(loops)]
    try:
        for process in processes:
            os.sched_setaffinity(process.pid, cpus)
        time.sleep(0.3)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def answer(process: subprocess.Popen[str], question: str = "") -> str:
    assert process.stdin
    assert process.stdout
    process.stdin.write(question)
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a child ended with {process.wait()}")
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loops", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cpus", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--waits", nargs="+", default=["default", "torch", "passive", "1000", "100000"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child")
    args = parser.parse_args()
    if args.child:
        child(args.child, args)
        return
    print(heading(f"benchmarks/contention.py --cpus {args.cpus} --dtype {args.dtype} --rounds {args.rounds}"))
    rows: dict[tuple[str, int], list[list[float]]] = {(wait, loops): [] for wait in args.waits for loops in args.loops}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(SMOLLM2))
        cores, size = sorted(os.sched_getaffinity(0)), len(args.cpus)
        groups = [cores[at : at + size] for at in range(0, len(cores) - size + 1, size)]
        children = {wait: start(folder, args, wait, groups[i % len(groups)]) for i, wait in enumerate(args.waits)}
        try:
            for process in children.values():
                answer(process)
            for number in range(args.rounds):
                turn = number % len(args.waits)
                for loops in args.loops:
                    for wait in (
                        args.waits[turn:] + args.waits[:turn]
                    ):  # what was measured just before changes a machine's speed
                        process = children[wait]
                        with busy(loops, args.cpus):
                            rows[wait, loops].append(json.loads(answer(process, "measure\n")))
                        figures = "  ".join(f"{figure:.1f}" for figure in rows[wait, loops][-1])
                        print(f"  {wait:<10}{loops} busy loops: {figures} tokens/s", flush=True)
        finally:
            for process in children.values():
                process.kill()
                process.wait()
    print(f"\n  {'wait':<10}{'busy loops':>12}" + "".join(f"{column:>14}" for column in COLUMNS))
    for (wait, loops), found in rows.items():
        medians = (statistics.median(figures) for figures in zip(*found, strict=True))
        print(f"  {wait:<10}{loops:>12}" + "".join(f"{figure:>14.1f}" for figure in medians))


if __name__ == "__main__":
    main()
