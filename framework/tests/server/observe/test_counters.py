"""Counters that processes share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from server_fakes import FakeEngine, build_app

from dovetail.server.http.admission import Admission
from dovetail.server.http.errors import ApiError
from dovetail.server.observe.counters import GAUGES, SLOTS, Counters
from dovetail.server.settings import ServerSettings

NAMING_CHILD = """
import sys
from dovetail.server.observe.counters import Counters
counters = Counters.open(int(sys.argv[1]), int(sys.argv[2]))
counters.counter()
for number, name in enumerate(sys.argv[3:]):
    counters.named_slots(name, 2)[1] += number + 1
"""

CHILD = """
import sys
from dovetail.server.observe.counters import Counters
counters = Counters.open(int(sys.argv[1]), int(sys.argv[2]))
counter, gauge, histogram = counters.counter(), counters.gauge(), counters.histogram([1, 2])
for _ in range(1000):
    counter.inc()
gauge.inc(5)
histogram.observe(1.5)
"""


def run_child(counters: Counters, row: int, code: str = CHILD, *arguments: str) -> None:
    assert counters.fd is not None
    command = [sys.executable, "-c", code, str(counters.fd), str(row), *arguments]
    subprocess.run(command, pass_fds=[counters.fd], check=True)


def test_buckets_hold_values_up_to_their_bound() -> None:
    histogram = Counters.single_process().histogram([1, 2.5])
    for value in (0, 1, 1.5, 2.5, 3):
        histogram.observe(value)
    histogram.observe_many(2, 10)
    assert histogram.counts() == [2, 12, 1]
    assert histogram.sum == 28


def test_nothing_shares_a_slot() -> None:
    counters = Counters.single_process()
    first, gauge, histogram, last = counters.counter(), counters.gauge(), counters.histogram([1]), counters.counter()
    first.inc(3)
    gauge.inc()
    histogram.observe(7)
    last.inc(4)
    gauge.dec()
    assert (first.value, gauge.value, histogram.counts(), histogram.sum, last.value) == (3, 0, [0, 1], 7, 4)


def test_processes_count_together() -> None:
    counters = Counters.create(3)
    counter, gauge, histogram = counters.counter(), counters.gauge(), counters.histogram([1, 2])
    counter.inc(2)
    histogram.observe(9)
    run_child(counters, 1)
    run_child(counters, 2)
    assert counter.value == 2002
    assert gauge.value == 10
    assert (histogram.counts(), histogram.sum) == ([0, 2, 1], 12)


def test_a_dead_process_leaves_what_it_counted_and_nothing_in_flight() -> None:
    counters = Counters.create(2)
    counter, gauge, _ = counters.counter(), counters.gauge(), counters.histogram([1, 2])
    gauge.inc()
    run_child(counters, 1)
    counters.clear_gauges(1)
    assert (counter.value, gauge.value) == (1000, 1)
    run_child(counters, 1)
    assert (counter.value, gauge.value) == (2000, 6)
    run_child(counters, 1)  # whoever takes the row forgets what was in flight
    assert (counter.value, gauge.value) == (3000, 6)


def test_a_file_without_a_name_does_where_the_system_has_no_memory_files(monkeypatch) -> None:
    monkeypatch.delattr("os.memfd_create", raising=False)
    counters = Counters.create(2)
    counter, *_ = counters.counter(), counters.gauge(), counters.histogram([1, 2])
    run_child(counters, 1)
    assert counter.value == 1000
    assert counters.fd is not None
    if (link := Path(f"/proc/self/fd/{counters.fd}")).is_symlink():
        assert not Path(str(link.readlink())).exists()


def test_a_row_has_an_end() -> None:
    counters = Counters.single_process()
    for _ in range(GAUGES):
        counters.gauge()
    with pytest.raises(AssertionError):
        counters.gauge()
    with pytest.raises(AssertionError):
        counters.histogram(range(SLOTS))


def test_names_are_found_whatever_their_order() -> None:
    counters = Counters.create(3)
    counter = counters.counter()
    run_child(counters, 1, NAMING_CHILD, "GET /a b", "POST /ü")
    run_child(counters, 2, NAMING_CHILD, "POST /ü")
    own = counters.named_slots("GET /c", 2)
    assert own is not None
    own[0] += 7
    assert counters.sum_named() == {"GET /a b": [0, 1], "POST /ü": [0, 3], "GET /c": [7, 0]}
    run_child(counters, 1, NAMING_CHILD, "new", "POST /ü")  # it takes over a row with names in it
    assert counters.sum_named() == {"GET /a b": [0, 1], "POST /ü": [0, 5], "GET /c": [7, 0], "new": [0, 1]}
    assert counter.value == 0


@pytest.mark.parametrize(("name", "width"), [("x", 100), ("x" * 1000, 1)])
def test_there_is_room_for_so_many_names(name: str, width: int) -> None:
    counters = Counters.single_process()
    names = [f"{name}{number}" for number in range(200)]
    given = [counters.named_slots(each, width) is not None for each in names]
    assert given.count(True) > 50
    assert not given[-1]
    assert list(counters.sum_named()) == names[: given.count(True)]


def test_a_queue_is_shared() -> None:
    engine = FakeEngine(max_num_seqs=2, max_num_queued_requests=1)
    first = Counters.create(2)
    assert first.fd is not None
    second = Counters.open(first.fd, 1)
    here, there = (Admission(engine, sequences=counters.gauge()) for counters in (first, second))
    with here.admit(2), there.admit(1):
        assert here.in_flight == there.in_flight == 3
        with pytest.raises(ApiError), there.admit(1):
            pass
    assert here.in_flight == 0


def test_load_is_that_of_all_processes() -> None:
    first = Counters.create(2)
    assert first.fd is not None
    apps = [build_app(FakeEngine(), ServerSettings(), c) for c in (first, Counters.open(first.fd, 1))]
    here, there = (app.state.context for app in apps)
    there.open_requests.inc()
    assert here.open_requests.value == 1
