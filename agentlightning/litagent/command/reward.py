"""The reward that a program left behind: in its result file, or at the end of what it wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, cast

from agentlightning.errors import InvalidResult

_KEY: Final = "reward"
_BEGINNING: Final = re.compile(rf'\{{\s*"{_KEY}"\s*:')


def reward_from_file(text: str) -> Any:
    """Return the reward that a result file holds: a number, or what stands under `reward` in an object.

    Raises:
        InvalidResult: It holds anything else.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidResult(f"the result file is not JSON, {error}: {text!r:.200}") from error
    if _is_number(value):
        return value
    if isinstance(value, dict) and _KEY in value:
        return _checked(cast("dict[str, Any]", value)[_KEY])
    raise InvalidResult(f'the result file holds neither a number nor {{"{_KEY}": …}}: {text!r:.200}')


def reward_from_lines(lines: Sequence[str]) -> Any:
    """Return the reward of the last line that is an object with `reward` in it; None if there is none.

    A number counts only as the last line of all: elsewhere it may be anything.

    Raises:
        InvalidResult: The last line begins like such an object and is no JSON, or the reward is neither a number nor an
            object of numbers.
    """
    last = True
    for line in reversed(lines):
        if not (text := line.strip()):
            continue
        value = _parsed(text, last)
        if last and _is_number(value):
            return value
        if isinstance(value, dict) and _KEY in value:
            return _checked(cast("dict[str, Any]", value)[_KEY])
        last = False
    return None


def _checked(reward: Any) -> Any:
    if isinstance(reward, (str, list)):
        raise InvalidResult(f"a reward is a number or an object of numbers, not {reward!r:.100}")
    return reward


def _parsed(line: str, last: bool) -> Any:
    if not last and not line.startswith("{"):
        return None
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        if last and _BEGINNING.match(line):
            raise InvalidResult(f"the program's last line is not JSON, {error}: {line!r:.200}") from error
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
