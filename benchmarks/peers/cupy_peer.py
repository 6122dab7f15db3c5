"""Unfused CuPy: the plain NumPy of numpy_peer.py on a GPU, a kernel for each operation."""

from benchmarks.cases import Result
from benchmarks.peers.numpy_peer import prepared, step, steps
from benchmarks.peers.peer import Peer, waited
from fusedlstm.backends.select import unavailable_reason


class Cupy(Peer):
    """CuPy on the GPU. Its float32 matmuls are IEEE float32, as CUPY_TF32 isn't set."""

    name = "CuPy unfused"
    package = module = "cupy"
    kinds = ("step", "sequence")
    devices = ("cuda",)
    dtypes = ("float64", "float32")

    def why_not(self, device):
        return super().why_not(device) or unavailable_reason("cuda")

    def version(self):
        import cupy  # its distribution has one of several names

        return cupy.__version__

    def prepare(self, case, device, threads):
        import cupy

        del device, threads
        layers = [
            tuple(None if array is None else cupy.asarray(array) for array in layer) for layer in prepared(case.weights)
        ]
        xs, h, c, is_first = (None if array is None else cupy.asarray(array) for array in case.data)

        def queue():
            if case.kind == "sequence":
                return steps(cupy, layers, xs, h, c, is_first)
            return step(cupy, layers, xs[0], h, c, None if is_first is None else is_first[0])

        return waited(queue, cupy.cuda.get_current_stream().synchronize)

    def results(self, raw):
        import cupy

        hs, cs, *outputs = raw
        return Result(cupy.stack(hs).get(), cupy.stack(cs).get(), *(array.get() for array in outputs))


PEERS = [Cupy()]
