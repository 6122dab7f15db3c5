"""Test that files which no importer reads are named, with what to pass instead."""

import re
import warnings

import pytest

from fusedlstm import WeightsFileError, convert
from fusedlstm.convert.recognise import recognise

from support.containers import FILES


@pytest.mark.parametrize("name", FILES)
def test_other_containers_are_named(name, tmp_path):
    content, message, does = FILES[name]
    path = tmp_path / "m.bin"
    path.write_bytes(content)
    for read in (recognise, convert.from_torch):
        with pytest.raises(WeightsFileError, match=re.escape(message)):
            read(path)
    if does is not None:
        path.write_bytes(does(content))
        assert convert.from_torch(path).num_layers == 1


def test_exported_programs_are_named(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / "m.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(torch.nn.LSTM(3, 4).eval(), (torch.zeros(5, 2, 3),)), path)
        with pytest.raises(WeightsFileError, match=r"torch.export: pass torch.export.load\(path\).state_dict to"):
            recognise(path)


def test_importers_name_other_containers(tmp_path):
    """Even importers whose own files aren't such containers."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    for name in ("gzip", "tar", "ort", "index", "npy", "page", "MessagePack"):
        content, message, _ = FILES[name]
        (tmp_path / "m").write_bytes(content)
        for read in (convert.from_onnx, convert.from_keras):
            with pytest.raises(WeightsFileError, match=re.escape(message)):
                read(tmp_path / "m")
