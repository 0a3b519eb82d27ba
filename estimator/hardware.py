"""GPUs: memory as the driver reports it, which is less than on the box, and bandwidth."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache

from estimator.errors import EstimatorError


@dataclass(frozen=True, slots=True)
class Gpu:
    """One model of GPU."""

    name: str
    memory_gib: float
    """Total memory as the driver reports it, in GiB (2^30 bytes)."""
    bandwidth_gb_s: float
    """Memory bandwidth in 10^9 bytes per second, from the maker's data sheet."""
    vendor: str = "nvidia"
    aliases: tuple[str, ...] = ()
    fp8: bool = False
    """Whether it computes with 8-bit floats."""
    nominal_gb: int = 0
    """What the maker calls it by."""
    unified: bool = False
    """Whether the system shares its memory."""

    @property
    def memory_bytes(self) -> int:
        """The same in bytes."""
        return round(self.memory_gib * 2**30)


GPUS: tuple[Gpu, ...] = (
    Gpu("A10", 22.07, 600, aliases=("A10 24GB",), nominal_gb=24),
    Gpu("A10G", 21.95, 600, aliases=("A10G 24GB",), nominal_gb=24),
    Gpu("L4", 22.0, 300, aliases=("L4 24GB",), fp8=True, nominal_gb=24),
    Gpu("L40", 44.4, 864, aliases=("L40 48GB",), fp8=True, nominal_gb=48),
    Gpu("L40S", 44.4, 864, aliases=("L40S 48GB",), fp8=True, nominal_gb=48),
    Gpu("L20", 44.5, 864, aliases=("L20 48GB",), fp8=True, nominal_gb=48),
    Gpu("A40", 44.35, 696, aliases=("A40 48GB", "A40-48Q"), nominal_gb=48),
    Gpu("RTX A4000", 15.73, 448, nominal_gb=16),
    Gpu("RTX A5000", 23.67, 768, nominal_gb=24),
    Gpu("RTX A6000", 47.53, 768, aliases=("A6000",), nominal_gb=48),
    Gpu("RTX 6000 Ada", 47.5, 960, fp8=True, nominal_gb=48),
    Gpu("T4", 14.56, 320, aliases=("Tesla T4", "T4 16GB"), nominal_gb=16),
    Gpu("P40", 23.87, 346, aliases=("Tesla P40",), nominal_gb=24),
    Gpu("V100 16GB", 15.77, 900, aliases=("V100", "V100-SXM2-16GB"), nominal_gb=16),
    Gpu("V100 32GB", 31.74, 900, aliases=("V100-SXM2-32GB", "V100-PCIE-32GB"), nominal_gb=32),
    Gpu("RTX 2080 Ti", 10.75, 616, nominal_gb=11),
    Gpu("RTX 3060", 11.76, 360, aliases=("RTX 3060 12GB",), nominal_gb=12),
    Gpu("RTX 3080", 9.78, 760, nominal_gb=10),
    Gpu("RTX 3090", 23.58, 936, aliases=("RTX 3090 24GB", "RTX 3090 Ti"), nominal_gb=24),
    Gpu("RTX 4060 Ti", 15.7, 288, aliases=("RTX 4060 Ti 16GB",), fp8=True, nominal_gb=16),
    Gpu("RTX 4080", 15.7, 717, fp8=True, nominal_gb=16),
    Gpu("RTX 4090", 23.52, 1008, aliases=("RTX 4090 24GB",), fp8=True, nominal_gb=24),
    Gpu("RTX 5080", 15.47, 960, fp8=True, nominal_gb=16),
    Gpu("RTX 5090", 31.37, 1792, aliases=("RTX 5090 32GB",), fp8=True, nominal_gb=32),
    Gpu(
        "RTX PRO 6000",
        94.97,
        1792,
        aliases=("RTX PRO 6000 Blackwell 96GB", "RTX PRO 6000 96GB", "RTX PRO 6000 Blackwell"),
        fp8=True,
        nominal_gb=96,
    ),
    Gpu("A100 40GB", 39.4, 1555, aliases=("A100-PCIE-40GB", "A100-SXM4-40GB", "A800 40GB"), nominal_gb=40),
    Gpu(
        "A100 80GB",
        79.25,
        2039,
        aliases=(
            "A100",
            "A100-SXM4-80GB",
            "A100 80GB PCIe",
            "A100-PCIE-80GB",
            "A800",
            "A800-SXM4-80GB",
            "A800 80GB PCIe",
        ),
        nominal_gb=80,
    ),
    Gpu(
        "H100 80GB",
        79.18,
        3350,
        aliases=("H100", "H100 80GB HBM3", "H100-SXM5-80GB", "H100 PCIe", "H800", "H800 80GB"),
        fp8=True,
        nominal_gb=80,
    ),
    Gpu("H100 NVL", 93.1, 3900, aliases=("H100 NVL 94GB", "H100 94GB"), fp8=True, nominal_gb=94),
    Gpu("H200", 139.7, 4800, aliases=("H200 141GB",), fp8=True, nominal_gb=141),
    Gpu("H20", 95.1, 4000, aliases=("H20 96GB",), fp8=True, nominal_gb=96),
    Gpu("GH200", 94.5, 4000, aliases=("GH200 96GB",), fp8=True, nominal_gb=96),
    Gpu("B200", 178.3, 8000, aliases=("B200 180GB", "B200 192GB"), fp8=True, nominal_gb=180),
    Gpu("GB200", 184.3, 8000, aliases=("GB200 192GB", "192GB-class GPU"), fp8=True, nominal_gb=192),
    Gpu("B300", 267.0, 8000, aliases=("B300 288GB", "GB300"), fp8=True, nominal_gb=288),
    Gpu("GB10", 119.7, 273, aliases=("DGX Spark GB10", "DGX Spark"), fp8=True, nominal_gb=128, unified=True),
    Gpu("MI210", 63.98, 1638, "amd", nominal_gb=64),
    Gpu("MI250", 63.98, 1638, "amd", aliases=("MI250X",), nominal_gb=64),
    Gpu("MI300A", 127.5, 5300, "amd", aliases=("MI300A 128GB",), fp8=True, nominal_gb=128),
    Gpu("MI300X", 191.98, 5300, "amd", aliases=("MI300X 192GB", "AMD (ROCm, 192GB-class)"), fp8=True, nominal_gb=192),
    Gpu("MI308X", 191.98, 5300, "amd", fp8=True, nominal_gb=192),
    Gpu("MI325X", 255.98, 6000, "amd", aliases=("MI325X 256GB",), fp8=True, nominal_gb=256),
    Gpu("MI355X", 287.98, 8000, "amd", aliases=("MI350X", "MI355X 288GB"), fp8=True, nominal_gb=288),
    Gpu("RX 7900 XT", 19.98, 800, "amd", aliases=("RX 7900 XT 20GB",), nominal_gb=20),
    Gpu("RX 7900 XTX", 23.98, 960, "amd", aliases=("RX 7900 XTX 24GB",), nominal_gb=24),
    Gpu("Gaudi 3", 127.5, 3700, "intel", nominal_gb=128),
)
"""One die of a MI250, which is how it is driven. Sources: what engines' logs print as total memory; data sheets."""

