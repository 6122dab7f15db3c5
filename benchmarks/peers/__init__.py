"""The peers to time: ours, and what people would use instead. `peer.py` defines their interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.peers.peer import Peer


def all_peers() -> list[Peer]:
    """Return every peer, ours first."""
    from benchmarks.peers import (
        cupy_peer,
        fusedlstm_in_place,
        fusedlstm_peer,
        fusedlstm_sequencer,
        jax_peer,
        numpy_peer,
        onnxruntime_peer,
        tensorflow_peer,
        torch_cell,
        torch_loop,
        torch_lstm,
        torch_padded,
        torch_pool,
        torchrl_peer,
    )

    files = (
        fusedlstm_peer,
        fusedlstm_in_place,
        fusedlstm_sequencer,
        numpy_peer,
        torch_cell,
        torch_lstm,
        torch_padded,
        torch_loop,
        torch_pool,
        torchrl_peer,
        onnxruntime_peer,
        jax_peer,
        tensorflow_peer,
        cupy_peer,
    )
    return [peer for file in files for peer in file.PEERS]


def missing(devices: tuple[str, ...], *, quick: bool) -> Iterator[tuple[str, str]]:
    """Yield the peers that run on none of these devices here, with the reason."""
    for peer in all_peers():
        reasons = {device: peer.why_not(device) for device in devices}
        if all(reasons.values()):
            yield peer.name, "; ".join(dict.fromkeys(filter(None, reasons.values())))
        elif quick and not peer.quick:
            yield peer.name, "left out with --quick"
