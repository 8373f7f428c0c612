"""The machine a runner works on, as a heartbeat tells it."""

from __future__ import annotations

import asyncio
import datetime
import functools
import importlib
import importlib.util
import logging
import os
import platform
import shutil
import socket
import subprocess
import threading
from typing import Any, Final

from agentlightning._internal.threads import run_in_thread

logger = logging.getLogger(__name__)

_GIB = 2**30
_MIB = 2**20
PATIENCE: Final = 0.5
"""Seconds to wait for a snapshot before the last one is told again."""
_GPU_FIELDS = {"gpu": "name", "util_pct": "utilization.gpu", "mem_used_mb": "memory.used"} | {
    "mem_total_mb": "memory.total",
    "temp_c": "temperature.gpu",
}


class Machine:
    """Reads the machine's state, which a sick disk or driver may hold up for ever, while nobody waits for long.

    Args:
        include_gpu: See `system_snapshot`.
    """

    def __init__(self, include_gpu: bool) -> None:
        self._include_gpu = include_gpu
        self._reading = threading.Lock()
        self._last: dict[str, Any] = {}

    async def snapshot(self) -> dict[str, Any]:
        """Return the state, or the last one known if reading it takes longer than `PATIENCE`; from any event loop."""
        if self._reading.acquire(blocking=False):
            try:
                async with asyncio.timeout(PATIENCE):
                    await run_in_thread(self._read, "agl-snapshot")
            except TimeoutError:
                logger.debug("Reading the machine's state takes long")
        return self._last

    def _read(self) -> None:
        try:
            self._last = system_snapshot(self._include_gpu)
        finally:
            self._reading.release()


def system_snapshot(include_gpu: bool = False) -> dict[str, Any]:
    """Return host, processor, memory, disk and network figures; it reads files and may block for milliseconds.

    Keys ending in `_gb` count GiB, `_mb` MiB, `_pct` percent. Use of processor and memory is there when `psutil` is
    installed.

    Args:
        include_gpu: Add `gpus`, as `nvidia-smi` sees them; `[]` where it cannot be run.
    """
    disk = shutil.disk_usage("/")
    snapshot: dict[str, Any] = {
        "timestamp": datetime.datetime.now().isoformat(timespec="seconds"),
        **_machine(),
        "disk_used_gb": round(disk.used / _GIB, 2),
        "disk_total_gb": round(disk.total / _GIB, 2),
        "disk_pct": round(100 * disk.used / disk.total, 1),
        **_usage(),
    }
    if include_gpu:
        snapshot["gpus"] = _gpus()
    return snapshot


@functools.cache
def _machine() -> dict[str, Any]:
    """What does not change while the process runs."""
    return {
        "host": socket.gethostname(),
        "os": platform.platform(),
        "cpu_name": platform.processor() or platform.machine(),
        "cpu_threads": os.cpu_count(),
    }


def _usage() -> dict[str, Any]:
    if importlib.util.find_spec("psutil") is None:
        return {}
    psutil: Any = importlib.import_module("psutil")
    memory, network = psutil.virtual_memory(), psutil.net_io_counters()
    return {
        "cpu_cores": psutil.cpu_count(logical=False),
        "cpu_usage_pct": psutil.cpu_percent(0.0),
        "mem_used_gb": round(memory.used / _GIB, 2),
        "mem_total_gb": round(memory.total / _GIB, 2),
        "mem_pct": memory.percent,
        "bytes_sent_mb": round(network.bytes_sent / _MIB, 2),
        "bytes_recv_mb": round(network.bytes_recv / _MIB, 2),
    }


def _gpus() -> list[dict[str, Any]]:
    query = ["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS.values())}", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("nvidia-smi cannot be asked: %s", error)
        return []
    return [dict(zip(_GPU_FIELDS, map(_number, line.split(", ")), strict=True)) for line in lines]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:  # a name, or "[N/A]"
        return text
