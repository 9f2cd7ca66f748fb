"""The instruction sets that kernels for a processor may use, under the names by which Linux lists a machine's own."""

from __future__ import annotations

from collections.abc import Iterable

# By LLVM's names.  Left out is what LLVM knows of a processor and no loop over numbers uses.
_LISTED = {
    **{name: name for name in ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512ifma", "avx512vbmi")},
    **{f"avx512{name}": f"avx512_{name}" for name in ("vbmi2", "vnni", "bitalg", "vpopcntdq", "bf16", "fp16")},
    **{name: name for name in ("avx2", "avx", "fma", "fma4", "xop", "f16c", "bmi2", "movbe", "popcnt", "ssse3")},
    **{"bmi": "bmi1", "lzcnt": "abm", "sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2"},
    **{name: name for name in ("sve2", "sve", "bf16", "i8mm")},
    **{"neon": "asimd", "fullfp16": "asimdhp", "dotprod": "asimddp", "rdm": "asimdrdm", "lse": "atomics"},
}


def listed(features: Iterable[str]) -> list[str]:
    """What ``/proc/cpuinfo`` names on a processor that has LLVM's ``features``.

    Examples
    --------
    >>> listed(["64bit", "bmi", "avx2", "fast-lzcnt"])
    ['avx2', 'bmi1']
    """
    known = set(features)
    return [flag for feature, flag in _LISTED.items() if feature in known]
