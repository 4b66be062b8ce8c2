"""Classifies a photo with KServe's client through both protocols, and prints the classes: URL NAME PHOTO.

Runs in .venv-kserve, as the client's requirements contradict those of the tests.
"""

import asyncio
import base64
import json
import sys
from pathlib import Path

from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def main(url: str, name: str, photo: bytes) -> None:
    text = base64.b64encode(photo).decode()
    v1 = InferenceRESTClient(RESTConfig(protocol="v1"))
    ready = await v1.is_model_ready(url, name)
    first = await v1.infer(url, {"instances": [{"b64": text}]}, model_name=name)
    explained = await v1.explain(url, name, {"instances": [{"b64": text}]})
    v2 = InferenceRESTClient(RESTConfig(protocol="v2"))
    ready &= await v2.is_server_ready(url) and await v2.is_model_ready(url, name)
    request = InferRequest(name, [InferInput("image", [1], "BYTES", [text])])
    second = await v2.infer(url, request, model_name=name)
    outputs = {output.name: output.data for output in second.outputs}
    result = {
        "ready": ready,
        "v1": [item["class_id"] for item in first["predictions"][0]],
        "explained": explained["explanations"][0]["class_id"],
        "v2": outputs["class_id"],
    }
    print(json.dumps(result))  # noqa: T201 - read by the test


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_bytes()))
