"""Handover of connections: the supervisor accepts them and passes each to the worker that has the fewest.

While connections end, the workers report it at different times, so that for a moment they take turns instead.

Workers that accept from one socket themselves get what the scheduler leaves them: on two busy cores, up to 50 of 64
connections went to one of four.
"""

import itertools
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable
from enum import IntEnum

from app.http.server import BACKLOG, OUT_OF_RESOURCES, RETRY_S

_SETTLE_S = 0.2  # after which every worker has reported the connections that ended


class State(IntEnum):
    """What a worker can do: ``SERVING`` ones respond, but only ``READY`` ones accept predictions."""

    AWAY = 0  # starting, ending, or not running
    SERVING = 1
    READY = 2


class Board:
    """What the workers, numbered from 1, report to the supervisor and to each other, in shared memory."""

    def __init__(self, count: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._states = spawn.RawArray("i", count)
        self._ended = spawn.RawArray("l", count)

    def state(self, number: int) -> State:
        """The state of a worker."""
        return State(self._states[number - 1])

    def report(self, number: int, state: State, ended: int) -> None:
        """Sets the state of a worker, and how many of its connections have ended since its start."""
        self._states[number - 1], self._ended[number - 1] = state, ended

    def ended(self, number: int) -> int:
        """How many connections of a worker have ended since its start."""
        return int(self._ended[number - 1])

    def any_ready(self, but: int = 0) -> bool:
        """Whether a worker is ready, other than ``but``."""
        return any(state == State.READY for number, state in enumerate(self._states, start=1) if number != but)

    def any_serving(self) -> bool:
        """Whether any worker responds."""
        return any(self._states)


class Dispatcher:
    """Accepts the connections of ``listener`` in a thread, while there is a worker to pass them to."""

    def __init__(self, listener: socket.socket, board: Board) -> None:
        self._listener = listener
        self._board = board
        self._channels: dict[int, socket.socket] = {}
        self._sent: dict[int, int] = {}
        self._ended: dict[int, int] = {}
        self._ended_at = 0.0  # when that has changed
        self._turns = itertools.count()
        self._turn: dict[int, int] = {}  # the last one of each worker
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def listening(self) -> bool:
        """Whether the port is open."""
        return self._thread is not None

    def attach(self, number: int) -> socket.socket:
        """The socket on which worker ``number``, which is about to start, receives its connections."""
        own, others = socket.socketpair()
        own.setblocking(False)
        others.setblocking(False)
        with self._lock:
            self._channels[number], self._sent[number], self._turn[number] = own, 0, -1
        return others

    def detach(self, number: int) -> None:
        """Passes nothing more to a worker, which has ended."""
        with self._lock:
            self._channels.pop(number).close()

    def listen(self) -> None:
        """Opens the port."""
        self._listener.listen(BACKLOG)
        self._thread = threading.Thread(target=self._accept, name="dispatcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Closes the port and ends the thread."""
        self._closed.set()
        if self._thread is not None:
            self._listener.shutdown(socket.SHUT_RDWR)  # ends accept()
            self._thread.join()
        for number in list(self._channels):
            self.detach(number)

    def _accept(self) -> None:
        while not self._closed.is_set():
            if not self._board.any_serving():
                self._closed.wait(RETRY_S)
                continue
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    self._closed.wait(RETRY_S)
                continue
            with connection:
                self._pass_on(connection)

    def _pass_on(self, connection: socket.socket) -> None:
        """Sends a connection to a worker; waits while none can take it, so that the next ones stay in the backlog."""
        while not self._send(connection):
            if self._closed.wait(RETRY_S):
                return

    def _send(self, connection: socket.socket) -> bool:
        """Sends a connection to the first worker that takes it; returns whether one has."""
        with self._lock:
            ended = {number: self._board.ended(number) for number in self._channels}
            if ended != self._ended:
                self._ended, self._ended_at = ended, time.monotonic()
            serving = [number for number in self._channels if self._board.state(number) != State.AWAY]
            for number in sorted(serving, key=self._rank):
                try:
                    socket.send_fds(self._channels[number], [b"c"], [connection.fileno()])
                except OSError:  # it has just ended, or has not yet received the last hundreds
                    continue
                self._sent[number] += 1
                self._turn[number] = next(self._turns)
                return True
            return False

    def _rank(self, number: int) -> tuple[int, int]:
        """Ready workers first, then those with the fewest connections or, while some end, whose turn it is."""
        settled = time.monotonic() > self._ended_at + _SETTLE_S
        count = self._sent[number] - self._ended[number] if settled else self._turn[number]
        return -self._board.state(number), count


def receive(channel: socket.socket, on_connection: Callable[[socket.socket | None], None], count: int) -> bool:
    """Receives up to ``count`` connections that wait for a worker; returns False if the supervisor has ended.

    ``on_connection`` gets None for a connection that was closed because the worker has no file descriptor left.
    """
    for _ in range(count):
        try:
            data, descriptors, _flags, _address = socket.recv_fds(channel, 1, 1)
        except BlockingIOError:
            return True
        if not data:
            return False
        on_connection(socket.socket(fileno=descriptors[0]) if descriptors else None)
    return True
