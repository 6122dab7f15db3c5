"""Read the JSON configs of models and layers into a tree of `nodes`. Nothing in them is executed."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusedlstm.convert.keras.calls import graph_of_config
from fusedlstm.convert.keras.nodes import MODELS, Node, class_of

if TYPE_CHECKING:
    from fusedlstm.convert.keras.versions import Version


def parsed(text: str | bytes) -> Any:
    """Return the content of JSON.

    Raises:
        ValueError: the text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its config is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"its config can't be read ({error})") from error


def node_of_config(config: Any, version: Version, *, is_in_two: bool = False) -> Node:
    """Return the model or layer that a config describes. The layer of a Bidirectional becomes two.

    Raises:
        ValueError: it is not a config of a model or a layer.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("class_name"), str):
        raise ValueError("its config is not a model's: a part of it has no class_name")
    options = config.get("config")
    if isinstance(options, list):  # a Sequential's layers, before Keras 2.3
        options = {"layers": options}
    options = options if isinstance(options, Mapping) else {}
    kind, module = class_of(config)
    base = _base_of(options) if module else kind
    node = Node(kind, str(options.get("name", config.get("name", kind))), options, version, module, base)
    if base == "Bidirectional" and is_in_two:
        raise ValueError(f"{node.name!r} is a Bidirectional in another, which Keras does not make")
    is_in_two = is_in_two or base == "Bidirectional"
    if base in ("LSTM", "CuDNNLSTM"):
        node.parts["cell"] = [Node(f"{base}Cell", "", options, version)]
    for role in ("layers", "cells"):
        if isinstance(options.get(role), list):
            node.parts[role] = [node_of_config(part, version, is_in_two=is_in_two) for part in options[role]]
    for role in ("layer", "cell"):
        if isinstance(options.get(role), Mapping):
            node.parts[role] = [node_of_config(options[role], version, is_in_two=is_in_two)]
    if base == "Bidirectional" and "layer" in node.parts:
        _split_directions(node, version)
    if base in MODELS and "layers" in node.parts:
        node.graph = functools.cache(lambda: graph_of_config(base, options, node.parts["layers"]))
    return node


def _base_of(options: Mapping[str, Any]) -> str:
    """Return the Keras class that a class with these options derives from; "" if they don't tell."""
    if "unit_forget_bias" in options or {"units", "recurrent_activation", "use_bias"}.issubset(options):
        return "LSTM" if "return_sequences" in options else "LSTMCell"
    if isinstance(options.get("layer"), Mapping):
        return "Bidirectional" if "merge_mode" in options else "Wrapper"
    if isinstance(options.get("cell"), Mapping):
        return "RNN"
    if isinstance(options.get("layers"), list):
        return "Functional" if "input_layers" in options else "Sequential"
    return "StackedRNNCells" if isinstance(options.get("cells"), list) else ""


def _split_directions(node: Node, version: Version) -> None:
    """Split a Bidirectional's layer into a forward and a backward one, unless it has its own backward layer."""
    (forward,) = node.parts.pop("layer")
    again = node.options.get("backward_layer")
    if isinstance(again, Mapping):
        backward = node_of_config(again, version, is_in_two=True)
    else:
        backward = node_of_config(node.options["layer"], version, is_in_two=True)
        backward.options = {**backward.options, "go_backwards": not forward.options.get("go_backwards", False)}
    node.parts |= {"forward_layer": [forward], "backward_layer": [backward]}
