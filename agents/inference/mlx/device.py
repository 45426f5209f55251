"""What MLX says of the device that it computes on, and the limits that are set on its allocator."""

from dataclasses import dataclass

import mlx.core as mx
import psutil

from agents.inference.device_memory import MLX_SHARE, Device, limit_usable


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """The default device: its ``kind``, its bytes in all, and how many of them Metal recommends to use."""

    kind: Device
    total: int
    recommended: int | None = None


def read_device() -> DeviceMemory:
    """The default device of this process."""
    if mx.default_device() == mx.Device(mx.cpu):
        return DeviceMemory(kind="cpu", total=int(psutil.virtual_memory().total))
    info = mx.device_info()
    total = int(info.get("memory_size") or info.get("total_memory") or psutil.virtual_memory().total)
    recommended = info.get("max_recommended_working_set_size")
    kind: Device = "metal" if mx.metal.is_available() else "cuda"
    return DeviceMemory(kind=kind, total=total, recommended=int(recommended) if recommended else None)


def limits(memory: int) -> tuple[int, int]:
    """What MLX may allocate, and keep of freed buffers, on a device with ``memory`` bytes: 460 and 32 GB of 512 GB."""
    return memory * MLX_SHARE[0] // MLX_SHARE[1], memory // 16


def set_limits(device: DeviceMemory, memory_limit: int | None, cache_limit: int | None) -> int:
    """Set these limits, or else those of the device. A CPU's memory is shared with
    other processes: there nothing is limited by itself.

    Returns:
        Bytes that may be filled.
    """
    memory, cache = (None, None) if device.kind == "cpu" else limits(device.total)
    memory, cache = memory_limit or memory, cache_limit or cache
    if memory is not None:
        mx.set_memory_limit(memory)
    if cache is not None:
        mx.set_cache_limit(cache)
    return limit_usable(device.total, device.kind, recommended=device.recommended, limit=memory_limit)
