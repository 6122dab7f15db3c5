"""torch.nn.LSTM, which is cuDNN's on a GPU: sequences, layers and projections. A step is a sequence of T = 1."""

from benchmarks.peers.peer import waited
from benchmarks.peers.torch_common import TorchPeer, settle, tensor, tensors, waiting


def module(case, device):
    """Return the LSTM with a case's weights."""
    import torch

    lstm = torch.nn.LSTM(case.I, case.N, case.layers, proj_size=case.P or 0, device=device)
    lstm = lstm.to(getattr(torch, case.dtype))
    with torch.no_grad():
        for k, weights in enumerate(case.weights.layers):
            names = {"weight_ih": weights.weight_ih, "weight_hh": weights.weight_hh, "bias_ih": weights.bias}
            for name, array in {**names, "weight_hr": weights.weight_hr}.items():
                if array is not None:
                    getattr(lstm, f"{name}_l{k}").copy_(tensor(array, device, case.dtype))
            getattr(lstm, f"bias_hh_l{k}").zero_()
    return lstm.eval()


def in_steps(lstm, xs, state, keep):
    """Run a sequence with resets, which the module doesn't have, step by step, as CleanRL trains."""
    import torch

    outputs = []
    for t in range(len(xs)):
        output, state = lstm(xs[t : t + 1], tuple(part * keep[t] for part in state))
        outputs.append(output)
    return torch.cat(outputs), state


class Lstm(TorchPeer):
    """torch.nn.LSTM, called directly."""

    name = "torch.nn.LSTM"
    kinds = ("step", "sequence")

    def prepare(self, case, device, threads):
        import torch

        settle(threads, case.precision)
        lstm = module(case, device)
        xs, h, c, keep = tensors(case, device)

        @torch.inference_mode()
        def queue():
            if keep is None:
                outputs, (new_h, new_c) = lstm(xs, (h, c))
            else:
                outputs, (new_h, new_c) = in_steps(lstm, xs, (h, c), keep)
            return (new_h, new_c, outputs) if case.kind == "sequence" else (new_h, new_c)

        return waited(queue, waiting(device))

    def remarks(self, run, device):
        """Return the kernels that ran: cuDNN has several implementations, of very different speeds."""
        if device != "cuda":
            return {}
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            run()
        return {"kernels": {event.key: event.count for event in profiled.key_averages()}}


PEERS = [Lstm()]
