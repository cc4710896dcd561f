"""Encoders of llama.cpp's K-quants, which the gguf package only decodes, by their public layout.

Superblocks of 256 weights hold a half-precision scale, scales of 16 or 32 weights in few bits, and
codes. Weights are rounded to the nearest code; llama.cpp searches for better scales.
"""

from collections.abc import Callable, Mapping

import numpy as np

SUPERBLOCK = 256


def quantize(weight: np.ndarray, kind: str) -> np.ndarray:
    """``weight`` ``(rows, columns)`` as bytes ``(rows, bytes)``; columns are superblocks."""
    blocks = ENCODERS[kind](weight.astype(np.float32).reshape(-1, SUPERBLOCK))
    return blocks.reshape(weight.shape[0], -1)


def _half(values: np.ndarray) -> np.ndarray:
    """``(blocks,)`` numbers as ``(blocks, 2)`` bytes."""
    return values.astype("<f2").view(np.uint8).reshape(-1, 2)


def _symmetric(blocks: np.ndarray, largest: int, scale: int) -> tuple[np.ndarray, ...]:
    """Scale ``(blocks,)``, integer scales ``(blocks, 16)`` and codes ``(blocks, 16, 16)``."""
    groups = blocks.reshape(-1, 16, 16)
    wanted = np.abs(groups).max(-1) / largest
    d = np.maximum(wanted.max(-1) / scale, 1e-7)
    d = d.astype(np.float16).astype(np.float32)
    scales = np.clip(np.rint(wanted / d[:, None]), 1, scale)
    codes = np.rint(groups / (d[:, None] * scales)[..., None])
    return d, scales.astype(np.int8), np.clip(codes, -largest - 1, largest).astype(np.int8)


def _ranged(blocks: np.ndarray, groups: int, largest: int, scale: int) -> tuple[np.ndarray, ...]:
    """Scales of widths and of minima ``(blocks,)``, both as integers ``(blocks, groups)``, and
    codes ``(blocks, groups, weights)``: a weight is ``d scale code - dmin minimum``."""
    parts = blocks.reshape(len(blocks), groups, -1)
    low = np.maximum(-parts.min(-1), 0)
    width = (parts.max(-1) + low) / largest
    d, dmin = (np.maximum(x.max(-1) / scale, 1e-7) for x in (width, low))
    d, dmin = (x.astype(np.float16).astype(np.float32) for x in (d, dmin))
    scales = np.clip(np.rint(width / d[:, None]), 1, scale).astype(np.uint8)
    minima = np.clip(np.rint(low / dmin[:, None]), 0, scale).astype(np.uint8)
    codes = np.rint(
        (parts + (dmin[:, None] * minima)[..., None]) / (d[:, None] * scales)[..., None]
    )
    return d, dmin, scales, minima, np.clip(codes, 0, largest).astype(np.uint8)


def _interleaved(codes: np.ndarray, width: int, bits: int) -> np.ndarray:
    """Codes ``(blocks, 256)`` of so many bits, several to a byte: byte ``i`` of a run holds those
    that are ``width`` apart."""
    runs = codes.reshape(len(codes), -1, 8 // bits, width).astype(np.uint8)
    shifts = np.arange(8 // bits, dtype=np.uint8)[:, None] * bits
    return np.bitwise_or.reduce(runs << shifts, axis=2).reshape(len(codes), -1)


def _six_bits(scales: np.ndarray, minima: np.ndarray) -> np.ndarray:
    """Eight scales and eight minima of six bits in twelve bytes."""
    first = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    second = minima[:, :4] | (minima[:, 4:] >> 4) << 6
    return np.hstack([first, second, (scales[:, 4:] & 15) | (minima[:, 4:] & 15) << 4])


def _q2_k(blocks: np.ndarray) -> np.ndarray:
    d, dmin, scales, minima, codes = _ranged(blocks, 16, 3, 15)
    packed = _interleaved(codes.reshape(-1, SUPERBLOCK), 32, 2)
    return np.hstack([scales | minima << 4, packed, _half(d), _half(dmin)])


def _q3_k(blocks: np.ndarray) -> np.ndarray:
    d, scales, codes = _symmetric(blocks, 3, 31)
    codes = (codes + 4).astype(np.uint8).reshape(-1, SUPERBLOCK)
    stored = (scales + 32).astype(np.uint8)
    low = stored[:, :8] & 15 | (stored[:, 8:] & 15) << 4
    high = np.bitwise_or.reduce(
        (stored >> 4).reshape(-1, 4, 4) << np.array([0, 2, 4, 6], np.uint8)[:, None], axis=1
    )
    masks = _interleaved(codes >> 2, 32, 1)
    return np.hstack([masks, _interleaved(codes & 3, 32, 2), low, high, _half(d)])


def _q4_k(blocks: np.ndarray) -> np.ndarray:
    d, dmin, scales, minima, codes = _ranged(blocks, 8, 15, 63)
    packed = _interleaved(codes.reshape(-1, SUPERBLOCK), 32, 4)
    return np.hstack([_half(d), _half(dmin), _six_bits(scales, minima), packed])


def _q5_k(blocks: np.ndarray) -> np.ndarray:
    d, dmin, scales, minima, codes = _ranged(blocks, 8, 31, 63)
    codes = codes.reshape(-1, SUPERBLOCK)
    high, low = _interleaved(codes >> 4, 32, 1), _interleaved(codes & 15, 32, 4)
    return np.hstack([_half(d), _half(dmin), _six_bits(scales, minima), high, low])


def _q6_k(blocks: np.ndarray) -> np.ndarray:
    d, scales, codes = _symmetric(blocks, 31, 127)
    codes = (codes + 32).astype(np.uint8).reshape(-1, SUPERBLOCK)
    low, high = _interleaved(codes & 15, 64, 4), _interleaved(codes >> 4, 32, 2)
    return np.hstack([low, high, scales.view(np.uint8), _half(d)])


ENCODERS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