_STATED = re.compile(r"\((\d+(?:\.\d+)?) Gi?B(?: visible| free)?\)", re.IGNORECASE)
_NOISE = re.compile(r"nvidia|geforce|amd|tesla|radeon|graphics|instinct|[\s_\-]+", re.IGNORECASE)


def find_gpu(name: str) -> Gpu:
    """Look a GPU up by its name or an alias, in any case; a size in parentheses, such as "(95.6 GiB)", is believed.

    Raises:
        EstimatorError: where it is not in the catalogue.
    """
    keys = _keys()
    stated = _STATED.search(name)
    plain = _STATED.sub("", name).strip()
    for candidate in (name, plain):
        if found := keys.get(_key(candidate)):
            return _with_memory(found, stated)
    raise EstimatorError(f"GPU {name!r} is not in the catalogue: use one of {', '.join(gpu.name for gpu in GPUS)}.")


def _with_memory(gpu: Gpu, stated: re.Match[str] | None) -> Gpu:
    if stated is None:
        return gpu
    return replace(gpu, memory_gib=float(stated.group(1)))


def _key(name: str) -> str:
    return _NOISE.sub("", name).lower()


@cache
def _keys() -> dict[str, Gpu]:
    keys: dict[str, Gpu] = {}
    for gpu in GPUS:
        for known in (gpu.name, *gpu.aliases):
            keys.setdefault(_key(known), gpu)
    return keys
