"""Moonshine over a window of audio: greedy text from a known prefix, cheaply re-read as the window grows.

A live captioner reads the same window again and again, each time a little longer. What it read last time is a good
guess of what it will read now, so the guess is checked in one pass of the decoder over the whole row of tokens, and
only what comes after the first disagreement is decoded token by token: about four decoder calls instead of thirty.
The result is that of plain greedy decoding but for the noise of the graphs' dynamic quantisation, which depends on how
many tokens are read at once: measured, one guess in eight changes a token, nearly always in a cut word.

The graphs are callables, so nothing here knows ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streaming_models.alignment import token_ends
from streaming_models.search import HotwordBias
from streaming_models.tokens import END_ID, START_ID, TokenTable

FloatArray = NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
FRAME_SAMPLES = 384
"""Hop of the encoder: convolutions of stride 64, 3 and 2, so 24 ms."""
MIN_WINDOW_SAMPLES = 4_800
"""Shorter windows are padded with silence: the encoder's convolutions reach over 1,900 samples."""
MAX_TOKENS_PER_S = 7.0
"""Moonshine's own bound against endless repeats is 6.5; fast talkers of AMI reach 6.6."""
ALIGNMENT_HEADS: tuple[tuple[int, int], ...] = ((3, 5), (3, 6), (3, 7), (4, 7), (5, 3), (5, 4), (5, 6), (5, 7))
"""(layer, head) pairs of Tiny whose cross-attention follows the speech: those nearest to AMI's word times (dev)."""
BASE_LAYERS = 8
BASE_ALIGNMENT_HEADS: tuple[tuple[int, int], ...] = ((4, 0), (4, 1), (4, 2), (5, 5), (6, 1), (6, 6), (6, 7), (7, 1))
"""Of Base: those nearest to Tiny's token times on 31 utterances of LibriSpeech dev (41 ms on average)."""

UNREAD_FRAMES = 42
"""Speech that may be left when the decoder ends: 1 s; it takes short answers and noise for nothing."""
END_RELUCTANCE = 4.0
"""Taken from the end's logit while more is unread."""
PLACE_FRAMES = 5
"""A token is heard over about 120 ms."""
ECHO_FRAMES = 4
"""Nobody says a word again within 100 ms."""

Caches = dict[str, FloatArray]


class Graphs(Protocol):
    """Moonshine's three graphs. Implementations may be called from several threads."""

    def encode(self, samples: FloatArray) -> FloatArray:
        """(S,) float32 at 16 kHz -> (T, D)."""

    def read_prefix(
        self, tokens: list[int], hidden: FloatArray, samples: int, logits_from: int
    ) -> tuple[FloatArray, Caches, FloatArray]:
        """U tokens at once -> logits (U - logits_from, V), caches, cross-attention (layers, heads, U, T)."""

    def add_token(
        self, token: int, hidden: FloatArray, samples: int, caches: Caches
    ) -> tuple[FloatArray, Caches, FloatArray]:
        """One more token after `caches` -> logits (V,), grown caches, cross-attention (layers, heads, 1, T)."""

    def truncate(self, caches: Caches, tokens: int) -> Caches:
        """The caches after the first `tokens` tokens."""


class WindowDecoder(Protocol):
    """A decoder bound to one window of the encoder's frames: what `read_hidden` needs of it."""

    def read_prefix(self, tokens: list[int], logits_from: int) -> tuple[FloatArray, Caches, FloatArray]:
        """U tokens at once -> logits (U - logits_from, V), caches, cross-attention (layers, heads, U, T)."""

    def add_token(self, token: int, caches: Caches) -> tuple[FloatArray, Caches, FloatArray]:
        """One more token after `caches` -> logits (V,), grown caches, cross-attention (layers, heads, 1, T)."""

    def truncate(self, caches: Caches, tokens: int) -> Caches:
        """The caches after the first `tokens` tokens."""


@dataclass(frozen=True)
class Reading:
    """What was read from a window.

    `tokens` without start and end; `confidence` is each token's probability, `bounds` (U + 1,) its frames, counted
    from the window's first sample.
    """

    tokens: tuple[int, ...]
    confidence: tuple[float, ...]
    bounds: tuple[int, ...]


