"""torch.nn.LSTM on sequences with resets, as PPO with recurrent policies trains: split, pad, pack, run, put back.

Flags differ from batch to batch, so a call includes all of this.
"""

from benchmarks.peers.torch_common import TorchPeer, settle, tensors, waiting
from benchmarks.peers.torch_lstm import module


def split(is_first):
    """Return the start, length and row of each sequence. Starts count the steps of all rows, row after row.

    Args:
        is_first: (T, B) booleans. A row's first step also begins a sequence.
    """
    import torch

    T, B = is_first.shape
    begins = is_first.T.clone()
    begins[:, 0] = True
    starts = begins.reshape(-1).nonzero().squeeze(1)
    ends = torch.cat([starts[1:], starts.new_tensor([T * B])])
    return starts, ends - starts, starts // T


def run_split(lstm, xs, h, c, is_first):
    """Run a batch with resets, and return the last h and c, and the outputs (T, B, P)."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    T, B, I = xs.shape
    starts, lengths, rows = split(is_first)
    longest = int(lengths.max())
    steps = torch.arange(longest, device=xs.device)[:, None]
    at, is_step = (starts + steps).clamp_(max=T * B - 1), steps < lengths
    padded = xs.transpose(0, 1).reshape(T * B, I)[at]
    packed = pack_padded_sequence(padded, lengths.cpu(), enforce_sorted=False)
    goes_on = ((starts % T == 0) & ~is_first[0, rows])[:, None]  # from the state before the batch
    begun = tuple(torch.where(goes_on, part[:, rows], 0) for part in (h, c))
    ys, ended = lstm(packed, begun)
    ys, _ = pad_packed_sequence(ys, total_length=longest)
    outputs = ys.new_empty(B * T, ys.shape[2])
    outputs[at[is_step]] = ys[is_step]
    is_last = (starts + lengths) % T == 0
    h, c = (part[:, is_last] for part in ended)
    return h, c, outputs.reshape(B, T, -1).transpose(0, 1)


class Padded(TorchPeer):
    """The lengths are read back from a GPU in each call, so a call can't only be queued."""

    name = "torch.nn.LSTM, split and padded"
    kinds = ("sequence",)

    def cannot(self, case):
        return super().cannot(case) or (None if case.resets else "without resets it is torch.nn.LSTM")

    def prepare(self, case, device, threads):
        import torch

        settle(threads, case.precision)
        lstm, wait = module(case, device), waiting(device)
        xs, h, c, _ = tensors(case, device)
        is_first = torch.from_numpy(case.data.is_first).to(device)

        @torch.inference_mode()
        def run():
            result = run_split(lstm, xs, h, c, is_first)
            wait()
            return result

        return run


PEERS = [Padded()]
