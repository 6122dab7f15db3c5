"""Weights of several layers: checked together, and kept in one file."""

import json
import pickle
import struct

import numpy as np
import pytest

from fusedlstm import LSTMWeights, StackedWeights, WeightsFileError, files
from fusedlstm.stacked import load_weights
from fusedlstm.weights import DEFAULTS

from support.places import DATA

V1_LAST_ROW = [-0.328125, 0.07861328125, 0.349609375, 0.034423828125, 0.15234375]
VERSION_1 = DATA / "stacked_v1.safetensors"
DTYPES = ["float64", "float32", "float16", "bfloat16"]


def layer(I=3, N=4, seed=0, **options):
    return LSTMWeights.random(I, N, seed=seed, **options)


def mixed(dtype="float32"):
    """Return three layers that differ in everything they may. The upper two are residual."""
    layers = [
        layer(3, 5, 1, proj_size=4, proj_clip=0.5, dtype=dtype),
        layer(4, 4, 2, peephole=True, cell_clip=0.0, dtype=dtype),
        layer(4, 7, 3, proj_size=4, bias=False, activation="elu", dtype=dtype),
    ]
    return StackedWeights(layers, residual=[False, True, True])


def both_ways(dtype="float32"):
    """Return two layers of two directions, with different sizes."""
    sizes = ((3, 4), (3, 5), (9, 6), (9, 2))
    return StackedWeights([layer(I, N, N, dtype=dtype) for I, N in sizes], bidirectional=True)


def all_ways(dtype="float32"):
    """Return both directions under a backward and a forward layer, the last of which is residual."""
    sizes = ((3, 4), (3, 5), (9, 6), (6, 6))
    layers = [layer(I, N, N, dtype=dtype) for I, N in sizes]
    return StackedWeights(layers, directions=["both", "backward", "forward"], residual=[False, False, True])


def assert_equal(a, b):
    assert (a.directions, a.residual) == (b.directions, b.residual)
    for ours, theirs in zip(a.layers, b.layers, strict=True):
        assert ours.options() == theirs.options()
        assert ours.arrays().keys() == theirs.arrays().keys()
        for name, array in ours.arrays().items():
            assert array.dtype == getattr(theirs, name).dtype
            assert array.tobytes() == getattr(theirs, name).tobytes(), name


def test_sizes():
    weights = mixed()
    assert isinstance(weights.layers, tuple)
    assert (weights.num_layers, weights.num_directions, weights.bidirectional) == (3, 1, False)
    assert (weights.input_size, weights.output_size, weights.dtype) == (3, 4, np.float32)
    assert weights.residual == (False, True, True)


def test_sizes_of_both_directions():
    weights = both_ways()
    assert (weights.num_layers, weights.num_directions, weights.bidirectional) == (2, 2, True)
    assert (weights.input_size, weights.output_size, weights.residual) == (3, 8, (False, False))


def test_mixed_directions():
    weights = all_ways()
    assert (weights.num_layers, weights.input_size, weights.output_size) == (3, 3, 6)
    assert (weights.bidirectional, weights.is_causal) == (False, False)
    assert weights.directions == ("both", "backward", "forward")
    assert weights.slices == (slice(0, 2), slice(2, 3), slice(3, 4))
    assert weights.backward == (False, True, True, False)
    with pytest.raises(ValueError, match="num_directions: wanted .*; got both, backward, forward"):
        _ = weights.num_directions


def test_equal_directions_in_other_words():
    one, other = layer(4, 4), layer(4, 4, 1)
    both = StackedWeights([one, other], directions=["both"])
    assert_equal(both, StackedWeights([one, other], bidirectional=True))
    assert both.bidirectional
    plain = StackedWeights([one, other], directions=("forward", "forward"))
    assert_equal(plain, StackedWeights([one, other]))
    assert (plain.is_causal, plain.num_directions) == (True, 1)
    back = StackedWeights([one, other], directions=["backward"] * 2)
    assert (back.is_causal, back.bidirectional, back.num_directions, back.num_layers) == (False, False, 1, 2)