class Moonshine:
    """Greedy reading of windows with a fixed prefix and a guess."""

    def __init__(self, graphs: Graphs, table: TokenTable) -> None:
        self._graphs = graphs
        self.table = table

    def read(
        self,
        samples: FloatArray,
        prefix: tuple[int, ...] = (),
        guess: tuple[int, ...] = (),
        prefix_end_frame: int = 0,
        bias: HotwordBias | None = None,
        speech_end_frame: int = 0,
    ) -> Reading:
        """Read a window.

        Args:
            samples: (S,) float32 at 16 kHz.
            prefix: tokens that the text must begin with (already committed).
            guess: tokens that probably follow them; meant to change the cost, not the result (see the module).
            prefix_end_frame: where the prefix's speech ends; what follows is not looked for before it.
            bias: names and terms to be favoured.
            speech_end_frame: where the window's speech ends, see `read_hidden`.

        Returns:
            The whole row of tokens, prefix included; the prefix's own bounds are all `prefix_end_frame`.
        """
        if len(samples) < MIN_WINDOW_SAMPLES:
            samples = np.pad(samples, (0, MIN_WINDOW_SAMPLES - len(samples)))
        hidden = self._graphs.encode(samples)
        decoder = _MoonshineWindow(self._graphs, hidden, len(samples))
        return read_hidden(
            decoder, len(hidden), len(samples), prefix, guess, prefix_end_frame, speech_end_frame, bias=bias
        )


@dataclass(frozen=True, eq=False)
class _MoonshineWindow:
    graphs: Graphs
    hidden: FloatArray
    samples: int

    def read_prefix(self, tokens: list[int], logits_from: int) -> tuple[FloatArray, Caches, FloatArray]:
        return self.graphs.read_prefix(tokens, self.hidden, self.samples, logits_from)

    def add_token(self, token: int, caches: Caches) -> tuple[FloatArray, Caches, FloatArray]:
        return self.graphs.add_token(token, self.hidden, self.samples, caches)

    def truncate(self, caches: Caches, tokens: int) -> Caches:
        return self.graphs.truncate(caches, tokens)


def read_hidden(
    decoder: WindowDecoder,
    frames: int,
    samples: int,
    prefix: tuple[int, ...] = (),
    guess: tuple[int, ...] = (),
    prefix_end_frame: int = 0,
    speech_end_frame: int = 0,
    stop_at_echo: bool = False,
    bias: HotwordBias | None = None,
) -> Reading:
    """Read a window that is already encoded.

    Args:
        decoder: bound to the window.
        frames: of the window, at least 1.
        samples: that the window covers: bounds the number of tokens.
        prefix: tokens that the text must begin with (already committed).
        guess: tokens that probably follow them; meant to change the cost, not the result (see the module).
        prefix_end_frame: where the prefix's speech ends; what follows is not looked for before it.
        speech_end_frame: where the window's speech ends: the decoder ends less readily while much of it is unread.
        stop_at_echo: the text also ends where the decoder begins to repeat what it has heard: where two tokens in a
            row stand at places at which the same two were read before. A causal encoder hides from the decoder that
            nothing more will come, and so it tends to say the last words again (measured: a tenth of all words).
        bias: names and terms to be favoured. It chooses between words, never between a word and the end.

    Returns:
        See `Moonshine.read`.
    """
    limit = max(len(prefix) + 2, int(np.ceil(samples / SAMPLE_RATE_HZ * MAX_TOKENS_PER_S)))
    guess = guess[: max(0, limit - len(prefix))]
    row = [START_ID, *prefix, *guess]
    # Row r of the logits predicts the token after row[len(prefix) + r].
    logits, caches, attention = decoder.read_prefix(row, len(prefix))
    agreed = 0
    while agreed < len(guess) and _best(logits[agreed], bias, [*prefix, *guess[:agreed]]) == guess[agreed]:
        agreed += 1
    tokens = [*prefix, *guess[:agreed]]
    confidence = [1.0] * len(prefix) + [_probability(logits[i], guess[i]) for i in range(agreed)]
    caches = decoder.truncate(caches, len(tokens) + 1)
    # Row u of the attention was made while token u was being predicted; the last row predicted the end.
    chosen = _chosen(attention[:, :, : len(tokens) + 1])
    rows = [chosen[:, len(prefix) :]]
    latest = logits[agreed]
    places = _places(chosen)  # of each token, and of the next one
    checked = range(len(prefix) + 1, len(tokens) + 1) if stop_at_echo else range(0)
    echo = next((k for k in checked if _ends_in_echo(tokens[:k], places)), None)
    while len(tokens) < limit and echo is None:
        token = _best(latest, bias, tokens)
        if token == END_ID:
            reached = places[len(tokens) - 1] if len(tokens) > len(prefix) else prefix_end_frame
            if speech_end_frame - reached <= UNREAD_FRAMES:
                break
            latest = latest.copy()
            latest[END_ID] -= END_RELUCTANCE
            token = _best(latest, bias, tokens)
            if token == END_ID:
                break
        if size := _loop_size([*tokens, token]):
            # Back to the loop's first round, but never into the committed prefix.
            end = max(len(prefix), len(tokens) + 1 - 3 * size)
            tokens, confidence = tokens[:end], confidence[:end]
            break
        tokens.append(token)
        confidence.append(_probability(latest, token))
        latest, caches, attention = decoder.add_token(token, caches)
        rows.append(_chosen(attention))
        if stop_at_echo and _ends_in_echo(tokens, places):
            echo = len(tokens)
        places += _places(rows[-1])
    if echo is not None:
        end = max(len(prefix), echo - 2)
        tokens, confidence = tokens[:end], confidence[:end]
        # What was heard while the echo began says nothing about where the text ends.
        rows = [np.concatenate(rows, axis=1)[:, : end - len(prefix)], np.full_like(rows[0][:, :1], 1 / frames)]
    fresh = len(tokens) - len(prefix)
    first = min(prefix_end_frame, frames - 1)
    bounds = token_ends(np.concatenate(rows, axis=1)[:, : fresh + 1, first:]) + first
    all_bounds = (first,) * len(prefix) + tuple(int(b) for b in bounds[: fresh + 1])
    return Reading(tuple(tokens), tuple(confidence), all_bounds)


