"""TorchRL's LSTMModule on sequences with resets, which its Triton backend runs in one kernel.

See https://docs.pytorch.org/rl/main/reference/generated/torchrl.modules.LSTMModule.html. Rows come before steps. A
row's state at a step is what a reset at this step begins with. Final states are those of the last step.
"""

import importlib.util
import inspect

import numpy as np

from benchmarks.peers.peer import CannotRunError, waited
from benchmarks.peers.torch_common import TorchPeer, settle, tensors, waiting
from benchmarks.peers.torch_lstm import module

_PRECISIONS = {"highest": "ieee", "high": "tf32"}
_KEYS = ("y", ("next", "h"), ("next", "c"))


class TorchRL(TorchPeer):
    """A call with backend "triton", whose products have the case's precision."""

    name = "TorchRL, Triton"
    package = module = "torchrl"
    kinds = ("sequence",)
    devices = ("cuda",)
    dtypes = ("float32",)
    backend = "triton"

    def why_not(self, device):
        reason = super().why_not(device)
        if reason is None and self.backend == "triton" and importlib.util.find_spec("triton") is None:
            return "triton is not installed"
        return reason

    def cannot(self, case):
        return super().cannot(case) or ("its Triton kernels have no projection" if case.P else None)

    def prepare(self, case, device, threads):
        import torch
        from torchrl.modules import LSTMModule

        settle(threads, case.precision)
        if "recurrent_backend" not in inspect.signature(LSTMModule).parameters:
            raise CannotRunError("this TorchRL has no recurrent_backend")
        lstm = module(case, device)
        lstm.batch_first = True
        policy = LSTMModule(
            lstm=lstm,
            in_keys=["x", "h", "c"],
            out_keys=list(_KEYS),
            recurrent_backend=self.backend,
            recurrent_matmul_precision=_PRECISIONS[case.precision],
            default_recurrent_mode=True,
        )
        inputs = rows_first(case, device)

        @torch.inference_mode()
        def queue():
            found = policy(inputs.copy())
            y, h, c = (found[key] for key in _KEYS)
            return h[:, -1].transpose(0, 1), c[:, -1].transpose(0, 1), y.transpose(0, 1)

        try:
            queue()
        except Exception as error:  # of many kinds: a Triton that is too old, a GPU without enough shared memory
            raise CannotRunError(f"torchrl: {str(error).strip().splitlines()[0]}") from error
        return waited(queue, waiting(device))


def rows_first(case, device):
    """Return a case's xs, states and resets as TorchRL takes them: (B, T, ...)."""
    import torch
    from tensordict import TensorDict

    T, B, data = case.T, case.B, case.data
    xs, h, c, _ = tensors(case, device)
    first = np.zeros((T, B), bool) if data.is_first is None else data.is_first
    is_init = torch.from_numpy(first.T.copy()).to(device)[:, :, None]
    states = [xs.new_zeros(B, T, case.layers, part.shape[2]) for part in (h, c)]
    for all_steps, part in zip(states, (h, c), strict=True):
        all_steps[:, 0] = torch.where(is_init[:, 0, :, None], 0, part.transpose(0, 1))
    values = {"x": xs.transpose(0, 1).contiguous(), "h": states[0], "c": states[1], "is_init": is_init}
    return TensorDict(values, batch_size=[B, T], device=device)


PEERS = [TorchRL()]
