"""Depthwise 7×7 convolution, bias and LayerNorm in one Triton kernel, on channels-last activations."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["H", "W"])
def depthwise_norm(
    x, w, b, pad, y, H, W, C: tl.constexpr, BC: tl.constexpr, TW: tl.constexpr, ROWS: tl.constexpr, EPS: tl.constexpr
):
    """``y = (conv(x) + b - mean) / sqrt(var + EPS)``, mean and var over the channels.

    ``x`` and ``y`` are ``(N, H, W, C)``; ``w`` is ``(7, 7, C)`` and ``b`` ``(C,)``, both float32. Positions outside the
    image have the value ``pad``, ``(C,)``. A program computes ROWS (1, 2 or 4) rows of TW positions. It computes and
    stores BC channels at a time, and normalizes once mean and variance are known. BC is a power of 2 and divides C.
    """
    tiles = tl.cdiv(H, ROWS)
    tile = tl.program_id(0)
    h = (tile % tiles) * ROWS
    column = (tl.program_id(1) * TW + tl.arange(0, TW))[:, None]  # (TW, 1)
    row = h + 0 * column  # a vector, as in Triton's interpreter a scalar condition does not combine with one
    inside = column < W
    image = (tile // tiles).to(tl.int64) * H * W * C  # a large batch has more than 2^31 elements
    mean0 = tl.zeros((TW,), tl.float32)
    mean1, mean2, mean3 = mean0, mean0, mean0
    square0, square1, square2, square3 = mean0, mean0, mean0, mean0
    for done in range(0, C, BC):
        c = (done + tl.arange(0, BC))[None, :]  # (1, BC)
        row0 = tl.zeros((TW, BC), tl.float32)
        row1, row2, row3 = row0, row0, row0
        outside = tl.load(pad + c)
        for j in range(7):
            k = (
                tl.load(w + j * C + c),
                tl.load(w + (7 + j) * C + c),
                tl.load(w + (14 + j) * C + c),
                tl.load(w + (21 + j) * C + c),
                tl.load(w + (28 + j) * C + c),
                tl.load(w + (35 + j) * C + c),
                tl.load(w + (42 + j) * C + c),
            )
            source = column + j - 3
            pixels = x + image + ((h - 3) * W + source) * C + c
            for i in tl.static_range(ROWS + 6):  # each loaded row is part of up to ROWS sums
                r = row + i - 3
                mask = (source >= 0) & (source < W) & (r >= 0) & (r < H)
                v = tl.load(pixels + i * W * C, mask=mask, other=outside).to(tl.float32)
                if i < 7:
                    row0 += v * k[i]
                if ROWS > 1 and i >= 1 and i < 8:
                    row1 += v * k[i - 1]
                if ROWS > 2 and i >= 2 and i < 9:
                    row2 += v * k[i - 2]
                if ROWS > 2 and i >= 3:
                    row3 += v * k[i - 3]
        bias = tl.load(b + c)
        out = y + image + (h * W + column) * C + c
        mean0, square0 = _store(row0 + bias, out, inside & (row < H), mean0, square0, done, BC)
        if ROWS > 1:
            mean1, square1 = _store(row1 + bias, out + W * C, inside & (row + 1 < H), mean1, square1, done, BC)
        if ROWS > 2:
            mean2, square2 = _store(row2 + bias, out + 2 * W * C, inside & (row + 2 < H), mean2, square2, done, BC)
            mean3, square3 = _store(row3 + bias, out + 3 * W * C, inside & (row + 3 < H), mean3, square3, done, BC)
    tl.debug_barrier()  # the next loads may be of other threads' results
    for done in range(0, C, BC):
        out = y + image + (h * W + column) * C + (done + tl.arange(0, BC))[None, :]
        _normalize(out, inside & (row < H), mean0, square0, C, EPS)
        if ROWS > 1:
            _normalize(out + W * C, inside & (row + 1 < H), mean1, square1, C, EPS)
        if ROWS > 2:
            _normalize(out + 2 * W * C, inside & (row + 2 < H), mean2, square2, C, EPS)
            _normalize(out + 3 * W * C, inside & (row + 3 < H), mean3, square3, C, EPS)


@triton.jit
def _store(row, out, mask, mean, square, done, BC: tl.constexpr):
    """Stores BC channels; returns mean and squared deviations of those and the ``done`` ones (Chan et al., 1979)."""
    tl.store(out, row.to(out.dtype.element_ty), mask=mask)
    part = tl.sum(row, 1) / BC
    deviation = row - part[:, None]
    delta = part - mean
    share = BC / (done + BC)
    return mean + delta * share, square + tl.sum(deviation * deviation, 1) + delta * delta * done * share


@triton.jit
def _normalize(out, mask, mean, square, C: tl.constexpr, EPS: tl.constexpr):
    v = tl.load(out, mask=mask, other=0.0).to(tl.float32)
    v = (v - mean[:, None]) * tl.rsqrt(square / C + EPS)[:, None]
    tl.store(out, v.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["count", "H", "W"])
def patch_norm(
    x,
    add,
    w,
    b,
    y,
    count,
    H,
    W,
    C: tl.constexpr,
    BC: tl.constexpr,
    ROWS: tl.constexpr,
    SIDE: tl.constexpr,
    EPS: tl.constexpr,
):
    """LayerNorm of ``x + add``, whose ``count`` rows of C are ``(N, H, W)``; ``y`` has them in patches of SIDE × SIDE.

    A program computes ROWS rows. BC is the power of 2 that is not less than C.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = row % W
    h = (row // W) % H
    n = row // W // H
    inside = (row < count) & (column < W // SIDE * SIDE) & (h < H // SIDE * SIDE)
    channel = tl.arange(0, BC)  # the vectors are loaded as such, or all rows would take the layout of one
    exists = channel < C
    c = channel[None, :]
    mask = inside[:, None] & (c < C)
    v = tl.load(x + row.to(tl.int64)[:, None] * C + c, mask=mask, other=0.0).to(tl.float32)
    v += tl.load(add + channel, mask=exists, other=0.0)[None, :]
    mean = tl.sum(v, 1) / C
    v = tl.where(c < C, v - mean[:, None], 0.0)
    v = v * tl.rsqrt(tl.sum(v * v, 1) / C + EPS)[:, None]
    weight, bias = tl.load(w + channel, mask=exists, other=0.0), tl.load(b + channel, mask=exists, other=0.0)
    v = v * weight[None, :] + bias[None, :]
    patch = (n * (H // SIDE) + h // SIDE) * (W // SIDE) + column // SIDE
    target = patch * (SIDE * SIDE) + h % SIDE * SIDE + column % SIDE
    tl.store(y + target.to(tl.int64)[:, None] * C + c, v.to(y.dtype.element_ty), mask=mask)
