"""Mistakes in the CUDA backend's waits, and in how long it keeps memory. A GPU runs work after it was queued.

By file, each with a description, the old text, the new text, and the tests that must find it (see host_faults.py).
"""

WAITS = {
    "runtime/streams.py": [
        (
            "no wait for the stream of an argument",
            "self._stream.wait_event(_event_on(other, index))",
            "pass",
            "late order late_arguments",
        ),
        (
            "the stream of an argument doesn't wait for the call",
            "            other.wait_event(event)",
            "            pass",
            "late order interfaces_stream",
        ),
        (
            "the event is recorded before the work",
            "event = _event_on(self._stream, self._index)\n        for",
            "event = cupy.cuda.Event(disable_timing=True)\n        for",
            "late order out_is_read",
        ),
        (
            "the host doesn't wait for an `out` without a stream",
            "if self._host_waits:\n            event",
            "if False:\n            event",
            "late order out_is_read",
        ),
        (
            "turns don't wait",
            "stream.wait_event(_event_on(last, self._index) if event is None else event)",
            "pass",
            "late order a_steppers_calls",
        ),
        (
            "turns don't wait for a per-thread stream",
            "if stream.ptr == _PER_THREAD:",
            "if False:",
            "now stepper per_thread",
        ),
        (
            "turns forget the last stream",
            "        self._last, self._event = stream, None\n        return",
            "        return",
            "late order a_pools_calls",
        ),
        (
            "a consumer waits for its own stream",
            "with self._stream:\n                    return self._array",
            "with before:\n                    return self._array",
            "late order namespace",
        ),
        ("memory of other libraries isn't kept", "self._kept.append(array)", "pass", "now interop live_until"),
        (
            "memory of queued work isn't kept",
            "            _keep_until(event, [self, *held])",
            "            pass",
            "late order deleted",
        ),
        ("weights don't wait for dropped graphs", "[self, *held]", "list(held)", "late sequences dropped_graphs"),
        (
            "memory is freed before its work is done",
            "eventQuery(event.ptr) != _NOT_READY",
            "eventQuery(event.ptr) == _NOT_READY",
            "now interop released_in_order",
        ),
        (
            "graphs and streams are freed in captures",
            "elif fork.is_capturing():",
            "elif False:",
            "now captures dead_steppers",
        ),
    ],
    "runtime/collector.py": [
        (
            "the first thread to leave enables the collector",
            "if _owed and not _paused_by:",
            "if _owed:",
            "now captures last_capture",
        ),
        ("a disabled collector is enabled", " and gc.isenabled()", "", "now captures stays_disabled"),
        ("a child collects nothing", "    if _owed:\n        gc", "    if False:\n        gc", "now captures a_child"),
    ],
    "runtime/graphs.py": [
        (
            "garbage is collected in captures",
            "with collector.paused():",
            "with contextlib.nullcontext():",
            "now captures anyones",
        ),
        ("what a capture deferred stays", "        keep_deferred()\n", "", "now captures freed_afterwards"),
        (
            "the run before a capture doesn't wait for the buffers' zeros",
            "stream.wait_event(other.record())",
            "pass",
            "now stepper zeroed_before",
        ),
        (
            "a bucket is dropped before its work is done",
            "stream.wait_event(other.record())",
            "pass",
            "late order grows",
        ),
    ],
    "runtime/pinned.py": [
        (
            "mapped memory isn't kept",
            "array.nbytes, array, device)",
            "array.nbytes, None, device)",
            "now host_stepper alive",
        ),
        ("pinned memory is reused early", "self._events[k].synchronize()", "pass", "late order slots_of_queued"),
        (
            "slots are uploaded on the default stream",
            "values.nbytes, kind, stream.ptr)",
            "values.nbytes, kind, 0)",
            "late order slots_of_queued",
        ),
        (
            "the event doesn't follow the upload",
            "            event.record(stream)",
            "            pass",
            "late order slots_of_queued",
        ),
    ],
    "runtime/strides.py": [
        (
            "rows are copied on the default stream",
            "cupy.cuda.get_current_stream().ptr",
            "0",
            "late order a_steppers_calls",
        ),
    ],
    "cell.py": [
        (
            "a new cell doesn't wait for its weights",
            "        cupy.cuda.get_current_stream().synchronize()",
            "        pass",
            "late order new_weights",
        ),
        (
            "weights are set before earlier steps are done",
            "streams = [each.begin() for each in turns]",
            "streams = [cupy.cuda.get_current_stream() for _ in turns]",
            "random order set_in_turn",
        ),
    ],
    "device_weights.py": [
        (
            "weights are interleaved before they are uploaded",
            "                self.wait_until_uploaded(stream)",
            "                pass",
            "late order before_a_stepper",
        ),
        (
            "interleaved weights are used before they are written",
            "                stream.synchronize()",
            "                pass",
            "late order new_weights",
        ),
        (
            "weights that are set have no event",
            "copy.fill(self)\n            self._uploaded.record()",
            "copy.fill(self)",
            "late order before_a_stepper",
        ),
    ],
    "stepper.py": [
        (
            "a new one doesn't wait for weights that are being set",
            "            engine.weights.wait_until_uploaded(stream)\n",
            "",
            "late order before_a_stepper",
        ),
        (
            "the host reads its output too early",
            "stream.synchronize()\n            self._flags",
            "self._flags",
            "late any_stepper buffers_on_the_host and emulated",
        ),
        (
            "the host overwrites a state too early",
            "stream.synchronize()  # CuPy doesn't",
            "pass  # CuPy doesn't",
            "late order overwritten",
        ),
        (
            "nothing of a stepper is kept",
            "held = (step, self._engines, flags, self._graphs, self.x, self._flags, self.output)",
            "held = ()",
            "late order deleted",
        ),
        (
            "nothing of the host is kept",
            "held = (step, self._engines, flags, self._graphs, self.x, self._flags, self.output)",
            "held = (self._engines, self._graphs)",
            "late host_stepper outlive",
        ),
    ],
    "pool.py": [
        (
            "a new one doesn't wait for weights that are being set",
            "            engine.weights.wait_until_uploaded(stream)\n",
            "",
            "late order before_a_stepper",
        ),
        (
            "nothing of a pool is kept",
            "held = tuple(engines), step.all_h, step.c, step.held, self._audits",
            "held = ()",
            "late order pool_that_is_deleted",
        ),
        (
            "`strict` doesn't wait",
            "                stream.synchronize()\n                return",
            "                return",
            "now pool strict",
        ),
        (
            "a read takes no turn",
            "B, dtype = len(slots), self._all_h.dtype\n        with self._turns.turn():",
            "B, dtype = len(slots), self._all_h.dtype\n        with cupy.cuda.Device():",
            "late order a_pools_calls",
        ),
    ],
    "fused_slots.py": [
        ("smaller buffers aren't kept", "self._turns.keep_until_done(room)", "pass", "late order grows and kernel"),
    ],
    "backend.py": [
        (
            "a copy doesn't wait for the other GPU",
            "here.follow(None, index)",
            "pass",
            "late interop another_gpu_is_in_order",
        ),
    ],
}
