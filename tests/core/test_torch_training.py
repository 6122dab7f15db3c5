"""fusedlstm.torch's modules in training programs: beside packed sequences, in threads and processes, and resumed."""

import copy
import io
from concurrent.futures import ThreadPoolExecutor

import pytest

from fusedlstm import LSTM, StatePool

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402

import fusedlstm.torch as ours  # noqa: E402

I, N, T, B = 3, 8, 7, 5


class Tagger(torch.nn.Module):
    """Labels each step of padded sequences, with either LSTM."""

    def __init__(self, core):
        super().__init__()
        self.core, self.head = core, torch.nn.Linear(2 * N, 4)

    def forward(self, xs, lengths):
        if isinstance(self.core, torch.nn.LSTM):
            packed, (h, _) = self.core(pack_padded_sequence(xs, lengths, enforce_sorted=False))
            outputs, _ = pad_packed_sequence(packed, total_length=len(xs))
        else:
            outputs, states = self.core(xs, lengths=lengths)
            h = torch.stack([state.h for state in states])
        return self.head(outputs), h


def taggers(*kinds):
    """Return models of the same initial values, in float64."""
    made = []
    for kind in kinds:
        torch.manual_seed(0)
        made.append(Tagger(kind(I, N, 2, bidirectional=True)).double())
    return made


def train(model, optimizer, seeds):
    """Train on a batch for each seed, and return the losses."""
    losses = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, T + 1, (B,), generator=generator)
        xs = torch.randn(T, B, I, generator=generator, dtype=torch.float64)
        labels = torch.randint(4, (T, B), generator=generator)
        scores, h = model(xs, lengths)
        taken = torch.arange(T)[:, None] < lengths
        loss = torch.nn.functional.cross_entropy(scores[taken], labels[taken]) + h.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_follows_packed_sequences():
    theirs, own = (
        train(model, torch.optim.Adam(model.parameters(), 0.02), range(10))
        for model in taggers(torch.nn.LSTM, ours.LSTM)
    )
    assert theirs[-1] < theirs[0]
    assert own == pytest.approx(theirs, rel=1e-9)


def test_training_resumes_from_a_checkpoint():
    model, other = taggers(ours.LSTM, ours.LSTM)
    optimizers = [torch.optim.Adam(each.parameters(), 0.02) for each in (model, other)]
    train(model, optimizers[0], range(3))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizers[0].state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other.load_state_dict(saved["model"])
    optimizers[1].load_state_dict(saved["optimizer"])
    assert train(other, optimizers[1], range(3, 6)) == train(model, optimizers[0], range(3, 6))


def test_trained_module_steps_in_a_pool():
    module, xs = ours.LSTM(I, N, 2), torch.randn(T, B, I)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    lstm = LSTM(module.to_weights(), backend="numpy")
    pool = StatePool(lstm, capacity=B)
    for _ in range(2):  # each rollout uses the newest weights
        optimizer.zero_grad()
        module(xs)[0].square().sum().backward()
        optimizer.step()
        lstm.set_weights(module.to_weights())
        slots = pool.allocate(B)
        with torch.no_grad():
            wanted, _ = module(xs)
            for x, y in zip(xs, wanted, strict=True):
                torch.testing.assert_close(pool.step(x, slots), y, rtol=0, atol=1e-6)
        pool.release(slots)


def test_backward_in_several_threads():
    module = ours.LSTM(I, N, 2, bidirectional=True)
    inputs = [torch.randn(T, B, I) for _ in range(4)]

    def gradients(xs):
        return torch.autograd.grad(module(xs)[0].square().sum(), module.parameters())

    wanted = list(map(gradients, inputs))
    with ThreadPoolExecutor(4) as pool:
        for got, right in zip(pool.map(gradients, inputs * 3), wanted * 3, strict=True):
            assert all(map(torch.equal, got, right))


def train_shared(module, xs):
    """Update a module's shared parameters in place, as each process of Hogwild does."""
    torch.set_num_threads(1)
    copy.deepcopy(module)(xs)
    outputs, _ = module(xs)
    outputs.sum().backward()
    torch.optim.SGD(module.parameters(), 0.1).step()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork.. was called:RuntimeWarning")  # JAX's, if an earlier test imported it
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_train_a_shared_module(method):
    module, xs = ours.LSTM(I, N), torch.randn(T, B, I)
    module.share_memory()
    module(xs)[0].sum().backward()  # also before a fork
    wanted = [parameter - 0.1 * parameter.grad for parameter in module.parameters()]
    module.zero_grad()
    process = torch.multiprocessing.get_context(method).Process(target=train_shared, args=(module, xs))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    for parameter, right in zip(module.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.detach(), right.detach(), rtol=1e-5, atol=1e-6)
