"""One thread for every library, set before NumPy and PyTorch are imported and read it."""

import os

for library in ("OPENBLAS", "MKL", "OMP"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")
