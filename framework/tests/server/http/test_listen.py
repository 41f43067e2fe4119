"""One address for several processes."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from dovetail.api.errors import DovetailError
from dovetail.server.http.listen import ListenSockets, bind
from dovetail.server.processes.api_processes import CRASH_WINDOW_SECONDS, MAX_CRASHES, CrashCounter
from dovetail.server.settings import ServerSettings

spreads = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux spreads connections")


@contextmanager
def shared(settings: ServerSettings) -> Iterator[ListenSockets]:
    shares = ListenSockets(settings, bind(settings))
    try:
        yield shares
    finally:
        shares.close()


def inherit(shares: ListenSockets, number: int) -> socket.socket:
    """What a process has."""
    with shares.open_for(number) as fd:
        return socket.socket(fileno=os.dup(fd))


def accepted(sock: socket.socket) -> int:
    sock.setblocking(False)
    count = 0
    with suppress(BlockingIOError):
        while True:
            sock.accept()[0].close()
            count += 1
    return count


@spreads
def test_connections_are_spread_over_all_that_are_there() -> None:
    with shared(ServerSettings(port=0)) as shares, ExitStack() as stack:
        sockets = [stack.enter_context(inherit(shares, number)) for number in (1, 2, 3)]
        (where,) = {each.getsockname() for each in sockets}
        assert shares.address == f"http://127.0.0.1:{where[1]}"
        with socket.socket() as early:
            assert early.connect_ex(where) != 0  # nobody is left to wait for a model that loads
        shares.claim()
        for each in sockets:
            each.listen()

        def connect(count: int) -> None:
            for _ in range(count):
                stack.enter_context(socket.create_connection(where))

        connect(90)
        counts = [accepted(each) for each in sockets]
        assert sum(counts) == 90
        assert min(counts) > 5
        # The rest have what one that has gone would have had, until its successor is there.
        sockets[0].close()
        connect(30)
        assert sum(accepted(each) for each in sockets[1:]) == 30
        sockets[0] = stack.enter_context(inherit(shares, 1))
        sockets[0].listen()
        connect(60)
        assert min(accepted(each) for each in sockets) > 3


@spreads
def test_two_servers_do_not_share_a_port() -> None:
    with shared(ServerSettings(port=0)) as first, ExitStack() as stack:
        sockets = [stack.enter_context(inherit(first, number)) for number in (1, 2)]
        settings = ServerSettings(port=sockets[0].getsockname()[1])
        with shared(settings) as second, inherit(second, 2):  # neither listens yet
            first.claim()
            sockets[1].listen()
            with pytest.raises(DovetailError, match="is in use"):
                second.claim()
        with pytest.raises(DovetailError, match="is in use"):
            bind(settings)


@spreads
def test_a_stranger_who_would_share_is_no_reason_to() -> None:
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        with pytest.raises(DovetailError, match="is in use"):
            bind(ServerSettings(port=stranger.getsockname()[1]))


def test_a_unix_socket_is_one_for_all(tmp_path: Path) -> None:
    with shared(ServerSettings(uds=str(tmp_path / "socket"))) as shares:
        for _ in range(2):
            with shares.open_for(1) as first, shares.open_for(2) as second:
                assert first == second
            shares.claim()


def test_a_few_losses_are_borne_and_old_ones_forgotten() -> None:
    now = 0.0
    crashes = CrashCounter(lambda: now)
    assert all(crashes.record() for _ in range(MAX_CRASHES))
    now += CRASH_WINDOW_SECONDS + 1
    assert all(crashes.record() for _ in range(MAX_CRASHES))
    assert not crashes.record()
