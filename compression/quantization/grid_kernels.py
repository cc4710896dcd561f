"""Encoding and decoding on the grids of :mod:`grids`, for use in Triton kernels.

Each function does for one grid what its method ``encode`` or ``decode`` does, with values and
scales in float32 or float64, and codes in int32. A decoded value is not yet rounded to the dtype of
the scales.
"""

import triton
import triton.language as tl

ROUND = tl.constexpr(1.5 * 2**23)
"""A float32 to which a smaller number is added and subtracted again is rounded half to even."""


@triton.jit
def encode(values, scales, zeros, GRID: tl.constexpr, LOWEST: tl.constexpr, HIGHEST: tl.constexpr):
    if GRID == "Uniform":
        return _encode_uniform(values, scales, zeros, LOWEST, HIGHEST)
    elif GRID == "LogGrid":
        return _encode_log(values, scales, HIGHEST)
    else:
        return _encode_float8(values, scales)


@triton.jit
def decode(codes, scales, zeros, GRID: tl.constexpr):
    if GRID == "Uniform":
        return (codes.to(tl.float32) - zeros) * scales
    elif GRID == "LogGrid":
        return _decode_log(codes, scales)
    else:
        return _decode_float8(codes) * scales


@triton.jit
def _encode_uniform(values, scales, zeros, LOWEST: tl.constexpr, HIGHEST: tl.constexpr):
    # Far outside the range of the codes, the ratio need not be exact.
    ratio = tl.minimum(tl.maximum(tl.div_rn(values, scales), -1024.0), 1024.0)
    codes = (ratio + ROUND) - ROUND + zeros
    return tl.minimum(tl.maximum(codes, LOWEST), HIGHEST).to(tl.int32)


@triton.jit
def _encode_log(values, scales, HIGHEST: tl.constexpr):
    ratio = tl.abs(values).to(tl.float64) / scales.to(tl.float64)
    # The bits of the exponent are the logarithm to base 2, rounded down.
    powers = ((ratio / 1.5).to(tl.int64, bitcast=True) >> 52) - 1023
    exponents = tl.minimum(tl.maximum(-powers - 1, 0), HIGHEST - 1).to(tl.int32)
    smallest: tl.constexpr = 2.0**-HIGHEST
    codes = tl.where(ratio > smallest, exponents + 1, 0)
    return tl.where(values < 0, -codes, codes)


@triton.jit
def _decode_log(codes, scales):
    powers = ((1024 - tl.abs(codes)).to(tl.int64) << 52).to(tl.float64, bitcast=True)
    values = powers * scales.to(tl.float64)
    return tl.where(codes == 0, 0.0, tl.where(codes < 0, -values, values)).to(tl.float32)


@triton.jit
def _encode_float8(values, scales):
    ratio = tl.minimum(tl.maximum(tl.div_rn(values, scales), -448.0), 448.0)
    magnitudes = tl.abs(ratio)
    bits = magnitudes.to(tl.int32, bitcast=True)
    # Round the mantissa of 23 bits to 3 bits, half to even; the bias of the exponent becomes 7.
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - ((127 - 7) << 3)
    subnormal = ((magnitudes * 512.0 + ROUND) - ROUND).to(tl.int32)
    codes = tl.where(magnitudes < 0.015625, subnormal, normal)
    # The sign is the highest bit of a signed byte.
    return tl.where(ratio < 0, codes - 128, codes)


@triton.jit
def _decode_float8(codes):
    bits = codes & 0x7F
    normal = ((bits + ((127 - 7) << 3)) << 20).to(tl.float32, bitcast=True)
    magnitudes = tl.where(bits < 8, bits.to(tl.float32) / 512.0, normal)
    return tl.where(codes < 0, -magnitudes, magnitudes)
