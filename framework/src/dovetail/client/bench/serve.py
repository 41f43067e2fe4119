"""``dovetail bench serve``: many concurrent streams, on any server with OpenAI's API."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping

from tqdm import tqdm

from dovetail.client.bench import report
from dovetail.client.bench.datasets import load_samples
from dovetail.client.bench.load_generator import Load, connect
from dovetail.client.bench.metrics import series, statistics, summarize
from dovetail.client.bench.options import ServeOptions
from dovetail.client.bench.stream import Outcome
from dovetail.client.http import ChatClient, ClientError, server_root

SHOWN_ERRORS = 5


def run_serve(
    url: str, model: str | None, api_key: str | None, options: ServeOptions, goodput: Mapping[str, float]
) -> int:
    """Run the benchmark, and print the results.

    Args:
        model: its name at the server; the server's first one if None.
        options: checked.
        goodput: metric → maximum milliseconds of a good request.

    Returns:
        The exit code: 1 if no request succeeded.

    Raises:
        UsageError: the dataset cannot be used.
        ClientError: the server cannot be reached, or refuses the warm-up request.
    """
    root = server_root(url)
    if model is None:
        with ChatClient(root, api_key) as client:
            model = client.main_model()
    outcomes, seconds = asyncio.run(_measure(root, model, api_key, options))
    figures = summarize(outcomes, seconds, goodput)
    values = series(outcomes)
    metrics = {metric: statistics(values[metric], options.percentiles) for metric in options.metrics}
    print(report.render_table(options, figures, metrics))
    _print_errors(outcomes)
    if options.save_result:
        saved = report.build_result(options, model, figures, metrics)
        path = report.result_path(options, saved)
        report.write_json(path, saved | (report.build_details(outcomes) if options.save_detailed else {}))
        print(f"wrote {path}", file=sys.stderr)
    return 0 if figures["completed"] else 1


async def _measure(root: str, model: str, api_key: str | None, options: ServeOptions) -> tuple[list[Outcome], float]:
    async with connect(root, api_key) as session:
        load = Load(session, root, model, options)
        samples, warm_up = await load_samples(options, load.count_tokens)
        first = await load.send(warm_up)
        if first.error:
            raise ClientError(f"the first request to {root}{options.endpoint} failed: {first.error}")
        with tqdm(desc="Requests", total=len(samples), disable=not sys.stderr.isatty()) as bar:
            return await load.run(samples, bar.update)


def _print_errors(outcomes: list[Outcome]) -> None:
    failed = [outcome for outcome in outcomes if outcome.error]
    for outcome in failed[:SHOWN_ERRORS]:
        print(f"failed: {outcome.error}", file=sys.stderr)
    if len(failed) > SHOWN_ERRORS:
        print(f"and {len(failed) - SHOWN_ERRORS} more failed", file=sys.stderr)
    if any(not outcome.counted for outcome in outcomes if not outcome.error):
        print(
            "the server tells no usage: tokens are counted as pieces of the stream, and prompts as asked for",
            file=sys.stderr,
        )
