"""Benchmarks: `python -m pytest benchmarks` times fusedlstm and every peer of peers/ side by side."""
