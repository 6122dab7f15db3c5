"""TensorFlow on the CPU: the kernels of its LSTMBlockCell and LSTMBlockFusedCell, called directly.

Each is one operation for a layer, so a tf.function around them would only add the cost of its own call.

Both multiply [x | h] by one matrix. A step's gates are in the order i, g, f, o. A sequence's (BlockLSTMV2) are in the
order i, f, g, o.
"""

import functools

import numpy as np

from benchmarks.cases import Result
from benchmarks.peers.peer import Peer


def in_block_order(array):
    """Return rows of the gates i, f, g, o in the order i, g, f, o."""
    i, f, g, o = np.split(array, 4)
    return np.concatenate([i, g, f, o])


def step(layers, x, hs, cs, keep):
    """Step all layers, and return lists of the new h and c."""
    import tensorflow as tf

    new_hs, new_cs = [], []
    for (weight, bias, peephole), h, c in zip(layers, hs, cs, strict=True):
        if keep is not None:
            h, c = h * keep, c * keep
        result = tf.raw_ops.LSTMBlockCell(
            x=x,
            cs_prev=c,
            h_prev=h,
            w=weight,
            wci=peephole,
            wcf=peephole,
            wco=peephole,
            b=bias,
            forget_bias=0.0,
            cell_clip=-1.0,
        )
        x = result.h
        new_hs.append(result.h)
        new_cs.append(result.cs)
    return new_hs, new_cs


def sequence(layers, xs, hs, cs):
    """Run a sequence, and return lists of the last h and c, and the outputs (T, B, N)."""
    import tensorflow as tf

    new_hs, new_cs = [], []
    for (weight, bias, peephole), h, c in zip(layers, hs, cs, strict=True):
        result = tf.raw_ops.BlockLSTMV2(
            seq_len_max=len(xs),
            x=xs,
            cs_prev=c,
            h_prev=h,
            w=weight,
            wci=peephole,
            wcf=peephole,
            wco=peephole,
            b=bias,
            cell_clip=0.0,
        )
        xs = result.h
        new_hs.append(result.h[-1])
        new_cs.append(result.cs[-1])
    return new_hs, new_cs, xs


class TensorFlow(Peer):
    """A run returns lists of h and c, and for a sequence also the outputs."""

    name = "TensorFlow LSTMBlockCell"
    package = module = "tensorflow"
    kinds = ("step", "sequence")
    devices = ("cpu",)

    def cannot(self, case):
        reason = super().cannot(case)
        if reason is None and case.P:
            return "LSTMBlockCell has no projection"
        if reason is None and case.resets and case.kind == "sequence":
            return "BlockLSTM has no resets"
        return reason

    def prepare(self, case, device, threads):
        import tensorflow as tf

        del device, threads  # set by TF_NUM_INTRAOP_THREADS
        order = np.asarray if case.kind == "sequence" else in_block_order
        with tf.device("cpu"):
            layers = [
                (
                    tf.constant(order(np.concatenate([layer.weight_ih, layer.weight_hh], axis=1)).T),
                    tf.constant(order(layer.bias)),
                    tf.zeros(layer.hidden_size),
                )
                for layer in case.weights.layers
            ]
            data = case.data
            xs, hs, cs = (tf.constant(array) for array in data[:3])
        arguments = layers, xs if case.kind == "sequence" else xs[0], tf.unstack(hs), tf.unstack(cs)
        if case.kind == "sequence":
            return functools.partial(sequence, *arguments)
        keep = None if data.is_first is None else tf.constant(np.float32(~data.is_first[0])[:, None])
        return functools.partial(step, *arguments, keep)

    def results(self, raw):
        hs, cs, *outputs = raw
        h, c = (np.stack([part.numpy() for part in parts]) for parts in (hs, cs))
        return Result(h, c, *(array.numpy() for array in outputs))


PEERS = [TensorFlow()]
