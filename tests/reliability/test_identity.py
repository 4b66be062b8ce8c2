"""Identity: under concurrency, each response belongs to the image of its request."""

import asyncio
import json
import random

from tests.reliability.conftest import Start
from tests.reliability.images import LOSSLESS, gray
from tests.reliability.load import connect, post
from tests.reliability.process import FAKE, wait_until
from tests.reliability.report import Figures

CONNECTIONS = 64
GIVE_UP_SHARE = 0.02  # of the requests whose client disconnects before the response


def test_every_response_belongs_to_its_image(start: Start, figures: Figures, long: bool) -> None:
    server = start(*FAKE, decode_threads=2, max_queue_wait_s=30)
    requests = [[post(gray(level, name), "") for name in LOSSLESS] for level in range(256)]
    generator = random.Random(0)  # noqa: S311 - repeatable order
    waiting = iter([generator.randrange(256) for _ in range(100_000 if long else 5000)])
    wrong: list[tuple[int, int]] = []
    answered = abandoned = 0

    async def work() -> None:
        nonlocal answered, abandoned
        connection = await connect(server.port)
        for level in waiting:
            if not connection.open:
                connection = await connect(server.port)
            request = generator.choice(requests[level])
            if generator.random() < GIVE_UP_SHARE:
                connection.send(request, lambda _response: None)
                connection.close()
                abandoned += 1
                continue
            response = await connection.ask(request)
            assert response.status == 200
            answered += 1
            found = json.loads(response.body)["predictions"][0]["class_id"]
            if found != level:
                wrong.append((level, found))
        connection.close()

    async def run() -> None:
        await asyncio.gather(*(work() for _ in range(CONNECTIONS)))

    asyncio.run(run())
    figures.add("Identity", "responses", "of the wrong image", "clients that disconnected first", "connections")
    figures.add("Identity", answered, len(wrong), abandoned, CONNECTIONS)
    assert wrong == []
    wait_until(lambda: server.metric("convnext_images_in_service") == 0, 10)  # workers publish it each second
    sizes = {f'convnext_batch_size_bucket{{le="{size}.0"}}': size for size in (1, 8)}
    small, full = (server.metric(name) for name in sizes)
    assert full > small  # images were batched together
