"""Benchmarks: `python -m pytest benchmarks` times each case of cases.py, ours and every peer of peers/ side by side."""
