"""Mistakes in the engine of Sequencers: what tests/host_faults.py plants."""

SEQUENCERS = {
    "sequencer.py": [
        (
            "a new one doesn't wait for weights that are being set",
            "            engine.weights.wait_until_uploaded(stream)\n",
            "",
            "late order before_a_sequencer",
        ),
        (
            "weights are set before a late run",
            "            engine.turns.add(self._turns)\n",
            "            pass\n",
            "late order weights_of_a_sequencer",
        ),
        (
            "nothing of a sequencer is kept",
            "held = self._parts, self._engines, self._marks, self._resets, self._graph",
            "held = ()",
            "late order sequencer_deleted",
        ),
        (
            "a run on the current device",
            "if cupy.cuda.runtime.getDevice() != self._index:",
            "if False:",
            "late sequencer another_device",
        ),
        (
            "a graph is launched in the caller's capture",
            "if is_captured(cupy.cuda.get_current_stream().ptr):\n            self._queue()",
            "if False:\n            self._queue()",
            "now sequencer callers_graph",
        ),
        (
            "calls in the caller's capture wait for others",
            "self._turns.turn() if is_ordered else contextlib.nullcontext()",
            "self._turns.turn()",
            "now sequencer callers_graph",
        ),
        (
            "products are freed once captured",
            "            scope.pop_all()\n",
            "            pass\n",
            "now sequencer callers_graph",
        ),
        (
            "outputs of the run before the capture stay",
            "        bits(outputs).fill(0)\n",
            "",
            "now any_sequencer buffers_begin",
        ),
        (
            "states of the run before the capture stay",
            "        self._zero()\n        self.buffers",
            "        self.buffers",
            "now any_sequencer buffers_begin",
        ),
        (
            "states to reset to aren't copied",
            "LSTMState(h=each.h.copy(), c=each.c.copy())",
            "LSTMState(h=each.h, c=each.c)",
            "now any_sequencer resets_are_copied",
        ),
        (
            "rows are reset to zeros",
            "None if self._resets is None else self._resets[done:stop]",
            "None",
            "now any_sequencer runs_equal_calls",
        ),
        (
            "the flags of both directions are one",
            "flags=self._flags.get(reverse),",
            "flags=next(iter(self._flags.values()), None),",
            "now any_sequencer runs_equal_calls",
        ),
    ],
}
