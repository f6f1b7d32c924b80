"""Losses against independent arithmetic in float64, and against the gradient's own definition."""

from __future__ import annotations

import math

import pytest
import torch

from streaming_models.nets.losses import (
    IGNORED,
    _by_kernel,
    activity_loss,
    lattice_loss,
    node_log_probs,
    token_loss,
    transducer_loss,
    voice_loss,
)


def batch(seed: int = 0, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (3, 9, 6, 7) in float64, tokens, frame lengths, token lengths (one row has no token)."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(3, 9, 6, 7, dtype=torch.float64, generator=generator)
    tokens = torch.randint(1, 7, (3, 5), generator=generator)
    return logits, tokens, torch.tensor([9, 6, 1]), torch.tensor([5, 0, 3])


def by_summing_arcs(
    logits: torch.Tensor, tokens: list[int], frames: int, blank: int, delay_lambda: float = 0.0
) -> float:
    """One row in plain Python: node by node, arc by arc."""
    log_probs: list[list[list[float]]] = logits.log_softmax(-1).tolist()
    reached = {(0, 0): 0.0}
    for frame in range(frames):
        for place in range(len(tokens) + 1):
            arcs = []
            if frame:
                arcs.append(reached[frame - 1, place] + log_probs[frame - 1][place][blank])
            if place:
                early = delay_lambda * ((frames - 1) / 2 - frame)
                arcs.append(reached[frame, place - 1] + log_probs[frame][place - 1][tokens[place - 1]] + early)
            if arcs:
                most = max(arcs)
                reached[frame, place] = most + math.log(sum(math.exp(arc - most) for arc in arcs))
    return -(reached[frames - 1, len(tokens)] + log_probs[frames - 1][len(tokens)][blank])


@pytest.mark.parametrize("delay_lambda", [0.0, 0.02])
@pytest.mark.parametrize("blank", [0, 6])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_transducer_loss_is_the_sum_over_all_alignments(delay_lambda: float, blank: int, scale: float) -> None:
    logits, tokens, frames, lengths = batch(scale=scale)
    tokens = tokens if blank == 0 else tokens - 1
    found = transducer_loss(logits, tokens, frames, lengths, blank, delay_lambda)
    expected = [
        by_summing_arcs(logits[i], tokens[i, : lengths[i]].tolist(), int(frames[i]), blank, delay_lambda)
        for i in range(3)
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


def test_an_alignment_that_is_certain_costs_nothing() -> None:
    logits = torch.full((1, 3, 2, 4), -50.0)
    logits[0, 0, 0, 0] = logits[0, 1, 0, 2] = logits[0, 1, 1, 0] = logits[0, 2, 1, 0] = 50.0
    assert float(transducer_loss(logits, torch.tensor([[2]]), torch.tensor([3]), torch.tensor([1]))) < 1e-6


@pytest.mark.parametrize("delay_lambda", [0.0, 0.02])
def test_the_gradient_is_that_of_the_loss(delay_lambda: float) -> None:
    logits, tokens, frames, lengths = batch()

    def loss(small: torch.Tensor) -> torch.Tensor:
        return transducer_loss(small, tokens[:, :3], frames.clamp(max=4), lengths.clamp(max=3), 0, delay_lambda)

    small = logits[:, :4, :4, :5].clone().requires_grad_(True)
    tokens = tokens.clamp(max=4)
    assert torch.autograd.gradcheck(loss, (small,))


def test_what_lies_beyond_a_rows_length_changes_nothing() -> None:
    logits, tokens, frames, lengths = batch()
    first = transducer_loss(logits, tokens, frames, lengths, delay_lambda=0.01)
    for row in range(3):
        logits[row, frames[row] :] = 7.0
        logits[row, :, lengths[row] + 1 :] = -3.0
        tokens[row, lengths[row] :] = 0
    again = transducer_loss(logits, tokens, frames, lengths, delay_lambda=0.01)
    assert again.tolist() == pytest.approx(first.tolist(), abs=1e-12)


def test_the_delay_penalty_pulls_emissions_forward() -> None:
    logits = torch.zeros(1, 10, 2, 3, dtype=torch.float64, requires_grad=True)
    arguments = (torch.tensor([[1]]), torch.tensor([10]), torch.tensor([1]))
    plain = torch.autograd.grad(transducer_loss(logits, *arguments).sum(), logits)[0]
    pulled = torch.autograd.grad(transducer_loss(logits, *arguments, delay_lambda=0.1).sum(), logits)[0]
    # The gradient on the token's logit at its node is minus how much of the probability goes through that arc.
    gain = (plain - pulled)[0, :, 0, 1]
    assert float(gain[0]) > 0 > float(gain[-1])


def test_half_precision_is_summed_in_full() -> None:
    logits, tokens, frames, lengths = batch()
    half = transducer_loss(logits.bfloat16(), tokens, frames, lengths)
    assert half.dtype == torch.float32
    rounded = transducer_loss(logits.bfloat16().double(), tokens, frames, lengths)
    assert half.tolist() == pytest.approx(rounded.tolist(), abs=1e-4)


def test_float32_is_exact_enough_for_long_rows() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(2, 200, 91, 12, generator=generator)
    tokens = torch.randint(1, 12, (2, 90), generator=generator)
    lengths = (torch.tensor([200, 150]), torch.tensor([90, 60]))
    single, double = transducer_loss(logits, tokens, *lengths), transducer_loss(logits.double(), tokens, *lengths)
    assert single.tolist() == pytest.approx(double.tolist(), rel=1e-5)


def test_a_kernel_is_given_what_it_needs() -> None:
    """The glue to torchaudio, with our own loss in the place of the kernel: types, cut and penalty."""
    logits, tokens, frames, lengths = batch()
    logits = logits.float()
    frames, lengths = torch.tensor([8, 6, 1]), torch.tensor([4, 0, 3])

    def kernel(
        logits: torch.Tensor,
        tokens: torch.Tensor,
        frames: torch.Tensor,
        lengths: torch.Tensor,
        blank: int,
        reduction: str,
        fused_log_softmax: bool,
    ) -> torch.Tensor:
        assert logits.shape[1:3] == (8, 5)
        assert {t.dtype for t in (tokens, frames, lengths)} == {torch.int32}
        assert reduction == "none"
        tokens = tokens.long()
        if fused_log_softmax:
            logits = logits.log_softmax(-1)
        index = tokens[:, None, :, None].expand(-1, 8, -1, 1)
        emitted = logits[:, :, :-1].gather(-1, index).squeeze(-1)
        return lattice_loss(logits[..., blank], emitted, frames.long(), lengths.long())

    for delay_lambda in (0.0, 0.02):
        found = _by_kernel(kernel, logits, tokens, frames, lengths, 0, delay_lambda)
        expected = transducer_loss(logits, tokens, frames, lengths, 0, delay_lambda)
        assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_node_log_probs_are_those_of_a_softmax() -> None:
    logits, tokens, _, _ = batch()
    blanks, emitted = node_log_probs(logits, tokens, 2)
    log_probs = logits.log_softmax(-1)
    assert torch.allclose(blanks, log_probs[..., 2])
    assert float(emitted[1, 4, 3]) == pytest.approx(float(log_probs[1, 4, 3, tokens[1, 3]]))


@pytest.mark.parametrize(
    ("frames", "lengths", "message"),
    [
        ([10, 6, 1], [5, 0, 3], "frame_lengths of 1 to 9, got"),
        ([9, 0, 1], [5, 0, 3], "frame_lengths of 1 to 9, got"),
        ([9, 6, 1], [6, 0, 3], "token_lengths of 0 to 5, got"),
        ([9, 6], [5, 0, 3], "frame_lengths"),
        ([9, 6, 1], [5.0, 0.0, 3.0], "int64"),
    ],
)
def test_lengths_that_cannot_be_are_refused(frames: list[int], lengths: list[int], message: str) -> None:
    logits, tokens, _, _ = batch()
    with pytest.raises(ValueError, match=message):
        transducer_loss(logits, tokens, torch.tensor(frames), torch.tensor(lengths))


def test_tokens_that_cannot_be_are_refused() -> None:
    logits, tokens, frames, lengths = batch()
    with pytest.raises(ValueError, match="other than blank"):
        transducer_loss(logits, torch.zeros_like(tokens), frames, lengths)
    with pytest.raises(ValueError, match="below 7"):
        transducer_loss(logits, tokens + 6, frames, lengths)
    with pytest.raises(ValueError, match="beyond a row's length"):
        transducer_loss(logits, torch.where(torch.arange(5) < 3, tokens, -1), frames, torch.tensor([3, 0, 3]))
    with pytest.raises(ValueError, match=r"logits \(B, T, U \+ 1, V\)"):
        transducer_loss(logits, tokens[:, :4], frames, lengths)


def test_the_token_loss_counts_only_what_shall_count() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = torch.tensor([[1, 4, IGNORED], [0, IGNORED, IGNORED]])
    log_probs = logits.log_softmax(-1)
    picked = (log_probs[0, 0], 1), (log_probs[0, 1], 4), (log_probs[1, 0], 0)
    smoothed = [-(0.9 * row[token] + 0.1 * row.mean()) for row, token in picked]
    assert token_loss(logits, targets, 0.1).item() == pytest.approx(sum(s.item() for s in smoothed) / 3)
    nothing = token_loss(logits, torch.full_like(targets, IGNORED), 0.1)
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
    with pytest.raises(ValueError, match=r"targets \(B, U\)"):
        token_loss(logits, targets[:, :2])


def test_activity_counts_talkers_of_the_real_frames() -> None:
    logits = torch.tensor([[[2.0, -1.0], [0.5, 0.5], [float("nan"), 0.0]], [[0.0, 0.0]] * 3], requires_grad=True)
    talkers = torch.tensor([[1, 2, 0], [0, 0, 0]])
    soft = [math.log1p(math.exp(-2)), math.log1p(math.exp(-1)), math.log1p(math.exp(-0.5)), math.log1p(math.exp(-0.5))]
    expected = (sum(soft) + 2 * math.log(2)) / 6
    found = activity_loss(logits, talkers, torch.tensor([2, 1]))
    found.backward()
    assert found.item() == pytest.approx(expected, abs=1e-6)
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
    assert float(activity_loss(torch.zeros(1, 3, 2), talkers[:1], torch.tensor([0]))) == 0
    with pytest.raises(ValueError, match=r"logits \(B, T, 2\)"):
        activity_loss(logits[..., :1], talkers, torch.tensor([2, 1]))


def test_the_voice_loss_is_one_less_the_cosine_of_those_heard() -> None:
    voices = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]], requires_grad=True)
    teacher = torch.tensor([[[3.0, 0.0], [2.0, 2.0], [1.0, 0.0]]])
    found = voice_loss(voices, teacher, torch.tensor([[True, True, False]]))
    assert found.item() == pytest.approx((0 + 1 - math.sqrt(0.5)) / 2)
    found.backward()
    assert voices.grad is not None
    assert bool(torch.isfinite(voices.grad).all())
    assert voice_loss(voices.detach(), teacher, torch.zeros(1, 3, dtype=torch.bool)).item() == 0
    with pytest.raises(ValueError, match=r"voices and teacher \(B, K, E\)"):
        voice_loss(voices, teacher, torch.ones(1, 2, dtype=torch.bool))
