#!/bin/sh
# Takes out of the virtual environment $1 what only a compiler or a linker reads, and libraries for devices that the
# service has no use for; nothing that it loads.
set -eu
cd "$1"/lib/python3*/site-packages

rm -rf torch/include torch/share torch/bin/protoc*
rm -rf openvino/include openvino/libs/cache.json openvino/libs/libopenvino_intel_[gn]pu_plugin.so # Intel's GPUs and NPUs
[ ! -d nvidia ] || {
    find nvidia \( -name '*.a' -o -name '*.bc' \) -delete
    find nvidia -type d -name include -prune -exec rm -rf {} +
    find nvidia -name 'libcusolverMg.so*' -delete # several GPUs at once; no library of torch asks for it
}
