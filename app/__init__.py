"""The HTTP service: FastAPI in front of one ConvNeXt."""
