"""The Ray cluster of a run: one that exists, or one on this machine for as long as the run lasts."""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

from agentlightning.errors import ConfigurationError
from agentlightning.execution.interrupts import TERMINATED
from agentlightning.extras import needed_for

_OLDEST: Final = (2, 50)
_LOCAL: Final = "local"
_LOOPBACK: Final = "127.0.0.1"
_KNOCK_SECONDS: Final = 10.0
_VARIABLES: Final = {"RAY_USAGE_STATS_ENABLED": "0"}
"""For a cluster that is started here, where the user does not say otherwise."""


@contextmanager
def connected(address: str | None, cpus: float) -> Generator[str]:
    """Be a driver of a cluster inside the block; yields an address of this machine that all of its nodes reach.

    Args:
        address: The cluster's, "auto" for the one that this machine belongs to; None for that in `RAY_ADDRESS`, and
            without one "local": a cluster of this machine alone, which is started, and stopped after the block. If
            this process is a driver already, it stays that of the same cluster.
        cpus: How many CPUs a cluster that is started has at least.

    Raises:
        MissingExtra: Ray is not installed.
        ConfigurationError: It is too old, or the cluster cannot be reached.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield ray.util.get_node_ip_address()
        return
    address = address or os.environ.get("RAY_ADDRESS") or _LOCAL
    if "://" in address:
        raise ConfigurationError(
            f"{address} leads to a cluster from outside, where its nodes do not reach this process: start the program "
            "on a node, with `ray job submit`, say, and address='auto'"
        )
    try:
        with _sigterm_left_alone():
            host = _start(ray, cpus) if address == _LOCAL else _join(ray, address)
        yield host
    finally:
        with _sigterm_left_alone():
            ray.shutdown()


def room() -> str:
    """Say what the cluster has to give."""
    ray = load_ray()
    whole: dict[str, float]
    free: dict[str, float]
    whole, free = ray.cluster_resources(), ray.available_resources()
    kinds = [name for name in sorted(whole) if not name.startswith("node:") and "memory" not in name]
    return f"the cluster has {', '.join(f'{free.get(name, 0):g} of {whole[name]:g} {name}' for name in kinds)} free"


def load_ray() -> Any:
    """Return Ray.

    Raises:
        MissingExtra: It is not installed.
        ConfigurationError: It is too old.
    """
    with needed_for("the strategy 'ray'"):
        import ray
    version = tuple(int(number) for number in re.findall(r"\d+", ray.__version__)[:2])
    if version < _OLDEST:
        raise ConfigurationError(
            f"Ray {ray.__version__} is too old for the strategy 'ray', which needs "
            f"{'.'.join(map(str, _OLDEST))} or newer: pip install -U -e '.[ray]'"
        )
    return ray


def _start(ray: Any, cpus: float) -> str:
    """Start a cluster that only this machine reaches."""
    unset = _VARIABLES.keys() - os.environ.keys()
    os.environ.update({name: _VARIABLES[name] for name in unset})
    try:
        ray.init(
            address=_LOCAL,
            num_cpus=max(os.cpu_count() or 1, math.ceil(cpus)),
            include_dashboard=False,
            logging_level=logging.ERROR,
        )
    finally:
        for name in unset:
            del os.environ[name]
    return _LOOPBACK


def _join(ray: Any, address: str) -> str:
    try:
        _knock(address)
        ray.init(address=address, logging_level=logging.ERROR)
    except OSError as error:
        raise ConfigurationError(f"there is no Ray cluster at {address!r}: {error}") from error
    except ValueError as error:
        raise ConfigurationError(f"there is no Ray cluster at {address!r}, which is no host:port: {error}") from error
    return ray.util.get_node_ip_address()


def _knock(address: str) -> None:
    """Raise an `OSError` if nobody listens at an address, for which Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()


@contextmanager
def _sigterm_left_alone() -> Generator[None]:
    """Undo what Ray makes of SIGTERM: it belongs to the program, and to the run's end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:  # of Ray's handler
        if error.code == signal.SIGTERM:
            raise SystemExit(TERMINATED) from None
        raise
    finally:
        if former is not None:  # of a library in C, which Python cannot set again
            signal.signal(signal.SIGTERM, former)
