"""A socket to whichever of a name's addresses takes the connection first.

asyncio has this race as well (`happy_eyeballs_delay`), but forgets the winner's socket if it is cancelled at the end.
"""

from __future__ import annotations

import asyncio
import socket
from itertools import chain, zip_longest
from typing import Any, Final

_HEAD_START: Final = 0.25
"""Seconds that one address has before the next is tried beside it."""


async def socket_to(host: str, port: int) -> socket.socket:
    """Return a connected socket.

    Raises:
        OSError: No address took the connection, as the first of them said.
    """
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    trials: list[asyncio.Task[socket.socket]] = []
    winner = None
    try:
        for info in _by_turns(infos):
            trials.append(asyncio.ensure_future(_connected(*info)))
            if (winner := await _won(trials, _HEAD_START)) is not None:
                return winner.result()
        if (winner := await _won(trials, None)) is not None:
            return winner.result()
        raise next((error for trial in trials if (error := trial.exception())), OSError("the name has no address"))
    finally:
        losers = [trial for trial in trials if trial is not winner]
        for trial in losers:
            trial.cancel()
            trial.add_done_callback(_close_result)
        if losers and winner is None:
            await asyncio.wait(losers)


async def _won(trials: list[asyncio.Task[socket.socket]], seconds: float | None) -> asyncio.Task[socket.socket] | None:
    """Return the first trial that succeeds; None if all failed, or the time is up, or the newest failed."""
    while True:
        if found := next((each for each in trials if each.done() and each.exception() is None), None):
            return found
        running = [each for each in trials if not each.done()]
        if not running or (seconds is not None and trials[-1].done()):
            return None
        done, _ = await asyncio.wait(running, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return None


async def _connected(family: int, kind: int, protocol: int, _: str, address: Any) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    try:
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, address)
    except BaseException:
        made.close()
        raise
    return made


def _by_turns(infos: list[Any]) -> list[Any]:
    """Sort addresses so that the families take turns, whoever is first staying so."""
    first = [info for info in infos if info[0] == infos[0][0]]
    others = [info for info in infos if info[0] != infos[0][0]]
    return [info for info in chain.from_iterable(zip_longest(first, others)) if info is not None]


def _close_result(trial: asyncio.Task[socket.socket]) -> None:
    if not trial.cancelled() and trial.exception() is None:
        trial.result().close()
