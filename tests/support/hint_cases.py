"""Hints in the package's messages: calls that give them, and calls that do what they say."""

import copy
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusedlstm import (
    LSTM,
    LSTMCell,
    LSTMState,
    LSTMWeights,
    Sequencer,
    StackedWeights,
    StatePool,
    convert,
    load_weights,
    pack_state,
    stack_states,
    unpack_state,
    unstack_states,
)
from fusedlstm.convert.coreml import LAYOUTS as COREML
from fusedlstm.convert.tflite import LAYOUTS as TFLITE
from fusedlstm.convert.writing import write

I, N, T, B = 3, 4, 5, 2


@dataclass
class Case:
    """A hint.

    Attributes:
        gives: a call that raises the message, or logs it.
        does: a call that does what the message says.
        needs: a package that both need.
    """

    gives: Callable[[], Any]
    does: Callable[[], Any]
    needs: str = ""


def weights(**options):
    return LSTMWeights.random(I, N, seed=0, **options)


def layers(count=1, **options):
    return StackedWeights.random(I, N, count, seed=0, **options)


def cell(**options):
    return LSTMCell(weights(**options), backend="numpy")


def lstm(count=1, **options):
    return LSTM(layers(count, **options), backend="numpy")


def x(dtype="f"):
    return np.zeros((B, I), dtype)


def xs(dtype="f"):
    return np.zeros((T, B, I), dtype)


def state():
    return cell().zero_state(B)


def pairs():
    return lstm(2).zero_state(B)


def attempt(call):
    """Return the message of the error that a call raises."""
    with pytest.raises(Exception) as caught:
        call()
    return str(caught.value)


FOLDER: dict[str, Path] = {}


def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def detached(pair):
    return tuple(tensor.detach() for tensor in pair)


def tensor(*shape):
    return torch().zeros(shape)


def module(kind="LSTM"):
    """Return a module that PyTorch trains."""
    return getattr(importlib.import_module("fusedlstm.torch"), kind)(I, N)


def slope(**options):
    """Return the gradient of a module's input, and with create_graph=True, differentiate it."""
    x = tensor(T, B, I).requires_grad_()
    (found,) = torch().autograd.grad(module()(x)[0].sum(), x, **options)
    if options:
        found.sum().backward()
    return found


def packed():
    return torch().nn.utils.rnn.pack_padded_sequence(torch().zeros(T, B, I), [T, 3])


def run_padded():
    """Do what the message says, and compare with PyTorch's own outputs."""
    xs, lengths = torch().nn.utils.rnn.pad_packed_sequence(packed())
    module = torch().nn.LSTM(I, N)
    with torch().no_grad():
        wanted, _ = torch().nn.utils.rnn.pad_packed_sequence(module(packed())[0])
    outputs, _ = LSTM(convert.from_torch(module), backend="numpy")(xs, lengths=lengths)
    np.testing.assert_allclose(outputs, wanted, rtol=0, atol=1e-6)


def written(name):
    np.savez(FOLDER["now"] / name, weight_ih_l0=np.zeros((4 * N, I), "f"), weight_hh_l0=np.zeros((4 * N, N), "f"))
    return FOLDER["now"] / name


def our_file():
    weights().save(FOLDER["now"] / "w.safetensors")
    return FOLDER["now"] / "w.safetensors"


def saved_and_loaded():
    return LSTMCell(load_weights(our_file()), backend="numpy")


def pool():
    return StatePool(cell(), 4)


def pool_with(count):
    made = pool()
    made.allocate(count)
    return made


def reloaded_pool():
    first, second, path = pool_with(2), pool(), FOLDER["now"] / "pool"
    first.save(path)
    second.load(path)


def stepper_again():
    first, second = cell().stepper(B), cell().stepper(B)
    second.write(first.read())


def torch_cell():
    return {name: np.zeros((4 * N, width), "f") for name, width in (("weight_ih", I), ("weight_hh", N))} | {
        name: np.zeros(4 * N, "f") for name in ("bias_ih", "bias_hh")
    }


def equinox_cell():
    return {
        "weight_ih": np.zeros((4 * N, I), "f"),
        "weight_hh": np.zeros((4 * N, N), "f"),
        "bias": np.zeros(4 * N, "f"),
    }


def named(prefix, arrays):
    return {prefix + name: array for name, array in arrays.items()}


def two():
    return named("a.", torch_cell()) | named("b.", torch_cell())


