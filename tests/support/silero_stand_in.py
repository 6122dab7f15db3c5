"""A stand-in for the package silero_vad: a model of the same parts and shapes, with random weights."""

import types

import torch
from torch import nn

CONTEXT = 64


class Extractors(nn.Module):
    """The magnitudes of 4 short spectra, (B, 129, 4), of 576 samples."""

    def __init__(self):
        super().__init__()
        self.filters = nn.Conv1d(1, 258, 256, stride=128, bias=False)

    def forward(self, x):
        both = self.filters(nn.functional.pad(x, (0, 64), "reflect")[:, None])
        return (both[:, :129] ** 2 + both[:, 129:] ** 2).sqrt()


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTMCell(128, 128)
        self.decoder = nn.Sequential(nn.ReLU(), nn.Conv1d(128, 1, 1), nn.Sigmoid())


class Part(nn.Module):
    """The model for 16 kHz."""

    def __init__(self):
        super().__init__()
        sizes = ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        layers = ((nn.Conv1d(n, m, 3, stride=stride, padding=1), nn.ReLU()) for n, m, stride in sizes)
        self.run_extractors = Extractors()
        self.encoder = nn.Sequential(*(each for pair in layers for each in pair))
        self.decoder = Decoder()


class Model:
    """What load_silero_vad returns. It keeps the state, and the end of the frame before."""

    def __init__(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self._model = Part()
        for parameter in self._model.parameters():
            parameter.data *= 3  # so that the outputs depend on the audio
        self.state, self.context = None, None

    def __call__(self, x, rate):
        assert rate == 16_000
        assert x.shape[1] == 512
        context = torch.zeros(len(x), CONTEXT) if self.context is None else self.context
        self.context = x[:, -CONTEXT:]
        part = self._model
        encoded = part.encoder(part.run_extractors(torch.cat([context, x], 1)))[..., 0]
        self.state = part.decoder.rnn(encoded, self.state)
        return part.decoder.decoder(self.state[0][..., None])[:, 0]


package = types.SimpleNamespace(load_silero_vad=Model)
