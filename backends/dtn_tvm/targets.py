"""Targets: what kernels are compiled for, by name or as TVM's own JSON.

A name of the table stands for one card, with the limits that a schedule must keep and the ceilings that its
manufacturer documents; ``cpu`` is the processor that is running.  Whether a card is there does not matter:
kernels are compiled for it all the same.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, Literal

from .instructions import listed
from .threads import count

DeviceKind = Literal["cpu", "cuda"]

_KINDS: dict[str, DeviceKind] = {"llvm": "cpu", "cuda": "cuda"}
_VECTORS = (("avx512f", 16, 32), ("avx", 8, 16), ("neon", 4, 32))
"""Features of processors, the float32 lanes of the vectors that come with them, and how many registers hold those."""


@dataclass(frozen=True)
class Ceilings:
    """What a device can do at best.

    Attributes
    ----------
    bandwidth : float
        Bytes a second, read and written together.
    flops : Mapping[str, float]
        Operations a second by dtype of the arguments, dense, summed in float32.
    """

    bandwidth: float
    flops: Mapping[str, float]

    def seconds(self, dtype: str, flops: float, moved: float) -> float:
        """The shortest time in which so much work can be done: the roofline."""
        return max(moved / self.bandwidth, flops / self.flops[dtype])


@dataclass(frozen=True, eq=False)
class Target:
    """A device to compile for.

    Attributes
    ----------
    name : str
        As in ``--target``; ``"json"`` for a target given as JSON.
    options : Mapping[str, Any]
        TVM's description of it.
    device : str
        A part of the name under which the device's driver knows it; empty where any will do.
    ceilings : Ceilings or None
        As documented, where known.

    Examples
    --------
    >>> h100 = target("nvidia/h100")
    >>> h100.kind, h100.arch, h100.shared_memory
    ('cuda', 'sm_90a', 232448)
    """

    name: str
    options: Mapping[str, Any]
    device: str = ""
    ceilings: Ceilings | None = field(default=None, repr=False)

    @property
    def kind(self) -> DeviceKind:
        """The kind of device."""
        return _KINDS[self.options["kind"]]

    @property
    def arch(self) -> str:
        """The instruction set: ``"sm_90a"``, ``"znver5"``; empty for what every processor of the kind has."""
        return str(self.options.get("arch", "") or self.options.get("mcpu", ""))

    @property
    def shared_memory(self) -> int:
        """Bytes of shared memory that one block may ask for (CUDA)."""
        return int(self.options.get("max_shared_memory_per_block", 49152))

    @property
    def registers(self) -> int:
        """Registers that one block may use (CUDA)."""
        return int(self.options.get("registers_per_block", 65536))

    @property
    def threads(self) -> int:
        """Threads that run kernels (CPU)."""
        return int(self.options.get("num-cores", 1))

    @cached_property
    def vectors(self) -> tuple[int, int]:
        """The float32 lanes of a vector, and how many registers hold vectors (CPU)."""
        from tvm.target.codegen import target_has_features

        made = self.tvm
        found = ((lanes, count) for feature, lanes, count in _VECTORS if target_has_features(feature, made))
        return next(found, (4, 16))

    @cached_property
    def flags(self) -> list[str]:
        """What ``/proc/cpuinfo`` has to name where its kernels run (CPU).

        Examples
        --------
        >>> target('{"kind": "llvm", "mcpu": "nehalem"}').flags
        ['popcnt', 'ssse3', 'pni', 'sse4_1', 'sse4_2']
        """
        from tvm.target.codegen import llvm_get_cpu_features

        return listed(map(str, llvm_get_cpu_features(self.tvm))) if self.kind == "cpu" else []

    @property
    def key(self) -> str:
        """What records of this device are filed under.

        Examples
        --------
        >>> target("nvidia/a100").key
        'nvidia/a100'
        >>> target('{"kind": "llvm", "mcpu": "x86-64-v3", "num-cores": 8}').key
        'cpu/x86-64-v3/8'
        >>> target('{"kind": "llvm", "mcpu": "x86-64-v3", "num-cores": 8, "opt-level": 1}').key
        'cpu/x86-64-v3/8/{"opt-level": 1}'
        """
        if self.kind == "cpu":
            said = {"kind", "mcpu", "num-cores"}
            if self.name == "cpu":
                said.add("mtriple")  # the one of the machine, whatever its vendor calls it
            rest = {name: value for name, value in self.options.items() if name not in said}
            more = f"/{json.dumps(rest, sort_keys=True)}" if rest else ""
            return f"cpu/{self.arch or 'any'}/{self.threads}{more}"
        return self.name if self.name in _CARDS else json.dumps(dict(self.options), sort_keys=True)

    @property
    def tvm(self) -> Any:
        """The ``tvm.target.Target``."""
        import tvm

        return tvm.target.Target(dict(self.options))

    def to_json(self) -> dict[str, Any]:
        """A description that :func:`from_json` reads."""
        return {"name": self.name, "options": dict(self.options)}

    @property
    def described(self) -> dict[str, Any]:
        """What a machine needs to know on which there is nothing of this library, besides :meth:`to_json`."""
        about = {"key": self.key, "kind": self.kind, "arch": self.arch, "device": self.device, "flags": self.flags}
        return {**self.to_json(), **about}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Target) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.key)


def _card(
    arch: str, shared: int, l2: int, device: str, bandwidth: float, half: float, single: float
) -> Mapping[str, Any]:
    return MappingProxyType(
        {
            "options": {
                "kind": "cuda",
                "arch": arch,
                "max_num_threads": 1024,
                "max_threads_per_block": 1024,
                "thread_warp_size": 32,
                "max_shared_memory_per_block": shared << 10,
                "registers_per_block": 65536,
                "l2_cache_size_bytes": l2 << 20,
            },
            "device": device,
            "ceilings": Ceilings(bandwidth, {"float16": half, "bfloat16": half, "float32": single}),
        }
    )


# NVIDIA's data sheets: dense tensor-core rates with sums in float32, and float32 without tensor cores.
_CARDS: dict[str, Mapping[str, Any]] = {
    "nvidia/a10": _card("sm_86", 99, 6, "A10", 0.6e12, 125e12, 31.2e12),
    "nvidia/a100": _card("sm_80", 163, 40, "A100", 2.0e12, 312e12, 19.5e12),
    "nvidia/b200": _card("sm_100a", 227, 126, "B200", 8.0e12, 2250e12, 80e12),
    "nvidia/h100": _card("sm_90a", 227, 50, "H100", 3.35e12, 989e12, 67e12),
    "nvidia/h200": _card("sm_90a", 227, 50, "H200", 4.8e12, 989e12, 67e12),
    "nvidia/l4": _card("sm_89", 99, 48, "L4", 0.3e12, 121e12, 30.3e12),
    "nvidia/l40s": _card("sm_89", 99, 96, "L40S", 0.864e12, 362e12, 91.6e12),
    "nvidia/rtx3090": _card("sm_86", 99, 6, "RTX 3090", 0.936e12, 71e12, 35.6e12),
    "nvidia/rtx4090": _card("sm_89", 99, 72, "RTX 4090", 1.008e12, 165e12, 82.6e12),
}


def names() -> tuple[str, ...]:
    """The targets that have a name."""
    return ("cpu", *_CARDS)


def target(text: str) -> Target:
    """The target that ``text`` stands for.

    Parameters
    ----------
    text : str
        A name of :func:`names`, or TVM's JSON, as in ``'{"kind": "cuda", "arch": "sm_90a"}'``.

    Raises
    ------
    ValueError
        Lists the names, or says what is missing from the JSON.

    Examples
    --------
    >>> target("nvidia/h200").arch
    'sm_90a'
    >>> target("nvidia/h1000")   # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: target 'nvidia/h1000' is not one of cpu, nvidia/a10, nvidia/a100, ...
    """
    if text == "cpu":
        return _host()
    if text in _CARDS:
        return Target(text, **_CARDS[text])
    if not text.lstrip().startswith("{"):
        raise ValueError(
            f'target {text!r} is not one of {", ".join(names())}, nor JSON as in {{"kind": "cuda", "arch": "sm_90a"}}'
        )
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"target {text!r} is not JSON: {error}") from None
    found = _described(options)
    if found.kind == "cpu" and importlib.util.find_spec("tvm") is not None:
        _check_llvm(json.dumps(dict(found.options)))
    return found


def from_json(description: Mapping[str, Any]) -> Target:
    """The target that :meth:`Target.to_json` described.

    Raises
    ------
    ValueError
        If it describes none.
    """
    name, options = description.get("name"), description.get("options")
    if name in _CARDS and options == _CARDS[name]["options"]:
        return Target(name, **_CARDS[name])
    found = _described(options)
    return Target("cpu", found.options) if name == "cpu" and found.kind == "cpu" else found


def _described(options: Any) -> Target:
    kind = options.get("kind") if isinstance(options, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f'target {options!r}: "kind" has to be one of {", ".join(_KINDS)}')
    if options["kind"] == "cuda" and not options.get("arch"):
        raise ValueError(f'target {options!r}: a cuda target needs "arch", as in "sm_90a"')
    if options["kind"] == "cuda":  # without these TVM asks the driver of the machine that compiles
        options = {"max_num_threads": 1024, "thread_warp_size": 32, **options}
    cores = options.get("num-cores", 1)
    if not isinstance(cores, int) or isinstance(cores, bool) or cores < 1:
        raise ValueError(f'target {options!r}: "num-cores" is {cores!r}, expected an integer from 1 on')
    found = Target("json", options)
    _check(found)
    return found


def _check(given: Target) -> None:
    """Let TVM, where it is installed, say what it does not know."""
    try:
        import tvm  # noqa: F401
    except ImportError:
        return
    try:
        given.tvm  # noqa: B018
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"target {dict(given.options)!r}: {said[-1]}") from None


@lru_cache(maxsize=16)
def _check_llvm(options: str) -> None:
    """Let another process ask LLVM about a processor: what it does not know may end the process."""
    program = (
        "import json, sys, tvm; from tvm.target.codegen import llvm_get_cpu_archlist, target_has_features; "
        "target = tvm.target.Target(json.loads(sys.argv[1])); target_has_features('sse2', target); "
        "print(json.dumps(list(map(str, llvm_get_cpu_archlist(target)))))"
    )
    done = subprocess.run([sys.executable, "-c", program, options], capture_output=True, check=False)
    if done.returncode:
        raise ValueError(f"target {options}: LLVM cannot compile for it (status {done.returncode})")
    wanted, known = json.loads(options).get("mcpu"), json.loads(done.stdout.splitlines()[-1])
    if wanted and wanted not in known:  # LLVM would take a generic one, with a warning
        close = get_close_matches(wanted, known)
        said = f"; did you mean {' or '.join(close)}?" if close else f"; it knows {', '.join(known)}"
        raise ValueError(f"target {options}: LLVM knows no processor {wanted!r}{said}")


def _host() -> Target:
    """The processor that is running, with as many threads as kernels may use."""
    import tvm

    detected = tvm.target.Target.from_device("cpu")
    options = {"kind": "llvm", "mtriple": str(detected.attrs["mtriple"]), "mcpu": str(detected.attrs["mcpu"])}
    return Target("cpu", {**options, "num-cores": count()})
