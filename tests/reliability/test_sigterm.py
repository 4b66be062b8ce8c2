"""SIGTERM under full load: the process exits with 0 in time, and no client loses a request."""

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.reliability.conftest import Start
from tests.reliability.images import encode, photo
from tests.reliability.load import RESET, connect, post
from tests.reliability.process import FAKE, ServerProcess
from tests.reliability.report import Figures

SECTION = "SIGTERM under full load"
CLIENTS = 32
LOAD_S = 1.0
GRACE_S = 20


@dataclass
class Outcome:
    """What the clients of one run saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    closed: int = 0  # connections that a response announced the end of
    refused: int = 0  # new connections that were refused or reset, after the drain


async def client(port: int, request: bytes, outcome: Outcome, *, reconnects: bool) -> None:
    """Sends requests back to back until the server closes the connection, or until it is gone."""
    while True:
        try:
            connection = await connect(port)
        except OSError:
            outcome.refused += 1
            return
        while connection.open:
            response = await connection.ask(request)
            if response.status == RESET and reconnects:
                outcome.refused += 1
                return
            outcome.statuses[response.status] += 1
            outcome.closed += response.header(b"connection") == b"close"
        if not reconnects:
            return


async def load_and_terminate(server: ServerProcess, request: bytes) -> tuple[Outcome, Outcome, float]:
    """Outcomes of the clients that leave when told to and of those that reconnect; seconds until the exit."""
    leaving, reconnecting = Outcome(), Outcome()
    tasks = [
        asyncio.create_task(client(server.port, request, outcome, reconnects=outcome is reconnecting))
        for outcome in (leaving, reconnecting)
        for _ in range(CLIENTS // 2)
    ]
    await asyncio.sleep(LOAD_S)
    server.popen.send_signal(signal.SIGTERM)
    started_at = time.monotonic()
    async with asyncio.timeout(GRACE_S):
        await asyncio.gather(*tasks)
        await asyncio.to_thread(server.popen.wait, GRACE_S)
    return leaving, reconnecting, time.monotonic() - started_at


def test_sigterm_under_load_loses_no_request(start: Start, figures: Figures, long: bool) -> None:
    request = post(encode(photo(), "JPEG"))
    figures.add(
        SECTION,
        "run",
        "200",
        "503",
        "lost",
        "Connection: close",
        "reconnects that failed",
        "exit code",
        "exit after, s",
    )
    for run in range(1, 101 if long else 6):
        server = start(*FAKE, decode_threads=2, shutdown_grace_s=GRACE_S)
        leaving, reconnecting, seconds = asyncio.run(load_and_terminate(server, request))
        statuses = leaving.statuses + reconnecting.statuses
        closed, code = leaving.closed + reconnecting.closed, server.popen.returncode
        figures.add(
            SECTION,
            run,
            statuses[200],
            statuses[503],
            leaving.statuses[RESET],
            closed,
            reconnecting.refused,
            code,
            seconds,
        )
        assert code == 0
        assert set(statuses) <= {200, 503}
        assert leaving.closed == CLIENTS // 2
        assert statuses[200] > 0
        assert "Traceback" not in server.log()
