"""Several worker processes behind one port: uvicorn's supervisor, with our server in each worker."""

import asyncio
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors.multiprocess import SIGNALS, Multiprocess, Process

from app.http.handover import Board, Dispatcher, State, receive
from app.http.server import Server, log_address
from app.serving.shared_metrics import FOLDER_VARIABLE, forget_worker

logger = logging.getLogger(__name__)

_PING_TIMEOUT_S = 10  # after which a worker whose event loop does not respond is killed
_STABLE_S = 60.0  # a worker that was ready for so long has not failed at once
_BACKOFF_S = 0.5  # before the first replacement; doubled for each that follows at once
_MAX_BACKOFF_S = 30.0
_MAX_FAILURES = 3  # of each worker in a row; then the service ends
_EXIT_S = 10.0  # after the grace period, for the workers to end
_PUBLISH_TICKS = 10  # of 0.1 s


class WorkerServer(Server):
    """The server of one worker: its connections come from the supervisor, to which it reports its state.

    SIGTERM comes from the supervisor, but may come from others, too, and SIGINT goes to the whole process group of a
    terminal. So the first SIGTERM drains, and only the supervisor ends a drain.
    """

    def __init__(self, app: FastAPI, *, worker: "Worker", **options: float | str) -> None:
        super().__init__(app, **options)  # type: ignore[arg-type]  # passed on as they are
        self._worker = worker
        self._received = 0
        self.context.another_is_ready = partial(worker.board.any_ready, but=worker.number)

    def open(self, source: socket.socket) -> None:
        """Receives connections from the supervisor, which logs the address."""
        asyncio.get_running_loop().add_reader(source, self._receive, source)
        logger.info("ready")

    async def on_tick(self, counter: int) -> bool:
        """Called every 0.1 s: reports the state."""
        service = self.context.service
        is_ready = service is not None and service.status == "ready"
        self._report(State.READY if is_ready else State.SERVING)
        if counter % _PUBLISH_TICKS == 0:
            self.context.telemetry.publish()
        self._worker.ticked.set()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Receives nothing more, and closes the connections."""
        self._report(State.AWAY)
        await super().shutdown(sockets)

    def on_signal(self, number: signal.Signals) -> None:
        """Starts the drain; signals after the first SIGTERM have no effect."""
        if number == signal.SIGTERM and not self.draining:
            super().on_signal(number)

    def _report(self, state: State) -> None:
        self._worker.board.report(self._worker.number, state, self._received - self.open_connections)

    def _receive(self, channel: socket.socket) -> None:
        if not receive(channel, self._on_received, self.acceptable):
            asyncio.get_running_loop().remove_reader(channel)

    def _on_received(self, connection: socket.socket | None) -> None:
        self._received += 1
        if connection is None:
            logger.error("closed a connection: no file descriptor is left")
        else:
            self.accept(connection)


class Worker(Process):
    """One process, as the supervisor sees it and as it sees itself; ``main`` runs in it and serves ``channel``."""

    def __init__(
        self,
        config: uvicorn.Config,
        number: int,
        board: Board,
        channel: socket.socket,
        main: "WorkerMain",
        failures: int = 0,
    ) -> None:
        super().__init__(config, [channel])
        self.number = number
        self.board = board
        self.failures = failures  # how many processes of this number, one after the other, were not stable
        self.ready_at: float | None = None
        self.replace_at: float | None = None  # set when the process has ended
        self._main = main
        self._told = False
        self._away_at: float | None = None  # when it was seen to end

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Runs in the worker."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the supervisor handles it
        self.parent_conn.close()  # so that the end of the supervisor is the end of the connection
        self.ticked = threading.Event()
        threading.Thread(target=self.always_pong, name="supervisor", daemon=True).start()
        for channel in sockets or ():
            self._main(self, channel)

    def pong(self) -> None:
        """Responds to one ping once the event loop has made a round."""
        self.child_conn.recv()
        self.ticked.clear()
        self.ticked.wait()
        self.child_conn.send(True)

    def always_pong(self) -> None:
        """Responds to pings; ends the process at once if the supervisor has ended."""
        try:
            super().always_pong()
        except (EOFError, OSError):
            shutil.rmtree(os.environ[FOLDER_VARIABLE], ignore_errors=True)
            os._exit(1)

    def start(self) -> None:
        """Starts the process."""
        super().start()
        self.child_conn.close()  # so that the end of the worker is the end of the connection

    def is_alive(self, timeout: float = 5) -> bool:
        """Whether the process runs and, once it serves, its event loop responds within ``timeout`` seconds."""
        if self.ready_at is None and self.board.state(self.number) == State.READY:
            self.ready_at = time.monotonic()
        if self.board.state(self.number) != State.AWAY:
            return super().is_alive(timeout)
        if self.ready_at is None:  # importing or warming up
            return self.process.is_alive()
        self._away_at = self._away_at or time.monotonic()
        return self.process.is_alive() and time.monotonic() < self._away_at + _EXIT_S

    def terminate(self) -> None:
        """Tells the worker to drain, once; the connection to it stays open."""
        if not self._told and self.pid is not None and self.exitcode is None:
            self._told = True
            os.kill(self.pid, signal.SIGTERM)


WorkerMain = Callable[[Worker, socket.socket], None]
"""What a worker runs; it is pickled."""


class Supervisor(Multiprocess):
    """Starts the workers, replaces those that end, and stops them on SIGTERM or SIGINT; a second one kills them.

    ``exit_code`` is 1 if a worker could not start or all failed again and again, 128 plus the signal if one came
    before any worker was ready, else 0.
    """

    processes: list[Worker]  # type: ignore[assignment]  # all are of this class

    def __init__(self, listener: socket.socket, count: int, main: WorkerMain, grace_s: float) -> None:
        config = uvicorn.Config(
            "", workers=count, log_config=None, access_log=False, timeout_worker_healthcheck=_PING_TIMEOUT_S
        )
        super().__init__(config, [listener])
        self.exit_code = 0
        self._main = main
        self._grace_s = grace_s
        self._board = Board(count)
        self._dispatcher = Dispatcher(listener, self._board)
        self._signals: list[int] = []
        for number in SIGNALS:
            handled = number in (signal.SIGINT, signal.SIGTERM)
            signal.signal(number, self._on_signal if handled else signal.SIG_DFL)

    def init_processes(self) -> None:
        """Starts all workers."""
        for number in range(1, self.processes_num + 1):
            self.processes.append(self._start(number))

    def keep_subprocess_alive(self) -> None:
        """Called every 0.5 s: replaces workers that have ended or hang; opens the port when the first is ready."""
        if self.should_exit.is_set():
            return
        for index, worker in enumerate(self.processes):
            if worker.replace_at is not None:
                if time.monotonic() >= worker.replace_at:
                    self.processes[index] = self._start(worker.number, worker.failures)
            elif not worker.is_alive(self.config.timeout_worker_healthcheck):
                self._on_end(worker)
        if not self._dispatcher.listening and self._board.any_ready():
            self._dispatcher.listen()
            log_address(self.sockets[0])

    def join_all(self) -> None:
        """Waits for the drains; kills workers that outlast the grace period."""
        deadline = time.monotonic() + self._grace_s + _EXIT_S
        for worker in self.processes:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.kill()
            worker.process.join()
        self._dispatcher.close()
        if self._signals and not self._dispatcher.listening:
            self.exit_code = 128 + self._signals[0]

    def _start(self, number: int, failures: int = 0) -> Worker:
        channel = self._dispatcher.attach(number)
        with channel:
            worker = Worker(self.config, number, self._board, channel, self._main, failures)
            worker.start()
        return worker

    def _on_end(self, worker: Worker) -> None:
        """Decides what follows the end of a worker."""
        worker.kill()  # if it hangs
        worker.process.join()
        if self._signals:
            return  # it was told to end
        self._dispatcher.detach(worker.number)
        self._board.report(worker.number, State.AWAY, 0)
        forget_worker(worker.number)
        code, now = worker.exitcode or 0, time.monotonic()
        stable = worker.ready_at is not None and now - worker.ready_at >= _STABLE_S
        first, worker.failures = not worker.failures, 1 if stable else worker.failures + 1
        if first and worker.ready_at is None and code > 0:
            self._give_up("worker %d could not start", worker.number)
        elif all(other.failures >= _MAX_FAILURES for other in self.processes) and not self._board.any_ready():
            self._give_up("every worker has failed %d times in a row", _MAX_FAILURES)
        else:
            delay_s = min(_MAX_BACKOFF_S, _BACKOFF_S * 2 ** (worker.failures - 1))
            worker.replace_at = now + delay_s
            cause = f"by signal {-code}" if code < 0 else f"with code {code}"
            logger.error("worker %d ended %s; it is replaced in %g s", worker.number, cause, delay_s)

    def _give_up(self, reason: str, number: int) -> None:
        logger.critical(reason, number)
        self.exit_code = 1
        self.should_exit.set()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Passes the signal on at once; the loop of ``Multiprocess`` ends within 0.5 s. Takes no lock."""
        self._signals.append(number)
        self.signal_queue.append(number)
        for worker in self.processes:
            if len(self._signals) == 1:
                worker.terminate()
            else:
                worker.process.kill()


def supervise(listener: socket.socket, count: int, main: WorkerMain, *, grace_s: float) -> int:
    """Serves with ``count`` workers that run ``main``, until a signal or a failure ends them; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="convnext-metrics-") as folder:
        os.environ[FOLDER_VARIABLE] = folder  # before the workers import prometheus_client
        supervisor = Supervisor(listener, count, main, grace_s)
        supervisor.run()
    return supervisor.exit_code
