# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Ed25519 signatures (RFC 8032, section 5.1) for test servers, without any package.

Slow (some milliseconds a signature) and not constant in time: it signs what tests make up, with keys
that are no secret. Points are in extended coordinates on -x² + y² = 1 + d x² y².
"""

from __future__ import annotations

import hashlib

_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P

Point = tuple[int, int, int, int]


def _add(a: Point, b: Point) -> Point:
    minus, plus = (a[1] - a[0]) * (b[1] - b[0]) % _P, (a[1] + a[0]) * (b[1] + b[0]) % _P
    twist, double = 2 * a[3] * b[3] * _D % _P, 2 * a[2] * b[2] % _P
    e, f, g, h = plus - minus, double - twist, double + twist, plus + minus
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _base() -> Point:
    y = 4 * pow(5, -1, _P) % _P
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * pow(2, (_P - 1) // 4, _P) % _P
    x = _P - x if x & 1 else x
    return x, y, 1, x * y % _P


_BASE = _base()


def _times(scalar: int) -> bytes:
    """Return the base point times a scalar, encoded."""
    total, power = (0, 1, 1, 0), _BASE
    while scalar:
        if scalar & 1:
            total = _add(total, power)
        power = _add(power, power)
        scalar >>= 1
    inverse = pow(total[2], -1, _P)
    x, y = total[0] * inverse % _P, total[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


class SigningKey:
    """A key pair made from 32 bytes."""

    def __init__(self, seed: bytes) -> None:
        digest = hashlib.sha512(seed).digest()
        self._scalar = (int.from_bytes(digest[:32], "little") & (2**254 - 8)) | 2**254
        self._prefix = digest[32:]
        self.public = _times(self._scalar)

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message."""
        nonce = _number(self._prefix + message) % _ORDER
        point = _times(nonce)
        challenge = _number(point + self.public + message) % _ORDER
        return point + ((nonce + challenge * self._scalar) % _ORDER).to_bytes(32, "little")


def _number(data: bytes) -> int:
    return int.from_bytes(hashlib.sha512(data).digest(), "little")
