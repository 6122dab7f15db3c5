"""Each access to shared memory by a whole step takes as few wavefronts as it can: the banks don't conflict.

The emulator traces the addresses. Only a GPU shows the time, but how lanes and banks meet follows from addresses alone.
"""

from dataclasses import replace

import mutations
import pytest

from fusedlstm.backends.cuda.tiles import ALL, ROW_BYTES

from emulation import Module
from support.bank_conflicts import costs, wavefronts
from support.emulated import needs_emulation
from support.kernel_cases import DTYPES
from support.places import KERNELS
from support.step_cases import TILE_CASES, TILES, Layout, Sizes, launch_step, like_others, random_step

# Conflicts that we know of, by the function and the size of its access: wavefronts for each that is needed.
# Both are outside of the loop over tiles of K.
KNOWN = {
    ("TensorSmall::sum", "load", 4): 2,  # lanes 2 apart add the same banks' sums
    ("put", "store", 8): 2,  # pairs of floats: rows 2 apart swap chunks k and k + 1, and a thread's pair is in both
}
# Accesses that a tile must have, so that a name in kernels/ can't change unnoticed.
STAGED = {("stage_rows", "store", 16), ("stage_weights", "store", 16)}
# bfloat16 has float16's addresses.
CASES = [
    pytest.param(*case, marks=[pytest.mark.nightly] if case[1] == "__nv_bfloat16" else [], id="-".join(case))
    for case in TILE_CASES
]


def found_costs(instance, kernels=KERNELS):
    """Return the costs of a whole block's step: a tile of K for each pipeline, and another one."""
    tile, each = instance.shape, ROW_BYTES // DTYPES[instance.dtype].itemsize
    sizes = Sizes(tile.rows, tile.pipelines * each, tile.units, 8 if instance.project else tile.units)
    step = random_step(instance, Layout(sizes, "apart", True, "residual"))
    function = Module(kernels / "step.cu", [str(instance)], mode="check").function(str(instance))
    return costs(launch_step(function, instance, step, sizes, trace=True).trace)


def conflicts(found):
    """Return how many times too many wavefronts accesses take."""
    return {what: cost.wavefronts / cost.fewest for what, cost in found.items() if cost.wavefronts != cost.fewest}


def fragments(tile):
    """Return the access that reads the operands of products."""
    return TILES[tile][0].template.partition("<")[0].replace("Large", "").replace("Medium", "")


@needs_emulation
@pytest.mark.parametrize("project", [False, True], ids=["step", "projects"])
@pytest.mark.parametrize(("tile", "name"), CASES)
def test_banks_do_not_conflict(tile, name, project):
    pass
