"""Many streams at once over HTTP: output tokens a second, time to first token, time between tokens, memory.

python benchmarks/serving.py [--streams 16] [--prompt 128] [--new 64] [-- MODEL and serve's options]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from itertools import pairwise

import httpx2
from common import family_rss, heading

PORT = 18432


async def stream(client: httpx2.AsyncClient, model: str, prompt: list[int], new: int) -> list[float]:
    """Times of the pieces, after the request's start."""
    body = {"model": model, "prompt": prompt, "max_tokens": new, "temperature": 0, "ignore_eos": True, "stream": True}
    started = time.perf_counter()
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        return [
            time.perf_counter() - started
            async for line in response.aiter_lines()
            if line.startswith("data: {") and json.loads(line[6:])["choices"]
        ]


async def measure(args: argparse.Namespace) -> None:
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", timeout=600) as client:
        while True:
            try:
                (await client.get("/health")).raise_for_status()
                break
            except httpx2.TransportError:
                await asyncio.sleep(0.05)
        model = (await client.get("/v1/models")).json()["data"][0]["id"]
        prompts = [[1000 + (31 * i + j * (i + 1)) % 30000 for j in range(args.prompt)] for i in range(args.streams)]
        await stream(client, model, prompts[0], 4)
        started = time.perf_counter()
        runs = await asyncio.gather(*(stream(client, model, p, args.new) for p in prompts))
        seconds = time.perf_counter() - started
    gaps = [b - a for times in runs for a, b in pairwise(times)]
    print(
        f"  {args.streams} streams, {args.prompt} in, {args.new} out: {args.streams * args.new / seconds:.1f} tokens/s, TTFT p50 "
        f"{statistics.median(t[0] for t in runs):.2f} s, ITL p50 {statistics.median(gaps) * 1e3:.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("serve", nargs="*", help="model and options of dovetail serve")
    args = parser.parse_args()
    print(heading("benchmarks/serving.py"))
    command = [sys.executable, "-m", "dovetail", "serve", "--port", str(PORT), *args.serve]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asyncio.run(measure(args))
        print(f"  memory of all processes afterwards: {family_rss(server.pid) >> 20} MiB")
    finally:
        server.terminate()
        server.wait(20)


if __name__ == "__main__":
    main()
