"""Scripts whose numbers the README quotes; run each as ``python -m benchmarks.NAME``."""
