"""A table of every kernel, at many sizes and in each arithmetic, beside PyTorch: is the choice the fastest?

python -m benchmarks.kernel_table RESULT.json [--sequences] [--seconds 100] [--dry-run]

A step, or with --sequences a whole sequence, is timed as its CUDA graph, replayed again and again, with weights warm in
the L2. x's part of a sequence's gates is also timed alone. The model's predictions stand beside the times. No time is
kept of a kernel whose results differ from the NumPy reference in float64.
"""
