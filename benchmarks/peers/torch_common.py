"""What all PyTorch peers share: tensors of a case, settings, and waiting for the GPU."""

import numpy as np

from benchmarks.cases import Result
from benchmarks.peers.peer import Peer


def settle(threads, precision):
    """Set the threads, and the precision of float32 matmuls. By default cuDNN's LSTM uses TF32, and cells don't."""
    import torch

    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = precision == "high"
    torch.backends.cudnn.allow_tf32 = precision == "high"


def tensor(array, device, dtype):
    """Return a NumPy array, of bfloat16 too, as a tensor."""
    import torch

    exact = np.asarray(array, np.float64 if array.dtype == np.float64 else np.float32)
    return torch.from_numpy(np.array(exact)).to(device=device, dtype=getattr(torch, dtype))


def tensors(case, device):
    """Return a case's xs (T, B, I), h (L, B, P) and c (L, B, N), and ones for rows to keep (T, B, 1), else zeros."""
    data = case.data
    xs, h, c = (tensor(array, device, case.dtype) for array in data[:3])
    keep = None if data.is_first is None else tensor(np.float32(~data.is_first), device, case.dtype)[:, :, None]
    return xs, h, c, keep


def host(value):
    """Return a tensor as a NumPy array."""
    import torch

    value = value.detach().cpu()
    return (value.float() if value.dtype is torch.bfloat16 else value).numpy()


class TorchPeer(Peer):
    """A run returns h and c, each a tensor or a list with one for each layer, and for a sequence also the outputs."""

    package = module = "torch"
    dtypes = ("float64", "float32", "float16", "bfloat16")
    precisions = ("highest", "high")

    def why_not(self, device):
        reason = super().why_not(device)
        if reason or device == "cpu":
            return reason
        import torch

        return None if torch.cuda.is_available() else "this PyTorch finds no GPU"

    def results(self, raw):
        import torch

        h, c, *outputs = raw
        h, c = (host(part if torch.is_tensor(part) else torch.stack(part)) for part in (h, c))
        return Result(h, c, *map(host, outputs))


def waiting(device):
    """Return a function that waits for the GPU, or does nothing on a CPU."""
    import torch

    return torch.cuda.synchronize if device == "cuda" else lambda: None
