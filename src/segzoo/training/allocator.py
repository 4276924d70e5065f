"""Memory allocator of the system, told to keep what a step of training frees for the next one.

A step of training makes and drops gigabytes. On Linux, glibc gives large blocks back to the system at once, which has
to fill them with zeros, page by page, when the next step asks for them again. Numbers are the same with it and without.
"""

import ctypes
import os
import sys
from typing import Any

# of an allocator that somebody has set up or chosen already: variables, and words in others
SET_UP = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")
CHOSEN = {"GLIBC_TUNABLES": "glibc.malloc.", "LD_PRELOAD": "malloc"}
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # glibc's numbers of its settings
KEEPING = {MMAP_MAX: 0, TRIM_THRESHOLD: -1}  # no block apart from the heap, and no end of the heap given back
USUAL = {MMAP_MAX: 65536, MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**26}  # where glibc's own thresholds rise to


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, until `give_memory_back`; returns whether it does.

    What it takes at most grows by some 5 to 15 %. Nothing is done where the C library is not glibc, or where the
    environment has chosen another allocator or other thresholds.

    Example:
        >>> from segzoo.training.allocator import give_memory_back, keep_freed_memory
        >>> if keep_freed_memory():
        ...     give_memory_back()
    """
    return is_free_to_choose() and allocate(KEEPING)


def give_memory_back() -> None:
    """Let this process give back what is free, now and from now on."""
    if allocate(USUAL):
        glibc().malloc_trim(0)


def is_free_to_choose() -> bool:
    """Tell whether the environment has not chosen how memory is allocated."""
    chosen = any(word in os.environ.get(name, "") for name, word in CHOSEN.items())
    return not chosen and not any(name in os.environ for name in SET_UP)


def allocate(settings: dict[int, int]) -> bool:
    """Set up the allocator; returns whether it took that."""
    library = glibc()
    return library is not None and all([library.mallopt(*setting) == 1 for setting in settings.items()])


def glibc() -> Any:
    """Return the C library where it is glibc, else None."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "gnu_get_libc_version") else None
