#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: facts, equivalence tests, sanitizer, benchmarks, in one call of a few minutes.
# Needs a Python with CuPy, NVRTC, cuBLAS, pytest, pytest-benchmark and hypothesis; PYTHON names another than python3.
# Leaves its results in the folder OUT (default: benchmarks/results/latest).
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=. PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
out=${OUT:-benchmarks/results/latest}
mkdir -p "$out"
failed=0

step() {
  printf '\n== %s\n' "$1"
  shift
  timeout 180 "$@" 2>&1 | tee -a "$out/log.txt" || failed=1
}

step "facts" "$python" -m fusedlstm info
step "demo" "$python" -m fusedlstm -v demo --backend cuda
FUSEDLSTM_TEST_BACKENDS=numpy,cuda step "equivalence, errors, oracles on numpy and cuda" \
  "$python" -m pytest -q -x --ignore tests/test_packaging.py --ignore tests/test_compile.py -p no:cacheprovider
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" benchmarks/sanitize.py
  done
fi
step "benchmarks" "$python" -m pytest -q benchmarks -p no:cacheprovider \
  --benchmark-columns=min,median,iqr,rounds --benchmark-sort=min --benchmark-json="$out/step.json"
exit "$failed"
