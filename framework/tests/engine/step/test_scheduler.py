"""The scheduler: whatever arrives, everybody finishes and nothing leaks; and who comes before whom."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.engine_request import Request
from dovetail.engine.kv.groups import KVCacheGroup
from dovetail.engine.kv.manager import KVCacheManager
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.step.prefill_limiter import INITIAL_PREFILL_TOKENS, MIN_PREFILL_TOKENS, PrefillLimiter
from dovetail.engine.step.scheduler import Scheduler

BLOCK = 4


def make_request(name: str, prompt: int, output: int, priority: int = 0) -> Request:
    make_request.arrivals += 1  # type: ignore[attr-defined]
    return Request(
        name,
        [hash((name, i)) % 1000 for i in range(prompt)],
        SamplingParams(max_tokens=output),
        prompt,
        prompt + output,
        frozenset(),
        priority=priority,
        arrival_index=make_request.arrivals,  # type: ignore[attr-defined]
    )


make_request.arrivals = 0  # type: ignore[attr-defined]


def make_scheduler(blocks: int = 64, max_seqs: int = 8, max_tokens: int = 32, **options: Any) -> Scheduler:
    kv = KVCacheManager([KVCacheGroup(1)], [blocks + 1], BLOCK, options.pop("caching", True))
    return Scheduler(max_seqs, max_tokens, kv, **options)


def run_step(scheduler: Scheduler) -> tuple[dict[str, int], list[str]]:
    """One step as the engine would run it: every request whose tokens are all computed gets one more, or ends."""
    schedule = scheduler.schedule()
    for request, count in schedule.tokens.items():
        assert 0 < count <= request.num_pending_tokens
        assert request.kv_blocks is not None
        assert len(request.kv_blocks.tables[0]) * BLOCK >= request.num_computed_tokens + count
        request.num_computed_tokens += count
        if request.num_pending_tokens == 0:
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
    assert scheduler.kv.is_unused


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
        for request in scheduler.running:
            assert request.kv_blocks is not None
            assert len(request.kv_blocks.tables[0]) * BLOCK >= request.num_computed_tokens
        assert all(r.kv_blocks is None for r in scheduler.waiting)
    assert scheduler.idle
    assert all(len(r.tokens) >= r.max_len for r in everyone)
    assert scheduler.kv.is_unused


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


def test_a_long_prompt_leaves_half_of_the_step_to_those_behind_it() -> None:
    scheduler = make_scheduler(blocks=400, max_tokens=256)
    scheduler.add(make_request("long", 1000, 1))
    scheduler.add(make_request("short", 30, 1))
    scheduler.add(make_request("other", 20, 1))
    assert run_step(scheduler)[0] == {"long": 128, "short": 30, "other": 20}
    assert run_step(scheduler)[0] == {"long": 256}, "alone again, it takes all"


def test_a_lower_priority_number_runs_first_and_takes_a_running_ones_place() -> None:
    scheduler = make_scheduler(max_seqs=1, policy="priority")
    scheduler.add(make_request("later", 4, 9, priority=2))
    run_step(scheduler)
    scheduler.add(make_request("sooner", 4, 2, priority=1))
    tokens, preempted = run_step(scheduler)
    assert tokens == {"sooner": 4}
    assert preempted == ["later"]
    assert run_step(scheduler)[0] == {"sooner": 1}
    assert list(run_step(scheduler)[0]) == ["later"]


def test_equal_priorities_go_by_arrival_and_preempt_nobody() -> None:
    scheduler = make_scheduler(max_seqs=1, policy="priority")
    for name in "ab":
        scheduler.add(make_request(name, 4, 2, priority=1))
    assert run_step(scheduler) == ({"a": 4}, [])


def test_without_the_policy_priorities_say_nothing() -> None:
    scheduler = make_scheduler(max_seqs=1)
    scheduler.add(make_request("first", 4, 2, priority=9))
    scheduler.add(make_request("second", 4, 2, priority=0))
    assert list(run_step(scheduler)[0]) == ["first"]


class OnlyEven:
    """A gate that lets through requests whose names are even numbers."""

    inside: set[str]

    def __init__(self) -> None:
        self.inside = set()

    def can_admit(self, request: Request) -> bool:
        return int(request.id) % 2 == 0

    def acquire(self, request: Request) -> None:
        self.inside.add(request.id)

    def release(self, request: Request) -> None:
        self.inside.remove(request.id)


def test_those_who_lack_something_are_passed_over() -> None:
    gate = OnlyEven()
    scheduler = make_scheduler(gate=gate)
    for name in "1234":
        scheduler.add(make_request(name, 4, 1))
    assert list(run_step(scheduler)[0]) == ["2", "4"]
    assert [r.id for r in scheduler.waiting] == ["1", "3"]
    assert gate.inside == set(), "they have ended"


def test_drafts_are_scheduled_behind_a_streams_newest_token() -> None:
    scheduler = make_scheduler()
    scheduler.add(request := make_request("r", 5, 10))
    run_step(scheduler)
    request.draft_token_ids = [1, 2, 3]
    schedule = scheduler.schedule()
    assert schedule.tokens == {request: 4}
    assert (schedule.num_decodes, schedule.num_prefill_tokens) == (1, 0)


def test_a_request_whose_last_token_is_on_its_way_is_not_scheduled() -> None:
    scheduler = make_scheduler()
    scheduler.add(request := make_request("r", 4, 1))
    request.num_computed_tokens = 0
    assert scheduler.schedule().tokens == {request: 4}
    request.num_computed_tokens, request.num_in_flight_tokens = 4, 1
    assert scheduler.schedule().tokens == {}


def test_equal_prompts_of_one_step_are_computed_once() -> None:
    scheduler = make_scheduler()
    for name in ("one", "two"):
        request = make_request(name, 0, 2)
        request.tokens, request.num_prompt_tokens, request.max_len = list(range(13)), 13, 15
        scheduler.add(request)
    assert run_step(scheduler)[0] == {"one": 13, "two": 1}


def test_prompts_beside_streams_keep_to_the_pace() -> None:
    pace = PrefillLimiter(2.0)
    scheduler = make_scheduler(blocks=400, max_tokens=1000, prefill_limiter=pace)
    scheduler.add(make_request("stream", 4, 50))
    run_step(scheduler)
    scheduler.add(make_request("prompt", 900, 1))
    assert run_step(scheduler)[0] == {"stream": 1, "prompt": INITIAL_PREFILL_TOKENS}
    for _ in range(50):
        pace.observe(1, 0, 0.010)
        pace.observe(1, 100, 0.030)
    assert 40 <= run_step(scheduler)[0]["prompt"] <= 60, "10 ms of prompt, at 0.2 ms a token"


def test_the_pace_never_stops_a_prompt() -> None:
    pace = PrefillLimiter(1.5)
    pace.observe(1, 0, 0.001)
    pace.observe(0, 100, 10.0)
    assert pace.max_prefill_tokens(3, 1) == MIN_PREFILL_TOKENS
    assert PrefillLimiter(0).max_prefill_tokens(3, 1) is None


def test_without_streams_a_step_of_prompts_takes_about_a_second() -> None:
    pace = PrefillLimiter(2.0)
    assert pace.max_prefill_tokens(0, 1) is None, "nothing has been measured"
    pace.observe(0, 100, 0.1)
    assert pace.max_prefill_tokens(0, 1) == 1000
    pace.forget()
    pace.observe(0, 100, 10.0)
    assert pace.max_prefill_tokens(0, 1) == INITIAL_PREFILL_TOKENS
    assert PrefillLimiter(0).max_prefill_tokens(0, 1) is None


def test_guesses_take_nobodys_place() -> None:
    scheduler = make_scheduler(blocks=2, caching=False)
    for name in ("first", "second"):
        scheduler.add(make_request(name, BLOCK - 1, 8))
    run_step(scheduler)
    first, second = scheduler.running
    first.draft_token_ids = [1, 2, 3]  # with these it would need another block
    assert scheduler.schedule().tokens == {first: 1, second: 1}


def test_guesses_leave_room_for_prompts() -> None:
    scheduler = make_scheduler(max_tokens=16, max_seqs=8)
    for i in range(4):
        scheduler.add(make_request(f"stream {i}", 2, 40))
    run_step(scheduler)
    scheduler.add(make_request("prompt", 12, 2))
    steps = []
    for _ in range(3):
        for request in scheduler.running:
            if request.num_pending_tokens == 1:
                request.draft_token_ids = [1, 2, 3]  # which would take the whole step
        schedule = scheduler.schedule()
        steps.append(sum(n for r, n in schedule.tokens.items() if r.id == "prompt"))
        for request, count in schedule.tokens.items():
            request.num_computed_tokens += min(count, request.num_pending_tokens)
            if request.num_pending_tokens == 0:
                request.tokens.append(0)
    assert steps == [6, 6, 1]


def test_few_streams_do_not_hold_up_many_prompts() -> None:
    pace = PrefillLimiter(2.0)
    for _ in range(3):
        pace.observe(2, 0, 0.010)
        pace.observe(2, 100, 0.020)
    alone = pace.max_prefill_tokens(2, 1)
    assert alone is not None
    assert alone == pace.max_prefill_tokens(2, 2)
    assert pace.max_prefill_tokens(2, 8) == 4 * alone
    assert pace.max_prefill_tokens(8, 2) == alone


def test_a_short_prompt_is_computed_at_once_beside_streams_and_a_flood_of_them_is_not() -> None:
    pace = PrefillLimiter(2.0)
    scheduler = make_scheduler(blocks=4000, max_seqs=40, max_tokens=2000, prefill_limiter=pace)
    scheduler.add(make_request("stream", 4, 500))
    run_step(scheduler)
    for _ in range(3):
        pace.observe(1, 0, 0.010)
        pace.observe(1, 100, 0.110)
    for i in range(20):
        scheduler.add(make_request(str(i), 100, 5))
    tokens = run_step(scheduler)[0]
    # Two at once, and what the pace allows where twenty prompts stand against one stream.
    assert [tokens.get(str(i), 0) for i in range(2)] == [100, 100]
    assert sum(tokens.values()) - 1 <= 256 + 200
    for _ in range(20):
        run_step(scheduler)
    assert len(scheduler.waiting) == 0
