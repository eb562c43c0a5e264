"""Independent items of work on torch's number of threads.

The compiled kernels let go of the interpreter's lock, so plain threads do; unlike OpenMP they survive a fork
and calls from several threads at once.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch


def run(kernel: Callable[..., None], items: int, *args: Any) -> None:
    """kernel(first, last, *args) over disjoint ranges that make up range(items)."""
    parts = min(torch.get_num_threads(), items)
    edges = [items * part // parts for part in range(parts + 1)]
    futures = [
        _pool(os.getpid(), parts).submit(kernel, first, last, *args) for first, last in pairwise(edges[1:])
    ]
    kernel(edges[0], edges[1], *args)
    for future in futures:
        future.result()


@lru_cache(maxsize=4)
def _pool(process: int, parts: int) -> ThreadPoolExecutor:
    """One pool a process, since threads do not cross a fork."""
    return ThreadPoolExecutor(parts - 1, thread_name_prefix="ssm_seq")
