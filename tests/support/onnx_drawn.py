"""Draw ONNX models of up to four LSTMs, with identities and other operators, skips, siblings, branches and states."""

import itertools
from dataclasses import dataclass, field

import numpy as np

from support.onnx_models import arrays_of, helper, numpy_helper, onnx

B, N = 3, 4
FLOAT, INT32, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.BOOL
PARTS = ("X", "Y", "Y_h", "Y_c")
IDENTITIES = ["Identity", "Dropout", "Dropout False", "Cast", "Transposes", "Unsqueeze", "Reshape", "function", "If"]
OTHERS = [
    *("Relu", "LayerNormalization", "Mul 1", "Add 0", "Cast float16", "Clip", "skip", "sibling", "Y_h", "mixed"),
    *(
        "exchanged",
        "reversed",
        "Slice",
        "AveragePool",
        "Concat",
        "Where",
        "Dropout True",
        "lengths",
        "direction",
        "If Relu",
    ),
]
# Kinds of initial states, with the chance of each.
STATES = {
    "none": 8,
    "zero": 2,
    "zeros of shape": 3,
    "input": 3,
    "computed": 1,
    "constant": 1,
    "rows": 1,
    "Expand": 1,
    "Tile": 1,
}
LENGTHS = {"none": 6, "input": 2, "full": 1, "full of shape": 1, "short": 1}


@dataclass
class Layer:
    """An LSTM of a drawn model, with the names of its inputs and outputs in the model's graph."""

    labels: list[str]
    values: dict[str, str]
    states: list[dict[str, tuple[str, str]]]  # for each branch, initial_h and initial_c: kind and value's name
    lengths: tuple[str, str]
    runs: dict[str, set[int]] = field(default_factory=dict)  # in which branches each label runs; in all by default
    turned: bool = False  # whether it reads the steps in an order that is reversed from that of the first layer

    def branches_of(self, names, constant):
        """Return the branches in which the named nodes run. A constant state is that of the first name."""
        labels = [label for label in names or self.labels if label in self.labels]
        if constant is not None and names is not None and len(self.labels) == 2:
            return {self.labels.index(labels[0])}
        return set().union(*(self.runs.get(label, {0, 1}) for label in labels))


