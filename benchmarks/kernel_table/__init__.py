"""A table of every kernel of a step, at many sizes and in each arithmetic, beside PyTorch: is the choice the fastest?

python -m benchmarks.kernel_table RESULT.json [--seconds 100] [--dry-run]

A step is timed as its CUDA graph, replayed again and again, with weights warm in the L2. No time is kept of a kernel
whose results differ from the NumPy reference in float64.
"""
