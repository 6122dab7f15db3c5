#!/usr/bin/env bash
# Run everything that needs an NVIDIA GPU, in at most nine minutes:
#
#   bash benchmarks/gpu.sh RESULTS [WHEELS]
#
# It tests primitives, the real CUDA backend, and the stand-in's contract on the real CuPy. Then it runs compute-sanitizer,
# if that is installed, and the benchmarks. If a part fails, the others still run.
#
# RESULTS  a folder for gpu.json (GPU, driver, versions, commit, digest of kernels/, parts), benchmarks.json and log.txt
# WHEELS   a folder of wheels to use in addition; nothing is downloaded, not even their dependencies
#
# Needs a Python (PYTHON, else python3) with CuPy 14 and its libraries, nvmath-python with its cuda-bindings, cuda-core and
# cuda-pathfinder, safetensors, ml_dtypes, hypothesis, pytest and pytest-benchmark. PyTorch and JAX are used if they are
# installed; gpu.json records that. Set COMMIT to the commit if there is no git.
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$1"
results=$(cd "$1" && pwd)
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
export PYTHONPATH=$PWD:$site PYTHONUNBUFFERED=1 FUSEDLSTM_CACHE_DIR=$site/kernels
COMMIT=${COMMIT:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}
export COMMIT
: >"$results/log.txt"
: >"$site/parts"

if [ -n "${2:-}" ]; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$2"/*.whl || exit 1
fi

"$python" - <<'PYTHON' || exit 1
import sys
from fusedlstm.backends.select import unavailable_reason
reason = unavailable_reason("cuda")
if reason is None:
    from fusedlstm.backends.cuda.runtime import cublaslt
    reason = cublaslt.why_not()
sys.exit(f"cuda can't run here: {reason}" if reason else 0)
PYTHON

# part NAME SECONDS COMMAND...: run a command within its time, and record how it ended.
part() {
  local name=$1 limit=$2 start=$SECONDS status
  shift 2
  printf '\n== %s\n' "$name" | tee -a "$results/log.txt"
  timeout -k 5 "$limit" "$@" 2>&1 | tee -a "$results/log.txt"
  status=$?
  printf '%s\t%s\t%s\n' "$name" "$status" $((SECONDS - start)) >>"$site/parts"
}

tests=("$python" -m pytest -q -p no:cacheprovider)
export FUSEDLSTM_TEST_BACKENDS=cuda
part "demo" 25 "$python" -m fusedlstm -v demo --backend cuda
part "primitives" 50 "${tests[@]}" tests/cuda/test_primitives.py
part "tests on the GPU" 160 "${tests[@]}" --ignore tests/cuda/test_primitives.py --ignore tests/tools/test_packaging.py \
  --ignore tests/cuda/test_compile.py --ignore tests/cuda/test_emulation.py --ignore tests/cuda/test_emulation_faults.py \
  --ignore-glob 'tests/cuda/test_kernels_*' --ignore tests/cuda/test_mutations.py
# Run once without the sanitizer, to compile the kernels. With the sanitizer that would take many times as long.
part "sanitized steps, bare" 45 "$python" benchmarks/sanitize.py
for tool in memcheck racecheck; do
  if command -v compute-sanitizer >/dev/null; then
    part "$tool" 70 compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" benchmarks/sanitize.py
  else
    part "$tool: compute-sanitizer is not installed" 5 false
  fi
done
part "benchmarks" 95 "${tests[@]}" benchmarks --quick --device cuda --benchmark-json="$results/benchmarks.json"
part "report" 15 "$python" -m benchmarks report "$results/benchmarks.json"

"$python" benchmarks/facts.py "$site/parts" "$results/gpu.json"
