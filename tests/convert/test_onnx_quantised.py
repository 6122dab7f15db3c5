"""Test that QuantizeLinear and DequantizeLinear of constants are folded as onnxruntime computes them."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from fusedlstm import LSTM, WeightsFileError, convert

from support.onnx_models import arrays_of, computed, helper, lstm, model_of, numpy_helper, tensors

I, N, T, B = 3, 4, 5, 2
OPSET = 21  # the first with 16 bits
RNG = np.random.default_rng(0)


def node_of(arrays, **options):
    return lstm(arrays, {"hidden_size": N}, **options)


def quantised(array, dtype, axis):
    """Return integers, scales and zero points: one for all numbers, or one for each index of the axis."""
    limits = np.iinfo(dtype)
    count = 1 if axis is None else array.shape[axis]
    scale = RNG.uniform(0.001, 0.02, count).astype(np.float32)
    zero = np.zeros(count, dtype) if dtype == "int32" else RNG.integers(limits.min, limits.max, count).astype(dtype)
    scale, zero = (one.reshape(()) if axis is None else one for one in (scale, zero))
    high = 2**24 + 1001 if dtype == "int32" else limits.max  # float32 rounds these
    return RNG.integers(limits.min if dtype != "int32" else -high, high, array.shape).astype(dtype), scale, zero


def dequantised_model(dtype, axis, *, domain="", with_zero=True):
    """Return a model whose W and R are integers with scales, and its arrays."""
    arrays = arrays_of(RNG, I, N)
    nodes, stored = [], tensors({"B": arrays["B"]})
    for name in ("W", "R"):
        parts = dict(zip(("q", "s", "z"), quantised(arrays[name], dtype, axis), strict=True))
        if not with_zero:
            del parts["z"]
        stored += tensors({f"{name}_{part}": array for part, array in parts.items()})
        options = {} if axis is None else {"axis": axis}
        inputs = [f"{name}_{part}" for part in parts]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [name], f"dq_{name}", domain=domain, **options))
    return model_of([*nodes, node_of(arrays)], stored, opset=OPSET)


def weights_in(model):
    """Return what onnxruntime computes as W and R."""
    for name in ("W", "R"):
        model.graph.output.append(helper.make_tensor_value_info(name, 1, None))
    found = computed(model, {"X": np.zeros((T, B, I), np.float32)}, ["W", "R"])
    del model.graph.output[-2:]
    return found


@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32"])
def test_dequantised_weights_are_onnxruntimes(dtype, axis):
    model = dequantised_model(dtype, axis)
    wanted = weights_in(model)
    weights = convert.from_onnx(model).layers[0]
    ours = convert.to_onnx(weights)
    stored = {tensor.name[0]: numpy_helper.to_array(tensor) for tensor in ours.graph.initializer}
    for name in ("W", "R"):
        assert stored[name].tobytes() == wanted[name].tobytes()
    xs = RNG.normal(size=(T, B, I)).astype(np.float32)
    theirs = computed(model, {"X": xs}, ["Y"])["Y"][:, 0]
    np.testing.assert_allclose(LSTM(weights, backend="numpy")(xs)[0], theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("domain", "with_zero"), [("", False), ("com.microsoft", True)])
def test_dequantised_weights_of_other_forms(domain, with_zero):
    model = dequantised_model("int8", None, domain=domain, with_zero=with_zero)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    wanted = weights_in(model)
    ours = convert.to_onnx(convert.from_onnx(model))
    stored = {tensor.name[0]: numpy_helper.to_array(tensor) for tensor in ours.graph.initializer}
    assert stored["R"].tobytes() == wanted["R"].tobytes()


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_rounded_weights_are_onnxruntimes(dtype, axis):
    """As in quantisation-aware training: float weights that QuantizeLinear and DequantizeLinear round."""
    arrays = arrays_of(RNG, I, N)
    arrays["W"] = (arrays["W"] * 3).astype(np.float32)  # some are beyond the limits
    nodes, stored = [], tensors({"B": arrays["B"]})
    for name in ("W", "R"):
        _, scale, zero = quantised(arrays[name], dtype, axis)
        scale = scale if "16" not in dtype else scale / 256
        arrays[name].flat[:3] = np.ravel(scale)[0] * np.array([0.5, 1.5, -2.5], np.float32)  # halves round to even
        stored += tensors({f"{name}_f": arrays[name], f"{name}_s": scale, f"{name}_z": zero})
        options = {} if axis is None else {"axis": axis}
        both = [f"{name}_s", f"{name}_z"]
        nodes.append(helper.make_node("QuantizeLinear", [f"{name}_f", *both], [f"{name}_q"], **options))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *both], [name], **options))
    model = model_of([*nodes, node_of(arrays)], stored, opset=OPSET)
    wanted = weights_in(model)
    ours = convert.to_onnx(convert.from_onnx(model))
    found = {tensor.name[0]: numpy_helper.to_array(tensor) for tensor in ours.graph.initializer}
    for name in ("W", "R"):
        assert found[name].tobytes() == wanted[name].tobytes()


def rounding(name, source):
    """Return two nodes that round a value to 8 bits."""
    return [
        helper.make_node("QuantizeLinear", [source, "s", "z"], [f"{name}_q"], f"q_{name}"),
        helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [name], f"dq_{name}"),
    ]


SCALE = {"s": np.float32(0.1), "z": np.uint8(128)}


def test_rounded_x_is_refused():
    arrays = arrays_of(RNG, I, N)
    nodes = [*rounding("r", "X"), helper.make_node("Identity", ["r"], ["x"]), node_of(arrays, x="x")]
    model = model_of(nodes, [*tensors(arrays), *tensors(SCALE)], opset=OPSET)
    message = "X of the LSTM 'lstm': wanted its values as they are; got DequantizeLinear 'dq_r', which rounds them"
    with pytest.raises(WeightsFileError, match=f"{message}.*export the model before it is quantised"):
        convert.from_onnx(model)


@pytest.mark.parametrize("state", ["initial_h", "initial_c"])
def test_rounded_states_are_refused(state):
    arrays = arrays_of(RNG, I, N)
    node = node_of(arrays, given=["initial_h", "initial_c"])
    other = ({"initial_h", "initial_c"} - {state}).pop()
    model = model_of(
        [*rounding(state, "h"), node], [*tensors(arrays), *tensors(SCALE)], inputs=["X", "h", other], opset=OPSET
    )
    with pytest.raises(WeightsFileError, match=f"{state} of the LSTM 'lstm': .*DequantizeLinear 'dq_{state}'"):
        convert.from_onnx(model)


def test_rounding_between_layers_is_refused():
    first, second = arrays_of(RNG, I, N), arrays_of(RNG, N, N)
    squeeze = helper.make_node("Squeeze", ["Y", "one"], ["y"])
    nodes = [node_of(first), squeeze, *rounding("r", "y"), node_of(second, x="r", suffix="_1", name="upper")]
    constants = [*tensors(first), *tensors(second, "_1"), *tensors(SCALE), *tensors({"one": np.array([1])})]
    model = model_of(nodes, constants, outputs=["Y_1"], opset=OPSET)
    with pytest.raises(WeightsFileError, match="'upper' reads the output of DequantizeLinear 'dq_r'"):
        convert.from_onnx(model)
    with pytest.raises(WeightsFileError, match="X of the LSTM 'upper': .*which rounds them to integers"):
        convert.from_onnx(model, name="upper")
    assert convert.from_onnx(model, name="lstm").num_layers == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s": np.ones(3, np.float32)}, r"wanted a zero point of the scale's shape \(3,\); got shape \(\)"),
        (
            {"s": np.ones(3, np.float32), "z": np.zeros(3, np.int8)},
            r"wanted one scale, or 16 for axis 1 of .*; got shape \(3,\)",
        ),
        ({"z": np.zeros((), np.uint8)}, "wanted a zero point of dtype int8; got uint8"),
        ({"q": np.zeros((1, 16, 3), np.int64)}, "wanted integers of 8, 16 or 32 bits; got int64"),
        (
            {"q": np.zeros((1, 16, 3), np.int32), "z": np.ones((), np.int32)},
            "wanted 0 as the zero point of int32; got another number",
        ),
        ({"s": np.ones((), np.int32)}, "wanted a scale of floats; got int32"),
    ],
)
def test_wrong_scales_are_refused(change, message):
    arrays = arrays_of(RNG, I, N)
    parts = {"q": np.ones((1, 16, 3), np.int8), "s": np.ones((), np.float32), "z": np.zeros((), np.int8)} | change
    node = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["W"], "dq")
    stored = [*tensors({"R": arrays["R"], "B": arrays["B"]}), *tensors(parts)]
    with pytest.raises(WeightsFileError, match=f"W of the LSTM 'lstm': DequantizeLinear 'dq': {message}"):
        convert.from_onnx(model_of([node, node_of(arrays)], stored, opset=OPSET))


def test_integers_alone_are_refused():
    arrays = arrays_of(RNG, I, N)
    stored = tensors(arrays | {"W": np.ones((1, 16, 3), np.int8)})
    with pytest.raises(WeightsFileError, match="got INT8"):
        convert.from_onnx(model_of([node_of(arrays)], stored, opset=OPSET))


def test_integers_as_numbers_beyond_their_limits():
    """A tensor may hold int8 in 32 bits each."""
    arrays = arrays_of(RNG, I, N)
    stored = {tensor.name: tensor for tensor in tensors(arrays | {"q": np.ones((1, 16, 3), np.int8)} | SCALE)}
    stored["z"] = numpy_helper.from_array(np.int8(0), "z")
    stored["q"].ClearField("raw_data")
    stored["q"].int32_data.extend([7] * 48)
    node = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["W"], "dq")
    model = model_of([node, node_of(arrays)], [one for name, one in stored.items() if name != "W"], opset=OPSET)
    assert convert.from_onnx(model).layers[0].weight_ih[0, 0] == np.float32(7) * np.float32(0.1)
    next(one for one in model.graph.initializer if one.name == "q").int32_data[0] = 300
    with pytest.raises(WeightsFileError, match="values within the limits of int8; got one beyond them"):
        convert.from_onnx(model)
