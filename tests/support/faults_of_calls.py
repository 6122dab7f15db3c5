"""Mistakes in the CUDA backend's calls of CUDA, in its buffers, and in its state.

By file, each with a description, the old text, the new text, and the tests that must find it (see host_faults.py).
"""

# Buffers, and memory that graphs use.
MEMORY = {
    "stepper.py": [
        (
            "an allocation in a capture",
            "captured(functools.partial(step.queue, current, flags if resets else None))",
            "captured(lambda: (step.queue(current, flags if resets else None), cupy.zeros(1)))",
            "now any_stepper equals_the_cell and emulated",
        ),
    ],
    "matmul_batch.py": [
        (
            "x isn't copied",
            "        if self._host:\n            pinned",
            "        if False:\n            pinned",
            "now host_stepper copy_of_x",
        ),
        ("kernels clear the host's flags", "clears=not self._host", "clears=True", "now host_stepper leave_flags"),
        (
            "the host's output isn't zeroed",
            "            self.output.fill(0)",
            "            pass",
            "now host_stepper begin_as_zeros",
        ),
    ],
    "matmul_step.py": [
        (
            "the workspace of a graph is freed",
            "        for layer in self._layers:\n            layer.close()",
            "        self._workspace = None\n        for layer in self._layers:\n            layer.close()",
            "now any_stepper equals_the_cell and emulated",
        ),
        (
            "no workspace",
            "size = max(layer.workspace_bytes for layer in self._layers)",
            "size = 0",
            "now any_stepper equals_the_cell and emulated",
        ),
        (
            "steps share a workspace",
            "self._workspace = self._zeros((size,), np.dtype(np.uint8))",
            'self._workspace = globals().setdefault("_shared", self._zeros((size,), np.dtype(np.uint8)))',
            "random order two_streams",
        ),
        (
            "the workspace overlaps the gates",
            "self._workspace = self._zeros((size,), np.dtype(np.uint8))",
            "self._workspace = gates.view(np.uint8)[:size]",
            "now any_stepper equals_the_cell and emulated and plain-33",
        ),
        (
            "buffers are not zeroed",
            "array = cupy.zeros(shape, dtype)",
            "array = cupy.empty(shape, dtype)",
            "now any_stepper equals_the_cell and emulated",
        ),
        (
            "layers share a column",
            "at = middle + weights.H",
            "at = middle + weights.H - 1",
            "now any_stepper equals_the_lstm and emulated",
        ),
    ],
    "fused_batch.py": [
        (
            "the buffers of h are swapped",
            "(self.states[current], self.states[1 - current])",
            "(self.states[1 - current], self.states[current])",
            "now any_stepper equals_the_cell and emulated",
        ),
        (
            "the layer above reads the old h",
            "self.outputs = (hs[1], hs[0])",
            "self.outputs = (hs[0], hs[1])",
            "now any_stepper equals_the_lstm and emulated",
        ),
        (
            "flags aren't cleared",
            "None if is_first is None else readers)",
            "None)",
            "now fused_stepper flags_are_cleared",
        ),
        (
            "kernels clear the host's flags",
            "None if host else cupy.zeros((row_blocks",
            "cupy.zeros((row_blocks",
            "now host_stepper leave_flags",
        ),
        ("x isn't copied", "if self._uploads:", "if False:", "now host_stepper copy_of_x"),
        ("any x is read from the host", "host and reads <= MOST_READ", "host", "now host_stepper large_inputs"),
        (
            "the residual connection's read of x isn't counted",
            "[1] + residual",
            "[1]",
            "now host_stepper large_inputs",
        ),
        (
            "rows of x aren't aligned on the host",
            "rows = pinned.zeros((B, padded(I, dtype)), dtype)",
            "rows = pinned.zeros((B, I), dtype)",
            "now host_stepper same_kernels",
        ),
        ("the host's output isn't zeroed", "self._on_host.fill(0)", "pass", "now host_stepper begin_as_zeros"),
        (
            "the output stays on the GPU",
            "copy = None if k < top or on_host is None else",
            "copy = None if True else",
            "now host_stepper bits_are and 3",
        ),
    ],
    "device_weights.py": [
        (
            "stale interleaved weights",
            "            for copy in self._interleaved.values():\n                copy.fill(self)\n",
            "",
            "now any_stepper set_weights and emulated",
        ),
        (
            "stale weights in graphs",
            "self._arrays[name].set(array)",
            "self._arrays[name] = cupy.asarray(array)",
            "now any_stepper set_weights and emulated",
        ),
        (
            "padding of weights is not zero",
            "weight = np.zeros((4 * self.N, self.X + self.H), self.dtype)",
            "weight = np.full((4 * self.N, self.X + self.H), np.nan, self.dtype)",
            "now any_stepper equals_the_cell and emulated",
        ),
    ],
    "runtime/structs.py": [
        (
            "a launch doesn't keep its arrays",
            "filled.struct, filled.values = self, values",
            "filled.struct, filled.values = self, ()",
            "now host keeps_its_arrays",
        ),
    ],
}

