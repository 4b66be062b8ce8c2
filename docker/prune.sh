#!/bin/sh
# Deletes files from the virtual environment $1 that the service never loads: headers and static libraries, which only
# compilers read, and libraries for devices that it does not support.
set -eu
cd "$1"/lib/python3*/site-packages

rm -rf torch/include torch/share torch/bin/protoc*
rm -rf openvino/include openvino/libs/cache.json openvino/libs/libopenvino_intel_[gn]pu_plugin.so # Intel GPUs and NPUs
[ ! -d nvidia ] || {
    find nvidia \( -name '*.a' -o -name '*.bc' \) -delete
    find nvidia -type d -name include -prune -exec rm -rf {} +
    find nvidia -name 'libcusolverMg.so*' -delete # multi-GPU solver; no library of torch links to it
}
