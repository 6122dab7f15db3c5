"""Step a TensorFlow 1 LSTM on a live stream, save its state, and continue later.

Shows: list the cells of a checkpoint, convert them, pass and return both states, save, restart.
Needs: fusedlstm. The checkpoint was written by TensorFlow 1.15, and its variables are in a .npz file.
Run:   python examples/tensorflow1_stream.py

For your model, change VARIABLES, PREFIX and the options of `from_tf1`. With TensorFlow installed, VARIABLES may be the
checkpoint itself, such as "model.ckpt-1000". Without it, docs/from-tensorflow-1.md says how to make the .npz file.
"""

# %%
import tempfile
from pathlib import Path

import numpy as np

from fusedlstm import LSTM, LSTMState, convert, load_weights

CHECKPOINT = Path(__file__).parents[1] / "tests" / "oracles" / "tf1" / "checkpoint_multi2"
VARIABLES = CHECKPOINT / "variables.npz"
PREFIX = "rnn/multi_rnn_cell"  # two layers: the first has peepholes and a projection

# %% List the cells in the checkpoint. `head` is a dense layer, but its shape could be that of a cell.
for found in convert.list_tf1(VARIABLES):
    print(f"{found.scope}: I = {found.input_size}, N = {found.hidden_size}, P = {found.output_size}")

# %% Convert. A checkpoint doesn't store the options of its cells, so pass those of your program.
weights = convert.from_tf1(VARIABLES, PREFIX, forget_bias=1.0, cell_clip=None, activation="tanh")
lstm = LSTM(weights)  # on a GPU if CUDA can run, else in NumPy
print(weights)

# %% Load inputs, and the outputs and final c of TensorFlow's dynamic_rnn, to compare. Your inputs come one at a time.
with np.load(CHECKPOINT / "outputs.npz") as recorded:
    x, wanted = recorded["x"], recorded["y"]
    wanted_c = [recorded[f"final_l{k}_c"] for k in range(weights.num_layers)]
T, B, I = x.shape
P = weights.layers[-1].output_size  # of the top layer

# %% Step one frame at a time. In TensorFlow: session.run([output, state], {x: frame, previous: state}).
states = lstm.zero_state(B)
outputs = np.zeros((T, B, P), np.float32)
for t in range(T // 2):
    _, states = lstm.step(lstm.asarray(x[t]), states)  # takes and returns both states of each layer
    outputs[t] = states[-1].to_numpy().h  # the output, in host memory

# %% Save weights and states, and restart. `fusedlstm run --state` reads the states too.
with tempfile.TemporaryDirectory() as folder:  # use a permanent folder instead
    weights.save(Path(folder, "weights.safetensors"))
    arrays = {}
    for k, state in enumerate(states):
        arrays[f"h{k}"], arrays[f"c{k}"] = state.to_numpy().h, state.to_numpy().c
    np.savez(Path(folder, "state.npz"), **arrays)
    del weights, lstm, states  # from here on, another process could run without the checkpoint

    lstm = LSTM(load_weights(Path(folder, "weights.safetensors")))
    with np.load(Path(folder, "state.npz")) as saved:
        states = tuple(
            LSTMState(h=lstm.asarray(saved[f"h{k}"]), c=lstm.asarray(saved[f"c{k}"]))
            for k in range(lstm.weights.num_layers)
        )

# %% Continue where the stream stopped.
for t in range(T // 2, T):
    _, states = lstm.step(lstm.asarray(x[t]), states)
    outputs[t] = states[-1].to_numpy().h

# %% Compare with TensorFlow, which ran the whole sequence in one call.
difference = np.abs(outputs - wanted).max()
difference_c = max(np.abs(state.to_numpy().c - c).max() for state, c in zip(states, wanted_c, strict=True))
print(f"{T} steps of {B} rows; largest difference from TensorFlow 1.15: output {difference:.1e}, c {difference_c:.1e}")
assert max(difference, difference_c) < 1e-5