# The arguments of calls of CUDA.
ARGUMENTS = {
    "runtime/cublas.py": [
        (
            "rows and columns swapped",
            "CUBLAS_OP_N, M, B, K",
            "CUBLAS_OP_N, B, M, K",
            "now any_cell edges and emulated",
        ),
        (
            "strides of another matrix",
            "row_stride(a), beta",
            "row_stride(weight), beta",
            "now any_cell any_strides and emulated",
        ),
        (
            "another user's math mode",
            "    if mode != _DEFAULT_MATH:\n        cublas.setMathMode(handle, _DEFAULT",
            "    if False:\n        cublas.setMathMode(handle, _DEFAULT",
            "now host highest_precision",
        ),
        ("TF32 is never used", 'precision == "high"', 'precision == "higher"', "now host high_precision"),
    ],
    "runtime/cublaslt.py": [
        (
            "alpha and beta swapped",
            "(alpha, beta), (a, b, c)",
            "(beta, alpha), (a, b, c)",
            "now any_stepper equals_the_cell and emulated",
        ),
        ("operands swapped", "alpha, weight, a, x, b, beta", "alpha, x, b, weight, a, beta", "now stepper own_arrays"),
        (
            "no stride",
            "rows, columns, row_stride(array))",
            "rows, columns, rows)",
            "now any_stepper equals_the_lstm and emulated",
        ),
        (
            "an alignment that addresses don't have",
            "return np.uint32(address & -address)",
            "return np.uint32(_ALIGNMENT)",
            "now any_stepper equals_the_lstm and emulated",
        ),
        (
            "products on the default stream",
            "            cupy.cuda.get_current_stream().ptr,",
            "            0,",
            "now stepper a_steps_graph",
        ),
        (
            "not transposed",
            "MatmulDescAttribute.TRANSA, np.int32(1))",
            "MatmulDescAttribute.TRANSB, np.int32(1))",
            "now stepper own_arrays",
        ),
    ],
    "runtime/pinned.py": [
        (
            "pitches swapped",
            "(to.data.ptr, pitch, rows.ctypes.data, width, width,",
            "(to.data.ptr, width, rows.ctypes.data, pitch, width,",
            "now any_stepper buffers_on_the_host and emulated",
        ),
        (
            "a copy in the other direction",
            "B, K), kind = rows.shape, cupy.cuda.runtime.memcpyHostToDevice",
            "B, K), kind = rows.shape, cupy.cuda.runtime.memcpyDeviceToHost",
            "now any_stepper buffers_on_the_host and emulated",
        ),
    ],
    "runtime/strides.py": [
        (
            "no stride",
            "return int(a.strides[0]) // int(a.itemsize) if B > 1 else max(1, K)",
            "return max(1, K)",
            "now any_cell any_strides and emulated",
        ),
        (
            "overlapping rows aren't copied",
            "row >= K * a.itemsize and row % a.itemsize == 0",
            "True",
            "now any_cell any_strides and emulated",
        ),
        (
            "pitches swapped",
            "for array in (to, a))",
            "for array in (a, to))",
            "now any_stepper write_read and emulated",
        ),
        (
            "the alignment of the address is ignored",
            "a.data.ptr % step == 0 and rows_fit",
            "rows_fit",
            "check layouts flags or reset_to",
        ),
    ],
    "runtime/graphs.py": [
        (
            "a relaxed capture",
            "stream.begin_capture(cupy.cuda.runtime.streamCaptureModeThreadLocal)",
            "stream.begin_capture()",
            "now stepper thread_local",
        ),
        (
            "a stream that waits for the default one",
            "cupy.cuda.Stream(non_blocking=True)",
            "cupy.cuda.Stream()",
            "now stepper other_threads",
        ),
    ],
    "kernels.py": [
        (
            "h and c_out swapped",
            "        h=Matrix.of(h_out),\n        c_out=Matrix.of(c_out),",
            "        h=Matrix.of(c_out),\n        c_out=Matrix.of(h_out),",
            "now any_cell edges",
        ),
        (
            "bias and peephole swapped",
            "        gates=gates,\n        cell=Cell(weights.bias, weights.peephole,",
            "        gates=gates,\n        cell=Cell(weights.peephole, weights.bias,",
            "now any_stepper equals_the_cell and emulated",
        ),
        (
            "rows and columns of a grid swapped",
            "return (-(-B // rows), -(-columns // threads)), (threads, rows)",
            "return (-(-columns // threads), -(-B // rows)), (threads, rows)",
            "now any_cell edges",
        ),
    ],
    "step_kernels.py": [
        (
            "h and c swapped",
            "h=Matrix.of(h),\n            c=Matrix.of(c),",
            "h=Matrix.of(c),\n            c=Matrix.of(h),",
            "now any_stepper equals_the_cell and kernel",
        ),
        ("no room for m", "tile.shared_bytes + bytes_of_m)", "tile.shared_bytes)", "now fused_pool projections_agree"),
    ],
}