def test_one_layer_and_one_bool_for_all():
    one = layer(4, 4)
    assert StackedWeights([one]).layers == (one,)
    assert StackedWeights((one, one), residual=np.True_).residual == (True, True)
    assert StackedWeights([one, one], bidirectional=True, residual=True).residual == (True,)


def test_repr():
    one, other = layer(4, 4), layer(4, 4, activation="relu")
    a, b = "LSTMWeights(I=4, N=4, float32, bias)", "LSTMWeights(I=4, N=4, float32, bias, activation=relu)"
    assert repr(StackedWeights([one, other])) == f"StackedWeights([{a}, {b}])"
    assert repr(StackedWeights([one, other], residual=True)) == f"StackedWeights([{a}, {b}], residual=True)"
    some = StackedWeights([one, other], residual=[False, True])
    assert repr(some) == f"StackedWeights([{a}, {b}], residual=(False, True))"
    both = StackedWeights([one, other], bidirectional=True)
    assert repr(both) == f"StackedWeights([{a}, {b}], bidirectional=True)"
    turned = StackedWeights([one, other], directions=["backward", "forward"])
    assert repr(turned) == f"StackedWeights([{a}, {b}], directions=['backward', 'forward'])"


def test_immutable():
    given = [layer()]
    weights = StackedWeights(given)
    given.append(layer(4, 4))
    assert weights.num_layers == 1
    for name in ("layers", "bidirectional", "directions", "residual"):
        with pytest.raises(AttributeError):
            setattr(weights, name, None)


@pytest.mark.parametrize("weights", [mixed(), both_ways("bfloat16"), all_ways()])
def test_pickle(weights):
    copy = pickle.loads(pickle.dumps(weights))
    assert_equal(copy, weights)
    assert not copy.layers[0].weight_ih.flags.writeable


def test_astype():
    weights = mixed("float64")
    half = weights.astype("float16")
    assert [one.dtype for one in half.layers] == [np.float16] * 3
    assert_equal(half, StackedWeights([one.astype("float16") for one in weights.layers], residual=weights.residual))
    assert weights.astype(np.float64) is weights
    assert both_ways().astype("float64").bidirectional
    assert all_ways().astype("float64").directions == all_ways().directions
    with pytest.raises(TypeError, match="dtype: wanted one of float64"):
        weights.astype("int32")


