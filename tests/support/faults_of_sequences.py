"""Mistakes in how the CUDA backend runs whole sequences: chunks, buffers that calls share, graphs, and flags.

By file, each with a description, the old text, the new text, and the tests that must find it (see host_faults.py).
"""

ROWS = "now any_lstm row_by_row and emulated"

SEQUENCES = {
    "chunked_sequence.py": [
        ("sequences ignore measured times", "measured=engine.measured,", "measured=None,", "now tune sequences_use"),
        (
            "chunks in the order of time",
            "in reversed(parts) if reverse else parts:",
            "in parts:",
            "now sequences chunks_of_any",
        ),
        (
            "graphs of other options",
            "if graphs.form == form:",
            "if graphs.form.B == form.B:",
            "now sequences are_steps",
        ),
        ("graphs of other rows", "if graphs.form == form:", "if True:", "now sequences bounded"),
        (
            "a call doesn't wait for the buffers",
            "with self._turns.turn() as stream:",
            "with Turns(self._turns._index).turn() as stream:",
            "late sequences two_streams",
        ),
        (
            "weights don't wait for graphs",
            "            engine.turns.add(self._turns)\n",
            "",
            "late sequences weights_wait",
        ),
        (
            "graphs don't wait for weights",
            "engine.weights.wait_until_uploaded(stream)",
            "pass",
            "late sequences new_buffers",
        ),
        (
            "buffers are freed before their work is done",
            "        weakref.finalize(self, self._turns.keep_until_done, held).atexit = False\n",
            "",
            "late sequences outlive",
        ),
        (
            "two calls share buffers",
            "                    self._free.remove(graphs)\n",
            "                    pass\n",
            "now sequences inside_a_call",
        ),
        ("buffers are made anew", "        free.append(graphs)\n", "", "now sequences call_queues"),
        ("the newest graphs are dropped", "free.pop(0)", "free.pop()", "now sequences bounded"),
        ("graphs are never dropped", "> _MOST_SETS:", "> 1 << 30:", "now sequences bounded"),
        (
            "a capture runs on the state",
            "            static.begin(run.states, reset_to)\n            for start",
            "            static.begin(run.states, reset_to)\n            self._by_steps.clear()\n"
            "            for _, steps in parts:\n                self._capture(steps)\n            for start",
            "now sequences are_steps",
        ),
        (
            "outputs of all chunks in one place",
            "run.outputs[start:stop]",
            "run.outputs[:steps]",
            "now sequences are_steps",
        ),
        ("the first chunk's inputs", "run.xs[start:stop]", "run.xs[:steps]", "now sequences are_steps"),
        ("the first chunk's flags", "[:steps], start, reverse", "[:steps], 0, reverse", "now sequences are_steps"),
        ("final states are not written", "            static.end(run.finals)\n", "", "now sequences are_steps"),
        ("every state of all chunks in one place", "cells.h[start:stop]", "cells.h[:steps]", ROWS),
        (
            "each chunk begins with the first state",
            "                stop = start + steps\n",
            "                stop = start + steps\n                static.begin(run.states, reset_to)\n",
            "now sequences are_steps",
        ),
    ],
    "sequence.py": [
        ("all directions are forward", "reverse=run.reverse or part.backward,", "reverse=run.reverse,", ROWS),
        (
            "both directions write the first columns",
            "outputs=whole[:, :, part.columns],",
            "outputs=whole[:, :, : part.columns.stop - part.columns.start],",
            ROWS,
        ),
        (
            "states to reset to of another layer",
            "run.reset_to[part.which]",
            "run.reset_to[: part.which.stop - part.which.start]",
            "now any_lstm dtypes_agree and emulated",
        ),
        (
            "every state of another layer",
            "run.cells[part.which]",
            "run.cells[::-1][part.which]",
            "now cells outputs_keep and emulated",
        ),
        (
            "a user's capture",
            "            check_not_captured(",
            "            str(",
            "now sequences captured_call",
        ),
    ],
    "sequence_marks.py": [
        (
            "marks are uploaded on the default stream",
            "cupy.cuda.get_current_stream())",
            "cupy.cuda.Stream.null)",
            "late sequences two_streams",
        ),
        ("lengths of any type", "lengths = as_lengths(lengths, T)", "pass", "now sequences clamped"),
        (
            "masks of some lengths are dropped",
            "(lengths == T).all()",
            "(lengths == T).any()",
            "now any_lstm padding and emulated",
        ),
        ("a chunk is taken for the whole", "start, self.T, **marks", "start, start + len(flags), **marks", ROWS),
    ],
    "product_steps.py": [
        (
            "the rows of x are not padded",
            "strides=xs.strides[1:]",
            "strides=(weights.I * xs.itemsize, xs.itemsize)",
            ROWS,
        ),
        (
            "gates of another step",
            "self._gates[t - part.start])",
            "self._gates[t % len(self._gates) - 1])",
            "now sequences are_steps",
        ),
        (
            "parts of a chunk in the order of time",
            "for start in self._form.order(range(0, steps, most)):",
            "for start in range(0, steps, most):",
            "now sequences chunks_of_any",
        ),
        ("no workspace", "        self._workspace.reserve(product.workspace_bytes)\n", "", "now sequences are_steps"),
    ],
    "groups.py": [
        ("backward layers read forward", "direction == directions.BACKWARD, columns", "False, columns", ROWS),
        (
            "the residual layers of a part are the lowest",
            "for _, _, residual in layers",
            "for _, _, residual in [layers[0]] * len(layers)",
            ROWS,
        ),
    ],
    "kernel_steps.py": [
        (
            "the h before a step is kept as the one after it",
            "self._queue_cells(t, h)",
            "self._queue_cells(t, other)",
            "now cells replay and emulated",
        ),
        (
            "an odd number of steps ends in the other h",
            "if h is not self.state.h:",
            "if False:",
            "now sequences are_steps",
        ),
        ("the buffers of h don't alternate", "            h, other = other, h\n", "", "now sequences are_steps"),
    ],
    "sequence_form.py": [
        (
            "every state is that of the first step",
            "copy_rows(cells.c[t], self.state.c)",
            "copy_rows(cells.c[0], self.state.c)",
            ROWS,
        ),
        ("idle rows repeat the step before in time", "self.outputs[form.before(t)]", "self.outputs[t - 1]", ROWS),
    ],
    "static_sequence.py": [
        (
            "states to reset to are not multiplied",
            "            self.queue_resets()\n        if",
            "        if",
            "now sequences are_steps",
        ),
        (
            "last outputs are not carried to the next chunk",
            "copy_rows(self._last, self.outputs[self._form.order(range(steps))[-1]])",
            "pass",
            "now sequences chunks_of_any",
        ),
        ("last outputs of an earlier call", "            self._last.fill(0)\n", "            pass\n", ROWS),
        ("c is not carried", "            copy_rows(state.c, mine.c)\n", "", "now sequences are_steps"),
    ],
}