@dataclass
class Drawn:
    """Draws a model."""

    rng: np.random.Generator
    nodes: list = field(default_factory=list)
    constants: list = field(default_factory=list)
    inputs: dict = field(default_factory=dict)
    layers: list = field(default_factory=list)
    feeds: dict = field(default_factory=dict)
    has_if: bool = False
    is_faithful: bool = True  # whether all operators between layers are identities, or turn around one direction
    turned: bool = False
    count: int = 0

    def chance(self, p):
        return self.rng.random() < p

    def new(self, stem="v"):
        self.count += 1
        return f"{stem}{self.count}"

    def constant(self, array):
        name = self.new("k")
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op, inputs, outputs=1, **attributes):
        names = [self.new() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=self.new(f"{op.lower()}_"), **attributes))
        return names[0] if outputs == 1 else names

    def input(self, name, array, dims=None):
        if name not in self.inputs:
            kind = {"f": FLOAT, "i": INT32, "b": BOOL}[array.dtype.kind]
            self.inputs[name] = helper.make_tensor_value_info(name, kind, array.shape if dims is None else dims)
            self.feeds[name] = array
        return name

    def condition(self):
        self.has_if = True
        return self.input("condition", np.array(True))

    # -- the model

    def draw(self):
        rng = self.rng
        self.T = int(rng.integers(3, 6))
        self.D = int(self.chance(0.3)) + 1
        self.direction = "bidirectional" if self.D == 2 else str(rng.choice(["forward", "forward", "reverse"]))
        self.is_fixed = self.chance(0.3)
        self.lens_kind = str(rng.choice(list(LENGTHS), p=shares(LENGTHS)))
        self.is_stateful = self.chance(0.5)
        dims = [self.T, B, N] if self.is_fixed else ["T", "B", N]
        x = np.asarray(rng.normal(size=(self.T, B, N)), np.float32)
        if self.chance(0.3):  # as an LSTM with batch_first is exported
            name = self.input("x", x.swapaxes(0, 1), [dims[1], dims[0], dims[2]])
            self.current, self.width = self.node("Transpose", [name], perm=[1, 0, 2]), N
        else:
            self.current, self.width = self.input("x", x, dims), N
        self.first = self.current
        self.count_of = int(rng.choice([1, 2, 3, 4], p=[0.2, 0.4, 0.25, 0.15]))
        whole = self.chance(0.12)
        if whole:
            self.branches()
        else:
            for k in range(self.count_of):
                if k:
                    self.between()
                self.layer()
        if self.chance(0.3):
            self.current = self.node("Relu", [self.current])
        if self.chance(0.2) and self.nodes:
            self.current = self.node("Sigmoid", [self.current])
        return self.model()

    def model(self):
        same = helper.make_function(
            "own", "Same", ["a"], ["b"], [helper.make_node("Identity", ["a"], ["b"])], [helper.make_opsetid("", 17)]
        )
        taps = [name for layer in self.layers for name in layer.values.values()]
        taps += [name for layer in self.layers for states in layer.states for _, name in states.values() if name]
        taps += [layer.lengths[1] for layer in self.layers if layer.lengths[1]]
        made = {name for node in self.nodes for name in node.output}
        outputs = [onnx.ValueInfoProto(name=name) for name in dict.fromkeys([self.current, *taps]) if name in made]
        graph = helper.make_graph(self.nodes, "drawn", list(self.inputs.values()), outputs, self.constants)
        operators = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        return helper.make_model(graph, opset_imports=operators, ir_version=8, functions=[same])

    # -- layers

    def layer(self):
        """Add one LSTM, in the graph itself, in both branches of an If, or in one."""
        place = str(self.rng.choice(["graph", "both", "unequal", "one"], p=[0.8, 0.12, 0.04, 0.04]))
        weights, attributes = self.weights(self.width)
        if place == "graph":
            nodes, layer = self.lstm(self.current, weights, attributes)
            self.nodes += nodes
        else:
            layer = self.in_branches(place, weights, attributes)
        self.layers.append(layer)
        self.current, self.width = self.moved(layer.values["Y"]), N * self.D

    def weights(self, width):
        arrays = arrays_of(self.rng, width, N, self.D, bias=self.chance(0.7), peephole=self.chance(0.2))
        attributes = {"hidden_size": N, "direction": self.direction}
        if self.chance(0.15):
            attributes["clip"] = 0.7
        if self.chance(0.15):
            attributes["input_forget"] = 1
        if self.chance(0.15):
            attributes["activations"] = ["HardSigmoid", "Softsign", "Tanh"] * self.D
        return {name: self.constant(array) for name, array in arrays.items()}, attributes

    def lstm(self, x, weights, attributes, states=None):
        """Return a node and its layer."""
        label = self.new("L") if self.chance(0.8) else ""
        values = {name: self.new() for name in PARTS[1:]} | {"X": x}
        states = {part: self.state(part) for part in ("initial_h", "initial_c")} if states is None else states
        kind, lengths = self.lengths()
        given = weights | {part: name for part, (_, name) in states.items()} | {"sequence_lens": lengths}
        inputs = [x, *(given.get(name, "") for name in ("W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"))]
        node = helper.make_node("LSTM", inputs, [values[name] for name in PARTS[1:]], label, **attributes)
        return [node], Layer([label or values["Y"]], values, [states, states], (kind, lengths), turned=self.turned)

    def in_branches(self, place, weights, attributes):
        """Add an LSTM in both branches of an If (with different weights if "unequal"), or in only one."""
        x, graphs, layers = self.current, [], []
        if place != "both":
            self.is_faithful = False
        for branch in range(2):
            if place == "one" and branch:
                inner, names = self.no_lstm(x)
            else:
                own = weights
                if branch and self.chance(0.5):  # equal constants, but separate ones
                    by_name = {tensor.name: tensor for tensor in self.constants}
                    own = {k: self.constant(numpy_helper.to_array(by_name[name])) for k, name in weights.items()}
                if branch and place == "unequal":
                    own, attributes = self.weights(self.width)
                no_state = dict.fromkeys(("initial_h", "initial_c"), ("none", ""))
                inner, layer = self.lstm(x, own, attributes, no_state if self.chance(0.5) else None)
                layers.append(layer)
                names = [layer.values[name] for name in PARTS[1:]]
            outputs = [onnx.ValueInfoProto(name=name) for name in names]
            graphs.append(helper.make_graph(inner, "branch", [], outputs))
        made = self.node("If", [self.condition()], 3, then_branch=graphs[0], else_branch=graphs[1])
        labels = [label for layer in layers for label in layer.labels]
        states = [layer.states[0] for layer in layers]
        values = dict(zip(PARTS[1:], made, strict=True)) | {"X": x}
        runs = {} if place == "both" else {label: {branch} for branch, label in enumerate(labels)}
        return Layer(labels, values, (states * 2)[:2], layers[0].lengths, runs, self.turned)

    def no_lstm(self, x):
        """Add a stand-in for an LSTM to a branch: part of its input as Y, and zeros as states."""
        first, some, last, axis = (self.constant(np.array([number])) for number in (0, N, 2, 1))
        nodes = [
            helper.make_node("Slice", [x, first, some, last], [self.new()]),
            helper.make_node("Unsqueeze", ["", axis], [self.new()]),
            helper.make_node("Concat", [""] * self.D, [self.new()], axis=1),
        ]
        for below, node in itertools.pairwise(nodes):
            for index, name in enumerate(node.input):
                node.input[index] = name or below.output[0]
        zeros = self.constant(np.zeros((self.D, B, N), np.float32))
        nodes += [helper.make_node("Identity", [zeros], [self.new()]) for _ in range(2)]
        return nodes, [node.output[0] for node in nodes[2:]]

    def branches(self):
        """Add a whole stack to each branch of an If, with equal weights."""
        weights = [self.weights(N if k == 0 else N * self.D) for k in range(self.count_of)]
        self.lens_kind = "none"
        graphs, records = [], []
        for _ in range(2):
            outside, self.nodes, x, own, names = self.nodes, [], self.current, [], []
            for arrays, attributes in weights:
                nodes, layer = self.lstm(x, arrays, attributes, dict.fromkeys(("initial_h", "initial_c"), ("none", "")))
                self.nodes += [helper.make_node("Identity", [x], [self.new("tap")])]
                names.append(self.nodes[-1].output[0])
                self.nodes += nodes
                x = self.moved(layer.values["Y"])
                own.append(layer)
                names += [layer.values[name] for name in PARTS[1:]]
            inner, self.nodes = self.nodes, outside
            records.append(own)
            outputs = [onnx.ValueInfoProto(name=name) for name in [*names, x]]
            graphs.append(helper.make_graph(inner, "branch", [], outputs))
        count = 4 * self.count_of + 1
        made = self.node("If", [self.condition()], count, then_branch=graphs[0], else_branch=graphs[1])
        for k, (one, other) in enumerate(zip(*records, strict=True)):
            values = dict(zip(PARTS, made[4 * k : 4 * k + 4], strict=True))
            self.layers.append(Layer([*one.labels, *other.labels], values, [one.states[0]] * 2, one.lengths))
        self.current, self.width = made[-1], N * self.D

    def state(self, part):
        """Return the kind and name of an initial state."""
        kind = str(self.rng.choice(list(STATES), p=shares(STATES))) if self.is_stateful else "none"
        D, rng = self.D, self.rng
        values = rng.uniform(-1, 1, (D, B, N)).astype(np.float32)
        row = values[:, :1]
        made = {
            "none": lambda: "",
            "input": lambda: self.state_input(values),
            "computed": lambda: self.node("Tanh", [self.state_input(values)]),
            "zero": lambda: self.constant(0 * values),
            "constant": lambda: self.constant(values),
            "rows": lambda: self.constant(np.repeat(row, B, 1)),
            "zeros of shape": lambda: self.node("ConstantOfShape", [self.shape_of_batch(D, N)]),
            "Expand": lambda: self.node("Expand", [self.constant(row), self.shape_of_batch(1, 1)]),
            "Tile": lambda: self.node("Tile", [self.constant(row), self.shape_of_batch(1, 1)]),
        }
        return kind, made[kind]()

    def state_input(self, values):
        return self.input(self.new("state"), values, [self.D, B if self.is_fixed else "B", N])

    def shape_of_batch(self, first, last):
        """Return the shape (first, B, last), with B from the model's input, as exporters write it."""
        shape = self.node("Shape", [self.first])
        index, axis = self.constant(np.array(1)), self.constant(np.array([0]))
        number = self.node("Unsqueeze", [self.node("Gather", [shape, index]), axis])
        return self.node("Concat", [self.constant(np.array([first])), number, self.constant(np.array([last]))], axis=0)

    def lengths(self):
        """Return the kind and name of sequence_lens, the same in the whole model."""
        kind = self.lens_kind
        if kind == "none":
            return kind, ""
        if kind == "input":
            lengths = self.rng.integers(1, self.T + 1, B).astype(np.int32)
            return kind, self.input("lengths", lengths, [B if self.is_fixed else "B"])
        if kind == "full of shape":
            shape = self.node("Shape", [self.first])
            T, batch = (self.node("Gather", [shape, self.constant(np.array([index]))]) for index in (0, 1))
            return kind, self.node("Cast", [self.node("Expand", [T, batch])], to=INT32)
        steps = self.T if kind == "full" else max(self.T - 1, 1)
        return kind, self.constant(np.full(B, steps, np.int32))

    def moved(self, Y):
        """Return Y as (T, B, D N), as exporters write it."""
        how = int(self.rng.integers(4))
        if self.D == 1 and how < 2:
            return (
                self.node("Squeeze", [Y, self.constant(np.array([1]))])
                if how
                else self.node("Reshape", [Y, self.constant(np.array([0, -1, N]))])
            )
        if self.D == 2 and how == 0:  # as tf2onnx writes both directions
            parts = [self.slice(Y, d, 1) for d in range(2)]
            return self.node("Concat", [self.node("Squeeze", [p, self.constant(np.array([1]))]) for p in parts], axis=2)
        rows = self.node("Transpose", [Y], perm=[0, 2, 1, 3])
        if self.D == 1 and how == 2:
            return self.node("Squeeze", [rows, self.constant(np.array([2]))])
        return self.node("Reshape", [rows, self.merged_shape(rows, how)], allowzero=int(how == 2 and self.is_fixed))

    def merged_shape(self, rows, how):
        """Return the shape for a Reshape to (T, B, D N): constants, or computed from the shape of (T, B, D, N)."""
        if how == 2 and self.is_fixed:
            return self.constant(np.array([self.T, -1, self.D * N]))
        if how < 3:
            return self.constant(np.array([0, 0, -1]))
        first = self.slice(self.node("Shape", [rows]), 0, 0, 2)
        return self.node("Concat", [first, self.constant(np.array([-1]))], axis=0)

    def slice(self, value, start, axis, count=1):
        numbers = [self.constant(np.array([number])) for number in (start, start + count, axis)]
        return self.node("Slice", [value, *numbers])

    # -- operators between layers

    def between(self):
        kinds = list(self.rng.choice(IDENTITIES, int(self.rng.integers(0, 3))))
        if self.chance(0.35):
            kinds.insert(int(self.rng.integers(0, len(kinds) + 1)), str(self.rng.choice(OTHERS)))
        for kind in kinds:
            turns = kind in ("reversed", "direction") and self.D == 1 and self.lens_kind == "none"
            if kind in OTHERS and not turns:
                self.is_faithful = False
            self.current = self.put(str(kind), self.current)

    def put(self, kind, v):
        ones = np.ones(self.width, np.float32)
        plain = {
            "Identity": lambda: self.node("Identity", [v]),
            "Dropout": lambda: self.node("Dropout", [v]),
            "Dropout False": lambda: self.dropout(v, False),
            "Dropout True": lambda: self.dropout(v, True),
            "Cast": lambda: self.node("Cast", [self.node("Cast", [v], to=onnx.TensorProto.DOUBLE)], to=FLOAT),
            "Cast float16": lambda: self.node("Cast", [self.node("Cast", [v], to=onnx.TensorProto.FLOAT16)], to=FLOAT),
            "Transposes": lambda: self.node("Transpose", [self.node("Transpose", [v], perm=[2, 0, 1])], perm=[1, 2, 0]),
            "Reshape": lambda: self.node("Reshape", [v, self.constant(np.array([0, 0, -1]))]),
            "function": lambda: self.node("Same", [v], domain="own"),
            "Relu": lambda: self.node("Relu", [v]),
            "LayerNormalization": lambda: self.node("LayerNormalization", [v, self.constant(ones)]),
            "Mul 1": lambda: self.node("Mul", [v, self.constant(np.float32(1.25))]),
            "Add 0": lambda: self.node("Add", [v, self.constant(np.float32(0.1))]),
            "Clip": lambda: self.node("Clip", [v, self.constant(np.float32(-0.1)), self.constant(np.float32(0.1))]),
            "exchanged": lambda: self.exchanged(v),
            "reversed": lambda: self.reversed(v),
            "AveragePool": lambda: self.node("AveragePool", [v], kernel_shape=[3], pads=[1, 1]),
            "Where": lambda: self.node("Where", [self.constant(ones > 0), v, self.constant(0 * ones)]),
            "If": lambda: self.choice(v, "Identity"),
            "If Relu": lambda: self.choice(v, "Relu"),
        }
        return plain[kind]() if kind in plain else getattr(self, f"put_{kind}".lower())(v)

    def put_slice(self, v):
        """Drop the first step, if there are no lengths."""
        if self.lens_kind != "none":
            return self.node("Relu", [v])
        self.T -= 1
        return self.slice(v, 1, 0, 99)

    def put_unsqueeze(self, v):
        axis = self.constant(np.array([int(self.rng.integers(0, 4))]))
        return self.node("Squeeze", [self.node("Unsqueeze", [v, axis]), axis])

    def put_skip(self, v):
        below = self.layers[-1].values["X"]
        same = self.width == (N if len(self.layers) == 1 else N * self.D)
        return self.node("Add", [v, below]) if same and self.lens_kind == "none" else self.node("Add", [v, v])

    def put_sibling(self, v):
        del v
        self.width, self.turned = N, False
        return self.first

    def put_y_h(self, v):
        """Replace the output by the final state, as one step."""
        if self.D == 2 or self.lens_kind != "none":
            return self.node("Relu", [v])
        self.T = 1
        return self.layers[-1].values["Y_h"]

    def put_mixed(self, v):
        """Mix steps and rows with a Reshape that keeps the sizes."""
        mixed = self.node("Transpose", [v], perm=[1, 0, 2])
        return self.node("Reshape", [mixed, self.constant(np.array([-1, B, self.width]))])

    def exchanged(self, v):
        if self.lens_kind != "none" or self.is_stateful:
            return self.put_mixed(v)
        return self.node("Transpose", [v], perm=[1, 0, 2])

    def put_concat(self, v):
        self.width *= 2
        return self.node("Concat", [v, v], axis=2)

    def put_lengths(self, v):
        """Use different lengths from here on."""
        self.lens_kind = "short" if self.lens_kind in ("none", "full") else "none"
        return v

    def put_direction(self, v):
        if self.D == 1:
            self.direction = "forward" if self.direction == "reverse" else "reverse"
            return v
        return self.reversed(v)

    def reversed(self, v):
        self.turned = not self.turned
        numbers = [self.constant(np.array([number])) for number in (-1, -(2**62), 0, -1)]
        return self.node("Slice", [v, *numbers])

    def dropout(self, v, training):
        return self.node("Dropout", [v, self.constant(np.float32(0.5)), self.constant(np.array(training))])

    def choice(self, v, op):
        """Choose between two branches. The first is an identity."""
        graphs = []
        for each in ("Identity", op):
            name = self.new()
            graphs.append(
                helper.make_graph([helper.make_node(each, [v], [name])], "g", [], [onnx.ValueInfoProto(name=name)])
            )
        return self.node("If", [self.condition()], then_branch=graphs[0], else_branch=graphs[1])


def shares(weights):
    numbers = np.array(list(weights.values()), float)
    return numbers / numbers.sum()
