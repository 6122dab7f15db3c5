"""Shards with mistakes, which tests plant. Ray sends them by value: its workers can't import this module."""

from fusedlstm import LSTMState
from fusedlstm.ray.shard import Shard


class RestoresOtherRows(Shard):
    """Restores the states in the reverse order."""

    def begin(self, epoch, weights, content, kept):
        if content is not None:
            slots, states = content
            content = slots, [LSTMState(h=each.h[::-1], c=each.c[::-1]) for each in states]
        return super().begin(epoch, weights, content, kept)


class RestoresNothing(Shard):
    """Restores zeros."""

    def begin(self, epoch, weights, content, kept):
        if content is not None:
            slots, states = content
            content = slots, [LSTMState(h=each.h * 0, c=each.c * 0) for each in states]
        return super().begin(epoch, weights, content, kept)
