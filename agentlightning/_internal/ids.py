"""Random identifiers."""

from __future__ import annotations

import secrets


def generate_id(length: int) -> str:
    """Return `length` random lowercase hexadecimal characters."""
    if length <= 0:
        raise ValueError(f"length must be positive, not {length}")
    return secrets.token_hex((length + 1) // 2)[:length]
