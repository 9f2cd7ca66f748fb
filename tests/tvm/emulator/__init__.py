"""Runs the CUDA source of a generated kernel on the CPU, to check its numbers where there is no GPU.

The text that TVM hands to nvcc is compiled by g++ against ``device.hpp``, which says what it models. It sees
wrong numbers, missing barriers and missing waits; it knows nothing of speed, of the memory model between
thread blocks, or of what ptxas makes of the text.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
_HELPER = re.compile(r"^__forceinline__ __device__ ([\w ]+?) (tvm_builtin_\w+)\((.*?)\) \{\n.*?\n\}", re.S | re.M)
_KERNEL = re.compile(r'extern "C" __global__ void __launch_bounds__\((\d+)(?:, *\d+)?\) (\w+)\(([^)]*)\) \{')

_BODIES = {
    r"ptx_mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32": "emulator::mma<half>({all});",
    r"ptx_mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32": "emulator::mma<nv_bfloat16>({all});",
    r"ptx_ldmatrix_sync_aligned_m8n8_x4_trans_shared_b16": "emulator::ldmatrix<true>({all});",
    r"ptx_ldmatrix_sync_aligned_m8n8_x4_shared_b16": "emulator::ldmatrix<false>({all});",
    r"ptx_cp_async_cg_src_size_\w+": "emulator::copy_async({all});",
    r"ptx_cp_async_commit_group\w*": "emulator::commit_group();",
    r"ptx_cp_async_wait_group\w*_(\d+)": "emulator::wait_group({number});",
    r"ptx_cvt_f16x2_f32\w*": "emulator::round_pair<half>({all});",
    r"ptx_cvt_bf16x2_f32\w*": "emulator::round_pair<nv_bfloat16>({all});",
    r"ptx_redux_sync_max_u32": "emulator::largest({all});",
    r"ptx_st_global_\w+": "emulator::store_global({all});",
    r"ptx_st_shared_b32": "emulator::store_shared({all});",
    r"cuda_cta_sync": "emulator::sync_block();",
    r"cuda_cvta_generic_to_shared": "return emulator::shared_address({all});",
}
"""What each device instruction does; the name of its wrapper in the generated source, and a body for it."""


def available() -> str:
    """Why sources cannot be emulated here, or an empty string."""
    return "" if shutil.which("g++") else "g++ is not installed"


@dataclass(frozen=True)
class Launch:
    """A kernel of a source: its name, threads a block, and the names and C types of its arguments."""

    name: str
    threads: int
    arguments: tuple[tuple[str, str], ...]


class Emulated:
    """The kernels of one CUDA source.

    Parameters
    ----------
    source : str
        CUDA text as TVM generates it.
    folder : Path
        Where to build.
    """

    def __init__(self, source: str, folder: Path) -> None:
        self.source = source
        self.folder = folder
        self.launches = {
            name: Launch(name, int(threads), tuple(_argument(text) for text in arguments.split(",")))
            for threads, name, arguments in _KERNEL.findall(source)
        }

    @cached_property
    def library(self) -> ctypes.CDLL:
        """The kernels as a shared library."""
        text = self.text()
        stem = self.folder / f"emulated_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        stem.with_suffix(".cpp").write_text(text)
        flags = ["-O1", "-w", "-std=c++17", "-mf16c", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-shared", "-fPIC"]
        command = ["g++", *flags, f"-I{HERE}", "-o", str(stem.with_suffix(".so")), str(stem.with_suffix(".cpp"))]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:4000]
        return ctypes.CDLL(str(stem.with_suffix(".so")))

    def text(self) -> str:
        """The C++ that is compiled."""
        start = min(match.start() for match in (_HELPER.search(self.source), _KERNEL.search(self.source)) if match)
        text = _HELPER.sub(_emulated_helper, self.source[start:])
        text = re.sub(r'^extern "C" __global__[^{;]*;$', "", text, flags=re.M)
        text = re.sub(r'extern "C" __global__ void __launch_bounds__\([^)]*\)', "static void", text)
        text = re.sub(r"extern __shared__ \w+\(\d+\) uchar (\w+)\[\];", r"uchar* \1 = emulator::shared;", text)
        text = text.replace("__shfl_sync((uint)4294967295, (((int)threadIdx.x) >> 5), 0, 32)", "0")
        return "\n".join(['#include "device.hpp"', text, *map(_entry, self.launches.values())])

    def run(
        self,
        name: str,
        grid: tuple[int, ...],
        arguments: Mapping[str, np.ndarray | int],
        *,
        backwards: bool = False,
    ) -> int:
        """Run a kernel.

        Parameters
        ----------
        name : str
            Of the kernel in the source.
        grid : tuple of int
            Thread blocks along x, y and z.
        arguments : Mapping
            Contiguous arrays by the names that the function has for them, and its symbolic sizes.
        backwards : bool
            Whether the last warp of a block runs first.

        Returns
        -------
        int
            Bank conflicts of the matrix loads.

        Raises
        ------
        RuntimeError
            If a thread does what the device would not allow.
        """
        launch = self.launches[name]
        values = (ctypes.c_void_p * len(launch.arguments))()
        kept = []
        for place, (argument, _) in enumerate(launch.arguments):
            value = arguments[argument]
            if isinstance(value, np.ndarray):
                assert value.flags.c_contiguous
                held: ctypes.c_void_p | ctypes.c_int64 = ctypes.c_void_p(value.ctypes.data)
            else:
                held = ctypes.c_int64(value)
            kept.append(held)
            values[place] = ctypes.addressof(held)
        x, y, z = (*grid, 1, 1, 1)[:3]
        message = ctypes.create_string_buffer(1024)
        entry = getattr(self.library, f"run_{name}")
        entry.restype = ctypes.c_long
        conflicts = int(entry(x, y, z, int(backwards), values, message))
        if message.value:
            raise RuntimeError(f"{name}: {message.value.decode()}")
        return conflicts


def _argument(text: str) -> tuple[str, str]:
    kind, name = text.replace("__restrict__", "").strip().rsplit(" ", 1)
    return name.removesuffix("_ptr"), kind.strip()


def _emulated_helper(match: re.Match[str]) -> str:
    returned, name, parameters = match.groups()
    names = ", ".join(p.split()[-1].lstrip("&*") for p in parameters.split(",") if p.strip())
    for pattern, body in _BODIES.items():
        found = re.fullmatch(f"tvm_builtin_{pattern}", name)
        if found:
            number = found.group(1) if found.groups() else ""
            return f"static {returned} {name}({parameters}) {{ {body.format(all=names, number=number)} }}"
    raise NotImplementedError(f"the emulator does not know {name}; add it to _BODIES")


def _entry(launch: Launch) -> str:
    passed = ", ".join(f"*({kind}*)values[{place}]" for place, (_, kind) in enumerate(launch.arguments))
    return f"""
extern "C" long run_{launch.name}(unsigned x, unsigned y, unsigned z, int backwards, void** values, char* message) {{
  emulator::bank_conflicts = 0;
  try {{
    emulator::launch({{x, y, z}}, {launch.threads}, backwards, [=] {{ {launch.name}({passed}); }});
  }} catch (const std::exception& error) {{
    snprintf(message, 1024, "%s", error.what());
  }}
  return emulator::bank_conflicts;
}}"""
