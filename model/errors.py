"""Every error that the model package raises, and what each one means.

ModelError
├── InvalidImage            the bytes are an accepted format but do not decode
│   └── ImageTooLarge       the header announces more pixels than the limit
├── UnsupportedFormat       the bytes are not an image format that is accepted
├── CheckpointError         a file cannot be served
│   └── CheckpointMismatch  its tensors do not make the network they should
├── DownloadError           a registered file could not be fetched or verified
└── EngineError             a batch failed on the device; the next may work
    └── DeviceLost          the device is beyond use; the process must be restarted
"""


class ModelError(Exception):
    """The root of this package's errors."""


class UnsupportedFormat(ModelError):
    """The bytes are not an image of an accepted format."""


class InvalidImage(ModelError):
    """The bytes begin like an accepted image but do not decode, or are cut off."""


class ImageTooLarge(InvalidImage):
    """The image's header announces more pixels than the limit; nothing was decoded."""


class CheckpointError(ModelError):
    """A checkpoint, or a file beside it, cannot be read or served; the message names the file and the reason."""


class CheckpointMismatch(CheckpointError):
    """A tensor is missing, left over or misshapen; the message names it, what was expected and what was found."""


class DownloadError(ModelError):
    """A registered file could not be fetched or verified; the message says how to supply it by hand."""


class EngineError(ModelError):
    """A batch failed in the engine; later batches may work."""


class DeviceLost(EngineError):
    """The device is beyond use (a corrupt CUDA context, say); only a restart of the process helps."""
