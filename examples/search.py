"""Finds the images that look most like another one: python examples/search.py URL QUERY IMAGE…"""

import base64
import sys
from pathlib import Path

import httpx
import numpy as np


def embed(client: httpx.Client, path: Path) -> np.ndarray:
    response = client.post("/embed", params={"encoding": "base64"}, files={"file": path.read_bytes()})
    response.raise_for_status()
    return np.frombuffer(base64.b64decode(response.json()["embedding"]), "<f4")


def main(url: str, query: Path, paths: list[Path]) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        index = np.stack([embed(client, path) for path in paths])  # (N, dimensions), each with a norm of 1
        similarities = index @ embed(client, query)
    for position in np.argsort(-similarities):
        print(f"{similarities[position]:.3f}  {paths[position]}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
