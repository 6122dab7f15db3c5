"""Exporters refuse directions that the other system's LSTM lacks, before any work."""

import pytest

from fusedlstm import StackedWeights, convert

MIXED = ["both", "forward"]
WANTED = "directions: wanted layers that are all 'forward' or all 'both', as {} supports nothing else; got {}"


@pytest.mark.parametrize(
    ("export", "system", "directions"),
    [
        (convert.to_torch, "torch.nn.LSTM", MIXED),
        (convert.to_torch, "torch.nn.LSTM", ["backward"]),
        (convert.to_tf1, "a stack of TensorFlow 1's cells", MIXED),
        (convert.tf1_arguments, "a stack of TensorFlow 1's cells", ["backward", "backward"]),
        (convert.to_flax, "a Flax RNN's parameters", ["backward"]),
    ],
)
def test_directions_without_a_place_raise(export, system, directions):
    weights = StackedWeights.random(4, 4, len(directions), seed=0, directions=directions)
    with pytest.raises(ValueError) as caught:
        export(weights)
    assert str(caught.value) == WANTED.format(system, ", ".join(map(repr, directions)))
