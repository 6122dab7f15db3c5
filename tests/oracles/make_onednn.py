"""Write outputs of oneDNN's LSTM primitive to onednn/. Run make_onednn.py with PyTorch on an x86 CPU.

PyTorch's mkldnn_rnn_layer passes its weights to the primitive unchanged, as tensors ldgoi, and the sum of both biases.
See aten/src/ATen/native/mkldnn/RNN.cpp. The file stores them as ldigo. This layer has no peepholes and no projection.
ONEDNN_VERBOSE=1 shows that the primitive vanilla_lstm ran.
"""

import json
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "onednn"
T, B, I, N = 4, 3, 3, 4
LSTM = 2  # mkldnn_rnn_layer's mode for LSTMs


def main():
    FOLDER.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    xs, (h, c) = (rng.normal(size=shape).astype(np.float32) for shape in ((T, B, I), (2, B, N)))
    tensors = {"weights_layer": (I, 4, N), "weights_iter": (N, 4, N), "bias": (4, N)}
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in tensors.items()}
    rows = [torch.from_numpy(tensors[name].reshape(-1, 4 * N).T.copy()) for name in ("weights_layer", "weights_iter")]
    biases = torch.from_numpy(tensors["bias"].reshape(4 * N)), torch.zeros(4 * N)
    states = [(h, c)]
    with torch.no_grad():
        for x in xs:
            before = (torch.from_numpy(part) for part in states[-1])
            options = {"reverse": False, "batch_sizes": [], "mode": LSTM, "hidden_size": N, "num_layers": 1}
            options |= {"has_biases": True, "bidirectional": False, "batch_first": False, "train": False}
            given = torch.from_numpy(x)[None]
            _, h, c, _ = torch.mkldnn_rnn_layer(given, *rows, *biases, *before, *options.values())
            states.append((h.numpy(), c.numpy()))
    hs, cs = (np.stack(part) for part in zip(*states, strict=True))
    arrays = {f"W_{name}": tensor[None, None] for name, tensor in tensors.items()}
    arrays |= {"x": xs, "h0": hs[0], "c0": cs[0], "h_seq": hs[1:], "c_seq": cs[1:]}
    meta = {"system": f"oneDNN of PyTorch {torch.__version__}", "dtype": "float32"}
    np.savez(FOLDER / "vanilla_lstm.npz", meta=json.dumps(meta), **arrays)


if __name__ == "__main__":
    main()
