"""The scheduler and the block pool: whatever arrives, everybody finishes and nothing leaks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.kv_cache import NULL_BLOCK, BlockPool, KVCacheManager
from dovetail.engine.params import SamplingParams
from dovetail.engine.request import Request
from dovetail.engine.scheduler import Scheduler

BLOCK = 4


def make_request(name: str, prompt: int, output: int) -> Request:
    return Request(name, [0] * prompt, SamplingParams(max_tokens=output), prompt, prompt + output, frozenset())


def make_scheduler(blocks: int = 64, max_seqs: int = 8, max_tokens: int = 32) -> Scheduler:
    return Scheduler(max_seqs, max_tokens, KVCacheManager(blocks + 1, BLOCK))


def run_step(scheduler: Scheduler) -> tuple[dict[str, int], list[str]]:
    """One step as the engine would run it: every request whose tokens are all computed gets one more, or ends."""
    schedule = scheduler.schedule()
    for request, count in schedule.tokens.items():
        assert 0 < count <= request.pending
        request.computed += count
        if request.pending == 0:
            request.tokens.append(0)
            if len(request.tokens) >= request.max_len:
                scheduler.remove(request)
    return {r.id: n for r, n in schedule.tokens.items()}, [r.id for r in schedule.preempted]


def test_a_long_prompt_is_computed_in_chunks() -> None:
    scheduler = make_scheduler(max_tokens=10)
    scheduler.add(make_request("long", 25, 2))
    steps = [run_step(scheduler)[0] for _ in range(4)]
    assert steps == [{"long": 10}, {"long": 10}, {"long": 5}, {"long": 1}]
    assert scheduler.idle


def test_running_streams_come_before_waiting_prompts() -> None:
    scheduler = make_scheduler(max_tokens=8)
    scheduler.add(make_request("stream", 4, 5))
    run_step(scheduler)
    scheduler.add(make_request("late", 20, 1))
    assert run_step(scheduler)[0] == {"stream": 1, "late": 7}


def test_arrivals_are_admitted_in_order() -> None:
    scheduler = make_scheduler(max_seqs=2)
    for name in "abc":
        scheduler.add(make_request(name, 4, 2))
    assert list(run_step(scheduler)[0]) == ["a", "b"]
    run_step(scheduler)
    assert list(run_step(scheduler)[0]) == ["c"]


def test_the_latest_arrival_gives_way_when_blocks_run_out() -> None:
    scheduler = make_scheduler(blocks=4)
    scheduler.add(make_request("old", 7, 9))
    scheduler.add(make_request("new", 7, 9))
    run_step(scheduler)
    preempted: list[str] = []
    while not scheduler.idle and not preempted:
        preempted = run_step(scheduler)[1]
    assert preempted == ["new"]
    finished = {"old": 0, "new": 0}
    while not scheduler.idle:
        for name in run_step(scheduler)[0]:
            finished[name] += 1
    assert finished["new"] > 0
    assert scheduler.kv.pool.free == 4


def test_a_pool_gives_out_each_block_once_and_never_the_null_block() -> None:
    pool = BlockPool(9)
    taken = pool.take(8)
    assert taken is not None
    assert sorted(taken) == list(range(1, 9))
    assert NULL_BLOCK not in taken
    assert pool.take(1) is None
    pool.give(taken[:3])
    assert pool.free == 3


requests = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(0, 12)), min_size=1, max_size=20)


@settings(max_examples=150, deadline=None)
@given(
    requests=requests,
    blocks=st.integers(16, 40),
    max_seqs=st.integers(1, 6),
    max_tokens=st.integers(1, 48),
    data=st.data(),
)
def test_any_storm_finishes_and_leaves_the_pool_whole(
    requests: list[tuple[int, int, int]], blocks: int, max_seqs: int, max_tokens: int, data: st.DataObject
) -> None:
    scheduler = make_scheduler(blocks, max_seqs, max_tokens)
    arrivals = sorted(((at, i) for i, (_, _, at) in enumerate(requests)), reverse=True)
    everyone = [make_request(str(i), prompt, output) for i, (prompt, output, _) in enumerate(requests)]
    live: list[Request] = []
    for step in range(10_000):
        while arrivals and arrivals[-1][0] <= step:
            live.append(everyone[arrivals.pop()[1]])
            scheduler.add(live[-1])
        live = [r for r in live if len(r.tokens) < r.max_len]
        if live and data.draw(st.integers(0, 19)) == 0:
            victim = live.pop(data.draw(st.integers(0, len(live) - 1)))
            scheduler.remove(victim)
            victim.max_len = 0
        if scheduler.idle and not arrivals:
            break
        tokens, _ = run_step(scheduler)
        assert sum(tokens.values()) <= max_tokens
        assert len(scheduler.running) <= max_seqs
        held = [b for r in everyone for b in r.blocks]
        assert len(held) == len(set(held)), "two requests share a block"
        assert len(held) + scheduler.kv.pool.free == blocks
        for request in scheduler.running:
            assert len(request.blocks) * BLOCK >= request.computed
    assert scheduler.idle
    assert all(len(r.tokens) >= r.max_len for r in everyone)
    assert scheduler.kv.pool.free == blocks


def test_a_prompt_waits_until_all_of_it_fits() -> None:
    scheduler = make_scheduler(blocks=40, max_tokens=16)
    scheduler.add(make_request("first", 60, 60))
    run_step(scheduler)
    scheduler.add(make_request("long", 120, 2))
    computed, preempted = 0, 0
    while not scheduler.idle:
        tokens, lost = run_step(scheduler)
        computed += tokens.get("long", 0)
        preempted += len(lost)
    assert preempted == 0
    assert computed == 121
