"""Words out of a transducer, frame by frame, for many streams at once.

The transducer writes one row for both virtual channels (`streaming_models.sot`): a change token leads from one to the
other. What its predictor sees of the row so far is `History`: the last two tokens of the channel that is written on,
so that two voices do not mix in it. Each token carries its frame, which is its time anchor.

`GreedySearch` is for the live pass: nothing that it wrote changes. `BeamSearch` weighs several rows, favours hotwords,
and commits what all rows agree on. `HotwordBias` serves greedy attention decoders as well. The networks are callables
over numpy arrays, so nothing here knows torch or ONNX Runtime.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

MAX_SYMBOLS = 5
"""Tokens in one frame: a bound on work, not on speech."""


class Networks(Protocol):
    """The two parts of a transducer that a search calls. N rows at once; rows do not influence each other."""

    def predict(self, context: IntArray, place: IntArray) -> FloatArray:
        """(N, 2) last tokens, older first, and (N,) `History.place` -> (N, D)."""

    def joint(self, frames: FloatArray, predicted: FloatArray) -> FloatArray:
        """(N, D) frames and (N, D) predictions -> (N, V) logits."""


@dataclass(frozen=True)
class Symbols:
    """The tokens with a meaning.

    own_history: the predictor sees its own virtual channel only; else the row as it was written, changes included.
    """

    blank: int = 0
    change: int = 1
    own_history: bool = True


@dataclass(frozen=True)
class History:
    """What the predictor sees of the row so far. `recent` holds the last two tokens of each channel, older first."""

    recent: tuple[tuple[int, int], tuple[int, int]]
    channel: int = 0
    changed: bool = False

    @classmethod
    def start(cls, symbols: Symbols) -> History:
        """Nothing written: blanks, on channel 0."""
        nothing = (symbols.blank, symbols.blank)
        return cls((nothing, nothing))

    def after(self, token: int, symbols: Symbols) -> History:
        """The history with one more token, which is no blank."""
        changed = token == symbols.change
        channel = self.channel ^ changed
        first, second = self.recent
        if not symbols.own_history:
            first = second = (first[1], token)
        elif not changed and channel == 0:
            first = (first[1], token)
        elif not changed:
            second = (second[1], token)
        return History((first, second), channel, changed)

    @property
    def context(self) -> tuple[int, int]:
        """The last two tokens that count, older first."""
        return self.recent[self.channel]

    def place(self, symbols: Symbols) -> int:
        """2 * channel + (1 just after a change); always 0 without own histories, which show both."""
        return 2 * self.channel + self.changed if symbols.own_history else 0


PLACES = 4
"""How many values `History.place` has."""


@dataclass(frozen=True)
class Emission:
    """A token, the virtual channel that it is on, and its frame counted from the stream's start.

    `probability` is that among the tokens without blank: how sure the token is, not how sure its time. Changes are
    not among the emissions: the channel says what they said.
    """

    token: int
    channel: int
    frame: int
    probability: float


def _check_frames(frames: Sequence[FloatArray], states: Sequence[object]) -> None:
    if len(frames) != len(states):
        raise ValueError(f"expected frames of {len(states)} streams, got {len(frames)}")
    if any(f.ndim != 2 for f in frames):
        raise ValueError(f"expected frames (T, D) for every stream, got {[f.shape for f in frames]}")
    if len({id(state) for state in states}) != len(states):
        raise ValueError("expected every stream once")


def _log_softmax(logits: FloatArray) -> FloatArray:
    shifted = logits - logits.max(-1, keepdims=True)
    log_probs: FloatArray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return log_probs


@dataclass
class GreedyState:
    """Where a stream stands: the row's history, the prediction from it (D,), and the frames so far."""

    history: History
    predicted: FloatArray
    frames: int = 0


