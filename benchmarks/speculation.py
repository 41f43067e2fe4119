"""Speculative decoding of the embedded model: what guesses save where outputs repeat their inputs, and what they cost where nothing repeats.

python benchmarks/speculation.py [--config JSON]… [--tokens 128] [--streams 1 8]

Every row is checked to give the tokens of the row without speculation.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from common import heading

from dovetail import SamplingParams
from dovetail.engine.args import EngineArgs
from dovetail.engine.messages import NewRequest
from dovetail.engine.setup import load_tokenizer, make_plan
from dovetail.engine.step.core import EngineCore

CODE = """def area(shape):
    if shape.kind == "circle":
        return 3.14159 * shape.radius * shape.radius
    if shape.kind == "square":
        return shape.side * shape.side
    if shape.kind == "rectangle":
        return shape.width * shape.height
    raise ValueError(f"no such shape: {shape.kind}")
"""
TASKS = {
    "repeats": f"Repeat this Python function exactly, without any changes:\n\n```python\n{CODE}```",
    "edits": f"Rename the function `area` to `surface` and change nothing else. Answer with the whole function.\n\n```python\n{CODE}```",
    "tells": "Tell me a story about a lighthouse keeper who finds a bottle on the beach.",
}


def measure(core: EngineCore, prompt: list[int], streams: int, tokens: int, temperature: float) -> dict[str, Any]:
    """One batch of equal streams, each with a seed of its own; the time of its decode steps."""
    params = [SamplingParams(temperature=temperature, seed=i, max_tokens=tokens) for i in range(streams)]
    for i, one in enumerate(params):
        core.add(NewRequest(f"{time.perf_counter_ns()}-{i}", prompt, one))
    core.step()
    before, started, steps = core.stats, time.perf_counter(), 0
    found: dict[str, list[int]] = {}
    while not core.idle:
        for output in core.step():
            found.setdefault(output.id, []).extend(output.token_ids)
        steps += 1
    seconds = time.perf_counter() - started
    after = core.stats
    return {
        "tokens": list(found.values()),
        "speed": (after.output_tokens - before.output_tokens) / seconds,
        "steps": steps,
        "drafted": after.num_draft_tokens - before.num_draft_tokens,
        "accepted": after.num_accepted_tokens - before.num_accepted_tokens,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", default=[], help="a --speculative-config; may be repeated")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print(heading("benchmarks/speculation.py"))
    configs = [None, *map(json.loads, args.config or ['{"method": "ngram"}'])]
    cores = []
    for config in configs:
        options = EngineArgs(max_model_len=2048, max_decode_slowdown=0, speculative_config=config)
        plan = make_plan(options)
        cores.append(EngineCore(plan, options))
    tokenizer = load_tokenizer(plan)
    print(f"{'task':<9} {'streams':>7} {'speculation':<72} {'tokens/s':>9} {'steps':>6} {'guessed':>8} {'right':>6}")
    for task, text in TASKS.items():
        prompt = tokenizer.encode(tokenizer.apply_chat_template([{"role": "user", "content": text}]), False)
        for streams in args.streams:
            # In turn, so that what else the machine does falls on all alike.
            rounds = [
                [measure(core, prompt, streams, args.tokens, args.temperature) for core in cores]
                for _ in range(args.repeats)
            ]
            wanted = sorted(rounds[0][0]["tokens"])
            for config, runs in zip(configs, zip(*rounds, strict=True), strict=True):
                best = max(runs, key=lambda r: r["speed"])
                assert sorted(best["tokens"]) == wanted, "speculation changed an output"
                share = f"{best['accepted'] / best['drafted']:6.0%}" if best["drafted"] else ""
                name = json.dumps(config) if config else "off"
                print(
                    f"{task:<9} {streams:>7} {name:<72} {best['speed']:9.1f} {best['steps']:>6} {best['drafted']:>8} {share:>6}"
                )


if __name__ == "__main__":
    main()