# The state, and devices.
STATE = {
    "stepper.py": [
        (
            "a step on the current device",
            "if cupy.cuda.runtime.getDevice() != self._index:",
            "if False:",
            "late stepper another_device",
        ),
        (
            "the buffers don't alternate",
            "self.current = (self.current + 1) % self._step.buffers",
            "self.current = 0",
            "now any_stepper equals_the_cell and emulated",
        ),
        (
            "flags on the host aren't cleared",
            "            self._flags.fill(False)  # as",
            "            pass  # as",
            "now stepper flags_on_the_host",
        ),
        ("flags are ignored", "        self._resets = True", "        pass", "now any_stepper flags_last and emulated"),
        (
            "a graph without resets, in spite of flags",
            "self._flags.tobytes() != self._no_flags",
            "False",
            "now host_stepper any_flag",
        ),
        (
            "only flags of 1 are seen",
            "self._flags.tobytes() != self._no_flags",
            "1 in self._flags.tobytes()",
            "now host_stepper any_flag",
        ),
        (
            "flags that were ever used reset all steps",
            "        if resets and self._host:\n",
            "        if False:\n",
            "now host_stepper needs_a_copy",
        ),
        ("zeros of the run before a capture stay", "        step.zero()\n", "", "now fused_stepper begin_as_zeros"),
    ],
    "backend.py": [
        (
            "zeros on the current device",
            "        with self._device:\n            return cupy.zeros",
            "        if True:\n            return cupy.zeros",
            "now host its_own_device",
        ),
        (
            "Steppers ignore measured times",
            "measured=tuple(engine.measured for engine in engines)",
            "measured=()",
            "now tune new_objects",
        ),
        (
            "one kernel for all rows",
            "CudaCell(weights, precision, kernel, measured)",
            "CudaCell(weights, precision, measured and next(iter(measured.times(1))), measured)",
            "now tune each_batch",
        ),
    ],
    "replay_timer.py": [
        ("the GPU waits for the host", "if was_ahead:", "if True:", "now tune host_ahead"),
        (
            "other work is timed, too",
            "first.record(stream)\n        for _ in range(times):\n            step()\n        was_ahead",
            "for _ in range(times):\n            step()\n        first.record(stream)\n        was_ahead",
            "now tune only_the_steps",
        ),
    ],
    "runtime/tuned.py": [
        (
            "times are sought under another name",
            'about["GPU"], layer)\n    content',
            '"GPU", layer)\n    content',
            "now tune new_objects",
        ),
    ],
    "cell.py": [
        ("calls ignore measured times", ", measured=self.measured)", ")", "now tune new_objects"),
        (
            "a step on the current device",
            "if cupy.cuda.runtime.getDevice() == self._index:",
            "if True:",
            "now host its_own_device",
        ),
        ("strides change nothing", "x.strides, h.strides, c.strides, ", "", "now repeated bits_of_a_first"),
        ("alignment changes nothing", "low_bits % _VECTOR", "0", "now repeated unaligned"),
        ("any array may be the unaligned one", "tuple(address % _VECTOR", "any(1", "now repeated each_unaligned"),
        (
            "one row of reset_to counts as B",
            "(len(array), array.strides)",
            "array.ndim",
            "now repeated bits_of_a_first",
        ),
    ],
    "repeated_step.py": [
        (
            "the caller's h is reset",
            "old_h = self._scratch(o.h.shape, o.h.dtype)",
            "old_h = o.h",
            "now zoneout callers_state and emulated",
        ),
        (
            "scratch arrays overlap",
            "        self._scratch_bytes += nbytes\n",
            "        self._scratch_bytes = nbytes\n",
            "now any_cell edges and emulated",
        ),
    ],
    "runtime/packed.py": [
        (
            "two launches share a struct",
            "packed = self._unused.pop()",
            "packed = self._unused[-1]",
            "now repeated middle_of_a_launch",
        ),
        ("addresses stay", "in self._changing:", "in self._changing[1:]:", "now repeated bits_of_a_first"),
        ("views of operands stay", "operand is value", "operand is value and k", "now repeated bits_of_a_first"),
        (
            "the first grid for all",
            "how = *_three(grid),",
            "how = *self._grid,",
            "now fused_pool batches_of_any_order",
        ),
    ],
    "pool.py": [
        ("ticks stand still", "audit.tick + 1", "audit.tick", "now pool duplicate"),
        ("children get one of two rows", "= all_h[rows(of)]", "= all_h[2 * of]", "now fused_pool forks"),
        ("children keep their c", "                self._c[to] = self._c[of]\n", "", "now fused_pool forks"),
        ("a resize loses problems", "        self._problems = before._problems\n", "", "now pool earlier_problems"),
        ("a resized pool isn't prepared", "if before._prepared:", "if False:", "now pool resized_pool_allocates"),
        ("an audit keeps old problems", "            self._problems.fill(0)\n", "", "now pool bad_slots"),
    ],
    "fused_slots.py": [
        (
            "pools ignore measured times",
            "engines[0].kernel, measured\n",
            "engines[0].kernel, ()\n",
            "now tune new_objects",
        ),
        ("words aren't flipped", "flips=self._is_top)", "flips=False)", "now fused_pool words_say"),
        ("ticks stand still", "        self._tick += 1\n", "", "now fused_pool a_pool_equals_its_cell"),
    ],
}
