"""torch.nn.LSTMCell in a loop over a sequence: eager, compiled, and in a CUDA graph."""

import functools

from benchmarks.peers.peer import CannotRunError, waited
from benchmarks.peers.torch_cell import Eager, captured, cells, poison, step
from benchmarks.peers.torch_common import settle, tensors

_UNROLLED = 8  # steps that are compiled as one: a compilation takes seconds, and grows with them


def loop(layers, xs, h, c, keep):
    """Run a sequence, and return the last h and c of each layer, and the outputs (T, B, N)."""
    import torch

    outputs = []
    for t, x in enumerate(xs):
        h, c = step(layers, x, h, c, None if keep is None else keep[t])
        outputs.append(h[-1])
    return h, c, torch.stack(outputs)


def in_parts(part, xs, h, c, keep):
    """Run a sequence in parts of some steps."""
    import torch

    outputs = []
    for start in range(0, len(xs), _UNROLLED):
        steps = slice(start, start + _UNROLLED)
        h, c, some = part(xs[steps], h, c, None if keep is None else keep[steps])
        outputs.append(some)
    return h, c, torch.cat(outputs)


class Loop(Eager):
    """Eager, as a user would write it."""

    name = "torch.nn.LSTMCell in a loop"
    kinds = ("sequence",)

    def prepare(self, case, device, threads):
        settle(threads, case.precision)
        return self.waited(functools.partial(loop, *self.arguments(case, device)), device)

    def arguments(self, case, device):
        xs, h, c, keep = tensors(case, device)
        return cells(case, device), xs, list(h), list(c), keep


class CompiledLoop(Loop):
    """torch.compile of some steps, in a loop. On a GPU all of it is a CUDA graph."""

    name = "torch.nn.LSTMCell in a loop, compiled"
    quick = False  # compiling each case takes seconds

    def cannot(self, case):
        reason = super().cannot(case)
        return reason or (f"T is not a multiple of {_UNROLLED}" if case.T % _UNROLLED else None)

    def prepare(self, case, device, threads):
        import torch

        settle(threads, case.precision)
        torch.compiler.reset()  # otherwise it stops compiling after some cases
        layers, *arguments = self.arguments(case, device)
        part = torch.compile(functools.partial(loop, layers), fullgraph=True, dynamic=False)
        work = functools.partial(in_parts, part, *arguments)
        try:
            with torch.inference_mode():
                work()
        except Exception as error:  # of many kinds: no compiler, no Triton, an unknown operation
            raise CannotRunError(f"torch.compile: {str(error).strip().splitlines()[0]}") from error
        return replayed(work) if device == "cuda" else self.waited(work, device)


class GraphLoop(Loop):
    """Captured once as a CUDA graph, and replayed. Inputs and results stay in place."""

    name = "torch.nn.LSTMCell in a loop, CUDA graph"
    devices = ("cuda",)

    def prepare(self, case, device, threads):
        settle(threads, case.precision)
        return replayed(functools.partial(loop, *self.arguments(case, device)))


def replayed(work):
    """Return a function that replays a CUDA graph of some work, and waits."""
    import torch

    graph, results = captured(work)
    hs, cs, outputs = results
    poison(*hs, *cs, outputs)

    def queue():
        graph.replay()
        return results

    return waited(queue, torch.cuda.synchronize)


PEERS = [Loop(), CompiledLoop(), GraphLoop()]
