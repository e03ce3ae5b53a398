"""A machine as a study sees it: the memory that it may fill and the operations that it does a second."""

from __future__ import annotations

import math
from dataclasses import dataclass

from leapverify.capacity.memory import GB, Room
from leapverify.errors import ConfigError
from leapverify.runs.environment import cpu_count, memory_bytes

CPU_FLOPS_PER_CORE = 15e9
"""A rough float32 rate of one core, only to tell minutes from weeks."""
GPU_FLOPS = 100e12
"""The same of a GPU that is not known by name."""
GPU_SHARE = 0.4
"""Of the peak of a GPU that is: what training and verifying reach, roughly."""


@dataclass(frozen=True)
class Machine:
    """A machine, this one or one that is only thought of."""

    device_bytes: float | None
    """Of the GPU; None without one."""
    host_bytes: float
    flops: float
    """A second, by which durations are told."""
    rate: str
    """How that number came about."""

    @property
    def room(self) -> Room:
        """What tensors may take."""
        return Room.usable(self.device_bytes, self.host_bytes)

    @property
    def words(self) -> str:
        """Its memory in words."""
        host = f"{self.host_bytes / GB:.0f} GB of host memory"
        return host if self.device_bytes is None else f"a GPU of {self.device_bytes / GB:.0f} GB and {host}"


def machine(gpu_gb: float | None = None, host_gb: float | None = None) -> Machine:
    """This machine, or one with other memory.

    Args:
        gpu_gb: GPU memory in GB of 10^9 bytes; None for this machine's, of which there may be none.
        host_gb: host memory; None for this machine's.

    Raises:
        ConfigError: a size that is no positive number, or the system does not tell its own.
    """
    for option, value in (("--gpu-gb", gpu_gb), ("--host-gb", host_gb)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{option} {value:g} is no size of a memory: give gigabytes above 0, such as 80")
    host = memory_bytes() if host_gb is None else host_gb * GB
    if host is None:
        raise ConfigError("this system does not tell how much memory it has: give --host-gb")
    name, free = _gpu()
    device = free if gpu_gb is None else gpu_gb * GB
    return Machine(device, float(host), *_rate(None if device is None else name))


def _gpu() -> tuple[str, float | None]:
    """Name and memory of this machine's GPU; what other processes hold of it is not counted."""
    import torch

    if not torch.cuda.is_available():
        return "unknown GPU", None
    free, _ = torch.cuda.mem_get_info()
    return torch.cuda.get_device_name(), float(free + torch.cuda.memory_reserved())


def _rate(gpu: str | None) -> tuple[float, str]:
    """Operations a second, and how they are counted."""
    if gpu is None:
        cores = cpu_count()
        return CPU_FLOPS_PER_CORE * cores, f"{CPU_FLOPS_PER_CORE / 1e9:.0f} GFLOP/s on each of {cores} cores"
    for known in ACCELERATORS:
        if known.name.split()[0] in gpu:
            return GPU_SHARE * known.flops, f"{GPU_SHARE:.0%} of the {known.flops / 1e12:.0f} TFLOP/s of {gpu}"
    return GPU_FLOPS, f"{GPU_FLOPS / 1e12:.0f} TFLOP/s, for want of a known GPU"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for size, name in ((86400 * 2, "day"), (3600 * 1.5, "hour")):
        if seconds >= size:
            count = seconds / {"day": 86400, "hour": 3600}[name]
            return f"{count:.0f} {name}s"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} minute{'s' if minutes > 1 else ''}"


@dataclass(frozen=True)
class Accelerator:
    """A device by its maker's numbers."""

    name: str
    memory_bytes: float
    flops: float
    """Of bfloat16 products in tensor cores, dense, a second."""
    bandwidth: float
    """Of its memory, bytes a second."""
    link: float
    """Of PCI Express to the host, bytes a second in one direction."""
    source: str


_A100, _H100 = "NVIDIA A100 Tensor Core GPU datasheet", "NVIDIA H100 Tensor Core GPU datasheet"
ACCELERATORS = (
    Accelerator("A100 SXM 40 GB", 40e9, 312e12, 1.555e12, 32e9, f"{_A100}; PCIe 4.0 x16"),
    Accelerator("A100 SXM 80 GB", 80e9, 312e12, 2.039e12, 32e9, f"{_A100}; PCIe 4.0 x16"),
    Accelerator("H100 SXM 80 GB", 80e9, 989e12, 3.35e12, 64e9, f"{_H100} (half of the sparse rate); PCIe 5.0 x16"),
    Accelerator("H200 141 GB", 141e9, 989e12, 4.8e12, 64e9, "NVIDIA H200 Tensor Core GPU datasheet; PCIe 5.0 x16"),
)