@pytest.mark.parametrize(
    ("layers", "options", "error", "message"),
    [
        (layer(), {}, TypeError, r"layers: .* got one LSTMWeights\. Use StackedWeights\(\[weights\]\)"),
        (None, {}, TypeError, "layers: wanted a sequence of LSTMWeights; got None"),
        ("weights", {}, TypeError, "layers: .*got str"),
        (iter([layer()]), {}, TypeError, "layers: .*got list_iterator"),
        ([], {}, ValueError, "layers: wanted at least one LSTMWeights; got none"),
        ([layer(), 3], {}, TypeError, r"layers\[1\]: wanted an LSTMWeights; got int"),
        ([layer(), None], {"bidirectional": True}, TypeError, r"layers\[1\] \(layer 0, backward\): .* got None"),
        ([StackedWeights([layer()])], {}, TypeError, r"layers\[0\]: .*StackedWeights"),
        ([layer()], {"bidirectional": True}, ValueError, "layers: wanted an even number .*; got 1"),
        (
            [layer(), layer(4, 4, dtype="float64")],
            {},
            TypeError,
            r"layers\[1\]: wanted dtype float32 \(that of layers\[0\]\); got dtype float64\. "
            r'Use layers\[1\]\.astype\("float32"\)',
        ),
        ([layer(), layer(4, 5), layer(4, 4)], {}, ValueError, r"layers\[2\]: wanted input_size 5 .*layer 1.*; got 4"),
        ([layer(3, 4, proj_size=2), layer(4, 4)], {}, ValueError, r"layers\[1\]: wanted input_size 2 "),
        (
            [layer(3, 4), layer(2, 4)],
            {"bidirectional": True},
            ValueError,
            r"layers\[1\] \(layer 0, backward\): wanted input_size 3 \(that of layers\[0\]\); got 2",
        ),
        (
            [layer(3, 4), layer(3, 5), layer(9, 1), layer(8, 1)],
            {"bidirectional": True},
            ValueError,
            r"layers\[3\] \(layer 1, backward\): wanted input_size 9 \(the width of layer 0's output\); got 8",
        ),
        ([layer()], {"residual": True}, ValueError, r"layers\[0\]: wanted output_size 3 .*residual\); got 4"),
        (
            [layer(4, 4), layer(4, 4, proj_size=3)],
            {"residual": [True, True]},
            ValueError,
            r"layers\[1\]: wanted output_size 4 .*; got 3",
        ),
        (
            [layer(4, 4), layer(4, 5)],
            {"bidirectional": True, "residual": True},
            ValueError,
            r"layers\[1\] \(layer 0, backward\): wanted output_size 4 .*; got 5",
        ),
        ([layer()], {"bidirectional": 1}, TypeError, "bidirectional: wanted a bool; got int"),
        ([layer()], {"residual": None}, TypeError, "residual: wanted a bool, or a sequence .*; got None"),
        ([layer()], {"residual": [0]}, TypeError, r"residual\[0\]: wanted a bool; got int"),
        ([layer()], {"residual": [True] * 2}, ValueError, "residual: wanted one bool for each of 1 layers; got 2"),
        ([layer()] * 2, {"residual": [False] * 2, "bidirectional": True}, ValueError, "residual: .* 1 layers"),
        ([layer()], {"directions": "backward"}, TypeError, "directions: wanted a sequence with one of .*; got str"),
        ([layer()], {"directions": 1}, TypeError, "directions: wanted a sequence .*; got int"),
        ([layer()], {"directions": ["reverse"]}, ValueError, r"directions\[0\]: wanted one of 'forward', .*'reverse'"),
        ([layer()], {"directions": [None]}, ValueError, r"directions\[0\]: wanted one of .*; got None"),
        ([layer()], {"directions": []}, ValueError, "layers: wanted 0 for these directions.*; got 1"),
        (
            [layer()] * 2,
            {"directions": ["forward", "both"]},
            ValueError,
            "layers: wanted 3 for these directions: two for each 'both', else one; got 2",
        ),
        (
            [layer()] * 2,
            {"directions": ["both"], "bidirectional": True},
            ValueError,
            "bidirectional: wanted False with directions, .*; got True",
        ),
        (
            [layer(3, 4), layer(3, 4), layer(4, 4)],
            {"directions": ["both", "backward"]},
            ValueError,
            r"layers\[2\] \(layer 1, backward\): wanted input_size 8 \(the width of layer 0's output\); got 4",
        ),
        (
            [layer(3, 4), layer(4, 4), layer(8, 4)],
            {"directions": ["forward", "both"]},
            ValueError,
            r"layers\[2\] \(layer 1, backward\): wanted input_size 4 ",
        ),
        (
            [layer(4, 4), layer(4, 2), layer(4, 2)],
            {"directions": ["forward", "both"], "residual": [True, True]},
            ValueError,
            r"layers\[1\] \(layer 1, forward\): wanted output_size 4 ",
        ),
        (
            [layer(4, 4), layer(4, 4), 3],
            {"directions": ["forward", "both"]},
            TypeError,
            r"layers\[2\] \(layer 1, backward\): wanted an LSTMWeights; got int",
        ),
    ],
)
def test_bad_arguments(layers, options, error, message):
    with pytest.raises(error, match=message):
        StackedWeights(layers, **options)


def test_options_are_keyword_only():
    with pytest.raises(TypeError):
        StackedWeights([layer()] * 2, True)


