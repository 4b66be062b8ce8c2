"""Runs ``app.ray_serve`` with a fixed number of replicas on 127.0.0.1 until a SIGTERM; needs .venv-ray.

python -m benchmarks.service.peers.ray_server PORT REPLICAS
"""

import signal
import sys

import ray
from ray import serve

from app.ray_serve import build
from app.settings import Settings


def main(port: int, replicas: int) -> None:
    # Bound to the loopback interface; as many reserved cores as replicas, however many the machine has.
    ray.init(num_cpus=2 * replicas, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    app = build(Settings(), num_replicas=replicas, autoscaling_config=None)
    serve.run(app, blocking=False)
    print("ready", flush=True)  # read by the test
    signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
