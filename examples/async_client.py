"""Classifies images concurrently and retries when the service is busy: python examples/async_client.py URL IMAGE…"""

import asyncio
import sys
from pathlib import Path

import httpx

CONCURRENT = 8
TRIES = 5


async def classify(client: httpx.AsyncClient, image: bytes) -> dict[str, object]:
    for attempt in range(TRIES):
        response = await client.post("/predict", params={"top_k": 1}, files={"file": image})
        if response.status_code != 503 or attempt == TRIES - 1:
            break
        await asyncio.sleep(float(response.headers.get("Retry-After", 1)))  # as long as the service asks for
    response.raise_for_status()
    return response.json()["predictions"][0]


async def main(url: str, paths: list[Path]) -> None:
    limit = asyncio.Semaphore(CONCURRENT)
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:

        async def classify_one(path: Path) -> None:
            async with limit:
                found = await classify(client, await asyncio.to_thread(path.read_bytes))
            print(f"{path}: {found['label']} ({found['probability']:.3f})")

        await asyncio.gather(*(classify_one(path) for path in paths))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], [Path(name) for name in sys.argv[2:]]))
