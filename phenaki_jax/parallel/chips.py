"""What accelerators are said to do: the numbers that shares of a peak are of."""

from typing import NamedTuple


class Chip(NamedTuple):
    """One device as JAX counts them.

    flops: products of bfloat16 a second, dense. memory: bytes. bandwidth: bytes a second of that memory.
    """
    flops: float
    memory: float
    bandwidth: float


GIB, TERA, GB = 2**30, 1e12, 1e9
# Part of a `device_kind` -> the chip; the first that fits. TPUs: cloud.google.com/tpu/docs/system-architecture-tpu-vm.
# GPUs: their makers' data sheets, tensor cores without sparsity. JAX counts each half of a tpu7x chip as a device.
CHIPS = (
    ("TPU v6 lite", Chip(918 * TERA, 32 * GIB, 1640 * GB)),
    ("TPU v5 lite", Chip(197 * TERA, 16 * GIB, 819 * GB)),
    ("TPU v5", Chip(459 * TERA, 95 * GIB, 2765 * GB)),  # v5p
    ("TPU v4", Chip(275 * TERA, 32 * GIB, 1228 * GB)),
    ("TPU7x", Chip(1153.5 * TERA, 96 * GIB, 3690 * GB)),
    ("TPU v3", Chip(61.5 * TERA, 16 * GIB, 450 * GB)),
    ("TPU v2", Chip(22.5 * TERA, 8 * GIB, 350 * GB)),
    ("B200", Chip(2250 * TERA, 180 * GIB, 8000 * GB)),
    ("H200", Chip(989 * TERA, 141 * GB, 4800 * GB)),
    ("H100 PCIe", Chip(756 * TERA, 80 * GIB, 2000 * GB)),
    ("H100", Chip(989 * TERA, 80 * GIB, 3350 * GB)),
    ("A100-SXM4-40GB", Chip(312 * TERA, 40 * GIB, 1555 * GB)),
    ("A100", Chip(312 * TERA, 80 * GIB, 2039 * GB)),
    ("L40S", Chip(362 * TERA, 48 * GB, 864 * GB)),
    ("L4", Chip(121 * TERA, 24 * GB, 300 * GB)),
    ("A10", Chip(125 * TERA, 24 * GB, 600 * GB)),
)


def chip_of(device_kind: str) -> Chip | None:
    """The chip of a device's kind; None for one that is not in the table, such as a CPU."""
    return next((chip for part, chip in CHIPS if part in device_kind), None)
