"""List every option in the configs of Keras's LSTM layers, and what becomes of it.

The options are those of Keras 2.0 to 2.15, tf_keras 2.21 and Keras 3.0 to 3.15.1. Other options raise, as a newer Keras
may compute something else with them.

- Taken: the weights hold them.
- Shape: they determine a layer's inputs and outputs, for its caller or for stacking.
- Irrelevant: they affect only training, memory or speed, or are in the arrays already (initializers, such as
  unit_forget_bias).
- Refused unless empty: they change a step's results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedlstm.validation.arguments import fail

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

TAKEN = ("units", "activation", "recurrent_activation", "use_bias")
PARTS = ("cell", "cells", "layer", "backward_layer")
SHAPE = (
    "return_sequences",
    "return_state",
    "go_backwards",
    "time_major",  # Keras 2
    "zero_output_for_mask",  # affects only outputs: the states don't change in a masked step
    "merge_mode",
    "reverse_state_order",  # Keras 2's StackedRNNCells: the order in which states are returned
)
IRRELEVANT = (
    "name",
    "trainable",
    "dtype",  # the arrays have their own; the log warns if the policy computes in another one
    "autocast",
    *("kernel_initializer", "recurrent_initializer", "bias_initializer", "unit_forget_bias"),
    *("kernel_regularizer", "recurrent_regularizer", "bias_regularizer", "activity_regularizer"),
    *("kernel_constraint", "recurrent_constraint", "bias_constraint"),  # applied after an update
    *("dropout", "recurrent_dropout", "seed"),  # unless the layer is called with training=True
    "stateful",  # the caller keeps the state
    *("unroll", "implementation", "use_cudnn"),
    *("batch_input_shape", "batch_shape", "input_shape", "input_dim", "input_length", "input_dtype", "weights"),
)
REFUSED = ("num_constants", "quantization_mode", "quantization_config", "lora_enabled", "lora_rank", "lora_alpha")
KNOWN = frozenset((*TAKEN, *PARTS, *SHAPE, *IRRELEVANT, *REFUSED))
# Options that only Keras 1 had, whose arrays have other names and layouts.
KERAS_1 = (
    *("output_dim", "init", "inner_init", "forget_bias_init", "inner_activation"),
    *("W_regularizer", "U_regularizer", "b_regularizer", "dropout_W", "dropout_U", "consume_less"),
)


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for an unknown option, or one that changes the formula. The message names it."""
    for option, value in options.items():
        if option in KERAS_1:
            fail(ValueError, f"{name}.{option}", "options of Keras 2 or 3", "one of Keras 1", "Save it with Keras 2")
        if option not in KNOWN:
            hint = "It may change what the layer computes"
            fail(ValueError, f"{name}.{option}", "only options that Keras's LSTM is known to have", "this one", hint)
        if option in ("quantization_mode", "quantization_config") and value:
            fail(ValueError, f"{name}.dtype", "float weights", "quantised ones")
        if option in ("lora_enabled", "lora_rank") and value:
            hint = "Merge it into the kernels first"
            fail(ValueError, f"{name}.lora", "weights without LoRA", "LoRA's", hint)
        if option == "num_constants" and value:
            fail(ValueError, f"{name}.{option}", "None or 0", repr(value)[:40], "Keras's LSTM takes no constants")
