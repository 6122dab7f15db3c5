"""The readers that are fuzzed, each with a few good files to start from."""

import contextlib
import functools
import importlib.util
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusedlstm import LSTMWeights, StackedWeights, WeightsFileError, convert
from fusedlstm.convert.archives import open_archive
from fusedlstm.convert.keras.files import parts_of
from fusedlstm.convert.recognise import recognise
from fusedlstm.convert.running.keras_safety import plain
from fusedlstm.convert.running.model import ModelNotRunError
from fusedlstm.stacked import load_weights

from support import fuzz_mutations as mutations
from support.oracle_files import FOLDER as ORACLES
from support.places import DATA


@dataclass(eq=False)
class Reader:
    """A reader of one kind of file.

    Attributes:
        read: reads a path.
        make: writes good files into a folder.
        suffix: the files' suffix.
        structure: mutations within the structure of such files.
        needs: the libraries that it reads with.
        dies: signals with which a library is known to end the process. Our readers can't prevent this.
    """

    read: Callable[[Path], object]
    make: Callable[[Path], None]
    suffix: str
    structure: Sequence[Callable] = ()
    needs: Sequence[str] = ()
    dies: Sequence[str] = ()

    def missing(self):
        return ", ".join(name for name in self.needs if importlib.util.find_spec(name) is None)

    @functools.cached_property
    def files(self):
        """The contents of good files."""
        with tempfile.TemporaryDirectory() as folder:
            self.make(Path(folder))
            found = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
        assert found, "no good files to start from"
        return found

    def warm_up(self):
        """Read the good files, so that everything is imported, and their memory is included in the process's."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"good{self.suffix}")
            for content in self.files:
                path.write_bytes(content)
                self.read(path)


def our_files(folder):
    LSTMWeights.random(2, 3, seed=0, peephole=True, proj_size=2, cell_clip=1.0).save(folder / "cell")
    LSTMWeights.random(2, 3, seed=0, dtype="bfloat16").save(folder / "bfloat16")
    StackedWeights.random(2, 3, 2, seed=0, bidirectional=True).save(folder / "layers")


def named_arrays():
    rng = np.random.default_rng(0)
    return {"a/kernel": rng.normal(size=(3, 8)).astype("f"), "a/bias": np.zeros(8), "step": np.array(3)}


def npz_files(folder):
    np.savez(folder / "plain.npz", **named_arrays())
    np.savez_compressed(folder / "compressed.npz", **named_arrays())


def safetensors_files(folder):
    from safetensors.numpy import save_file

    save_file(named_arrays(), folder / "w.safetensors", {"format": "pt"})


def read_archive(path):
    archive = open_archive(path)
    return [archive[name] for name in archive]


def torch_files(folder):
    import torch

    torch.manual_seed(0)
    torch.save(torch.nn.LSTM(2, 3, 2).state_dict(), folder / "new.pt")
    checkpoint = {"model": torch.nn.LSTMCell(2, 3).state_dict(), "epoch": 3, "name": "x", "best": [0.5, None]}
    torch.save(checkpoint, folder / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(computed_weights(torch), folder / "computed.pt")
    numbers = {"best": np.float64(0.5), "mean": np.zeros((2, 3), "f4"), "names": np.array(["x"]), "empty": np.zeros(0)}
    torch.save({"model": torch.nn.LSTMCell(2, 3).state_dict(), "numbers": numbers}, folder / "numpy.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Sequential(torch.nn.LSTM(2, 3))), folder / "script.pt")
    with zipfile.ZipFile(folder / "sb3.zip", "w") as archive:
        archive.writestr("data", "{}")
        archive.write(folder / "new.pt", "policy.pth")


def computed_weights(torch):
    """Return parameters in the forms of weight_norm, pruning, spectral_norm and weight dropout."""
    from torch.nn.utils import parametrizations, prune

    module = torch.nn.LSTM(2, 3, 2)
    parametrizations.weight_norm(module, "weight_hh_l0")
    parametrizations.spectral_norm(module, "weight_ih_l0")
    prune.random_unstructured(module, "weight_ih_l1", 0.5)
    parameters = {f"net.{name}": tensor for name, tensor in module.state_dict().items()}
    return parameters | {"weight_hh_l1_raw": parameters["net.weight_hh_l1"]}


def read_torch(path):
    lstms = convert.list_torch(path)
    return [convert.from_torch(path, prefix=lstm.prefix) for lstm in lstms] or convert.from_torch(path)


def torch_arrays(folder):
    """Write parameters as files of arrays, which need no PyTorch."""
    from safetensors.numpy import save_file

    layers = StackedWeights.random(2, 3, 2, seed=0, bidirectional=True, bias=False, dtype="float16")
    arrays = {}
    for k, weights in enumerate(layers.layers):
        suffix = f"_l{k // 2}" + ("_reverse" if k % 2 else "")
        arrays |= {f"net.{name}{suffix}": array for name, array in weights.arrays().items()}
    save_file(arrays, folder / "w.safetensors", {"format": "pt"})


def tf1_arrays(folder):
    weights = LSTMWeights.random(2, 3, seed=0, peephole=True, proj_size=2)
    np.savez(folder / "cell.npz", **convert.to_tf1(weights, prefix="rnn/lstm_cell"), step=np.array(3))
    np.savez(folder / "layers.npz", **convert.to_tf1(StackedWeights.random(2, 3, 2, seed=0)))


CHECKPOINT = ORACLES / "tf1" / "checkpoint_multi2" / "model.ckpt-7"


def tf1_checkpoints(folder):
    (folder / "model.ckpt-7.index").write_bytes(Path(f"{CHECKPOINT}.index").read_bytes())


def read_checkpoint(path):
    """Read a mutated index. The data beside it is good."""
    data = path.with_suffix(".data-00000-of-00001")
    if not data.exists():
        data.write_bytes(Path(f"{CHECKPOINT}.data-00000-of-00001").read_bytes())
    return convert.from_tf1(path)


def onnx_files(folder):
    import onnx

    peephole = LSTMWeights.random(2, 3, seed=0, peephole=True, gate_clip=0.5, activation=("leaky_relu", 0.1))
    models = {
        "cell": convert.to_onnx(peephole),
        "layers": convert.to_onnx(StackedWeights.random(2, 3, 2, seed=0, bidirectional=True)),
        "half": convert.to_onnx(LSTMWeights.random(2, 3, seed=0, dtype="float16", coupled_gate="forget")),
    }
    # Weights computed from others, and within a branch.
    inner = onnx.ModelProto.FromString(models["cell"].SerializeToString()).graph
    for name in [tensor.name for tensor in inner.initializer][:1]:
        inner.node.insert(0, onnx.helper.make_node("Identity", [f"{name}_"], [name]))
        next(tensor for tensor in inner.initializer if tensor.name == name).name = f"{name}_"
    branch = onnx.helper.make_node("If", ["condition"], ["out"], "branch", then_branch=inner, else_branch=inner)
    models["computed"] = onnx.helper.make_model(onnx.helper.make_graph([branch], "g", [], []))
    # Layers with a constant state for all rows, lengths from the input's shape, and directions joined by Concat.
    learned = onnx.ModelProto.FromString(models["layers"].SerializeToString())
    learned.graph.CopyFrom(onnx.parser.parse_graph(LEARNED))
    learned.graph.initializer.extend(models["layers"].graph.initializer)
    models["learned"] = learned
    models["quantised"] = quantised_model(onnx, models["cell"])
    for name, model in models.items():
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())


def quantised_model(onnx, model):
    """Return a model with its first weights as integers with a scale."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    first = next(tensor for tensor in model.graph.initializer if tensor.name.startswith("W"))
    integers = np.rint(onnx.numpy_helper.to_array(first) * 100).astype(np.int8)
    parts = {"q": integers, "s": np.float32(0.01), "z": np.int8(0)}
    inputs = [f"{first.name}_{part}" for part in parts]
    node = onnx.helper.make_node("DequantizeLinear", inputs, [first.name])
    model.graph.node.insert(0, node)
    for name, array in zip(inputs, parts.values(), strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    model.graph.initializer.remove(first)
    return model


LEARNED = """learned (float[T, B, 2] X) => (float[T, B, 6] Y)
<float[2, 1, 3] h = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}>
{
    shape = Shape(X)
    rows = Gather(shape, one)
    whole = Concat<axis: int = 0>(one, rows, one)
    state = Expand(h, whole)
    steps = Gather(shape, zero)
    every = Expand(steps, rows)
    lengths = Cast<to: int = 6>(every)
    Y_0 = LSTM<hidden_size: int = 3, direction: string = "bidirectional">(X, W_0, R_0, B_0, lengths, state)
    first = Slice(Y_0, zero, one, one)
    second = Slice(Y_0, one, two, one)
    a = Squeeze(first, one)
    b = Squeeze(second, one)
    X_1 = Concat<axis: int = 2>(a, b)
    wide = Cast<to: int = 11>(X_1)
    dropped = Dropout(wide)
    same = Cast<to: int = 1>(dropped)
    Y_1 = LSTM<hidden_size: int = 3, direction: string = "bidirectional">(same, W_1, R_1, B_1, lengths, "", state)
    rows_first = Transpose<perm: ints = [0, 2, 1, 3]>(Y_1)
    shape_of_rows = Shape<start: int = 0, end: int = 2>(rows_first)
    rest = Constant<value_ints: ints = [-1]>()
    merged = Concat<axis: int = 0>(shape_of_rows, rest)
    Y = Reshape(rows_first, merged)
}"""


def read_onnx(path):
    """Read a model without a name, by each name, and by all. Raise from_onnx's last refusal in the first two ways."""
    names = [lstm.name for lstm in convert.list_onnx(path)]
    refused = None
    for name in (None, *names, names):
        for ask in (functools.partial(convert.from_onnx, initial_state="separate"), convert.state_from_onnx):
            try:
                ask(path, name)
            except WeightsFileError as error:
                refused = refused if name is names or ask is convert.state_from_onnx else error
            except (ValueError, TypeError) as error:  # the names are not layers, or no name was found
                if not str(error).startswith("name"):
                    raise
    if refused is not None:
        raise refused


def keras_files(suffix):
    """Return a function that writes files of Keras 3 and tf_keras."""

    def make(folder):
        with zipfile.ZipFile(DATA / "keras" / "files.zip") as archive:
            for name in archive.namelist():
                if name.endswith(suffix):
                    (folder / name).write_bytes(archive.read(name))

    return make


def read_keras(path):
    """Read each LSTM, and the parts that only some arguments and checks read."""
    names = [layer.name for layer in convert.list_keras(path)]
    read = [convert.from_keras(path, name) for name in names]
    for name in names:
        with contextlib.suppress(WeightsFileError):
            convert.from_keras(path, [name, name])
        with contextlib.suppress(WeightsFileError):
            convert.initial_state_from_keras(path, name)
    with contextlib.suppress(ModelNotRunError):
        plain(parts_of(path).config)
    return read


def any_files(folder):
    for name, reader in READERS.items():
        if name not in ("weights", "tf1", "any") and not reader.missing():  # these three aren't recognised by content
            (folder / name).write_bytes(reader.files[0])


READERS = {
    "weights": Reader(load_weights, our_files, ".safetensors", [mutations.safetensors_header, mutations.our_options]),
    "npz": Reader(read_archive, npz_files, ".npz", [mutations.zip_members]),
    "safetensors": Reader(read_archive, safetensors_files, ".safetensors", [mutations.safetensors_header]),
    "torch": Reader(read_torch, torch_files, ".pt", [mutations.zip_members, mutations.pickle_instructions], ["torch"]),
    "torch arrays": Reader(read_torch, torch_arrays, ".safetensors", [mutations.safetensors_header]),
    "tf1 arrays": Reader(convert.from_tf1, tf1_arrays, ".npz", [mutations.zip_members]),
    # If TensorFlow can't parse a record, its own check fails, which aborts the process.
    "tf1": Reader(
        read_checkpoint, tf1_checkpoints, ".index", [mutations.checkpoint_block], ["tensorflow"], ["SIGABRT"]
    ),
    "onnx": Reader(read_onnx, onnx_files, ".onnx", [mutations.onnx_fields], ["onnx"]),
    "keras h5": Reader(read_keras, keras_files(".h5"), ".h5", [], ["h5py"]),
    "keras": Reader(
        read_keras, keras_files(".keras"), ".keras", [mutations.zip_members, mutations.keras_config], ["h5py"]
    ),
    # `fusedlstm convert` begins with this.
    "any": Reader(recognise, any_files, "", []),
}
