#!/usr/bin/env bash
# Run everything that needs an NVIDIA GPU, in at most seven minutes. Nothing is lost, however it ends.
#
#   bash benchmarks/gpu.sh [--limit SECONDS] RESULTS [WHEELS]
#
# `--help` says more. PYTHON is the Python to use, else python3.
started=$(date +%s)
root=$(cd "$(dirname "$0")/.." && pwd) || exit
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "${PYTHON:-python3}" -m benchmarks.gpu --started "$started" "$@"
