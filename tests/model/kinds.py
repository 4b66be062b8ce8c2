"""ConvNeXtConfig options of every kind of network."""

from typing import Any

KINDS: list[dict[str, Any]] = [  # Any: arguments of different types
    {"layer_scale": True},
    {"layer_scale": False, "grn": True},
    {"layer_scale": False},
    {"norm_before_pool": True},
    {"stem": "overlap", "stem_width": 4},
    {"stem": "overlap_act", "stem_width": 6},
    {"patch_size": 2},
    {"norm_eps": 1e-2, "head_norm_eps": 1e-1},
]
