"""What ``dtn doctor`` says of this JAX beside its devices."""

from __future__ import annotations

import jax

from dtn_core.cpuinfo import cores

__all__ = ["advice"]

SWITCH = "JAX_NUM_CPU_DEVICES"


def advice() -> list[str]:
    """What would make JAX faster here, a line each.

    XLA divides a large product between the cores of a processor, a batch of small ones not, and so computes a causal
    operator on one core of each device.

    Examples
    --------
    >>> all("JAX_NUM_CPU_DEVICES" in line for line in advice())
    True
    """
    if jax.default_backend() != "cpu" or jax.device_count() > 1 or cores() == 1:
        return []
    line = f"computes a causal operator on one core of a device; {SWITCH}={cores()} in the environment makes a device"
    return [f"{line} of each core, and an operator whose heads or batch are sharded over them runs on all"]
