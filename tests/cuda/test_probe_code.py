"""The probes' kernels, compiled by NVRTC: they hold the instructions that they are to time."""

import functools
import os

import pytest

from benchmarks.brief import source

from support import real_nvrtc, sass

pytest.importorskip("cupy", reason="CuPy is not installed")

REQUIRED = os.environ.get("FUSEDLSTM_REQUIRE_NVRTC") == "1"
FILES = sorted(path.name for folder in source.FOLDERS for path in folder.glob("*.cu"))
NEWEST = (90, 100)  # architectures with clusters
# A kernel of each file.
NAMES = {
    "spin.cu": "busy",
    "launches.cu": "add_one",
    "rates.cu": "rate_of_bf16",
    "copies.cu": "copy_vectors",
    "row_copies.cu": "copy_rows",
    "pinned.cu": "through",
    "fences.cu": "threadfence",
    "cluster_barrier.cu": "timed_8",
    "cluster_exchange.cu": "exchange_8_cluster",
    "grid_flags.cu": "flags_of_grid",
}


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Return a function that compiles a file, and returns its code."""
    if real_nvrtc.missing():
        assert not REQUIRED, real_nvrtc.missing()
        pytest.skip(f"kernels are not compiled here: {real_nvrtc.missing()}")
    from fusedlstm.backends.cuda.runtime import sources

    monkeypatch.setattr(sources, "folder", lambda: tmp_path)

    def compile_file(file, architecture):
        (tmp_path / file).write_text(source.text(file), encoding="utf-8")
        name, code, log = real_nvrtc.compile_kernel(file, NAMES[file], f"-arch={architecture}")
        assert name == NAMES[file]
        assert "warning" not in log
        return code

    return functools.cache(compile_file)


@pytest.fixture
def instructions(compiled):
    """Return a function that counts a file's instructions for the GPU that it is made for."""
    if sass.disassembler() is None:
        assert not REQUIRED, "nvdisasm is not installed"
        pytest.skip("nvdisasm is not installed")
    return lambda file: sass.instructions(compiled(file, "sm_90"))


def total(counts, beginning):
    return sum(count for name, count in counts.items() if name.startswith(beginning))


def test_each_file_is_tested():
    assert sorted(NAMES) == FILES


@pytest.mark.parametrize("architecture", NEWEST)
@pytest.mark.parametrize("file", FILES)
def test_probe_compiles(file, architecture, compiled):
    assert compiled(file, f"sm_{architecture}")[:4] == b"\x7fELF"


@pytest.mark.parametrize("file", sorted(set(FILES) - {"cluster_barrier.cu", "cluster_exchange.cu"}))
def test_probe_without_clusters_compiles(file, compiled):
    assert compiled(file, "sm_80")[:4] == b"\x7fELF"


PTX = {
    "cluster_barrier.cu": [
        b"barrier.cluster.arrive.release.aligned",
        b"barrier.cluster.wait.acquire.aligned",
        b"ld.shared::cluster.u32",
        b".reqnctapercluster 16, 1, 1",
    ],
    "cluster_exchange.cu": [
        b"st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32",
        b"mbarrier.arrive.expect_tx.shared::cta.b64",
        b"mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64",
        b"mbarrier.try_wait.parity.acquire.cta.shared::cta.b64",
        b"fence.mbarrier_init.release.cluster",
        b"%globaltimer",
    ],
    "grid_flags.cu": [b"st.release.gpu.global.u32", b"ld.acquire.gpu.global.u32", b"ld.global.cg.v4", b"%globaltimer"],
    "fences.cu": [b"fence.acq_rel.gpu", b"fence.sc.gpu", b"fence.acq_rel.cluster", b"st.release.gpu.global.u32"],
    "rates.cu": [b"ex2.approx.ftz.f32", b"tanh.approx.f32", b"rcp.approx.ftz.f32"],
    "spin.cu": [b"%globaltimer"],
}


@pytest.mark.parametrize("file", PTX)
def test_probe_has_its_instructions(file, compiled):
    code = compiled(file, "compute_90")
    assert not [text for text in PTX[file] if text not in code]


def test_exchange_sends_vectors_to_each_block(instructions):
    """Each of two kernels for 4 and for 8 blocks sends 16 bytes to each block, and reads 16 at a time."""
    counts = instructions("cluster_exchange.cu")
    assert counts["STAS.128"] == 2 * 4 + 2 * 8
    assert counts["LDS.128"] == 4
    assert counts["SYNCS.PHASECHK.TRANS64.TRYWAIT"] == 4
    assert total(counts, "I2F") == 0, "a division takes longer than what is measured"


def test_polling_reads_past_the_l1(instructions):
    counts = instructions("grid_flags.cu")
    assert counts["LDG.E.STRONG.GPU"] == counts["STG.E.STRONG.GPU"] == 1
    assert counts["LDG.E.128.STRONG.GPU"] == 1
    assert total(counts, "I2F") == 0


def test_fences_differ(instructions):
    """In the machine code there are two kinds of fences of the GPU, and a cluster's is one of them."""
    counts = instructions("fences.cu")
    assert counts["MEMBAR.SC.GPU"] > 0
    assert counts["MEMBAR.ALL.GPU"] > 0


def test_rates_time_the_named_instructions(instructions):
    """The assembler dropped none of the repeated functions, and adds little to them."""
    counts = instructions("rates.cu")
    assert counts["HMMA.16816.F32.BF16"] == counts["HMMA.1688.F32.TF32"] == 8
    times = counts["MUFU.EX2"]
    assert times >= 16 * 8
    assert counts["MUFU.TANH"] == counts["MUFU.RCP"] == times
    assert total(counts, "FFMA") == times


def test_copies_have_four_loads_in_flight(instructions):
    counts = instructions("copies.cu")
    assert counts["LDG.E.128.STRONG.GPU"] == 2 * 4
    assert counts["STG.E.128"] == 4
