"""The two candidate decoders side by side on the same clips: attention with a channel prompt, and the transducer.

Run: python -m streaming_models.compare_decoders --attention MODEL.pt --transducer MODEL.pt --encoder ENCODER.npz
--decoder DECODER.npz --tokens TOKENIZER.bin --rooms ROOMS.npz --corpus DIR [--single 40] [--pairs 24] [--seed 0]

Both are read greedily in float32 by torch, each clip as one window of `SEEN_FRAMES`, the encoder chunk by chunk as it
is live; no second reading, no rules of ends. A single talker's words are expected on virtual channel 0, anything on
channel 1 is an insertion. Of two talkers (the second begins when half of the first is said) the better of the two
assignments counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from streaming_models.data.corpus import FloatArray, Utterance, read_corpus
from streaming_models.data.speech_bank import aligned
from streaming_models.data.windows import ROOM_MICROPHONES, ROOM_TALKERS, RoomBank
from streaming_models.nets.encoder import FRAME_SAMPLES
from streaming_models.scoring import ErrorCount, normalise
from streaming_models.search import GreedySearch
from streaming_models.sot import VIRTUAL_CHANNELS
from streaming_models.tokens import END_ID, START_ID, TokenTable
from streaming_models.train import CHUNKS, SEEN_FRAMES, SotModel, load_checkpoint, window_samples
from streaming_models.train_transducer import TransducerModel
from streaming_models.train_transducer import load_checkpoint as load_transducer

CHUNK, LEFT = CHUNKS[0][0], 128
LONGEST_SINGLE_S, LONGEST_HALF_S = 9.5, 6.0
LEVEL = 0.05
MOST_TOKENS = 96
"""A reading that has not ended by then is cut: nobody says more in ten seconds."""

Reader = Callable[[FloatArray], tuple[str, str]]
"""(S,) of a window -> what each virtual channel says."""


@dataclass(frozen=True, eq=False)
class Clip:
    """samples: (S,) of a window; said: each talker's words, one or two."""

    samples: FloatArray
    said: tuple[str, ...]


def errors(reference: str, heard: str) -> ErrorCount:
    """Word errors of a text against what was said, both normalised."""
    said, words = normalise(reference).split(), normalise(heard).split()
    wrong = sum(1 for a, b in aligned(said, words) if a is None or b is None or said[a] != words[b])
    return ErrorCount(wrong, len(said))


def clip_errors(clip: Clip, heard: tuple[str, str]) -> ErrorCount:
    """Of the better assignment of two channels to the talkers; of one talker only channel 0 may say anything."""
    said = (*clip.said, "")[:VIRTUAL_CHANNELS]
    straight, crossed = (
        errors(said[0], one) + errors(said[1], two) for one, two in ((heard[0], heard[1]), (heard[1], heard[0]))
    )
    return crossed if len(clip.said) > 1 and crossed.errors < straight.errors else straight


def attention_reader(model: SotModel, table: TokenTable) -> Reader:
    """Greedy readings of both virtual channels by the attention decoder."""

    @torch.no_grad()
    def read(samples: FloatArray) -> tuple[str, str]:
        mix, channels = _heard(samples)
        hidden = model.encoder(mix, CHUNK, LEFT, model.spatial(mix, channels))
        tokens = torch.full((1, VIRTUAL_CHANNELS, 1), START_ID)
        voice = torch.arange(VIRTUAL_CHANNELS)[None].float()
        seen = torch.ones(1, VIRTUAL_CHANNELS, hidden.shape[1], dtype=torch.bool)
        ended = torch.zeros(VIRTUAL_CHANNELS, dtype=torch.bool)
        while not ended.all() and tokens.shape[2] <= MOST_TOKENS:
            outputs = model.decoder(tokens, voice, hidden, seen)[:, :, -1:]
            following = model.decoder.logits(outputs)[0, :, 0].argmax(-1)
            following[ended] = END_ID
            ended |= following == END_ID
            tokens = torch.cat((tokens, following[None, :, None]), 2)
        first, second = (_until_end(row[1:]) for row in tokens[0].tolist())
        return table.text(first), table.text(second)

    return read


def transducer_reader(model: TransducerModel, pieces_text: Callable[[list[int]], str]) -> Reader:
    """Greedy readings of both virtual channels by the transducer."""
    search = GreedySearch(model.transducer, model.transducer.symbols)

    @torch.no_grad()
    def read(samples: FloatArray) -> tuple[str, str]:
        mix, channels = _heard(samples)
        hidden = model.encoder(mix, CHUNK, LEFT, model.spatial(mix, channels))
        frames = model.transducer.frames(hidden)[0].numpy()
        emissions = search.step([search.start()], [frames])[0]
        first, second = ([e.token for e in emissions if e.channel == n] for n in range(VIRTUAL_CHANNELS))
        return pieces_text(first), pieces_text(second)

    return read


def _heard(samples: FloatArray) -> tuple[Tensor, Tensor]:
    """Mix (1, S) and channels (1, C, S) of one microphone."""
    channels = np.zeros((1, ROOM_MICROPHONES, len(samples)), np.float32)
    channels[0, 0] = samples
    return torch.from_numpy(samples[None]), torch.from_numpy(channels)


def _until_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(END_ID)] if END_ID in tokens else tokens


