"""Find LSTM cells among Flax's parameters, and read their weights."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusedlstm.convert.flax.layouts import LAYOUTS
from fusedlstm.convert.reading import read, refuse_unknown
from fusedlstm.convert.trees import flatten, names_below, scope_of
from fusedlstm.functions import check_function
from fusedlstm.validation.advice import fail_source
from fusedlstm.validation.arguments import describe_type, fail
from fusedlstm.weights import LSTMWeights

if TYPE_CHECKING:
    from fusedlstm.functions import Function

# A name that only one kind of cell has -> its layout.
_CELLS = {"if/kernel": "flax", "if_/kernel": "flax_nnx", "dense_i/kernel": "flax_dense"}
# Names in cells of other kinds. The order matters, as some cells share names.
_OTHERS = {
    "ih/kernel": "a ConvLSTMCell",
    "ir/kernel": "a GRUCell",
    "in/kernel": "an MGUCell",
    "i/kernel": "a SimpleCell",
    "dense_i/bias": "a GRUCell or SimpleCell",
}
DIRECTIONS = ("forward_rnn", "backward_rnn")  # of Bidirectional
_RNGS = "rngs"  # an nnx module's random number generators, which an LSTM's step doesn't use
# jax.nn's functions.
FUNCTIONS: dict[str, Function] = {
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "relu": "relu",
    "soft_sign": "softsign",
    "softplus": "softplus",
    "elu": "elu",
    "identity": "linear",
    "leaky_relu": ("leaky_relu", 0.01),
    "hard_sigmoid": ("hard_sigmoid", 1 / 6, 0.5),
}


class Tree:
    """All parameters of a model by name, and its functions as far as they are known."""

    def __init__(
        self, source: Any, activation: Function | None = None, gate_activation: Function | None = None
    ) -> None:
        self.module = source if _is_nnx_module(source) else None
        self.activation, self.gate_activation = activation, gate_activation
        self.rnns: list[str] = []  # the scopes of the RNNs that `find` found
        self.bidirectionals: list[str] = []
        if self.module is not None:
            from flax import nnx

            source = nnx.to_pure_dict(nnx.state(source, nnx.Param))
        if not isinstance(source, Mapping):
            wanted = "Flax parameters (nested mappings), an nnx.State or an nnx module"
            fail_source("source", wanted, source, converts=True)
        flat = flatten("source", source, "/")
        # Files may have names with dots. Before 0.11, nnx put an array into its parameter's "value".
        self.is_dotted = not any("/" in name for name in flat) and any("." in name for name in flat)
        self.everything = {self.slashed(name).removesuffix("/value"): value for name, value in flat.items()}

    def slashed(self, name: str) -> str:
        """Return a name or prefix with slashes for the dots of the source."""
        return name.replace(".", "/") if self.is_dotted else name

    def find(self, prefix: Any) -> tuple[list[list[str]], bool]:
        """Return the scopes of each layer's cells, one or two, and whether `prefix` names a cell."""
        if isinstance(prefix, str):
            layer, is_cell = self.layer(prefix or self.only())
            return [layer], is_cell
        if not isinstance(prefix, Sequence) or not prefix:
            fail(TypeError, "prefix", "a string, or a non-empty sequence", describe_type(prefix))
        layers = [self.both(one) for one in prefix]
        for index, layer in enumerate(layers):
            if len(layer) != len(layers[0]):
                wanted = f"{len(layers[0])} directions, as in prefix[0]"
                fail(ValueError, f"prefix[{index}]", wanted, str(len(layer)))
        return layers, False

    def only(self) -> str:
        """Return the scope of the only cell, RNN or Bidirectional; "" if there are several or none."""
        cells = [scope for scope, *_ in self.cells()]
        scopes = {scope.removesuffix("cell/") if _is_last("cell", scope) else scope for scope in cells}
        above = {scope.removesuffix(f"{name}/") for scope in scopes for name in DIRECTIONS if _is_last(name, scope)}
        if len(above) == 1 and scopes == {f"{both}{name}/" for both in above for name in DIRECTIONS}:
            scopes = above
        return scopes.pop() if len(scopes) == 1 else ""

    def both(self, prefix: Any) -> list[str]:
        """Return the scopes of one layer's cells, for a prefix or a pair of them."""
        if isinstance(prefix, str):
            return self.layer(prefix)[0]
        if not isinstance(prefix, Sequence) or len(prefix) != 2 or not all(isinstance(one, str) for one in prefix):
            fail(TypeError, "prefix", "strings, or pairs of them for both directions", repr(prefix))
        scopes = [self.layer(one)[0] for one in prefix]
        if any(len(scope) != 1 for scope in scopes):
            fail(ValueError, "prefix", "one direction at each prefix of a pair", repr(prefix))
        return [scope[0] for scope in scopes]

    def layer(self, prefix: str) -> tuple[list[str], bool]:
        """Return the scopes of the cells in a cell, an RNN or a Bidirectional, and whether it is a cell."""
        scope = scope_of(self.slashed(prefix), "/")
        if scope and not names_below(self.everything, scope):
            scope = f"params/{scope}"
        elif not scope and names_below(self.everything, "params/"):
            scope = "params/"
        parts = {name.partition("/")[0] for name in names_below(self.everything, scope)}
        if set(DIRECTIONS) <= parts:
            if others := sorted(parts - {*DIRECTIONS, _RNGS}):
                hint = f"Give prefix=[({', '.join(repr(scope + one) for one in DIRECTIONS)})] for both directions only"
                fail(ValueError, "source", f"nothing but both directions at {scope!r}", ", ".join(others[:4]), hint)
            self.bidirectionals.append(scope)
            return [self.rnn(f"{scope}{direction}/") for direction in DIRECTIONS], False
        return ([self.rnn(scope)], False) if "cell" in parts else ([scope], True)

    def rnn(self, scope: str) -> str:
        """Return the scope of an RNN's cell."""
        self.rnns.append(scope)
        return f"{scope}cell/"

    def layout(self, scope: str) -> str:
        """Return the name of the layout of the cell at a scope, or raise if there is none."""
        names = names_below(self.everything, scope)
        for name, kind in _OTHERS.items():
            if name in names:
                fail(ValueError, "source", "an LSTMCell or OptimizedLSTMCell", f"{kind} at {scope!r}")
        layout = next((layout for name, layout in _CELLS.items() if name in names), None)
        if layout is None:
            found = ", ".join(f"{prefix!r} (I={I}, N={N})" for prefix, I, N in self.cells())
            have = ", ".join(sorted(self.everything)[:8]) or "nothing"
            fail(ValueError, "source", f"a cell at {scope!r}", have, f"Give prefix= of {found}" if found else "")
        return layout

    def cell(self, scope: str) -> LSTMWeights:
        """Return the weights of the cell at a scope."""
        layout, names = LAYOUTS[self.layout(scope)], names_below(self.everything, scope)
        arrays = {name: self.everything[names[name]] for name in names}

        def full_name(name: str) -> str:
            return scope + name

        ignored = [name for name in names if name.startswith(f"{_RNGS}/")]
        refuse_unknown(layout, "source", names, full_name=full_name, ignored=ignored)
        ours: dict[str, Any] = read(layout, "source", arrays, full_name=full_name)
        return LSTMWeights(**ours, **self.functions(scope))

    def part(self, scope: str) -> Any:
        """Return the part of the module at a scope."""
        part: Any = self.module
        for name in filter(None, scope.split("/")):
            if name.isdigit():
                part = part[int(name)]
            else:
                part = part[name] if isinstance(part, Mapping) else getattr(part, name)
        return part

    def functions(self, scope: str) -> dict[str, Any]:
        """Return the options of a cell's functions."""
        given = {"activation": (self.activation, "tanh"), "gate_activation": (self.gate_activation, "sigmoid")}
        if self.module is None:
            return {name: default if value is None else value for name, (value, default) in given.items()}
        cell = self.part(scope)
        attributes = {"activation": "activation_fn", "gate_activation": "gate_fn"}
        return {name: _function(name, given[name][0], getattr(cell, attributes[name])) for name in given}

    def cells(self) -> list[tuple[str, int, int]]:
        """Return the prefix, I and N of each LSTM cell."""
        found = []
        for name, value in self.everything.items():
            end = next((end for end in _CELLS if f"/{name}".endswith(f"/{end}")), None)
            shape = tuple(getattr(value, "shape", ()))
            if end is None or len(shape) != 2:
                continue
            scope = name.removesuffix(end)
            if not any(scope + other in self.everything for other in _OTHERS):
                gates = 4 if end == "dense_i/kernel" else 1
                found.append((scope, int(shape[0]), int(shape[1]) // gates))
        return sorted(found)


def _is_last(name: str, scope: str) -> bool:
    """Return whether a scope's last part has this name."""
    return f"/{scope}".endswith(f"/{name}/")


def _is_nnx_module(source: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(source, nnx.Module)


def _function(name: str, given: Function | None, function: Any) -> Function | None:
    """Return a module's function by our name, or the given one if it is unknown."""
    import jax

    known = next((ours for theirs, ours in FUNCTIONS.items() if function is getattr(jax.nn, theirs, None)), None)
    if known is None and given is None:
        wanted = "the name of the module's function, which is not a known function of jax.nn"
        fail(ValueError, name, wanted, repr(function))
    if known is not None and given is not None and check_function(name, given) != known:
        fail(ValueError, name, f"{known!r}, as in the module, or None", repr(given))
    return given if known is None else known
