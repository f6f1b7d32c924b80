"""What the networks are trained on: transducer, cross-entropy of tokens, activity, voices.

All lengths are checked, all sums are made in float32 at least, whatever the network computed in. A batch without
anything to learn gives a loss of 0 with a gradient, never NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Target of a token that shall not count."""


def transducer_loss(
    logits: Tensor,
    tokens: Tensor,
    frame_lengths: Tensor,
    token_lengths: Tensor,
    blank: int = 0,
    delay_lambda: float = 0.0,
) -> Tensor:
    """Negative log-probability of each row of tokens, over all alignments (arXiv 1211.3711).

    Uses torchaudio's kernel for tensors on a CUDA device where torchaudio loads; the result is the same.

    Args:
        logits: (B, T, U + 1, V) of the joiner, at frame t after u tokens.
        tokens: (B, U) int64; anything beyond a row's length.
        frame_lengths: (B,) int64, 1 to T. token_lengths: (B,) int64, 0 to U.
        delay_lambda: how much emitting late costs, per token and frame (arXiv 2211.00490); the loss is then no
            log-probability any more.

    Returns:
        (B,) float32, float64 for float64 logits.

    Raises:
        ValueError: shapes or lengths that do not fit, or a blank among the tokens.
    """
    if logits.ndim != 4 or logits.shape[2] != tokens.shape[1] + 1:
        raise ValueError(f"expected logits (B, T, U + 1, V) for tokens (B, U), got {logits.shape}, {tokens.shape}")
    check_lengths(logits.shape[1], logits.shape[3], tokens, frame_lengths, token_lengths, blank)
    kernel = _torchaudio_loss() if logits.is_cuda and logits.dtype != torch.float64 else None
    if kernel is not None:
        return _by_kernel(kernel, logits.float(), tokens, frame_lengths, token_lengths, blank, delay_lambda)
    blanks, emitted = node_log_probs(logits, tokens, blank)
    return lattice_loss(blanks, emitted, frame_lengths, token_lengths, delay_lambda)


def node_log_probs(logits: Tensor, tokens: Tensor, blank: int = 0) -> tuple[Tensor, Tensor]:
    """All that the lattice needs of the logits.

    Args:
        logits: (B, T, U + 1, V). tokens: (B, U); those beyond a row's length may be any of the vocabulary.

    Returns:
        (B, T, U + 1) log-probability of blank, (B, T, U) of the next token.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    norm = torch.logsumexp(logits, -1)  # (B, T, U + 1)
    index = tokens[:, None, :, None].expand(-1, logits.shape[1], -1, 1)
    emitted = logits[:, :, :-1].gather(-1, index).squeeze(-1) - norm[:, :, :-1]
    return logits[..., blank] - norm, emitted


def lattice_loss(
    blanks: Tensor, emitted: Tensor, frame_lengths: Tensor, token_lengths: Tensor, delay_lambda: float = 0.0
) -> Tensor:
    """`transducer_loss` from the log-probabilities of `node_log_probs`; `check_lengths` is left to the caller.

    A frame is one step: within it a path to u emits from the place where it came in, so with S the running sum of the
    frame's emissions, log a[u] = S[u] + logcumsumexp(a_before + blank_before - S)[u].
    """
    batch, frames, _ = blanks.shape
    if delay_lambda:
        emitted = emitted + delay_lambda * _earliness(frame_lengths, frames, emitted.dtype)[:, :, None]
    run = F.pad(emitted.cumsum(-1), (1, 0))  # (B, T, U + 1)
    reached = run[:, 0]
    rows = [reached]
    for frame in range(1, frames):
        came_in = reached + blanks[:, frame - 1] - run[:, frame]
        reached = run[:, frame] + torch.logcumsumexp(came_in, -1)
        rows.append(reached)
    at = (torch.arange(batch, device=blanks.device), frame_lengths - 1, token_lengths)
    return -(torch.stack(rows, 1)[at] + blanks[at])


def check_lengths(
    frames: int, vocabulary: int, tokens: Tensor, frame_lengths: Tensor, token_lengths: Tensor, blank: int
) -> None:
    """Refuse a batch whose lengths or tokens cannot be.

    Raises:
        ValueError: says which.
    """
    batch, longest = tokens.shape
    for name, lengths, least, most in (
        ("frame_lengths", frame_lengths, 1, frames),
        ("token_lengths", token_lengths, 0, longest),
    ):
        if lengths.shape != (batch,) or lengths.dtype != torch.int64:
            raise ValueError(f"expected {name} ({batch},) int64, got {tuple(lengths.shape)} {lengths.dtype}")
        if batch and (int(lengths.min()) < least or int(lengths.max()) > most):
            raise ValueError(f"expected {name} of {least} to {most}, got {lengths.tolist()}")
    if tokens.dtype != torch.int64:
        raise ValueError(f"expected tokens int64, got {tokens.dtype}")
    real = tokens[torch.arange(longest, device=tokens.device) < token_lengths[:, None]]
    if real.numel() and (int(real.min()) < 0 or int(real.max()) >= vocabulary or bool((real == blank).any())):
        raise ValueError(f"expected tokens below {vocabulary} other than blank {blank}, got {real.unique().tolist()}")
    if tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) >= vocabulary):
        raise ValueError("tokens beyond a row's length must be of the vocabulary too: fill up with blank")


def _earliness(frame_lengths: Tensor, frames: int, dtype: torch.dtype) -> Tensor:
    """(B, T): how many frames before the middle of its row a frame lies."""
    frame = torch.arange(frames, device=frame_lengths.device, dtype=dtype)
    return (frame_lengths.to(dtype)[:, None] - 1) / 2 - frame


@cache
def _torchaudio_loss() -> Callable[..., Tensor] | None:
    try:
        from torchaudio.functional import rnnt_loss
    except (ImportError, OSError):  # OSError: a build for another torch or for CUDA only.
        return None
    found: Callable[..., Tensor] = rnnt_loss
    return found


def _by_kernel(
    kernel: Callable[..., Tensor],
    logits: Tensor,
    tokens: Tensor,
    frame_lengths: Tensor,
    token_lengths: Tensor,
    blank: int,
    delay_lambda: float,
) -> Tensor:
    """torchaudio's loss, which takes int32 and tensors no longer than the longest row."""
    frames, longest = int(frame_lengths.max()), int(token_lengths.max())
    logits, tokens = logits[:, :frames, : longest + 1], tokens[:, :longest]
    if delay_lambda:
        # The kernel knows no penalty: hand it edited log-probabilities instead of logits.
        logits = torch.log_softmax(logits, -1)
        counts = torch.ones(logits.shape[-1], device=logits.device, dtype=logits.dtype)
        counts[blank] = 0
        early = _earliness(frame_lengths, frames, logits.dtype)[:, :, None, None]
        logits = logits + delay_lambda * early * counts
    return kernel(
        logits.contiguous(),
        tokens.int().contiguous(),
        frame_lengths.int(),
        token_lengths.int(),
        blank=blank,
        reduction="none",
        fused_log_softmax=not delay_lambda,
    )


