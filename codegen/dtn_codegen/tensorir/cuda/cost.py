"""What a schedule is expected to take, from its bytes, its multiplications and what fits on a multiprocessor.

Good enough to put candidates in an order and to leave out those that cannot run; the measurement decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from dtn_core.errors import CompileError

from ..rows import ALL
from .layouts import Layout
from .placement import MATRIX
from .plan import Plan

MOST_REGISTERS = 255
"""Registers that a thread can have.  Plans below it have been seen to compile without spills, plans above with some."""
RESIDENT_THREADS = 2048
LAUNCH = 4e-6
"""Seconds that starting a kernel costs when others wait for it."""
CHAIN = 3e-7
"""Seconds from the operands of a step to those of the next: loads, products and a barrier wait for one another."""
EFFICIENCY = 0.5
"""The part of the documented rate that instructions without warp groups reach."""
BYTES_PER_CYCLE = 128
"""That shared memory gives a multiprocessor."""
CLOCK = 1.6e9
PROCESSORS = {"sm_80": 108, "sm_86": 82, "sm_89": 128, "sm_90a": 132, "sm_100a": 148}
"""Multiprocessors, of the largest card of each architecture that has a name here."""


@dataclass(frozen=True)
class Device:
    """What bounds a kernel.

    Attributes
    ----------
    shared : int
        Bytes of shared memory that a thread block may have.
    registers : int
        Of a multiprocessor.
    processors : int
        Multiprocessors.
    bandwidth : float
        Bytes a second from memory.
    flops : float
        Operations a second at best, for the plan's dtype.
    """

    shared: int
    registers: int
    processors: int
    bandwidth: float
    flops: float


def check_fits(plan: Plan, device: Device) -> None:
    """Raise what cannot run on a device.

    Raises
    ------
    CompileError
        If a thread block needs more shared memory, or a thread more registers, than there are.
    """
    held = sum(4 * prod(plan.shape(name)) for name in plan.carried)
    if held > 4 * device.registers:
        raise CompileError(
            f"{plan.program.name}: the states of a sequence take {held >> 10} KiB, "
            f"the registers of a multiprocessor hold {4 * device.registers >> 10}; no CUDA kernel has states elsewhere"
        )
    if plan.shared_bytes > device.shared:
        raise CompileError(
            f"{plan.program.name}: a thread block needs {plan.shared_bytes} bytes of shared memory, "
            f"the device has {device.shared}; take a smaller chunk, block or number of stages"
        )
    most = min(MOST_REGISTERS, device.registers // (32 * plan.schedule.warps))
    if plan.registers > most:
        raise CompileError(
            f"{plan.program.name}: a thread needs about {plan.registers} registers, it can have {most}; "
            "take more warps, or a smaller chunk or block"
        )


def resident(plan: Plan, device: Device) -> int:
    """Thread blocks that a multiprocessor holds at once."""
    threads = 32 * plan.schedule.warps
    by_registers = device.registers // (threads * plan.registers)
    return max(1, min(device.shared // plan.shared_bytes, by_registers, RESIDENT_THREADS // threads))


def seconds(plans: tuple[Plan, ...], folds: int, device: Device, sequences: int, length: int) -> float:
    """About how long the launches of a program take."""
    return sum(_seconds(plan, device, sequences, length) for plan in plans) + folds * LAUNCH


def _seconds(plan: Plan, device: Device, sequences: int, length: int) -> float:
    schedule = plan.schedule
    chunks = -(-length // plan.chunk)
    segments, turns = 1, chunks
    if plan.part.walk.rows is not None:
        segments = chunks
        turns = chunks if plan.part.walk.rows.side == ALL else -(-chunks // 2)
    elif schedule.split and plan.part.segmented:
        segments = max(1, min(schedule.split // max(1, sequences), chunks))
        turns = -(-chunks // segments)
    blocks = sequences * plan.blocks * segments
    together = min(resident(plan, device), max(1, -(-blocks // device.processors)))
    waves = -(-blocks // (device.processors * together))
    products = 2 * plan.multiplications * together / (EFFICIENCY * device.flops / device.processors)
    operands = operand_bytes(plan) * together / (BYTES_PER_CYCLE * CLOCK)
    chunk = max(products, operands, CHAIN * len(plan.part.walk.body))
    visits = chunks * turns if plan.part.walk.rows is not None else chunks
    moved = plan.bytes_of_chunk * visits * sequences * plan.blocks / device.bandwidth
    return max(waves * turns * chunk, moved) + LAUNCH


def operand_bytes(plan: Plan) -> int:
    """Bytes of factors that the warps of a block read from shared memory in one chunk."""
    width = 4 if plan.dtype == "float32" else 2
    total = 0
    for step in plan.part.walk.body:
        for contraction in step.contractions if len(step.indices) == MATRIX else ():
            product = plan.product(step, contraction)
            rows, columns = plan.shape(step.name)
            layout: Layout = plan.layout(rows, columns)
            inner = plan.extent(product.inner)
            total += inner * columns * layout.down * width
            total += 0 if plan.in_registers(product) else inner * rows * layout.across * width
    return total