def computed(kind):
    """Return an LSTM one of whose weights PyTorch computes, and the function that undoes it."""
    from torch.nn.utils import (
        parametrizations,
        parametrize,
        prune,
        remove_spectral_norm,
        remove_weight_norm,
        spectral_norm,
        weight_norm,
    )

    module = torch().nn.LSTM(I, N)
    makes, undoes = {
        "weight_norm": (weight_norm, remove_weight_norm),
        "spectral_norm": (spectral_norm, remove_spectral_norm),
        "parametrized": (parametrizations.weight_norm, parametrize.remove_parametrizations),
        "pruning": (lambda module, name: prune.random_unstructured(module, name, 0.5), prune.remove),
    }[kind]
    makes(module, "weight_hh_l0")
    return module, undoes


def half_of(kind, dropped):
    """Convert parameters with one part of a computed weight missing."""
    module, _ = computed(kind)
    convert.from_torch({name: t.numpy() for name, t in module.state_dict().items() if not name.endswith(dropped)})


def without(kind):
    """Do what the message says, with the name that it gives, and compare with the module before."""
    message = attempt(lambda: half_of(kind, {"pruning": "_mask", "parametrized": ".original1"}.get(kind, "_v")))
    (name,) = re.findall(r"\(module, '(\w+)'\)", message)
    module, undo = computed(kind)
    module.eval()
    wanted = convert.from_torch(module)
    undo(module, name)
    got = convert.from_torch(module.state_dict())
    np.testing.assert_allclose(got.layers[0].weight_hh, wanted.layers[0].weight_hh, rtol=2e-6, atol=1e-6)


def own_module():
    class Own(torch().nn.LSTM):
        def forward(self, xs):
            return super().forward(xs)

    return Own(I, N)


def torch_file(content, **options):
    torch().save(content, FOLDER["now"] / "m.pt", **options)
    return FOLDER["now"] / "m.pt"


def module_file():
    return torch_file(torch().nn.LSTM(I, N))


def tf1(scope="rnn/lstm_cell", kernel="kernel", bias="bias"):
    return {f"{scope}/{kernel}": np.zeros((I + N, 4 * N), "f"), f"{scope}/{bias}": np.zeros(4 * N, "f")}


def old_tf1(kernel, bias):
    return convert.from_tf1(tf1("RNN/LSTMCell", kernel, bias))


def unconnected():
    from support.onnx_models import arrays_of, model_of, tensors
    from support.onnx_models import lstm as node

    rng = np.random.default_rng(0)
    first, second = arrays_of(rng, I, N), arrays_of(rng, I, N)
    nodes = [node(first, name="a"), node(second, name="b", suffix="_b")]
    return model_of(nodes, [*tensors(first), *tensors(second, "_b")], outputs=["Y", "Y_b"])


def started():
    from support.onnx_models import arrays_of, lstm_model, tensors

    arrays = arrays_of(np.random.default_rng(0), I, N)
    model = lstm_model(arrays, given=["initial_h"])
    model.graph.initializer.extend(tensors({"initial_h": np.ones((1, B, N), "f")}))
    del model.graph.input[1:]
    return model


def pool_cell():
    return cell()


def haiku(name, width=I):
    return {f"{name}/linear/w": np.zeros((width + N, 4 * N), "f"), f"{name}/linear/b": np.zeros(4 * N, "f")}


def both_ways():
    scopes = [f"r/{way}/multi_rnn_cell/cell_{k}/lstm_cell" for way in ("fw", "bw") for k in (0, 1)]
    cells = [tf1(scope) if "cell_0" in scope else tf1_above(scope) for scope in scopes]
    return {name: array for one in cells for name, array in one.items()}


def tf1_above(scope):
    return {f"{scope}/kernel": np.zeros((2 * N, 4 * N), "f"), f"{scope}/bias": np.zeros(4 * N, "f")}


def tflite(dtype):
    return {name: array.astype(dtype) for name, array in write(TFLITE["tflite"], weights()).items()}