def test_random():
    weights = StackedWeights.random(
        5,
        8,
        2,
        seed=1,
        bidirectional=True,
        proj_size=3,
        peephole=True,
        forget_bias=1.0,
        cell_clip=2.0,
        proj_clip=1.0,
        activation="relu",
        output_activation="tanh",
        gate_activation=("hard_sigmoid", 0.2, 0.5),
        gate_clip=3.0,
        coupled_gate="input",
    )
    assert [one.input_size for one in weights.layers] == [5, 5, 6, 6]
    for one in weights.layers:
        assert (one.hidden_size, one.proj_size, one.dtype) == (8, 3, np.float32)
        assert one.options() == DEFAULTS | {
            "cell_clip": 2.0,
            "proj_clip": 1.0,
            "activation": "relu",
            "output_activation": "tanh",
            "gate_activation": ("hard_sigmoid", 0.2, 0.5),
            "gate_clip": 3.0,
            "coupled_gate": "input",
        }
        assert one.peephole is not None
        assert one.bias[8:16].min() > 0.5
    drawn = [one.weight_hh.tobytes() for one in weights.layers]
    assert len(set(drawn)) == 4, "layers and directions should differ"


def test_random_with_directions():
    directions = ["both", "backward", "forward"]
    weights = StackedWeights.random(5, 4, 3, seed=0, directions=directions, proj_size=3)
    assert weights.directions == tuple(directions)
    assert [one.input_size for one in weights.layers] == [5, 5, 6, 3]
    plain = StackedWeights.random(5, 4, 2, seed=0)
    turned = StackedWeights.random(5, 4, 2, seed=0, directions=["backward"] * 2)
    assert_equal(turned, StackedWeights(plain.layers, directions=["backward"] * 2))


def test_random_is_reproducible_by_seed():
    first, again, other = (StackedWeights.random(4, 4, 2, seed=s, residual=True, dtype="float64") for s in (7, 7, 8))
    assert first.residual == (True, True)
    assert_equal(first, again)
    assert not np.array_equal(first.layers[0].weight_ih, other.layers[0].weight_ih)
    assert_equal(first.astype("float16"), StackedWeights.random(4, 4, 2, seed=7, residual=True, dtype="float16"))
    assert StackedWeights.random(3, 4, seed=0, bias=False).layers[0].bias is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_layers": 0}, ValueError, "num_layers: wanted at least 1"),
        ({"num_layers": True}, TypeError, "num_layers: wanted an int"),
        ({"hidden_size": [4, 4]}, TypeError, "hidden_size: wanted an int; got list"),
        ({"input_size": -1}, ValueError, "input_size"),
        ({"bidirectional": None}, TypeError, "bidirectional: wanted a bool"),
        ({"directions": ["both"] * 2}, ValueError, r"directions: wanted one for each of 1 layers .*; got 2 of them"),
        ({"directions": ["up"]}, ValueError, r"directions\[0\]: wanted one of"),
        ({"directions": ["both"], "bidirectional": True}, ValueError, "bidirectional: wanted False"),
        ({"residual": True}, ValueError, r"layers\[0\]: wanted output_size 3"),
        ({"proj_clip": 1.0}, ValueError, "proj_clip"),
        ({"cell_clp": 1.0}, TypeError, r"StackedWeights\.random\(\) got an unexpected keyword argument 'cell_clp'"),
        ({"weight_hr": 1.0}, TypeError, r"StackedWeights\.random\(\) got an unexpected keyword argument"),
    ],
)
def test_random_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        StackedWeights.random(**{"input_size": 3, "hidden_size": 4, "seed": 0, **arguments})
    with pytest.raises(TypeError, match="seed"):
        StackedWeights.random(3, 4)


# Files.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [mixed, both_ways, all_ways])
def test_round_trip(make, dtype, tmp_path):
    weights, path = make(dtype), tmp_path / "w.safetensors"
    weights.save(path)
    assert_equal(StackedWeights.load(str(path)), weights)
    first = path.read_bytes()
    weights.save(path)
    assert path.read_bytes() == first, "equal weights should give equal bytes"


def test_more_than_ten_layers_keep_their_order(tmp_path):
    weights = StackedWeights.random(4, 4, 12, seed=0, residual=[False] * 11 + [True])
    weights.save(tmp_path / "w")
    assert_equal(StackedWeights.load(tmp_path / "w"), weights)


