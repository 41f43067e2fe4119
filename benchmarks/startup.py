"""Seconds to the first answer, and memory: the command line, the plan, and a server with the embedded model.

python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys
import time

import httpx2
from common import family_rss, heading, median_seconds

DOVETAIL = [sys.executable, "-m", "dovetail"]
PORT = 18431


def run(*arguments: str) -> None:
    subprocess.run([*DOVETAIL, *arguments], check=True, capture_output=True)


def server() -> tuple[float, int, int]:
    """(seconds until healthy, bytes then, bytes after one answer)."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [*DOVETAIL, "serve", "--port", str(PORT)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=60) as client:
            while True:
                try:
                    client.get("/health").raise_for_status()
                    break
                except httpx2.TransportError:
                    time.sleep(0.01)
            ready, before = time.perf_counter() - started, family_rss(process.pid)
            model = client.get("/v1/models").json()["data"][0]["id"]
            question = {"role": "user", "content": "What is the capital of France?"}
            client.post(
                "/v1/chat/completions", json={"model": model, "messages": [question], "temperature": 0}
            ).raise_for_status()
            return ready, before, family_rss(process.pid)
    finally:
        process.terminate()
        process.wait(20)


def main() -> None:
    print(heading("benchmarks/startup.py"))
    for arguments in (["--help"], ["serve", "--help"], ["plugins", "list"], ["plan"]):
        print(f"  dovetail {' '.join(arguments):<14} {median_seconds(lambda a=arguments: run(*a)):6.3f} s")  # type: ignore[misc]
    runs = [server() for _ in range(3)]
    ready, before, after = (sorted(column)[1] for column in zip(*runs, strict=True))
    print(
        f"  dovetail serve, ready    {ready:6.2f} s, {before >> 20} MiB in all processes; after one answer {after >> 20} MiB"
    )


if __name__ == "__main__":
    main()