class GreedySearch:
    """The likeliest token at every step, streams together. Any chunking of the frames gives the same emissions."""

    def __init__(self, networks: Networks, symbols: Symbols | None = None, max_symbols: int = MAX_SYMBOLS) -> None:
        """Raises ValueError without room for a single token in a frame."""
        if max_symbols < 1:
            raise ValueError(f"expected at least 1 symbol a frame, got {max_symbols}")
        self._networks = networks
        self._symbols = symbols or Symbols()
        self._max_symbols = max_symbols

    def start(self) -> GreedyState:
        """A stream before its first frame. To reset a stream is to begin a new one."""
        history = History.start(self._symbols)
        return GreedyState(history, _predictions(self._networks, [history], self._symbols)[0])

    def step(self, states: Sequence[GreedyState], frames: Sequence[FloatArray]) -> list[list[Emission]]:
        """What every stream newly says.

        Args:
            states: one a stream, advanced in place.
            frames: (T, D) a stream, as `Networks.joint` takes them; T may differ and may be 0.

        Raises:
            ValueError: frames and states do not belong together.
        """
        _check_frames(frames, states)
        found: list[list[Emission]] = [[] for _ in states]
        for at in range(max(map(len, frames), default=0)):
            self._frame([(s, f[at], out) for s, f, out in zip(states, frames, found, strict=True) if at < len(f)])
        return found

    def _frame(self, streams: list[tuple[GreedyState, FloatArray, list[Emission]]]) -> None:
        """One frame of every stream: rounds of one token each, with the streams that have not yet said blank."""
        symbols = self._symbols
        going = streams
        for turn in range(self._max_symbols):
            logits = self._networks.joint(
                np.stack([frame for _, frame, _ in going]), np.stack([state.predicted for state, _, _ in going])
            )
            if turn:
                # There and back within one frame says nothing: with a trained model it would be a loop.
                logits = logits.copy()
                logits[[state.history.changed for state, _, _ in going], symbols.change] = -np.inf
            tokens = logits.argmax(-1)
            emitting = np.flatnonzero(tokens != symbols.blank)
            for i in emitting:
                state, _, out = going[i]
                token = int(tokens[i])
                if token != symbols.change:
                    probability = _sureness(logits[i], token, symbols.blank)
                    out.append(Emission(token, state.history.channel, state.frames, probability))
                state.history = state.history.after(token, symbols)
            going = [going[i] for i in emitting]
            if not going:
                break
            predicted = _predictions(self._networks, [state.history for state, _, _ in going], symbols)
            for (state, _, _), row in zip(going, predicted, strict=True):
                state.predicted = row
        for state, _, _ in streams:
            state.frames += 1


def _sureness(logits: FloatArray, token: int, blank: int) -> float:
    """(V,) logits -> the token's probability, given that it is no blank."""
    others = np.delete(logits, blank)
    return float(np.exp(logits[token] - others.max()) / np.exp(others - others.max()).sum())


def _predictions(networks: Networks, histories: Sequence[History], symbols: Symbols) -> FloatArray:
    context = np.array([history.context for history in histories], np.int64)
    return networks.predict(context, np.array([history.place(symbols) for history in histories], np.int64))


