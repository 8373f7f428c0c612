"""The reward that a program left behind: in its result file, or as a line of what it wrote."""

from __future__ import annotations

import json
import re
from typing import Any, Final, cast

from agentlightning.errors import InvalidResult

_KEY: Final = "reward"
_QUOTED_KEY: Final = f'"{_KEY}"'.encode()
_BEGINNING: Final = re.compile(rf'\{{\s*"{_KEY}"\s*:')
_TERMINAL_CODE: Final = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_LONGEST_LINE: Final = 1 << 20
_HEAD: Final = 200
"""How many bytes of a line that is longer are kept, to quote it."""


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
    if _is_reward(value):
        return _checked(value[_KEY])
    raise InvalidResult(f'the result file holds neither a number nor {{"{_KEY}": …}}: {text!r:.200}')


class RewardLines:
    """Finds the reward in what a program writes while it writes it, however much that is.

    It is that of the last line that is an object with `reward` in it. A number counts only as the last line of all:
    elsewhere it may be anything. What a progress bar writes over itself counts as lines, and codes for terminals do not
    count at all.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._is_cut = False
        self._cut_names_reward = False
        self._last = ""
        self._reward: Any = None
        self._unread = ""

    def add(self, data: bytes) -> None:
        """Take a chunk."""
        first, newline, rest = data.replace(b"\r", b"\n").partition(b"\n")
        self._extend(first)
        if newline:
            self._end_line()
            whole, _, last = rest.rpartition(b"\n")
            self._read(whole)
            self._extend(last)

    def end(self) -> Any:
        """Return the reward of all that was taken; None if there is none.

        Raises:
            InvalidResult: The last line begins like an object with a reward and is no JSON, the object is longer than
                anybody reads, or the reward is neither a number nor an object of numbers.
        """
        self._end_line()
        value = _parsed(self._last)
        if _is_number(value):
            return value
        if self._unread:
            raise InvalidResult(f"a line with a reward has more than {_LONGEST_LINE} bytes: {self._unread!r:.200}")
        if value is None and _BEGINNING.match(self._last):
            raise InvalidResult(f"the program's last line is not JSON: {self._last!r:.200}")
        return _checked(self._reward)

    def _extend(self, piece: bytes) -> None:
        self._line += piece
        if len(self._line) > _LONGEST_LINE:
            self._is_cut = True
            self._cut_names_reward |= _QUOTED_KEY in self._line
            del self._line[_HEAD : -len(_QUOTED_KEY)]  # the key may be on both sides of the cut

    def _end_line(self) -> None:
        line = bytes(self._line)
        if self._is_cut:
            self._last = _clean(line[:_HEAD])
            if self._last.startswith("{") and (self._cut_names_reward or _QUOTED_KEY in line):
                self._unread = self._last
        else:
            self._read(line)
        self._line.clear()
        self._is_cut = self._cut_names_reward = False

    def _read(self, lines: bytes) -> None:
        """Look through whole lines from their end; those that do not name a reward cost next to nothing."""
        self._last = _last_line(lines) or self._last
        end = len(lines)
        while (place := lines.rfind(_QUOTED_KEY, 0, end)) >= 0:
            start, stop = lines.rfind(b"\n", 0, place) + 1, lines.find(b"\n", place)
            value = _parsed(_clean(lines[start : stop if stop >= 0 else None]))
            if _is_reward(value):
                self._reward, self._unread = value[_KEY], ""
                return
            end = start


def _last_line(lines: bytes) -> str:
    """The last one that shows anything; nothing if none does."""
    end = len(lines.rstrip())
    while end >= 0:
        start = lines.rfind(b"\n", 0, end)
        if text := _clean(lines[start + 1 : end]):
            return text
        end = start
    return ""


def _clean(line: bytes) -> str:
    return _TERMINAL_CODE.sub(b"", line).strip().removeprefix(_BYTE_ORDER_MARK).decode("utf-8", "replace").strip()


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_reward(value: Any) -> bool:
    return isinstance(value, dict) and _KEY in cast("dict[str, Any]", value)


def _checked(reward: Any) -> Any:
    if isinstance(reward, (str, list)):
        raise InvalidResult(f"a reward is a number or an object of numbers, not {reward!r:.100}")
    return reward


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
