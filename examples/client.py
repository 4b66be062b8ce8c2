"""Classifies an image: python examples/client.py [IMAGE] [URL]"""

import sys
from pathlib import Path

import httpx

image = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/coffee.jpg")
url = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8000"

response = httpx.post(f"{url}/predict", params={"top_k": 3}, files={"file": image.read_bytes()}, timeout=60)
if response.is_error:
    sys.exit(f"{response.status_code}: {response.text}")
for prediction in response.json()["predictions"]:
    print(f"{prediction['probability']:.3f}  {prediction['label']}")
