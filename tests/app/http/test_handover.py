"""Connections that the supervisor passes to its workers: evenly, also while others end."""

import resource
import select
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from app.http.handover import Board, Dispatcher, State, receive
from app.http.server import bind
from tests.constants import WAIT_S

Channels = dict[int, socket.socket]


@pytest.fixture
def board() -> Board:
    """Two workers that are ready."""
    board = Board(2)
    for number in (1, 2):
        board.report(number, State.READY, 0)
    return board


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """The port of the service."""
    with bind("127.0.0.1", 0) as listener:
        yield listener


@pytest.fixture
def channels(board: Board, listener: socket.socket) -> Iterator[Channels]:
    """The sockets on which the workers receive their connections."""
    dispatcher = Dispatcher(listener, board)
    with ExitStack() as stack:
        attached = {number: stack.enter_context(dispatcher.attach(number)) for number in (1, 2)}
        dispatcher.listen()
        yield attached
        dispatcher.close()


def share(listener: socket.socket, channels: Channels, count: int) -> Counter[int]:
    """How many of ``count`` new connections each worker receives."""
    received: Counter[int] = Counter()
    held: list[socket.socket] = []
    with ExitStack() as stack:

        def keep(connection: socket.socket | None) -> socket.socket:
            assert connection is not None
            return stack.enter_context(connection)

        for _ in range(count):
            stack.enter_context(socket.create_connection(listener.getsockname(), timeout=WAIT_S))
        while received.total() < count:
            ready, _, _ = select.select(list(channels.values()), [], [], WAIT_S)
            assert ready, received
            for number, channel in channels.items():
                if channel in ready:
                    before = len(held)
                    receive(channel, lambda connection: held.append(keep(connection)), 100)
                    received[number] += len(held) - before
    return received


def test_each_connection_goes_to_the_worker_with_the_fewest(
    board: Board, listener: socket.socket, channels: Channels
) -> None:
    assert share(listener, channels, 8) == {1: 4, 2: 4}


def test_workers_take_turns_while_only_one_has_reported_that_its_connections_ended(
    board: Board, listener: socket.socket, channels: Channels
) -> None:
    assert share(listener, channels, 64) == {1: 32, 2: 32}
    board.report(1, State.READY, 32)
    assert share(listener, channels, 16) == {1: 8, 2: 8}


def test_a_worker_that_is_not_ready_gets_none(board: Board, listener: socket.socket, channels: Channels) -> None:
    board.report(1, State.SERVING, 0)
    assert share(listener, channels, 4) == {2: 4}


def test_connections_wait_while_a_worker_has_not_received_the_last_hundreds(
    board: Board, listener: socket.socket, channels: Channels
) -> None:
    board.report(1, State.AWAY, 0)
    assert share(listener, channels, 400) == {2: 400}


def test_a_connection_for_which_no_file_descriptor_is_left_is_reported(
    board: Board, listener: socket.socket, channels: Channels
) -> None:
    board.report(1, State.AWAY, 0)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    received: list[socket.socket | None] = []
    with socket.create_connection(listener.getsockname(), timeout=WAIT_S) as client:
        assert select.select([channels[2]], [], [], WAIT_S)[0]
        with socket.socket() as lowest_free:
            free = lowest_free.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            assert receive(channels[2], received.append, 100)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert received == [None]
        assert client.recv(1) == b""
