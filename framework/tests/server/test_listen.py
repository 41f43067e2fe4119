"""One address for several processes."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dovetail.api.errors import DovetailError
from dovetail.server.api_processes import MOST_LOSSES, WINDOW_SECONDS, Losses
from dovetail.server.listen import bind, claim, shares
from dovetail.server.settings import ServerSettings

spreads = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux spreads connections")


@contextmanager
def shared(settings: ServerSettings, count: int) -> Iterator[list[socket.socket]]:
    sockets = shares(settings, bind(settings), count)
    try:
        yield sockets
    finally:
        for each in sockets:
            each.close()


def accepted(sock: socket.socket) -> int:
    sock.setblocking(False)
    count = 0
    with suppress(BlockingIOError):
        while True:
            sock.accept()[0].close()
            count += 1
    return count


@spreads
def test_connections_are_spread_over_all() -> None:
    settings = ServerSettings(port=0)
    with shared(settings, 3) as sockets:
        where = sockets[0].getsockname()
        assert {each.getsockname() for each in sockets} == {where}
        with socket.socket() as early:
            assert early.connect_ex(where) != 0  # nobody is left to wait for a model that loads
        claim(settings, sockets)
        for each in sockets:
            each.listen()
        clients = [socket.create_connection(where) for _ in range(90)]
        counts = [accepted(each) for each in sockets]
        for client in clients:
            client.close()
    assert sum(counts) == 90
    assert min(counts) > 5


@spreads
def test_two_servers_do_not_share_a_port() -> None:
    with shared(ServerSettings(port=0), 2) as first:
        settings = ServerSettings(port=first[0].getsockname()[1])
        with shared(settings, 2) as second:  # neither listens yet
            claim(settings, first)
            first[1].listen()
            with pytest.raises(DovetailError, match="is in use"):
                claim(settings, second)
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
    settings = ServerSettings(uds=str(tmp_path / "socket"))
    with shared(settings, 3) as sockets:
        assert sockets[0] is sockets[1] is sockets[2]
        claim(settings, sockets)


def test_a_few_losses_are_borne_and_old_ones_forgotten() -> None:
    now = 0.0
    losses = Losses(lambda: now)
    assert all(losses.add() for _ in range(MOST_LOSSES))
    now += WINDOW_SECONDS + 1
    assert all(losses.add() for _ in range(MOST_LOSSES))
    assert not losses.add()
