# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The public half of an Ed25519 key (RFC 8032, 5.1.5), with the standard library alone. Pure.

Where an environment is broken, or not to be trusted with a private key, nothing else could tell which key a file holds.
It is only for that: it neither signs nor verifies, and makes no attempt to take the same time for each key.
"""

from __future__ import annotations

import base64
import hashlib
import typing as t

__all__ = ["public_half"]

_P = 2**255 - 19
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)  # of -1

# A point (x, y) as (X, Y, Z, T): x = X/Z, y = Y/Z, x * y = T/Z.
_Point = t.Tuple[int, int, int, int]


def _base() -> _Point:
    y = 4 * pow(5, _P - 2, _P) % _P
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    x = _P - x if x % 2 else x
    return x, y, 1, x * y % _P


def _add(first: _Point, second: _Point) -> _Point:
    a = (first[1] - first[0]) * (second[1] - second[0]) % _P
    b = (first[1] + first[0]) * (second[1] + second[0]) % _P
    c = 2 * first[3] * second[3] * _D % _P
    d = 2 * first[2] * second[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def public_half(seed: bytes) -> str:
    """Return the public key of a seed, as Matrix writes it: unpadded base64."""
    digest = bytearray(hashlib.sha512(seed).digest()[:32])
    digest[0] &= 248
    digest[31] = digest[31] & 127 | 64
    scalar = int.from_bytes(digest, "little")
    result: _Point = (0, 1, 1, 0)
    point = _base()
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point = _add(point, point)
        scalar >>= 1
    inverse = pow(result[2], _P - 2, _P)
    x, y = result[0] * inverse % _P, result[1] * inverse % _P
    encoded = (y | (x & 1) << 255).to_bytes(32, "little")
    return base64.b64encode(encoded).rstrip(b"=").decode("ascii")
