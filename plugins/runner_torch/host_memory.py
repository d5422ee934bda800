"""Keep freed memory for the next step, on systems with the GNU C library.

PyTorch allocates and frees the same activations in every step. By default the GNU C library gives
each large block back to the system when it is freed, and the next step takes a page fault for
every 4 KiB of it: 190,000 in one training step of ResNet-18 with a batch of 32 images of 224
pixels, which cost about a quarter of the step where page faults are slow (virtual machines).
The process keeps its peak either way; it only stops giving memory back between steps.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


def keep_freed_memory() -> bool:
    """Tell the allocator of this process to keep what is freed; return whether it agreed."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    # some versions refuse more than 32 MiB as the size from which a block is mapped on its own
    from_heap = mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25)
    return bool(from_heap and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
