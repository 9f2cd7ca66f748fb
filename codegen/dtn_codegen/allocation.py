"""What the C library does with freed memory."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

LARGEST = 2**25 - 2**16
"""Bytes just below the largest block whose release glibc learns from (mallopt(3), M_MMAP_THRESHOLD)."""


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Let the C library keep the megabytes that an operator frees in a call and asks for again in the next.

    glibc gives memory back to the system, and maps large blocks anew, above thresholds that follow the largest block
    that was released so far; fresh pages are filled with zeros first, which can cost more than what is computed there.
    Any program that releases an array of this size has the same thresholds; no page of this one is ever touched.
    Other C libraries take no notice.
    """
    np.empty(LARGEST, np.uint8)
