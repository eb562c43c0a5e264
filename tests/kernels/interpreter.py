"""Triton's kernels on the CPU."""

import os
import subprocess
import sys
from pathlib import Path


def run_interpreted(code: str) -> None:
    """Run the code where Triton interprets, and fail unless its last word is "agreed".

    In a process of its own: TRITON_INTERPRET counts when a kernel is defined.
    """
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    result = subprocess.run(
        [sys.executable, "-c", code + 'print("agreed")\n'],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == "agreed", result.stderr
