"""fusedlstm's Sequencer: whole sequences whose buffers stay in place."""

import functools

from benchmarks.peers.fusedlstm_peer import Ours, backend_of, inputs, stacked, synchronizer
from benchmarks.peers.peer import CannotRunError, waited
from benchmarks.runs import KERNEL
from fusedlstm import LSTM
from fusedlstm.backends import kernel_choice, sequence_choice


class Sequences(Ours):
    """sequencer.run() alone. Inputs and the flags of rows to reset are already in their buffers."""

    name = "fusedlstm Sequencer"
    kinds = ("sequence",)
    kernel = None  # the table's

    def prepare(self, case, device, threads):
        del threads
        lstm = LSTM(case.weights, backend=backend_of(device), precision=case.precision, kernel=self.kernel)
        xs, states, is_first = inputs(lstm, case)
        sequencer = lstm.sequencer(case.T, case.B, is_first=is_first is not None)
        sequencer.xs[...] = xs
        if is_first is not None:
            sequencer.is_first[...] = is_first

        def queue():
            return sequencer, sequencer.run()

        return waited(queue, synchronizer(lstm), functools.partial(sequencer.write, states))

    def results(self, raw):
        sequencer, outputs = raw
        return stacked(sequencer.read(), outputs)


class OneKernel(Sequences):
    """A Sequencer with a named kernel, to compare with the table's choice."""

    devices = ("cuda",)

    def __init__(self, kernel):
        self.kernel, self.name = kernel, f"{Sequences.name}{KERNEL}{kernel}"

    def why_not(self, device):
        reason = super().why_not(device)
        if reason:
            return reason
        from fusedlstm.backends.cuda.runtime import cublaslt, probe

        if self.kernel == "matmul":
            return cublaslt.why_not()
        return kernel_choice.reason_against_device(probe.capabilities()[0])

    def prepare(self, case, device, threads):
        from fusedlstm.backends.cuda.runtime import probe

        about = case.N, case.dtype, case.precision, probe.capabilities()[0]
        reason = sequence_choice.reason_against_device(*about) if self.kernel == sequence_choice.SCAN else None
        if reason:
            raise CannotRunError(reason)
        return super().prepare(case, device, threads)

    def cannot(self, case):
        reason = super().cannot(case)
        if reason is None and self.kernel == sequence_choice.SCAN:
            return sequence_choice.reason_against(case.weights.layers, case.precision)
        return reason or kernel_choice.reason_against(self.kernel, case.dtype, case.precision)


PEERS = [Sequences()]