class HotwordBias:
    """Names and terms to be favoured, as a trie of tokens that is walked along what is written.

    A place in the trie is a number, 0 at the start of a stream; `follow` moves it. Every time that a phrase is
    written to its end, it earns `bonus` for each of its tokens. `gains` gives that in advance, token by token, and
    takes it back where a phrase breaks off: for a beam, which compares rows. `bonuses` is for a greedy decoder, which
    cannot take anything back: it favours the tokens that go on with a phrase, and by less those that begin one.

    Phrases are rows of tokens, so whoever makes them spells each in the ways that the model might (see
    `streaming_models.pieces.Pieces.encode`).
    """

    def __init__(self, phrases: Iterable[Sequence[int]], bonus: float = 1.5, start_bonus: float = 0.5) -> None:
        """Bonuses are natural logarithms of how many times likelier.

        Raises:
            ValueError: a phrase without tokens, or a bonus that is negative.
        """
        if bonus < 0 or start_bonus < 0:
            raise ValueError(f"expected bonuses of 0 or more, got {bonus} and {start_bonus}")
        self._bonus, self._start_bonus = bonus, start_bonus
        self._children: list[dict[int, int]] = [{}]
        depth, is_end = [0], [False]
        for phrase in phrases:
            if not phrase:
                raise ValueError("expected phrases of one token or more, got an empty one")
            node = 0
            for token in phrase:
                if token not in self._children[node]:
                    self._children[node][token] = len(self._children)
                    self._children.append({})
                    depth.append(depth[node] + 1)
                    is_end.append(False)
                node = self._children[node][token]
            is_end[node] = True
        # Aho and Corasick (1975): from a node to the longest other phrase's beginning that ends the same way. Nodes
        # nearer to the root come first, so all that a node refers to is known when its turn comes.
        self._fallback = [0] * len(depth)
        self._earned, self._pending = [0.0] * len(depth), [0.0] * len(depth)
        waiting = deque(self._children[0].values())
        while waiting:
            node = waiting.popleft()
            back = self._fallback[node]
            self._earned[node] = self._earned[back] + bonus * depth[node] * is_end[node]
            self._pending[node] = bonus * depth[node] if self._children[node] else self._pending[back]
            for token, child in self._children[node].items():
                self._fallback[child] = self.follow(back, token)
                waiting.append(child)
        self._bonuses: dict[int, tuple[IntArray, FloatArray]] = {}
        self._gains: dict[int, tuple[IntArray, FloatArray]] = {}

    def follow(self, node: int, token: int) -> int:
        """Where one more token leads."""
        while node and token not in self._children[node]:
            node = self._fallback[node]
        return self._children[node].get(token, 0)

    def gains(self, node: int) -> tuple[IntArray, FloatArray]:
        """For a beam: (K,) tokens, (K,) what they add to a row's score; every other token costs the `refund`."""
        if node not in self._gains:
            tokens = self.bonuses(node)[0]
            to = [self.follow(node, int(token)) for token in tokens]
            gains = [self._earned[n] + self._pending[n] - self._pending[node] for n in to]
            self._gains[node] = tokens, np.array(gains, np.float32)
        return self._gains[node]

    def refund(self, node: int) -> float:
        """What a row that breaks off or ends here has to give back (0 or more)."""
        return self._pending[node]

    def bonuses(self, node: int) -> tuple[IntArray, FloatArray]:
        """For a greedy decoder: (K,) tokens in ascending order, (K,) what to add to their logits."""
        if node not in self._bonuses:
            found: dict[int, float] = {}
            at = node
            while at:
                found.update(dict.fromkeys(self._children[at], self._bonus))
                at = self._fallback[at]
            for token in self._children[0]:
                found.setdefault(token, self._start_bonus)
            tokens = np.array(sorted(found), np.int64)
            self._bonuses[node] = tokens, np.array([found[int(t)] for t in tokens], np.float32)
        return self._bonuses[node]

    def bonuses_after(self, tokens: Iterable[int]) -> tuple[IntArray, FloatArray]:
        """`bonuses` where a row of tokens has led."""
        node = 0
        for token in tokens:
            node = self.follow(node, token)
        return self.bonuses(node)


