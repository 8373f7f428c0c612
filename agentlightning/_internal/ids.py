"""Identifiers."""

from __future__ import annotations

import secrets


def generate_id(length: int) -> str:
    """Return `length` random lowercase hexadecimal characters."""
    if length <= 0:
        raise ValueError(f"length must be positive, not {length}")
    return secrets.token_hex((length + 1) // 2)[:length]


def generate_ordered_id(now: float) -> str:
    """Return 23 lowercase hexadecimal characters: the time, in milliseconds since 1970, and 48 random bits.

    What was made at one time stands together in an index, where to work on it touches few pages.
    """
    return f"{int(now * 1000):011x}{secrets.token_hex(6)}"