def single_clips(utterances: Sequence[Utterance], count: int, rng: np.random.Generator) -> list[Clip]:
    """Utterances that fit into a window, each by itself.

    Raises:
        ValueError: there are not so many.
    """
    fitting = [u for u in utterances if u.duration_s <= LONGEST_SINGLE_S and u.text]
    if len(fitting) < count:
        raise ValueError(f"expected {count} utterances up to {LONGEST_SINGLE_S} s, got {len(fitting)}")
    chosen = rng.choice(len(fitting), count, replace=False)
    return [Clip(_window([(_level(fitting[int(k)].audio()), 0)]), (fitting[int(k)].text,)) for k in chosen]


def pair_clips(
    utterances: Sequence[Utterance], count: int, rng: np.random.Generator, rooms: RoomBank | None = None
) -> list[Clip]:
    """Two people each, the second begins when half of the first is said; in rooms if there are some.

    Raises:
        ValueError: fewer than two people say something short enough.
    """
    fitting = [u for u in utterances if 2.0 <= u.duration_s <= LONGEST_HALF_S and u.text]
    if len({u.speaker for u in fitting}) < 2:
        raise ValueError(f"expected utterances up to {LONGEST_HALF_S} s of two people, got {len(fitting)}")
    clips: list[Clip] = []
    while len(clips) < count:
        one, two = (fitting[int(k)] for k in rng.choice(len(fitting), 2, replace=False))
        if one.speaker == two.speaker:
            continue
        sounds = [_level(one.audio()), _level(two.audio())]
        if rooms is not None:
            room, microphone = int(rng.integers(len(rooms.far))), int(rng.integers(ROOM_MICROPHONES))
            seats = rng.permutation(ROOM_TALKERS)[:2]
            responses = [rooms.far[room, seat, microphone].astype(np.float32) for seat in seats]
            sounds = [np.convolve(s, r)[: len(s)] for s, r in zip(sounds, responses, strict=True)]
        clips.append(Clip(_window([(sounds[0], 0), (sounds[1], len(sounds[0]) // 2)]), (one.text, two.text)))
    return clips


def _level(audio: FloatArray) -> FloatArray:
    return audio * np.float32(LEVEL / np.sqrt(np.square(audio).mean() + 1e-9))


def _window(placed: Sequence[tuple[FloatArray, int]]) -> FloatArray:
    """Sounds at their places in a window's samples; what reaches beyond its last frame is cut."""
    window = np.zeros(window_samples(), np.float32)
    end = SEEN_FRAMES * FRAME_SAMPLES
    for sound, at in placed:
        window[at : min(end, at + len(sound))] += sound[: end - at]
    return window


def compare(readers: Mapping[str, Reader], sets: Mapping[str, list[Clip]]) -> dict[str, dict[str, ErrorCount]]:
    """Word errors by reader and set."""

    def counted(read: Reader, clips: list[Clip]) -> ErrorCount:
        return sum((clip_errors(clip, read(clip.samples)) for clip in clips), ErrorCount.zero())

    return {name: {title: counted(read, clips) for title, clips in sets.items()} for name, read in readers.items()}


def markdown(found: Mapping[str, Mapping[str, ErrorCount]]) -> str:
    """Word error rates, a row a reader and a column a set."""
    titles = list(next(iter(found.values())))
    rows = [["decoder", *titles], ["---"] * (1 + len(titles))]
    rows += [[name, *(f"{by_set[title].rate:.3f}" for title in titles)] for name, by_set in found.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(arguments: list[str] | None = None) -> int:
    """Compare from the command line; returns the exit status of the process."""
    parser = argparse.ArgumentParser(prog="python -m streaming_models.compare_decoders")
    parser.add_argument("--attention", type=Path, required=True, help="model.pt of streaming_models.train")
    parser.add_argument("--transducer", type=Path, required=True, help="model.pt of streaming_models.train_transducer")
    parser.add_argument("--encoder", type=Path, required=True, help="pretrained encoder as .npz")
    parser.add_argument("--decoder", type=Path, required=True, help="pretrained decoder as .npz")
    parser.add_argument("--tokens", type=Path, required=True, help="Moonshine's tokenizer.bin")
    parser.add_argument("--rooms", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with Opus shards and manifests to score on")
    parser.add_argument("--single", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    model = SotModel(np.array([START_ID, END_ID], np.int64))
    model.encoder.load_pretrained(dict(np.load(options.encoder)))
    model.decoder.load_pretrained(dict(np.load(options.decoder)))
    load_checkpoint(model, torch.load(options.attention, map_location="cpu"))
    transducer, pieces = load_transducer(torch.load(options.transducer, map_location="cpu"))
    table = TokenTable.from_bytes(options.tokens.read_bytes())
    readers = {
        "attention": attention_reader(model.eval(), table),
        "transducer": transducer_reader(transducer.eval(), pieces.decode),
    }
    utterances = [u for said in read_corpus(options.corpus).values() for u in said]
    rng = np.random.default_rng(options.seed)
    sets = {
        "one talker": single_clips(utterances, options.single, rng),
        "two, dry": pair_clips(utterances, options.pairs, rng),
        "two, in a room": pair_clips(utterances, options.pairs, rng, RoomBank.load(options.rooms)),
    }
    found = compare(readers, sets)
    print(markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