@dataclass(frozen=True)
class BeamSettings:
    """How far a beam looks."""

    beam: int = 4
    """Rows that are kept after a frame."""
    max_symbols: int = MAX_SYMBOLS
    commit_after_frames: int = 14
    """A token of the best row this old is committed even if other rows differ: bounds the wait for finals. About 1 s
    at 72 ms a frame."""

    def __post_init__(self) -> None:
        for name in ("beam", "max_symbols", "commit_after_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class _Path:
    """One row that is still possible. All of a stream's rows begin with what was committed, which is not kept.

    open: what is not, changes among it, each on the channel that it ends. log_prob: over all alignments with the
    frames so far. bias: of the hotwords. nodes: their places, one a channel.
    """

    open: tuple[Emission, ...]
    history: History
    nodes: tuple[int, int]
    log_prob: float
    bias: float
    predicted: FloatArray

    @property
    def score(self) -> float:
        return self.log_prob + self.bias

    @cached_property
    def tokens(self) -> tuple[int, ...]:
        return tuple(emission.token for emission in self.open)


@dataclass
class BeamState:
    """Where a stream stands: frames so far and the rows that are possible, best first."""

    paths: list[_Path]
    frames: int = 0


class _Growth(NamedTuple):
    """A row and its next token. Of two that score the same, the one found first counts as better."""

    score: float
    path: _Path
    token: int
    log_prob: float
    probability: float


class BeamSearch:
    """Several rows at once, streams together; what they agree on is committed at every frame.

    Rows with the same tokens are one row, whose probability is the sum over its alignments. Any chunking of the
    frames gives the same emissions.
    """

    def __init__(
        self,
        networks: Networks,
        symbols: Symbols | None = None,
        settings: BeamSettings | None = None,
        hotwords: HotwordBias | None = None,
    ) -> None:
        self._networks = networks
        self._symbols = symbols or Symbols()
        self._settings = settings or BeamSettings()
        self._hotwords = hotwords or HotwordBias(())

    def start(self) -> BeamState:
        """A stream before its first frame. To reset a stream is to begin a new one."""
        history = History.start(self._symbols)
        predicted = _predictions(self._networks, [history], self._symbols)[0]
        return BeamState([_Path((), history, (0, 0), 0.0, 0.0, predicted)])

    def step(self, states: Sequence[BeamState], frames: Sequence[FloatArray]) -> list[list[Emission]]:
        """What every stream newly commits; arguments and errors as for `GreedySearch.step`."""
        _check_frames(frames, states)
        found: list[list[Emission]] = [[] for _ in states]
        for at in range(max(map(len, frames), default=0)):
            going = [i for i in range(len(states)) if at < len(frames[i])]
            self._frame([states[i] for i in going], [frames[i][at] for i in going])
            for i in going:
                found[i] += self._commit(states[i])
        return found

    def tail(self, state: BeamState) -> list[Emission]:
        """What the best row says beyond what was committed; may still change."""
        return self._words(state.paths[0].open)

    def flush(self, state: BeamState) -> list[Emission]:
        """The audio has ended: commit the best row. The state is then that of a stream that goes on from there."""
        refund = self._hotwords.refund
        best = max(state.paths, key=lambda path: path.score - sum(map(refund, path.nodes)))
        bias = best.bias - sum(map(refund, best.nodes))
        state.paths = [_Path((), best.history, (0, 0), best.log_prob, bias, best.predicted)]
        return self._words(best.open)

    def _words(self, row: Iterable[Emission]) -> list[Emission]:
        return [emission for emission in row if emission.token != self._symbols.change]

    def _frame(self, states: list[BeamState], frames: list[FloatArray]) -> None:
        """One frame of every stream: rounds in which rows end the frame by blank or grow by a token."""
        settings, symbols = self._settings, self._symbols
        growing = [state.paths for state in states]
        ended: list[dict[tuple[int, ...], _Path]] = [{} for _ in states]
        for turn in range(settings.max_symbols + 1):
            rows = [(i, path) for i, paths in enumerate(growing) for path in paths]
            if not rows:
                break
            logits = self._networks.joint(
                np.stack([frames[i] for i, _ in rows]), np.stack([path.predicted for _, path in rows])
            )
            log_probs = _log_softmax(logits.astype(np.float64))
            for (i, path), row in zip(rows, log_probs, strict=True):
                _merge(ended[i], path, path.log_prob + float(row[symbols.blank]))
            if turn == settings.max_symbols:
                break
            least = [self._least(paths) for paths in ended]
            grown: list[list[_Growth]] = [[] for _ in states]
            for (i, _), growths in zip(rows, self._growths(rows, log_probs, least, turn > 0), strict=True):
                grown[i] += growths
            best = [sorted(g, key=lambda growth: -growth.score)[: settings.beam] for g in grown]
            growing = self._grow(best, [state.frames for state in states])
        for state, found in zip(states, ended, strict=True):
            state.paths = sorted(found.values(), key=lambda path: -path.score)[: settings.beam]
            state.frames += 1

    def _least(self, ended: dict[tuple[int, ...], _Path]) -> float:
        """What a row must score to have a chance against a full beam of rows that ended the frame."""
        scores = sorted((path.score for path in ended.values()), reverse=True)
        return scores[self._settings.beam - 1] if len(scores) >= self._settings.beam else -np.inf

    def _growths(
        self, rows: list[tuple[int, _Path]], log_probs: FloatArray, least: list[float], in_frame: bool
    ) -> list[list[_Growth]]:
        """Every row's likeliest next tokens; `log_probs` (N, V) of N rows, `least` by stream."""
        symbols = self._symbols
        scores = log_probs.copy()
        scores[:, symbols.blank] = -np.inf
        for row, (_, path) in zip(scores, rows, strict=True):
            if in_frame and path.history.changed:
                row[symbols.change] = -np.inf  # As in the greedy search.
            change = row[symbols.change]
            # A token that goes on with no phrase costs the refund of the one that was begun.
            node = path.nodes[path.history.channel]
            refund = self._hotwords.refund(node)
            tokens, gains = self._hotwords.gains(node)
            row[tokens] += gains + refund
            row += path.score - refund
            row[symbols.change] = change + path.score  # The other channel has its own place in the hotwords.
        count = min(self._settings.beam, scores.shape[1])
        tops = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        no_blank = -np.expm1(np.minimum(log_probs[:, symbols.blank], -1e-12))
        return [
            [
                _Growth(score, path, t, float(log_probs[n, t]), float(np.exp(log_probs[n, t]) / no_blank[n]))
                for t in top.tolist()
                if (score := float(scores[n, t])) > least[i]
            ]
            for n, ((i, path), top) in enumerate(zip(rows, tops, strict=True))
        ]

    def _grow(self, chosen: list[list[_Growth]], frames: list[int]) -> list[list[_Path]]:
        """Rows with their new token, predictions made for all streams at once."""
        symbols, hotwords = self._symbols, self._hotwords
        histories = [path.history.after(token, symbols) for rows in chosen for _, path, token, *_ in rows]
        if not histories:
            return [[] for _ in chosen]
        fresh = iter(zip(histories, _predictions(self._networks, histories, symbols), strict=True))
        grown: list[list[_Path]] = []
        for rows, frame in zip(chosen, frames, strict=True):
            grown.append([])
            for score, path, token, log_prob, probability in rows:
                history, predicted = next(fresh)
                on = path.history.channel
                nodes = list(path.nodes)
                if token != symbols.change:
                    nodes[on] = hotwords.follow(nodes[on], token)
                total = path.log_prob + log_prob
                row = (*path.open, Emission(token, on, frame, float(probability)))
                grown[-1].append(_Path(row, history, (nodes[0], nodes[1]), total, score - total, predicted))
        return grown

    def _commit(self, state: BeamState) -> list[Emission]:
        """Take from the rows what they all begin with; rows that contradict an old token of the best are dropped."""
        newest_old = state.frames - self._settings.commit_after_frames
        committed: list[Emission] = []
        while state.paths[0].open:
            first = state.paths[0].open[0]
            agreed = [path for path in state.paths if path.open and path.open[0].token == first.token]
            if len(agreed) < len(state.paths) and first.frame >= newest_old:
                break
            committed.append(first)
            state.paths = [replace(path, open=path.open[1:]) for path in agreed]
        return self._words(committed)


def _merge(ended: dict[tuple[int, ...], _Path], path: _Path, log_prob: float) -> None:
    """Add a row that ends the frame; the same row by other alignments counts together, with the likelier's frames."""
    same = ended.get(path.tokens)
    likelier = path if same is None or log_prob > same.log_prob else same
    total = log_prob if same is None else float(np.logaddexp(log_prob, same.log_prob))
    ended[path.tokens] = replace(likelier, log_prob=total)
