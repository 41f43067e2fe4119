"""``dovetail bench latency`` and ``dovetail bench throughput``: the engine alone, in this process."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dovetail.client.bench.options import LatencyOptions, ThroughputOptions
from dovetail.client.bench.report import write_json
from dovetail.engine.args import EngineArgs
from dovetail.engine.offline.llm import LLM
from dovetail.engine.request.params import SamplingParams

PERCENTILES = (10, 25, 50, 75, 90, 99)


class Runner:
    """A model, and prompts of random token ids for it.

    Raises:
        DovetailError: the model cannot be loaded.
    """

    def __init__(self, args: EngineArgs) -> None:
        self.on_terminal = sys.stderr.isatty()
        self.llm = LLM.from_engine_args(args, use_tqdm=self.on_terminal)
        self._vocab_size = int(self.llm.plan.build_model_config().vocab_size)
        self._rng = np.random.default_rng(args.seed)

    def run(self, prompts: int, input_len: int, output_len: int, show: bool = False) -> float:
        """Seconds that it takes to continue so many new prompts, all together."""
        ids = self._rng.integers(0, self._vocab_size, (prompts, input_len)).tolist()
        params = SamplingParams(temperature=1.0, ignore_eos=True, max_tokens=output_len, detokenize=False)
        started = time.perf_counter()
        self.llm.generate([{"prompt_token_ids": one} for one in ids], params, use_tqdm=show and self.on_terminal)
        return time.perf_counter() - started


def run_latency(args: EngineArgs, options: LatencyOptions) -> int:
    """How long a batch takes from its prompts to its last token.

    Raises:
        DovetailError: the model cannot be loaded, or the lengths do not fit it.
    """
    runner = Runner(args)
    shape = (options.batch_size, options.input_len, options.output_len)
    for _ in tqdm(range(options.num_iters_warmup), desc="Warming up", disable=not runner.on_terminal):
        runner.run(*shape)
    seconds = [
        runner.run(*shape) for _ in tqdm(range(options.num_iters), desc="Rounds", disable=not runner.on_terminal)
    ]
    average = float(np.mean(seconds))
    percentiles = {str(p): float(np.percentile(seconds, p)) for p in PERCENTILES}
    print(f"Avg latency: {average:.4f} seconds")
    for name, value in percentiles.items():
        print(f"{name}% percentile latency: {value:.4f} seconds")
    if options.output_json:
        figures = {"avg_latency": average, "latencies": seconds, "percentiles": percentiles}
        write_json(Path(options.output_json), figures)
    return 0


def run_throughput(args: EngineArgs, options: ThroughputOptions) -> int:
    """How many tokens a second many prompts come to that are given at once.

    Raises:
        DovetailError: the model cannot be loaded, or the lengths do not fit it.
    """
    runner = Runner(args)
    runner.run(1, options.input_len, 2)
    seconds = runner.run(options.num_prompts, options.input_len, options.output_len, show=True)
    inputs, outputs = options.num_prompts * options.input_len, options.num_prompts * options.output_len
    requests, total = options.num_prompts / seconds, (inputs + outputs) / seconds
    print(
        f"Throughput: {requests:.2f} requests/s, {total:.2f} total tokens/s, {outputs / seconds:.2f} output tokens/s\n"
        f"Total num prompt tokens: {inputs}\nTotal num output tokens: {outputs}"
    )
    if options.output_json:
        figures = {
            "elapsed_time": seconds,
            "num_requests": options.num_prompts,
            "total_num_tokens": inputs + outputs,
            "requests_per_second": requests,
            "tokens_per_second": total,
        }
        write_json(Path(options.output_json), figures)
    return 0