def renaming_module():
    class Outer(torch().nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch().nn.LSTM(I, N)

        def state_dict(self):
            return {f"other.{name}": tensor for name, tensor in self.lstm.state_dict().items()}

    return Outer()


def dropped():
    plain = named("r.a.", torch_cell())
    return {name: array for name, array in plain.items() if not name.endswith("weight_hh")} | {
        "r.weight_hh_raw": plain["r.a.weight_hh"]
    }


def script_file(*, frozen):
    model = torch().jit.trace(torch().nn.Sequential(torch().nn.LSTM(I, N)).eval(), torch().zeros(T, B, I))
    torch().jit.save(torch().jit.freeze(model) if frozen else model, FOLDER["now"] / "s.pt")
    return FOLDER["now"] / "s.pt"


def plain_onnx(given=(), op="LSTM", **attributes):
    from support.onnx_models import arrays_of, lstm_model

    model = lstm_model(arrays_of(np.random.default_rng(0), I, N), attributes, given=given)
    model.graph.node[0].op_type = op
    model.graph.node[0].domain = "com.microsoft" if "Quantize" in op else ""
    return model


def with_lengths():
    from support.onnx_models import tensors

    model = plain_onnx(given=["sequence_lens"])
    model.graph.initializer.extend(tensors({"sequence_lens": np.array([T - 1, T], np.int32)}))
    del model.graph.input[1:]
    return model


def rounded():
    from support.onnx_models import helper, tensors

    model = plain_onnx()
    node = model.graph.node[0]
    node.input[0] = "x"
    nodes = [
        helper.make_node("QuantizeLinear", ["X", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["x"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, node])
    model.graph.initializer.extend(tensors({"s": np.float32(0.1)}))
    return model


def zoneout_file():
    class ZoneOutCell(torch().nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = torch().nn.LSTMCell(I, N)

        def forward(self, x):
            return self.cell(x)[0]

    torch().jit.save(torch().jit.trace(ZoneOutCell(), torch().zeros(B, I)), FOLDER["now"] / "z.pt")
    return FOLDER["now"] / "z.pt"


CASES = {
    # ---- states ----
    "positional state": Case(lambda: LSTMState(1, 2), lambda: LSTMState(h=x(), c=x())),
    "assigned state": Case(lambda: setattr(state(), "h", 1), lambda: LSTMState(h=state().h, c=state().c)),
    "unpacked state": Case(lambda: [*cell()(x(), state())], lambda: (cell()(x(), state()).h, cell()(x(), state()).c)),
    "indexed state": Case(lambda: state()[0], lambda: (state().h, state().c)),
    "array of a state": Case(lambda: np.asarray(state()), lambda: pack_state(state(), order="ch")),
    "no state": Case(lambda: cell()(x(), None), lambda: cell()(x(), cell().zero_state(B))),
    "no states": Case(lambda: lstm().step(x(), None), lambda: lstm().step(x(), lstm().zero_state(B))),
    "pair as a state": Case(lambda: cell()(x(), (state().h, state().c)), lambda: cell()(x(), state())),
    "packed array as a state": Case(
        lambda: cell()(x(), np.zeros((B, 2 * N), "f")),
        lambda: cell()(x(), unpack_state(np.zeros((B, 2 * N), "f"), N, order="ch")),
    ),
    "a tuple with one state": Case(lambda: cell()(x(), (state(),)), lambda: cell()(x(), (state(),)[0])),
    "states for a cell": Case(lambda: cell()(x(), (state(), state())), lambda: cell()(x(), (state(), state())[0])),
    "state for an lstm": Case(lambda: lstm()(xs(), state()), lambda: lstm()(xs(), (state(),))),
    "state for layers": Case(
        lambda: lstm(2)(xs(), stack_states(pairs())),
        lambda: lstm(2)(xs(), unstack_states(h=stack_states(pairs()).h, c=stack_states(pairs()).c)),
    ),
    "pytorch's pair": Case(
        lambda: lstm(2)(xs(), (np.zeros((2, B, N), "f"), np.zeros((2, B, N), "f"))),
        lambda: lstm(2)(xs(), unstack_states(h=np.zeros((2, B, N), "f"), c=np.zeros((2, B, N), "f"))),
    ),
    "stacked one": Case(lambda: stack_states(state()), lambda: stack_states([state()])),
    # ---- inputs ----
    "one row": Case(lambda: cell()(x()[0], state()), lambda: cell()(x()[0][None], cell().zero_state(1))),
    "a sequence for a cell": Case(lambda: cell()(xs(), state()), lambda: LSTM(weights(), backend="numpy")(xs())),
    "a step for an lstm": Case(lambda: lstm()(x()), lambda: lstm().step(x(), lstm().zero_state(B))),
    "a list": Case(lambda: cell()([[0.0] * I] * B, state()), lambda: cell()(cell().asarray([[0.0] * I] * B), state())),
    "a list of steps": Case(lambda: lstm()(xs().tolist()), lambda: lstm()(lstm().asarray(xs().tolist()))),
    "another dtype": Case(lambda: cell()(x("d"), state()), lambda: cell()(x("d").astype("float32"), state())),
    "complex numbers": Case(
        lambda: cell()(x("F"), state()), lambda: cell()(np.ascontiguousarray(x("F").real), state())
    ),
    "a packed state of layers": Case(
        lambda: unpack_state(np.zeros((B, 4 * N)), N, order="ch"),
        lambda: unpack_state(np.zeros((B, 4 * N)), [N, N], order="ch"),
    ),
    "a packed state that is too wide": Case(
        lambda: unpack_state(np.zeros((B, 2 * N + 1)), N, order="ch"),
        lambda: unpack_state(np.zeros((B, 2 * N + 1)), N, order="ch", proj_size=N + 1),
    ),
    "state as x": Case(
        lambda: cell()(state(), state()),
        lambda: LSTMCell(LSTMWeights.random(N, N, seed=0), backend="numpy")(state().h, state()),
    ),
    "a float mask": Case(
        lambda: cell()(x(), state(), is_first=np.zeros(B, "f")),
        lambda: cell()(x(), state(), is_first=np.zeros(B, "f") != 0),
    ),
    "a float mask of steps": Case(
        lambda: lstm()(xs(), mask=np.ones((T, B), "f")), lambda: lstm()(xs(), mask=np.ones((T, B), "f") != 0)
    ),
    "a masked array": Case(
        lambda: cell()(np.ma.zeros((B, I), "f"), state()), lambda: cell()(np.ma.zeros((B, I), "f").filled(0), state())
    ),
    "packed sequence": Case(lambda: lstm()(packed()), run_padded, "torch"),
    "requires grad": Case(
        lambda: cell()(torch().zeros(B, I, requires_grad=True), state()),
        lambda: cell()(torch().zeros(B, I, requires_grad=True).detach(), state()),
        "torch",
    ),
    # ---- modules ----
    "an array for a module": Case(lambda: module()(xs()), lambda: module()(torch().as_tensor(xs())), "torch"),
    "another dtype for a module": Case(
        lambda: module()(tensor(T, B, I).double()),
        lambda: module()(tensor(T, B, I).double().to(torch().float32)),
        "torch",
    ),
    "another device": Case(
        lambda: module()(tensor(T, B, I).to("meta")), lambda: module()(tensor(T, B, I).cpu()), "torch"
    ),
    "state for a module": Case(
        lambda: module()(tensor(T, B, I), module().zero_state(B)[0]),
        lambda: module()(tensor(T, B, I), (module().zero_state(B)[0],)),
        "torch",
    ),
    "pytorch's pair for a module": Case(
        lambda: module()(tensor(T, B, I), (tensor(1, B, N), tensor(1, B, N))),
        lambda: module()(
            tensor(T, B, I), tuple(LSTMState(h=tensor(1, B, N)[k], c=tensor(1, B, N)[k]) for k in range(1))
        ),
        "torch",
    ),
    "one row for a module": Case(
        lambda: module()(tensor(T, B, I), module().zero_state(1)),
        lambda: module()(tensor(T, B, I), (LSTMState(h=tensor(1, N).expand(B, -1), c=tensor(1, N).expand(B, -1)),)),
        "torch",
    ),
    "float flags for a module": Case(
        lambda: module()(tensor(T, B, I), is_first=tensor(T, B)),
        lambda: module()(tensor(T, B, I), is_first=tensor(T, B) != 0),
        "torch",
    ),
    "a float mask for a module": Case(
        lambda: module()(tensor(T, B, I), mask=tensor(T, B)),
        lambda: module()(tensor(T, B, I), mask=tensor(T, B) != 0),
        "torch",
    ),
    "one row for a module's cell": Case(
        lambda: module("LSTMCell")(tensor(I)), lambda: module("LSTMCell")(tensor(I)[None]), "torch"
    ),
    "second derivatives": Case(lambda: slope(create_graph=True), slope, "torch"),
    # ---- weights ----
    "layers for a cell": Case(lambda: LSTMCell(layers()), lambda: (LSTM(layers()), LSTMCell(layers().layers[0]))),
    "a list of weights": Case(lambda: LSTM([weights()]), lambda: LSTM(StackedWeights([weights()]))),
    "a cell for an lstm": Case(lambda: LSTM(cell()), lambda: LSTM(cell().weights)),
    "an lstm for a cell": Case(lambda: LSTMCell(lstm()), lambda: LSTM(lstm().weights)),
    "weights for a pool": Case(
        lambda: StatePool(weights(), 4), lambda: StatePool(LSTMCell(weights(), backend="numpy"), 4)
    ),
    "layers for a pool": Case(lambda: StatePool(layers(), 4), lambda: StatePool(LSTM(layers(), backend="numpy"), 4)),
    "a path for a cell": Case(lambda: LSTMCell("w.safetensors"), saved_and_loaded),
    "one in a stack": Case(lambda: StackedWeights(weights()), lambda: StackedWeights([weights()])),
    "a stack in a stack": Case(
        lambda: StackedWeights([layers(), layers()]),
        lambda: StackedWeights([*layers().layers, *StackedWeights.random(N, N, 1, seed=0).layers]),
    ),
    "dtypes in a stack": Case(
        lambda: StackedWeights([weights(), LSTMWeights.random(N, N, seed=0, dtype="float64")]),
        lambda: StackedWeights([weights(), LSTMWeights.random(N, N, seed=0, dtype="float64").astype("float32")]),
    ),
    "other sizes for set_weights": Case(
        lambda: cell().set_weights(LSTMWeights.random(I, 2 * N, seed=0)),
        lambda: LSTMCell(LSTMWeights.random(I, 2 * N, seed=0)),
    ),
    "another program's file": Case(
        lambda: load_weights(written("a.npz")), lambda: convert.from_torch(written("a.npz"))
    ),
    "an open file": Case(lambda: load_weights(open(__file__)), saved_and_loaded),  # noqa: SIM115
    # ---- pools, steppers ----
    "a copied pool": Case(lambda: copy.copy(pool()), reloaded_pool),
    "a copied stepper": Case(lambda: copy.copy(cell().stepper(B)), stepper_again),
    "a mask as slots": Case(
        lambda: pool().read(np.array([True, False])), lambda: pool_with(2).read(np.flatnonzero([True, False]))
    ),
    # ---- importers: PyTorch ----
    "several lstms": Case(lambda: convert.from_torch(two()), lambda: convert.from_torch(two(), prefix="a.")),
    "another prefix": Case(
        lambda: convert.from_torch(two(), prefix="c"), lambda: convert.from_torch(two(), prefix="b.")
    ),
    "zoneout cell": Case(
        lambda: convert.from_torch(named("lstm.0.cell.", torch_cell())),
        lambda: convert.from_torch(named("lstm.0.cell.", torch_cell()), zoneout=0.1),
    ),
    "equinox's bias": Case(
        lambda: convert.from_torch(equinox_cell() | {"weight_ih": equinox_cell()["weight_ih"]}),
        lambda: convert.from_equinox(equinox_cell()),
    ),
    "a torch cell for equinox": Case(
        lambda: convert.from_equinox(torch_cell()), lambda: convert.from_torch(torch_cell())
    ),
    "weight_norm": Case(lambda: half_of("weight_norm", "_v"), lambda: without("weight_norm"), "torch"),
    "spectral_norm": Case(lambda: half_of("spectral_norm", "_v"), lambda: without("spectral_norm"), "torch"),
    "pruning": Case(lambda: half_of("pruning", "_mask"), lambda: without("pruning"), "torch"),
    "parametrization": Case(lambda: half_of("parametrized", ".original1"), lambda: without("parametrized"), "torch"),
    "adapter": Case(
        lambda: convert.from_torch(named("m.base_layer.", torch_cell()) | {"m.lora_A.w": np.zeros((2, 2), "f")}),
        lambda: convert.from_torch(named("m.", torch_cell())),  # what merge_and_unload leaves
    ),
    "own class": Case(
        lambda: convert.from_torch(own_module()),
        lambda: convert.from_torch(own_module(), custom_classes=["Own"]),
        "torch",
    ),
    "batch_first": Case(
        lambda: convert.from_torch(torch().nn.LSTM(I, N, batch_first=True)),
        lambda: LSTM(layers(), batch_first=True, backend="numpy")(np.zeros((B, T, I), "f")),
        "torch",
    ),
    "a whole module": Case(
        lambda: convert.from_torch(module_file()),
        lambda: convert.from_torch(torch().load(module_file(), weights_only=False)),
        "torch",
    ),
    "another protocol": Case(
        lambda: convert.from_torch(torch_file(torch().nn.LSTM(I, N).state_dict(), pickle_protocol=4)),
        lambda: convert.from_torch(torch_file(torch().nn.LSTM(I, N).state_dict())),
        "torch",
    ),
    "our own file": Case(lambda: convert.from_torch(our_file()), lambda: load_weights(our_file())),
    "output and state of torch": Case(
        lambda: convert.state_from_torch(torch().nn.LSTM(I, N)(torch().zeros(T, B, I))),
        lambda: convert.state_from_torch(detached(torch().nn.LSTM(I, N)(torch().zeros(T, B, I))[1])),
        "torch",
    ),
    "a cell with layers": Case(
        lambda: convert.to_torch(weights(proj_size=2)),
        lambda: convert.to_torch(StackedWeights([weights(proj_size=2)])),
        "torch",
    ),
    # ---- importers: TensorFlow 1, Keras ----
    "weights and biases": Case(lambda: old_tf1("weights", "biases"), lambda: convert.from_tf1(tf1())),
    "Matrix and Bias": Case(lambda: old_tf1("Matrix", "Bias"), lambda: convert.from_tf1(tf1())),
    "W_0 and B": Case(lambda: old_tf1("W_0", "B"), lambda: convert.from_tf1(tf1())),
    "several cells": Case(
        lambda: convert.from_tf1({**tf1("a/lstm_cell"), **tf1("b/lstm_cell")}),
        lambda: convert.from_tf1({**tf1("a/lstm_cell"), **tf1("b/lstm_cell")}, prefix="a/lstm_cell"),
    ),
    "a dense layer or a cell": Case(
        lambda: convert.from_tf1(tf1("mine")), lambda: convert.from_tf1(tf1("mine"), prefix="mine")
    ),
    "cudnn's cell": Case(
        lambda: convert.from_tf1(tf1("cudnn_compatible_lstm_cell")),
        lambda: convert.from_tf1(tf1("cudnn_compatible_lstm_cell"), forget_bias=0.0),
    ),
    "TensorFlow 1.0's block": Case(
        lambda: convert.from_tf1(tf1("lstm_block_wrapper")),
        lambda: convert.from_tf1(tf1("lstm_block_wrapper"), cell_clip=3.0),
    ),
    "keras's state with its output": Case(
        lambda: convert.state_from_keras([x()[:, :1], state().h, state().c]),
        lambda: convert.state_from_keras([x()[:, :1], state().h, state().c][1:]),
    ),
    "our state": Case(lambda: convert.state_from_flax(state()), lambda: cell()(x(), state())),
    # ---- importers: JAX ----
    "several flax cells": Case(
        lambda: convert.from_flax({"a": convert.to_flax(weights()), "b": convert.to_flax(weights())}),
        lambda: convert.from_flax({"a": convert.to_flax(weights()), "b": convert.to_flax(weights())}, prefix="a/"),
    ),
    "several equinox cells": Case(
        lambda: convert.from_equinox({"a": equinox_cell(), "b": equinox_cell()}),
        lambda: convert.from_equinox({"a": equinox_cell(), "b": equinox_cell()}, prefix="b"),
    ),
    # ---- importers: ONNX ----
    "unconnected nodes": Case(
        lambda: convert.from_onnx(unconnected()), lambda: convert.from_onnx(unconnected(), name="a"), "onnx"
    ),
    "named nodes that are not layers": Case(
        lambda: convert.from_onnx(unconnected(), name=["a", "b"]),
        lambda: [convert.from_onnx(unconnected(), name=name) for name in "ab"],
        "onnx",
    ),
    "an initial state": Case(
        lambda: convert.from_onnx(started()),
        lambda: (convert.from_onnx(started(), initial_state="separate"), convert.state_from_onnx(started())),
        "onnx",
    ),
    # ---- more of states, sequences and weights ----
    "a vector as a state": Case(
        lambda: cell()(x()[:1], LSTMState(h=state().h[0], c=state().c[0])),
        lambda: cell()(x()[:1], LSTMState(h=state().h[0][None], c=state().c[0][None])),
    ),
    "one row of a state": Case(
        lambda: cell()(x(), cell().zero_state(1)),
        lambda: cell()(
            x(), LSTMState(h=cell().zero_state(1).h.repeat(B, axis=0), c=cell().zero_state(1).c.repeat(B, axis=0))
        ),
    ),
    "a packed array as h": Case(
        lambda: cell()(x(), LSTMState(h=np.zeros((B, 2 * N), "f"), c=state().c)),
        lambda: cell()(x(), unpack_state(np.zeros((B, 2 * N), "f"), N, order="hc")),
    ),
    "layers of different sizes": Case(
        lambda: stack_states([state(), LSTMState(h=np.zeros((B, 7), "f"), c=np.zeros((B, 7), "f"))]),
        lambda: pack_state([state(), LSTMState(h=np.zeros((B, 7), "f"), c=np.zeros((B, 7), "f"))], order="ch"),
    ),
    "a pool as an owner": Case(lambda: StatePool(pool(), 4), lambda: StatePool(pool_cell(), 4)),
    "a list of weights for a pool": Case(
        lambda: StatePool([weights()], 4), lambda: StatePool(LSTM(StackedWeights([weights()]), backend="numpy"), 4)
    ),
    "a pool as weights": Case(lambda: LSTMCell(pool()), lambda: LSTMCell(pool_cell().weights)),
    "arrays as weights": Case(lambda: LSTM([x(), x()]), lambda: convert.from_torch(named("", torch_cell()))),
    "a sequencer without a buffer": Case(
        lambda: lstm().sequencer(T, B).is_first, lambda: lstm().sequencer(T, B, is_first=True).is_first
    ),
    "a sequencer without an argument": Case(
        lambda: lstm().sequencer(T, B).run(xs(), is_first=np.zeros((T, B), bool)),
        lambda: lstm().sequencer(T, B, is_first=True).run(xs(), is_first=np.zeros((T, B), bool)),
    ),
    # ---- more importers ----
    "a path for an importer of arrays": Case(
        lambda: convert.from_haiku("a.npz"), lambda: convert.from_haiku(haiku("lstm"))
    ),
    "other arrays": Case(
        lambda: convert.from_flax(convert.to_flax(weights()) | {"scale": x()}),
        lambda: convert.from_flax(convert.to_flax(weights())),
    ),
    "several haiku layers": Case(
        lambda: convert.from_haiku(haiku("lstm") | haiku("lstm_1")),
        lambda: (
            convert.from_haiku(haiku("lstm") | haiku("lstm_1"), prefix="lstm"),
            convert.from_haiku(haiku("lstm", N) | haiku("lstm_1", N), prefix=["lstm", "lstm_1"]),
        ),
    ),
    "an array of a pair": Case(lambda: convert.state_from_torch([x(), state()]), lambda: cell()(x(), state())),
    "an output beside a state": Case(
        lambda: convert.state_from_flax((state().h, (state().c, state().h))),
        lambda: convert.state_from_flax((state().c, state().h)),
    ),
    "three in a pair": Case(
        lambda: convert.state_from_flax((state().c, state().h, state().h)),
        lambda: convert.state_from_flax(((state().c, state().h), (state().c, state().h))),
    ),
    "sizes with a pair": Case(
        lambda: convert.state_from_tf1((state().c, state().h), hidden_size=N),
        lambda: convert.state_from_tf1(pack_state(state(), order="ch"), hidden_size=N),
    ),
    "an unnamed function": Case(
        lambda: convert.tf1_arguments(weights(activation=("leaky_relu", 0.3))),
        lambda: convert.tf1_arguments(weights()) | {"activation": lambda z: np.where(z > 0, z, 0.3 * z)},
    ),
    "variables with more": Case(
        lambda: convert.from_tf1(tf1() | {"rnn/lstm_cell/scale": np.zeros(4 * N, "f")}), lambda: convert.from_tf1(tf1())
    ),
    "directions with layers": Case(
        lambda: convert.from_tf1(both_ways()),
        lambda: (convert.from_tf1(both_ways(), prefix="r/fw"), convert.from_tf1(both_ways(), prefix="r/bw")),
    ),
    "keras's cells in one list": Case(
        lambda: convert.from_keras([*convert.to_keras(weights()), *convert.to_keras(LSTMWeights.random(N, N, seed=0))]),
        lambda: convert.from_keras([convert.to_keras(weights()), convert.to_keras(LSTMWeights.random(N, N, seed=0))]),
    ),
    "keras's three cells in one list": Case(
        lambda: convert.from_keras(convert.to_keras(weights()) * 3),
        lambda: convert.from_keras([convert.to_keras(LSTMWeights.random(N, N, seed=0))] * 3),
    ),
    "integers of TFLite": Case(lambda: convert.from_tflite(tflite("i1")), lambda: convert.from_tflite(tflite("f4"))),
    "a weight of coremltools 4": Case(
        lambda: convert.from_coreml({"weight": x()}), lambda: convert.from_coreml(write(COREML["coreml"], weights()))
    ),
    "a pytorch module of another class": Case(
        lambda: convert.from_torch(renaming_module()),
        lambda: convert.from_torch(renaming_module().state_dict()),
        "torch",
    ),
    "parameters on meta": Case(
        lambda: convert.from_torch(torch().nn.LSTM(I, N, device="meta")),
        lambda: convert.from_torch(torch().nn.LSTM(I, N)),
        "torch",
    ),
    "raw weights of several": Case(
        lambda: convert.from_torch(dropped() | named("r.b.", torch_cell()), prefix="r.a"),
        lambda: convert.from_torch(dropped()),
    ),
    "quantised parameters": Case(
        lambda: convert.from_torch({"_all_weight_values.0.param": x()}), lambda: convert.from_torch(torch_cell())
    ),
    "a frozen program": Case(
        lambda: convert.from_torch(script_file(frozen=True)),
        lambda: convert.from_torch(script_file(frozen=False)),
        "torch",
    ),
    "ONNX with the batch first": Case(
        lambda: convert.from_onnx(plain_onnx(layout=1)),
        lambda: LSTM(convert.from_onnx(plain_onnx(layout=1)), batch_first=True, backend="numpy")(
            np.zeros((B, T, I), "f")
        ),
        "onnx",
    ),
    "an ONNX state that is an input": Case(
        lambda: convert.state_from_onnx(plain_onnx(given=["initial_h"])),
        lambda: LSTM(convert.from_onnx(plain_onnx(given=["initial_h"])), backend="numpy")(xs(), lstm().zero_state(B)),
        "onnx",
    ),
    "several states in one array": Case(
        lambda: pack_state([state(), state()], order="hc", axis=0), lambda: stack_states([state(), state()])
    ),
    "dtypes of a packed state": Case(
        lambda: convert.state_from_flax((np.zeros((B, N), "d"), np.zeros((B, N), "f"))),
        lambda: convert.state_from_flax((np.zeros((B, N), "d"), np.zeros((B, N), "f")), dtype="float32"),
    ),
    "vectors in a pair": Case(
        lambda: convert.state_from_flax((np.zeros(N, "f"), np.zeros(N, "f"))),
        lambda: convert.state_from_flax((np.zeros(N, "f")[None], np.zeros(N, "f")[None])),
    ),
    "nested stacks": Case(
        lambda: convert.state_from_flax((((x(), x()), (x(), x())), ((x(), x()), (x(), x())))),
        lambda: [convert.state_from_flax(one) for one in (((x(), x()), (x(), x())), ((x(), x()), (x(), x())))],
    ),
    "an own subclass of an array": Case(
        lambda: cell()(np.matrix(x()), state()), lambda: cell()(np.asarray(np.matrix(x())), state())
    ),
    "layers for set_weights of a cell": Case(
        lambda: cell().set_weights(layers()), lambda: cell().set_weights(layers().layers[0])
    ),
    "a list of weights for a cell": Case(lambda: LSTMCell([weights()]), lambda: LSTMCell([weights()][0])),
    "several cells in one array": Case(
        lambda: convert.from_block_lstm(np.zeros((2, I + N, 4 * N), "f"), np.zeros((2, 4 * N), "f")),
        lambda: [convert.from_block_lstm(np.zeros((I + N, 4 * N), "f"), np.zeros(4 * N, "f")) for _ in range(2)],
    ),
    "a missing layer": Case(
        lambda: convert.from_tf1(tf1("r/multi_rnn_cell/cell_0/lstm_cell") | tf1("r/multi_rnn_cell/cell_2/lstm_cell")),
        lambda: convert.from_tf1(tf1("r/multi_rnn_cell/cell_2/lstm_cell"), prefix="r/multi_rnn_cell/cell_2/lstm_cell"),
    ),
    "a sequencer of a cell": Case(
        lambda: Sequencer(cell(), T, B), lambda: LSTM(cell().weights, backend="numpy").sequencer(T, B)
    ),
    "a sequencer of a pool": Case(
        lambda: Sequencer(pool(), T, B), lambda: Sequencer(LSTM(cell().weights, backend="numpy"), T, B)
    ),
    "CudnnLSTM's buffer": Case(
        lambda: convert.from_tf1({"cudnn_lstm/opaque_kernel": x()}),
        lambda: convert.from_tf1(tf1("cudnn_lstm/cudnn_compatible_lstm_cell"), forget_bias=0.0),
    ),
    "an initial state in weights": Case(
        lambda: convert.from_coreml(write(COREML["coreml"], weights()) | {"initial_h": np.ones((1, N), "f")}),
        lambda: cell()(x(), LSTMState(h=np.ones((B, N), "f"), c=np.ones((B, N), "f"))),
    ),
    "reversed Core ML": Case(
        lambda: convert.from_coreml(write(COREML["coreml"], weights()) | {"direction": "reverse"}),
        lambda: LSTM(weights(), backend="numpy")(xs(), reverse=True),
    ),
    "a module that holds no Equinox cell": Case(
        lambda: convert.from_equinox(3), lambda: convert.from_equinox({"a": {"b": equinox_cell()}}, prefix="a.b")
    ),
    "constant lengths": Case(
        lambda: convert.from_onnx(with_lengths()),
        lambda: LSTM(convert.from_onnx(with_lengths()), backend="numpy")(xs(), lengths=[T - 1, T]),
        "onnx",
    ),
    "a rounded x": Case(lambda: convert.from_onnx(rounded()), lambda: convert.from_onnx(plain_onnx()), "onnx"),
    "integers in ONNX": Case(
        lambda: convert.from_onnx(plain_onnx(op="DynamicQuantizeLSTM")), lambda: convert.from_onnx(plain_onnx()), "onnx"
    ),
    "arithmetic in ONNX": Case(
        lambda: convert.from_onnx(plain_onnx(op="MatMul")), lambda: convert.from_torch(torch_cell()), "onnx"
    ),
    "a TorchScript of another class": Case(
        lambda: convert.from_torch(zoneout_file()),
        lambda: convert.from_torch(torch().jit.load(zoneout_file()).state_dict(), zoneout=0.1),
        "torch",
    ),
    "a module with zoneout": Case(
        lambda: convert.from_torch(torch().jit.load(zoneout_file())),
        lambda: convert.from_torch(torch().jit.load(zoneout_file()).state_dict(), zoneout=0.1),
        "torch",
    ),
    "negated memory": Case(
        lambda: cell()(torch().zeros(B, I, dtype=torch().complex64).conj().imag, state()),
        lambda: cell()(torch().zeros(B, I, dtype=torch().complex64).conj().imag.resolve_neg().contiguous(), state()),
        "torch",
    ),
}
