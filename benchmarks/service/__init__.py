"""The service over HTTP, compared with other servers of the same network: ``python -m benchmarks.service``."""