def token_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of the tokens that count.

    Args:
        logits: (B, U, V). targets: (B, U) int64, `IGNORED` where a token shall not count.
        smoothing: probability spread over the whole vocabulary.

    Returns:
        A scalar, 0 if no token counts.

    Raises:
        ValueError: shapes that do not fit.
    """
    if logits.shape[:2] != targets.shape:
        raise ValueError(f"expected logits (B, U, V) for targets (B, U), got {logits.shape}, {targets.shape}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum"
    )
    return total / (targets != IGNORED).sum().clamp(min=1)


def activity_loss(logits: Tensor, talkers: Tensor, lengths: Tensor) -> Tensor:
    """Binary cross-entropy of "at least one talks" and "at least two talk", mean over both and over the frames.

    Args:
        logits: (B, T, 2). talkers: (B, T) int64, how many talk. lengths: (B,) int64 frames that count.

    Raises:
        ValueError: shapes that do not fit.
    """
    if logits.shape != (*talkers.shape, 2) or lengths.shape != talkers.shape[:1]:
        raise ValueError(
            f"expected logits (B, T, 2), talkers (B, T), lengths (B,), got {tuple(logits.shape)}, "
            f"{tuple(talkers.shape)}, {tuple(lengths.shape)}"
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = torch.stack((talkers >= 1, talkers >= 2), -1).to(logits.dtype)
    counted = (torch.arange(talkers.shape[1], device=talkers.device) < lengths[:, None])[..., None]
    # Left out before the loss: what lies beyond a row's length may be anything, and NaN would reach the gradient.
    each = F.binary_cross_entropy_with_logits(torch.where(counted, logits, 0.0), targets, reduction="none")
    return (each * counted).sum() / (2 * lengths.sum()).clamp(min=1)


def voice_loss(voices: Tensor, teacher: Tensor, heard: Tensor) -> Tensor:
    """Mean of 1 - cosine between pooled voices and the teacher's, over the talkers that were heard.

    Args:
        voices: (B, K, E) of `heads.pool_voices`. teacher: (B, K, E), any length but 0 where heard.
        heard: (B, K) bool, False for rows that pad the batch or are never heard alone.

    Raises:
        ValueError: shapes that do not fit.
    """
    if voices.shape != teacher.shape or heard.shape != voices.shape[:2]:
        raise ValueError(
            f"expected voices and teacher (B, K, E), heard (B, K), got {tuple(voices.shape)}, "
            f"{tuple(teacher.shape)}, {tuple(heard.shape)}"
        )
    dtype = torch.promote_types(voices.dtype, torch.float32)
    distance = 1 - F.cosine_similarity(voices.to(dtype), teacher.to(dtype), dim=-1)
    return torch.where(heard, distance, 0.0).sum() / heard.sum().clamp(min=1)
