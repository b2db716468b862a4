"""Arithmetic of the networks: `float32`, `bf16` (autocast), or `auto`, which asks the machine."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from common.errors import InputError

# name -> Lightning's name; weights stay float32 in both.
PRECISIONS = {"float32": "32-true", "bf16": "bf16-mixed"}


def native_bf16(device: torch.device | str) -> bool:
    """Whether `device` multiplies bf16 matrices in hardware.

    Elsewhere they are emulated: on a CPU with AVX2 alone, some twenty times slower than float32.
    """
    kind = torch.device(device).type
    if kind == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if kind == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return False


def pick_precision(name: str, device: torch.device | str) -> str:
    """`auto` as `bf16` where `device` has it in hardware and `float32` elsewhere; another name as it is, checked.

    Raises:
        InputError: an unknown name.
    """
    if name == "auto":
        return "bf16" if native_bf16(device) else "float32"
    if name not in PRECISIONS:
        raise InputError(f"got precision '{name}', expected 'auto', 'float32' or 'bf16'")
    return name


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context in which a network runs in `precision`."""
    if pick_precision(precision, device) == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
