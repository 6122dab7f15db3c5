"""Find voice in 96 audio streams. A service steps the LSTM of Silero's VAD, and this client runs the rest of the model.

Shows: convert a model's LSTM, serve it on two shards, step all streams with one message.
Needs: fusedlstm[ray], torch and silero-vad, whose package holds the model (MIT licence). The audio is made here.
Run:   python examples/voice_activity.py
Or:    python examples/voice_activity.py --url ws://...:8000/stream, if `fusedlstm serve` runs on another machine
"""

# %%
import argparse
import contextlib
import json
import sys
import time

import numpy as np
import torch
from silero_vad import load_silero_vad
from websockets.sync.client import connect

from fusedlstm import convert, frames

RATE, FRAME, CONTEXT = 16_000, 512, 64  # samples of a second, of a frame (32 ms), and of the frame before it
B, SECONDS = 96, 6  # streams, and their length
SYLLABLE = 0.3  # seconds
PORT = 8123  # of the service that this starts
VOWELS = np.array([(730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240)])  # Hz
rng = np.random.default_rng(0)

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--url", help="the address of a running service; default: start one here")
parser.add_argument("--weights", metavar="FILE", help="only write the weights of the LSTM, for `fusedlstm serve FILE`")
arguments = parser.parse_args()

# %% The model: an encoder of frames, an LSTM, and a decoder that turns the LSTM's output into a probability
whole = load_silero_vad()
vad = whole._model
weights = convert.from_torch(vad.decoder.rnn)


# %% The audio: half of the streams have voice for some time, and the others have a noise


def voice(seconds):
    """Return sound like speech: harmonics of a gliding pitch with the formants of vowels, in syllables."""
    t = np.arange(int(seconds * RATE)) / RATE
    marks = np.arange(0, seconds + SYLLABLE, SYLLABLE / 2)
    formants = [np.interp(t, marks, each) for each in VOWELS[rng.integers(len(VOWELS), size=len(marks))].T]
    pitch = rng.uniform(100, 200) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(0.4, 1) * t))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    sound = np.zeros_like(t)
    for k in range(1, 35):
        peaks = zip(formants, (60, 90, 120), (1, 0.6, 0.3), strict=True)
        sound += sum(loud / (1 + ((k * pitch - F) / width) ** 2) for F, width, loud in peaks) / k * np.sin(k * phase)
    swing = np.sin(2 * np.pi * t / SYLLABLE)
    hiss = np.diff(rng.normal(size=len(t) + 1)) * np.clip(-swing, 0, 1) ** 2
    return 0.3 * (np.sqrt(np.clip(swing, 0, 1)) * sound / np.abs(sound).max() + 0.1 * hiss)


def noise(kind):
    """Return a noise."""
    t = np.arange(SECONDS * RATE) / RATE
    if kind == "hiss":
        return rng.uniform(0.01, 0.2) * rng.normal(size=len(t))
    if kind == "hum":
        return sum(0.1 / k * np.sin(2 * np.pi * 50 * k * t) for k in range(1, 6))
    return rng.normal(size=len(t)) * np.exp(-60 * (t * rng.uniform(1, 4) % 1))  # knocks


def streams():
    """Return the audio of B streams, and for each of them which frames have voice."""
    audio = 0.002 * rng.normal(size=(B, SECONDS * RATE))
    has_voice = np.zeros((SECONDS * RATE // FRAME, B), bool)
    for row in range(B):
        if row % 2:
            audio[row] += noise(("hiss", "hum", "knocks")[row // 2 % 3])
            continue
        start, length = rng.uniform(0.5, 2), rng.uniform(1.5, 3)
        begin = int(start * RATE)
        sound = voice(length)
        audio[row, begin : begin + len(sound)] += sound
        has_voice[begin // FRAME : (begin + len(sound)) // FRAME, row] = True
    return audio.astype(np.float32), has_voice


# %% The service


@contextlib.contextmanager
def service():
    """Start a service of two shards on Ray, yield its URL, and end the service."""
    import ray.serve

    from fusedlstm.ray.serve import build

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        ray.serve.start(http_options={"host": "127.0.0.1", "port": PORT})
        ray.serve.run(build(weights, shards=2, capacity=B))
        yield f"ws://127.0.0.1:{PORT}/stream"
        ray.serve.shutdown()
    finally:
        ray.shutdown()


# %% The client: a message has one frame of each stream


@torch.inference_mode()
def probabilities(url, audio):
    """Return the probability of voice in each frame, (T, B), and the seconds that the messages took."""
    found, seconds = [], 0.0
    with connect(url, compression=None, max_size=None) as socket:  # floats don't compress
        socket.send(json.dumps({"open": [f"stream {row}" for row in range(B)]}))
        handles = [handle for _, handle, _ in json.loads(socket.recv())["opened"]]
        samples = torch.nn.functional.pad(torch.from_numpy(audio), (CONTEXT, 0))
        for t in range(audio.shape[1] // FRAME):
            x = vad.encoder(vad.run_extractors(samples[:, t * FRAME : (t + 1) * FRAME + CONTEXT]))[..., 0]
            start = time.perf_counter()
            socket.send(frames.encode_request(t, handles, np.full(B, t + 1), x))  # the steps have numbers 1, 2, ...
            reply = frames.decode_reply(socket.recv(), weights.hidden_size)
            seconds += time.perf_counter() - start
            assert (reply.status == frames.Status.OK).all(), reply.status
            found.append(vad.decoder.decoder(torch.tensor(reply.h)[..., None])[:, 0, 0])
        socket.send(json.dumps({"close": handles}))
        socket.recv()
    return torch.stack(found).numpy(), seconds


def in_words(flags):
    """Return when there is voice, in words."""
    changes = np.flatnonzero(np.diff(flags, prepend=False, append=False)) * FRAME / RATE
    return ", ".join(f"{begin:.1f} to {end:.1f} s" for begin, end in changes.reshape(-1, 2)) or "never"


# %%
if arguments.weights:
    weights.save(arguments.weights)
    sys.exit()

audio, has_voice = streams()
with contextlib.nullcontext(arguments.url) if arguments.url else service() as url:
    found, seconds = probabilities(url, audio)
is_voice, T = found > 0.5, len(found)
for row in range(6):
    print(f"Stream {row}: voice was found: {in_words(is_voice[:, row])}; voice was made: {in_words(has_voice[:, row])}")
with_voice, without = is_voice[:, ::2].any(0).sum(), is_voice[:, 1::2].any(0).sum()
print(f"Voice was found in {with_voice} of {(B + 1) // 2} streams that have some, and in {without} of {B // 2} others.")
print(f"{(is_voice == has_voice).mean():.1%} of all frames were classified correctly.")
print(f"{T / seconds:,.0f} messages and {T * B / seconds:,.0f} rows a second, with one message at a time")

# %% The package's own model on the same audio
with torch.inference_mode():
    wanted = torch.stack([whole(frame, RATE)[:, 0] for frame in torch.from_numpy(audio).split(FRAME, 1)[:T]]).numpy()
difference = np.abs(found - wanted).max()
print(f"The probabilities differ from those of the package's own model by at most {difference:.0e}")
assert difference < 1e-5