def _best(logits: FloatArray, bias: HotwordBias | None, tokens: list[int]) -> int:
    """(V,) after a row of tokens -> the likeliest one, with phrases favoured along what is written."""
    token = int(logits.argmax())
    if bias is None or token == END_ID:
        return token
    favoured, bonus = bias.bonuses_after(tokens)
    if not len(favoured):
        return token
    scores = logits[favoured] + bonus
    likeliest = int(scores.argmax())
    return int(favoured[likeliest]) if scores[likeliest] > logits[token] else token


def _chosen(attention: FloatArray) -> FloatArray:
    """(layers, heads, U, T) -> (H, U, T) of the heads that follow the speech."""
    heads = BASE_ALIGNMENT_HEADS if len(attention) == BASE_LAYERS else ALIGNMENT_HEADS
    return np.stack([attention[layer, head] for layer, head in heads])


def _places(rows: FloatArray) -> list[int]:
    """(H, U, T) attention -> the frame at which each of U tokens is heard most."""
    average = rows.mean(axis=0)
    width = min(PLACE_FRAMES, average.shape[1])
    padded = np.pad(average, ((0, 0), (width // 2, (width - 1) // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, width, axis=1)
    return [int(place) for place in windows.sum(axis=-1).argmax(axis=1)]


def _ends_in_echo(tokens: list[int], places: list[int]) -> bool:
    """Whether the last two tokens were read before at the same places."""
    last = len(tokens) - 1
    return any(
        tokens[k] == tokens[last]
        and tokens[k - 1] == tokens[last - 1]
        and abs(places[k] - places[last]) <= ECHO_FRAMES
        and abs(places[k - 1] - places[last - 1]) <= ECHO_FRAMES
        for k in range(1, last - 1)
    )


def _probability(logits: FloatArray, token: int) -> float:
    shifted = logits - logits.max()
    return float(np.exp(shifted[token]) / np.exp(shifted).sum())


def _loop_size(row: list[int]) -> int:
    """Length of the phrase (1-8 tokens) that the row ends with four times over, which people do not say; else 0."""
    for size in range(1, 9):
        if len(row) >= 4 * size and all(row[-size:] == row[-(k + 1) * size : -k * size] for k in (1, 2, 3)):
            return size
    return 0
