"""ShardedPool: a StatePool in parts, on the GPUs of many machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import ray

from fusedlstm.ray import whole_pool
from fusedlstm.ray.call import check_seconds
from fusedlstm.ray.shard_calls import ShardCalls
from fusedlstm.ray.shards import Shards, ShardStats
from fusedlstm.ray.snapshots import Snapshots
from fusedlstm.validation.arguments import check_path, check_real, check_size, describe_type, fail
from fusedlstm.validation.weights import as_layers, check_causal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedlstm.arrays.dtypes import NumpyArray
    from fusedlstm.ray.sessions import Key
    from fusedlstm.validation.arguments import AnyPath

_MOST_SHARDS = 2**16


class ShardedPool:
    """A StatePool in parts, called shards: each is a Ray actor with a StatePool, on a machine of a cluster.

    You give each session a key, an int or a str. A session stays in the shard in which it was opened. Pass one key, or
    several as a list, tuple, range or NumPy array. A call groups its rows by shard, makes one call to each shard, and
    puts the results together. x and states are NumPy arrays, which are copied before a method returns. With the option
    `batch_invariant`, results have the same bits as those of one StatePool.

    A call with bad arguments changes nothing. Calls run in the order in which they were sent, also from several
    threads. `aio` has the same methods for asyncio and for sending several calls before the first result.

    Ray restarts a shard that dies, and this pool restores its last snapshot. Calls don't wait for that. They do the
    rows of all other shards, and then raise SessionsLostError. It names the sessions that went back, with how many
    changes each lacks, and those that are lost. Until the shard is back, calls don't do its rows. `wait` waits for it.

    A shard that is alive loses nothing, however slow it is. If it doesn't answer in `timeout` seconds, or in 1 second
    after its connection broke, any method may raise LateShardsError. The error's `call` waits again.

    The pool belongs to the process that made it, which must stay connected to Ray. It can't be pickled.

    Args:
        weights: LSTMWeights for shards with an LSTMCell, or StackedWeights, all forward, for an LSTM.
        shards: the number of shards.
        capacity: the number of sessions that each shard can hold.
        num_gpus: the number of GPUs that Ray assigns to each shard. With 0, shards step in NumPy.
        options: options of the LSTMCell or LSTM, such as `{"batch_invariant": True}`.
        snapshot: when to take snapshots; None for never.
        actor_options: more options of Ray's actors, such as `{"num_cpus": 2}`. The defaults are one CPU and the
            scheduling strategy "SPREAD".
        timeout: the seconds to wait for a shard's answer before a call raises LateShardsError.

    Raises:
        TypeError: an argument has the wrong kind.
        ValueError: a number is too small or too large, a layer reads backward, or an option has a wrong value.
        BackendUnavailableError: a shard's backend can't run on its machine.
        TimeoutError: a shard was not ready after `timeout` seconds. The cluster may have too few CPUs or GPUs.
        RuntimeError: Ray is not initialised.
    """

    def __init__(
        self,
        weights: Any,
        *,
        shards: int,
        capacity: int,
        num_gpus: float = 0,
        options: Mapping[str, Any] | None = None,
        snapshot: Snapshots | None = Snapshots(),  # noqa: B008 (it is immutable)
        actor_options: Mapping[str, Any] | None = None,
        timeout: float = 60.0,
    ) -> None:
        check_causal("weights", as_layers(weights), "layers that are all forward")
        count, capacity = check_size("shards", shards, 1), check_size("capacity", capacity, 1)
        if count > _MOST_SHARDS:
            fail(ValueError, "shards", f"at most {_MOST_SHARDS}", str(count))
        if check_real("num_gpus", num_gpus) < 0:
            fail(ValueError, "num_gpus", "a number >= 0", str(num_gpus))
        if snapshot is not None and not isinstance(snapshot, Snapshots):
            fail(TypeError, "snapshot", "a Snapshots, or None", describe_type(snapshot))
        if check_real("timeout", timeout) <= 0:
            fail(ValueError, "timeout", "a positive number", str(timeout))
        timeout = check_seconds("timeout", timeout)
        if not ray.is_initialized():
            raise RuntimeError("Ray is not initialised: call ray.init() first")
        cell = {"backend": "cuda" if num_gpus else "numpy", **(options or {})}
        actor = {"num_cpus": 1, "num_gpus": num_gpus, "scheduling_strategy": "SPREAD", **(actor_options or {})}
        self._shards = Shards(weights, count, capacity, cell, actor, snapshot, timeout)
        self._calls = ShardCalls(self._shards, weights)

    @property
    def aio(self) -> ShardCalls:
        """The methods open, close, step, reset, read, write, fork, prepare and set_weights. Here each returns a Call.

        The call has been sent when the method returns. Wait for it with `call.result()` or `await call`. With a time
        limit, use `call.result(timeout)` or `await call.within(timeout)`.
        """
        return self._calls

    @property
    def weights(self) -> Any:
        """The current weights."""
        return self._calls.weights

    @property
    def capacity(self) -> int:
        """The number of sessions that all shards can hold."""
        return self._shards.count * self._shards.sessions.capacity

    @property
    def keys(self) -> list[Key]:
        """The keys of all open sessions, in the order in which they were opened."""
        with self._shards.lock:
            return self._shards.sessions.keys()

    def __len__(self) -> int:
        """Return the number of open sessions."""
        return len(self._shards.sessions)

    def __contains__(self, key: object) -> bool:
        """Return whether a session of this key is open."""
        return not isinstance(key, bool) and key in self._shards.sessions

    def open(self, keys: Any) -> None:
        """Open a session for each key, with states of zeros, in the emptiest shards.

        Raises:
            TypeError: the keys are not ints or strs.
            ValueError: a session is open already, or a key is repeated.
            PoolFullError: the shards that are ready have too few free slots. No session is opened then.
            SessionsLostError: a shard died. Sessions that are not delivered are not open.
        """
        self.aio.open(keys).result()

    def close(self, keys: Any) -> None:
        """End these sessions, and free their slots.

        Raises:
            TypeError: the keys are not ints or strs.
            ValueError: a session is not open, or a key is repeated.
            SessionsLostError: a shard died. These sessions are closed all the same.
        """
        self.aio.close(keys).result()

    def step(self, x: NumpyArray, keys: Any, *, is_first: Any = None) -> NumpyArray:
        """Advance the session of keys[k] by the input x[k], for each of B rows, and return the outputs.

        Args:
            x: (B, I) in the weights' dtype, a NumPy array. B may be 0.
            keys: the keys of B open sessions, each once, in any order.
            is_first: (B,) booleans, in a NumPy array or a list. True marks a row that begins a new sequence. Its state
                is set to zeros before this step.

        Returns:
            (B, width), the top layer's output, in a new NumPy array.

        Raises:
            TypeError: an argument has the wrong kind or dtype.
            ValueError: an argument has the wrong shape, a session is not open, or a key is repeated.
            SessionsLostError: a shard died. The error's `result` has the outputs of all other shards.
            LateShardsError: a shard is slow. The error's `result` has the outputs of all other shards.
        """
        return self.aio.step(x, keys, is_first=is_first).result()

    def reset(self, keys: Any) -> None:
        """Set the states of these sessions to zeros.

        Raises:
            TypeError: the keys are not ints or strs.
            ValueError: a session is not open, or a key is repeated.
            SessionsLostError: a shard died.
        """
        self.aio.reset(keys).result()

    def read(self, keys: Any) -> Any:
        """Return copies of the states of B sessions.

        Returns:
            An LSTMState with h (B, P) and c (B, N), or for StackedWeights a tuple of them, one for each layer. The
            arrays are NumPy's.

        Raises:
            TypeError: the keys are not ints or strs.
            ValueError: a session is not open, or a key is repeated.
            SessionsLostError: a shard died.
        """
        return self.aio.read(keys).result()

    def write(self, keys: Any, state: Any) -> None:
        """Set the states of B sessions.

        Args:
            keys: the keys of B open sessions, each once.
            state: like the result of `read`, with any strides.

        Raises:
            TypeError: the keys are not ints or strs; the state has the wrong kind or dtype.
            ValueError: a session is not open, or a key is repeated; the state has the wrong shape.
            SessionsLostError: a shard died.
        """
        self.aio.write(keys, state).result()

    def fork(self, parents: Any, children: Any) -> None:
        """Begin the session children[k] with the state of the session parents[k], for each k.

        A child gets a slot in its parent's shard. If that is full, it goes to another shard. With `aio`, such a child
        opens when you wait for the result or make the next call. A call that names it first waits for the parent's
        shard, even a call of `aio`. If that shard doesn't answer in time, the call raises TimeoutError and does
        nothing.

        Args:
            parents: keys of open sessions. A key may be repeated.
            children: as many keys of new sessions.

        Raises:
            TypeError: the keys are not ints or strs.
            ValueError: a parent is not open, a child is open already or repeated, or the numbers differ.
            PoolFullError: the shards that are ready have too few free slots. No session is opened then.
            SessionsLostError: a shard died. Children that are not delivered are not open.
        """
        self.aio.fork(parents, children).result()

    def prepare(self, max_batch: int) -> None:
        """Allocate everything that steps of up to `max_batch` rows need, in all shards, also when they restart.

        Raises:
            TypeError: `max_batch` is not an int.
            ValueError: `max_batch` is negative.
            SessionsLostError: a shard died, or has no memory for it. `delivered` has a row for each shard.
        """
        self.aio.prepare(max_batch).result()

    def set_weights(self, weights: Any) -> None:
        """Replace the weights in all shards. Steps that were sent before use the old weights, later ones the new.

        Raises:
            TypeError: the weights have another kind.
            ValueError: sizes, dtype or options differ. The message says which.
            SessionsLostError: a shard died. It gets the new weights when it is back.
        """
        self.aio.set_weights(weights).result()

    def save(self, folder: AnyPath) -> None:
        """Write all sessions to files in a folder on this machine, which is made if needed.

        The states are those of one moment. Calls that are sent later don't wait for the files. A manifest names the
        files and is replaced last. Until then, or if this fails or is killed, the folder has the old sessions. The next
        save removes what a killed one left. Don't save twice to one folder at the same time.

        `StatePool.load` can read each file of states.

        Raises:
            OSError: a file can't be written.
            TypeError: `folder` is not a path.
            SessionsLostError: a shard died. The folder is unchanged.
            TimeoutError: a shard is not back after the pool's timeout.
        """
        path = check_path("folder", folder)
        self._shards.check_open()
        self._calls.finish_forks()
        whole_pool.save(self._shards, path, self.weights)

    def load(self, folder: AnyPath) -> None:
        """Replace all sessions with those in a folder. Its pool may have had another number of shards or backend.

        If they were saved with other weights, this warns with OtherWeightsWarning.

        Raises:
            WeightsFileError: a file is missing, damaged or from a newer version, has states of other sizes, or there
                are more sessions than this pool can hold. The pool is unchanged.
            OSError: the manifest can't be read.
            TypeError: `folder` is not a path.
            SessionsLostError: a shard died.
            TimeoutError: a shard is not back after the pool's timeout.
        """
        path = check_path("folder", folder)
        self._shards.check_open()
        self._calls.finish_forks()
        whole_pool.load(self._shards, path, self.weights)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all shards are ready, for at most `timeout` seconds (None: for ever). Return whether they are.

        Raises:
            TypeError: `timeout` is not a number or None.
            ValueError: `timeout` is negative or not finite.
            RuntimeError: the pool has been shut down.
        """
        return self._shards.wait(None if timeout is None else check_seconds("timeout", timeout))

    def restart(self, shard: int) -> None:
        """Kill a shard's process and restore the shard from its last snapshot, as if it had died.

        Use this for a shard that hangs. It returns at once; `wait` waits until the shard is back. The next calls raise
        SessionsLostError with what its sessions lack.

        Args:
            shard: its number, from 0.

        Raises:
            TypeError: `shard` is not an int.
            ValueError: there is no such shard.
            RuntimeError: the pool has been shut down.
        """
        self._shards.check_open()
        count = self._shards.count
        if check_size("shard", shard, 0) >= count:
            fail(ValueError, "shard", f"a number below {count}, the number of shards", str(shard))
        self._shards.restart(shard)

    def stats(self) -> list[ShardStats]:
        """Return what this process knows about each shard. No shard is asked."""
        return self._shards.stats()

    def shutdown(self) -> None:
        """End all sessions and the shards. At the end of a `with` block this happens by itself.

        This waits for files of snapshots that are being written, and removes them.
        """
        self._shards.shut_down()

    def __enter__(self) -> ShardedPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ShardedPool can't be copied or pickled: use save(folder), and another pool's load(folder)")

    def __repr__(self) -> str:
        sizes = f"shards={self._shards.count}, capacity={self._shards.sessions.capacity}"
        return f"ShardedPool({self.weights!r}, {sizes}, live={len(self)})"