def test_names_in_the_file(tmp_path):
    """Other readers of safetensors find these names."""
    from safetensors.numpy import load_file

    weights = both_ways()
    weights.save(tmp_path / "w")
    arrays = load_file(tmp_path / "w")
    assert sorted(arrays) == sorted(f"{k}.{name}" for k in range(4) for name in ("weight_ih", "weight_hh", "bias"))
    np.testing.assert_array_equal(arrays["3.weight_hh"], weights.layers[3].weight_hh)


def test_version_1_still_loads():
    """The file was written by version 1, and must never be regenerated."""
    weights = StackedWeights.load(VERSION_1)
    assert repr(weights) == (
        "StackedWeights([LSTMWeights(I=3, N=4, P=2, bfloat16, bias, peephole, cell_clip=0.0), "
        "LSTMWeights(I=3, N=3, bfloat16, bias, activation=relu), "
        "LSTMWeights(I=5, N=5, bfloat16), LSTMWeights(I=5, N=5, bfloat16)], "
        "bidirectional=True, residual=(False, True))"
    )
    assert weights.layers[3].weight_hh[-1].astype(float).tolist() == V1_LAST_ROW


def test_one_cell_of_version_2_sets_the_version(tmp_path):
    path = tmp_path / "w"
    for layers, version in (([layer(4, 4)] * 2, 1), ([layer(4, 4), layer(4, 4, coupled_gate="input")], 2)):
        weights = StackedWeights(layers)
        weights.save(path)
        assert f'\\"version\\": {version}'.encode() in path.read_bytes()
        assert_equal(StackedWeights.load(path), weights)


@pytest.mark.parametrize(("directions", "version"), [(["forward"] * 2, 1), (["both"], 1), (["backward"] * 2, 4)])
def test_directions_set_the_version(directions, version, tmp_path):
    """What older readers know is written as before."""
    path = tmp_path / "w"
    weights = StackedWeights([layer(4, 4)] * 2, directions=directions)
    weights.save(path)
    content = path.read_bytes()
    assert f'\\"version\\": {version}'.encode() in content
    assert (b"directions" in content, b"bidirectional" in content) == (version == 4, version == 1)
    assert (b"zoneout_c" in content) == (version == 4)  # a cell's options are those of the file's version
    assert_equal(load_weights(path), weights)


def test_other_kinds_are_refused(tmp_path):
    layer().save(tmp_path / "one")
    mixed().save(tmp_path / "stack")
    with pytest.raises(WeightsFileError, match="one holds LSTMWeights, not StackedWeights"):
        StackedWeights.load(tmp_path / "one")
    with pytest.raises(WeightsFileError, match="stack holds StackedWeights, not LSTMWeights"):
        LSTMWeights.load(tmp_path / "stack")


@pytest.mark.nightly
def test_every_truncation_raises(tmp_path):
    path = tmp_path / "w"
    both_ways("float16").save(path)
    content = path.read_bytes()
    for kept in range(len(content)):
        path.write_bytes(content[:kept])
        with pytest.raises(WeightsFileError, match="truncated"):
            StackedWeights.load(path)


@pytest.mark.nightly
def test_every_flipped_byte_raises(tmp_path):
    path = tmp_path / "w"
    both_ways("float16").save(path)
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x15
        path.write_bytes(damaged)
        with pytest.raises(WeightsFileError):
            StackedWeights.load(path)


def parts(weights):
    """Return the arrays and options that `weights` are saved as."""
    arrays = {f"{k}.{name}": a for k, one in enumerate(weights.layers) for name, a in one.arrays().items()}
    options = [one.options() for one in weights.layers]
    return arrays, {"layers": options, "bidirectional": weights.bidirectional, "residual": list(weights.residual)}


def without(mapping, name):
    return {key: value for key, value in mapping.items() if key != name}


