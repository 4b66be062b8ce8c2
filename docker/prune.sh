#!/bin/sh
# Takes out of the virtual environment $1 what only a compiler or a linker reads; nothing that a process loads.
set -eu
cd "$1"/lib/python3*/site-packages

rm -rf torch/include torch/share torch/bin/protoc*
[ ! -d nvidia ] || {
    find nvidia \( -name '*.a' -o -name '*.bc' \) -delete
    find nvidia -type d -name include -prune -exec rm -rf {} +
    find nvidia -name 'libcusolverMg.so*' -delete # several GPUs at once; no library of torch asks for it
}
