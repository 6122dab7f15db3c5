"""Probes of a GPU: what launches, barriers, fences, copies and functions cost, on which the next kernels depend.

python -m benchmarks.probes RESULT.json [--seconds 20] [--dry-run]

Each probe checks the data of every round, and times nothing that is wrong. In RESULT.json, a row's "state" is
"measured", "wrong", "failed", "unsupported" or "dry".
"""
