"""One cluster of two nodes, and one pool, for all tests in this folder. A new process of Ray takes seconds."""

import importlib.util
import threading

import pytest

from support.ray_cluster import cluster
from support.sharded import INVARIANT, WEIGHTS


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark tests on a cluster as slow. They spend their time in Ray's processes, which nobody measures."""
    for item in items:
        if "nodes" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def nodes():
    with cluster(nodes=2) as made:
        yield made


@pytest.fixture(scope="session")
def kept_pool(nodes):
    from fusedlstm.ray import ShardedPool

    with ShardedPool(WEIGHTS[0], shards=3, capacity=12, options=INVARIANT, snapshot=None) as pool:
        yield pool


@pytest.fixture
def pool(kept_pool):
    """Return the kept pool, without sessions and snapshots."""
    from fusedlstm.ray.news import News

    assert kept_pool.wait(60)
    shards = kept_pool._shards
    shards.news = News()  # drop what a failed test has not heard
    kept_pool.close(kept_pool.keys)
    for link in shards.links:
        link.drop_pending()
        link.drop_last()
    kept_pool.set_weights(WEIGHTS[0])
    return kept_pool


@pytest.fixture
def snapping(pool):
    """Let the kept pool take a snapshot of a shard after 4 of its calls."""
    from fusedlstm.ray import Snapshots
    from fusedlstm.ray.snapshot_taker import SnapshotTaker

    pool._shards.snapshots = SnapshotTaker(Snapshots(ticks=4), pool._shards.name)
    yield
    pool._shards.snapshots = None


@pytest.fixture
def make(nodes):
    """Return ShardedPool, and shut down all pools that it made."""
    from fusedlstm.ray import ShardedPool

    made = []

    def make_pool(*arguments, **options):
        made.append(ShardedPool(*arguments, **{"actor_options": {"num_cpus": 0}} | options))
        return made[-1]

    yield make_pool
    for pool in made:
        pool.shutdown()


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Wait longer for shards in doubt, as tests share two cores."""
    if importlib.util.find_spec("ray"):
        monkeypatch.setattr("fusedlstm.ray.call.DOUBT", 60.0)


@pytest.fixture
def gate(monkeypatch):
    """Return an event, until which no shard is revived."""
    from fusedlstm.ray.reviver import Reviver

    event, begin = threading.Event(), Reviver.begin

    def waits(*arguments):
        event.wait()
        begin(*arguments)

    monkeypatch.setattr(Reviver, "begin", waits)
    yield event
    event.set()
