"""``/metrics`` of a whole server: what the engine measured, and what several API processes counted together."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ..serving import Server, serving
from ..tiny import write_checkpoint

TOKENS = 6
BODY = {"prompt": "a b c d", "max_tokens": TOKENS, "ignore_eos": True}


@pytest.fixture(scope="module", params=[1, 2])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("tiny"))
    speculation = '{"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1}'
    flags = ("--served-model-name", "tiny", "--speculative-config", speculation)
    with serving(str(checkpoint), *flags, "--api-server-count", str(request.param)) as running:
        yield running


def scrape(server: Server) -> dict[str, float]:
    """Samples that have no labels of their own, by name."""
    answer = httpx2.get(f"{server.url}/metrics", timeout=60)
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            if not sample.labels.keys() - {"model_name", "engine"}:
                found[sample.name] = sample.value
    return found


def test_every_process_shows_what_all_have_counted(server: Server) -> None:
    before = scrape(server)
    answers = [httpx2.post(f"{server.url}/v1/completions", json=BODY, timeout=60) for _ in range(12)]
    prompt = answers[0].json()["usage"]["prompt_tokens"]
    for _ in range(6):
        after = scrape(server)
        new = {name: after[name] - before.get(name, 0) for name in after}
        for name in ("e2e_request_latency", "time_to_first_token", "request_queue_time", "request_prefill_time"):
            assert new[f"vllm:{name}_seconds_count"] == 12
        assert new["vllm:generation_tokens_total"] == new["vllm:request_generation_tokens_sum"] == 12 * TOKENS
        assert new["vllm:prompt_tokens_total"] == new["vllm:request_prompt_tokens_sum"] == 12 * prompt
        assert new["vllm:prefix_cache_queries_total"] > 0
        assert new["vllm:iteration_tokens_total_count"] > 0
        assert new["vllm:inter_token_latency_seconds_count"] == 12 * (TOKENS - 1)
        assert new["vllm:request_inference_time_seconds_sum"] < new["vllm:e2e_request_latency_seconds_sum"]
        assert after["vllm:num_requests_running"] == after["vllm:num_requests_waiting"] == 0


def test_guesses_are_counted(server: Server) -> None:
    everything = list(range(3, 250))  # so that every token has been seen, with one that followed it
    httpx2.post(f"{server.url}/v1/completions", json={**BODY, "prompt": everything, "max_tokens": 32}, timeout=60)
    found = scrape(server)
    drafts, tokens = found["vllm:spec_decode_num_drafts_total"], found["vllm:spec_decode_num_draft_tokens_total"]
    assert 0 < drafts <= tokens <= 3 * drafts
    assert found["vllm:spec_decode_num_accepted_tokens_total"] <= tokens
