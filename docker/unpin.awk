# Adapts constraints.txt to another build of torch: such a build brings its own CUDA libraries, and its wheels of torch
# and torchvision are not those whose hashes are pinned.
/^[a-z]/ { name = $1; sub(/==.*/, "", name) }
name ~ /^(cuda|nvidia|triton)(-|$)/ { next }
name == "torch" || name == "torchvision" { if (/^ /) next; sub(/ \\$/, "") }
{ print }
