"""torch.nn.LSTMCell on some rows of two tables that hold the states of many sequences. Eager, and in a CUDA graph.

Padding rows use the tables' last row, which is spare.
"""

import numpy as np

from benchmarks.peers.peer import waited
from benchmarks.peers.torch_cell import Eager, captured, cells, poison
from benchmarks.peers.torch_common import settle, tensors, waiting


def step(cell, x, h, c, slots):
    """Gather, step and scatter, and return the output."""
    new_h, new_c = cell(x, (h[slots], c[slots]))
    h[slots] = new_h
    c[slots] = new_c
    return new_h


class Tables:
    """A case's cell, x and slots, and the tables with the states of all slots."""

    def __init__(self, case, device):
        import torch

        (self.cell,) = cells(case, device)
        (self.x,), (self.begun_h,), (self.begun_c,), _ = tensors(case, device)
        self.h, self.c = (torch.zeros(case.capacity + 1, case.N, dtype=self.x.dtype, device=device) for _ in "hc")
        padding = case.slots.padding
        self.every = torch.from_numpy(case.slots.all).to(device)
        self.given = torch.from_numpy(np.where(padding, case.capacity, case.slots.given)).to(device)
        self.padding = torch.from_numpy(padding).to(device)

    def begin(self):
        self.h[self.every] = self.begun_h
        self.c[self.every] = self.begun_c

    def step(self):
        return step(self.cell, self.x, self.h, self.c, self.given)


class EagerPool(Eager):
    """Gather, cell and scatter, called directly."""

    name = "torch.nn.LSTMCell, gather and scatter"
    kinds = ("pool",)

    def prepare(self, case, device, threads):
        import torch

        settle(threads, case.precision)
        tables = Tables(case, device)

        @torch.inference_mode()
        def queue():
            return tables, tables.step()

        return waited(queue, waiting(device), tables.begin)

    def results(self, raw):
        tables, outputs = raw
        outputs = outputs.masked_fill(tables.padding[:, None], 0)  # padding rows' outputs are never read
        h, c = (table[tables.every][None] for table in (tables.h, tables.c))
        return super().results((h, c, outputs[None]))


class GraphPool(EagerPool):
    """Captured once as a CUDA graph, and replayed. Inputs, slots and outputs stay in place."""

    name = "torch.nn.LSTMCell, gather and scatter, CUDA graph"
    devices = ("cuda",)

    def prepare(self, case, device, threads):
        import torch

        settle(threads, case.precision)
        tables = Tables(case, device)
        graph, outputs = captured(tables.step)
        poison(outputs)

        def queue():
            graph.replay()
            return tables, outputs

        return waited(queue, torch.cuda.synchronize, tables.begin)


PEERS = [EagerPool(), GraphPool()]
