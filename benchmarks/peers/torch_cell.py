"""torch.nn.LSTMCell: eager, compiled, and in a CUDA graph."""

import functools

from benchmarks.peers.peer import CannotRunError, waited
from benchmarks.peers.torch_common import TorchPeer, settle, tensor, tensors, waiting


def cells(case, device):
    """Return a cell for each layer."""
    import torch

    made = []
    for weights in case.weights.layers:
        cell = torch.nn.LSTMCell(weights.input_size, weights.hidden_size, device=device)
        cell = cell.to(getattr(torch, case.dtype))
        with torch.no_grad():
            cell.weight_ih.copy_(tensor(weights.weight_ih, device, case.dtype))
            cell.weight_hh.copy_(tensor(weights.weight_hh, device, case.dtype))
            cell.bias_ih.copy_(tensor(weights.bias, device, case.dtype))
            cell.bias_hh.zero_()
        made.append(cell)
    return made


def step(layers, x, h, c, keep):
    """Step all layers. Rows to reset are multiplied by zero, as CleanRL does."""
    hs, cs = [], []
    for k, cell in enumerate(layers):
        state = (h[k], c[k]) if keep is None else (h[k] * keep, c[k] * keep)
        x, memory = cell(x, state)
        hs.append(x)
        cs.append(memory)
    return hs, cs


class Eager(TorchPeer):
    """torch.nn.LSTMCell, called directly."""

    name = "torch.nn.LSTMCell"

    def cannot(self, case):
        return super().cannot(case) or ("LSTMCell has no projection" if case.P else None)

    def prepare(self, case, device, threads):
        settle(threads, case.precision)
        return self.waited(functools.partial(step, *self.arguments(case, device)), device)

    def arguments(self, case, device):
        xs, h, c, keep = tensors(case, device)
        return cells(case, device), xs[0], h, c, None if keep is None else keep[0]

    def waited(self, work, device):
        """Return a function that does the work without gradients and waits for it."""
        import torch

        return waited(torch.inference_mode()(work), waiting(device))


class Compiled(Eager):
    """torch.compile: on a CPU it generates C++, and on a GPU it also replays a CUDA graph."""

    name = "torch.nn.LSTMCell compiled"
    quick = False  # compiling each case takes seconds

    def prepare(self, case, device, threads):
        import torch

        settle(threads, case.precision)
        torch.compiler.reset()  # otherwise it stops compiling after some cases
        layers, x, h, c, keep = self.arguments(case, device)
        compiled = torch.compile(functools.partial(step, layers), mode="reduce-overhead", fullgraph=True, dynamic=False)
        run = self.waited(functools.partial(compiled, x, h, c, keep), device)
        try:
            for _ in range(3):  # a graph is recorded in the second
                run()
        except Exception as error:  # of many kinds: no compiler, no Triton, an unknown operation
            raise CannotRunError(f"torch.compile: {str(error).strip().splitlines()[0]}") from error
        return run


def captured(work):
    """Return a CUDA graph of some work, and the work's results, which each replay overwrites."""
    import torch

    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.inference_mode():
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what is set up at first use must not be captured
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            results = work()
    return graph, results


def poison(*arrays):
    """Fill a graph's results with NaN, so that unwritten elements show."""
    import torch

    with torch.inference_mode():
        for array in arrays:
            array.fill_(float("nan"))


class Graph(Eager):
    """Captured once as a CUDA graph, and replayed. Inputs and results stay in place."""

    name = "torch.nn.LSTMCell CUDA graph"
    devices = ("cuda",)

    def prepare(self, case, device, threads):
        import torch

        settle(threads, case.precision)
        graph, (hs, cs) = captured(functools.partial(step, *self.arguments(case, device)))
        poison(*hs, *cs)

        def queue():
            graph.replay()
            return hs, cs

        return waited(queue, torch.cuda.synchronize)


PEERS = [Eager(), Compiled(), Graph()]
