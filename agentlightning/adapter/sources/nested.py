"""Values that a source has spread over dotted attribute keys."""

from __future__ import annotations

from typing import Any, cast

from agentlightning.types import Attributes
from agentlightning.types.attributes import unflatten_attributes
from agentlightning.types.chat_shape import Json


def below(attributes: Attributes, prefix: str) -> Json | list[Any]:
    """Return what stands below a prefix that ends in a dot, as nested data."""
    length = len(prefix)
    return unflatten_attributes({key[length:]: value for key, value in attributes.items() if key.startswith(prefix)})


def objects(value: Any) -> list[Json]:
    """Return the objects of a list, also of one whose indices have gaps."""
    if isinstance(value, dict):
        numbered = cast("dict[str, Any]", value)
        value = [numbered[key] for key in sorted(filter(str.isdecimal, numbered), key=int)]
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]


def nested_object(attributes: Attributes, prefix: str) -> Json:
    """Return what stands below a prefix if it is an object; an empty one otherwise."""
    value = below(attributes, prefix)
    return value if isinstance(value, dict) else {}


def with_token_ids(choices: list[Json], sampled: Any) -> list[Json]:
    """Return the choices with the tokens that stand in a list beside them; such a list alone makes choices."""
    lists = cast("list[Any]", sampled) if isinstance(sampled, list) else []
    known = choices or [{} for _ in lists]
    pairs = zip(known, [*lists, *[None] * len(known)], strict=False)
    return [{"token_ids": token_ids} | choice for choice, token_ids in pairs]
