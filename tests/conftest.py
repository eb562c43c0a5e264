"""Set before torch is imported anywhere: on small tensors, threads cost more than they save."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
