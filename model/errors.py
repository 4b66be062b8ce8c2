"""The exceptions that the model package raises.

ModelError
├── InvalidImage            the data has an accepted format but cannot be decoded
│   └── ImageTooLarge       the image header declares more pixels than the limit
├── UnsupportedFormat       the data is not in an accepted image format
├── CheckpointError         a checkpoint cannot be read or used
│   └── CheckpointMismatch  its tensors or labels do not match the network
├── DownloadError           registered weights could not be fetched or verified
└── EngineError             a batch failed on the device; the next one may succeed
    └── DeviceLost          the device is unusable; the process must be restarted
"""


class ModelError(Exception):
    """Base class of all exceptions of this package."""


class UnsupportedFormat(ModelError):
    """The data is not in an accepted image format."""


class InvalidImage(ModelError):
    """The data starts like an accepted image format but is truncated or cannot be decoded."""


class ImageTooLarge(InvalidImage):
    """The image header declares more pixels than the limit; nothing was decoded."""


class CheckpointError(ModelError):
    """A checkpoint, or a file that belongs to it, cannot be read or used; the message names the file and the reason."""


class CheckpointMismatch(CheckpointError):
    """Keys, shapes or the number of labels do not match the network; the message lists the differences."""


class DownloadError(ModelError):
    """Registered weights could not be fetched or verified; the message says how to provide the file manually."""


class EngineError(ModelError):
    """A batch failed in the engine; later batches may succeed."""


class DeviceLost(EngineError):
    """The device is unusable, for example after its CUDA context was corrupted; only restarting the process helps."""