def directed(options, directions):
    return {**without(options, "bidirectional"), "directions": directions}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, o: (without(a, "1.weight_hh"), o), r"is damaged: layers\[1\]: .*weight_hh"),
        (lambda a, o: ({**a, "1.bais": np.zeros(3)}, o), r"is damaged: layers\[1\]: .*bais"),
        (lambda a, o: ({**a, "3.bias": np.zeros(3)}, o), r"is damaged: 3\.bias: wanted an array of one of 3 layers"),
        (lambda a, o: ({**a, "weight_ih": np.zeros(3)}, o), "is damaged: weight_ih: wanted an array of one of"),
        (lambda a, o: ({**a, "01.bias": np.zeros(3)}, o), r"is damaged: 01\.bias"),
        (lambda a, o: ({**a, "1.bias": np.zeros(3, "f4")}, o), r"is damaged: layers\[1\]: bias: wanted shape"),
        (lambda a, o: (a, without(o, "residual")), "is damaged: .*residual"),
        (lambda a, o: (a, {**o, "zoneout": 0}), "is damaged: .*zoneout"),
        (lambda a, o: (a, {**o, "layers": 3}), "is damaged: layers: wanted the options of each layer; got int"),
        (lambda a, o: (a, {**o, "layers": [None] * 3}), "is damaged: layers: wanted the options"),
        (lambda a, o: (a, {**o, "layers": o["layers"][:2]}), r"is damaged: 2\.\w+: wanted an array of one of 2"),
        (lambda a, o: (a, {**o, "layers": [{"activation": "gelu"}] * 3}), r"damaged: layers\[0\]: activation"),
        (lambda a, o: (a, {**o, "bidirectional": True}), "is damaged: layers: wanted an even number"),
        (lambda a, o: (a, {**o, "bidirectional": "no"}), "is damaged: bidirectional: wanted a bool"),
        (lambda a, o: (a, without(o, "bidirectional")), "is damaged: options: wanted bidirectional or .*; got neither"),
        (lambda a, o: (a, {**o, "directions": ["forward"] * 3}), "is damaged: options: wanted bidirectional or dir"),
        (
            lambda a, o: (a, directed(o, None)),
            "is damaged: options: wanted bidirectional or directions; got directions",
        ),
        (lambda a, o: (a, directed(o, ["both"] * 3)), "is damaged: layers: wanted 6 for these directions"),
        (lambda a, o: (a, directed(o, ["up"] * 3)), r"is damaged: directions\[0\]: wanted one of"),
        (lambda a, o: (a, directed(o, {"forward": 3})), "is damaged: directions: wanted a sequence"),
        (lambda a, o: (a, {**o, "residual": [True] * 3}), r"is damaged: layers\[0\]: wanted output_size"),
        (lambda a, o: ({}, {**o, "layers": []}), "is damaged: "),  # safetensors 0.4 can't read a file without arrays
    ],
)
def test_intact_files_of_bad_weights(change, message, tmp_path):
    """The checksums agree, but the content is not valid as weights."""
    files.save(tmp_path / "w", "StackedWeights", *change(*parts(mixed())))
    with pytest.raises(WeightsFileError, match=message):
        StackedWeights.load(tmp_path / "w")


def test_a_newer_version(tmp_path):
    path = tmp_path / "w"
    mixed().save(path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["fusedlstm"] = header["__metadata__"]["fusedlstm"].replace('"version": 1', '"version": 99')
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    with pytest.raises(WeightsFileError, match="is newer than this fusedlstm"):
        StackedWeights.load(path)


def test_either_kind_of_file(tmp_path):
    layer().save(tmp_path / "one")
    mixed().save(tmp_path / "stack")
    assert isinstance(load_weights(tmp_path / "one"), LSTMWeights)
    assert_equal(load_weights(tmp_path / "stack"), mixed())
    assert load_weights(tmp_path / "one").weight_hh.tobytes() == layer().weight_hh.tobytes()
    files.save(tmp_path / "gru", "GRUWeights", {"weight": np.zeros(1, "f4")}, {})
    with pytest.raises(WeightsFileError, match="gru holds GRUWeights, not LSTMWeights or StackedWeights"):
        load_weights(tmp_path / "gru")
    files.save(tmp_path / "empty", "LSTMWeights", {}, {})
    with pytest.raises(WeightsFileError, match="empty is damaged"):
        load_weights(tmp_path / "empty")
