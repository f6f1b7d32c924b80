"""The Zipformer against its masked whole, icefall's names, and the protocol that both encoders satisfy.

Against icefall's own code (random weights, medium and small, 6 to 30 chunks) outputs differed by 3e-6 at most, whole
and streamed; that code is not in the repository, so only its names and shapes are held to here.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from streaming_models.nets.encoder import Encoder
from streaming_models.nets.streaming import State, StreamingEncoder
from streaming_models.nets.zipformer import Zipformer, ZipformerConfig

TINY = ZipformerConfig((1, 2, 4), (1, 2, 1), (16, 24, 20), (32, 32, 32), (2, 2, 2), (5, 7, 5))
CHUNK, LEFT = 4, 8
HOP, AHEAD = CHUNK * Zipformer.FRAME_SAMPLES, Zipformer.LOOKAHEAD_SAMPLES

LAYER = {
    "bypass_scale": (16,),
    "bypass.bypass_scale": (16,),
    "bypass_mid.bypass_scale": (16,),
    "norm.log_scale": (),
    "norm.bias": (16,),
    "self_attn_weights.in_proj.weight": (136, 16),
    "self_attn_weights.in_proj.bias": (136,),
    "self_attn_weights.linear_pos.weight": (8, 48),
    "self_attn[12].in_proj.weight": (24, 16),
    "self_attn[12].in_proj.bias": (24,),
    "self_attn[12].out_proj.weight": (16, 24),
    "self_attn[12].out_proj.bias": (16,),
    "nonlin_attention.in_proj.weight": (36, 16),
    "nonlin_attention.in_proj.bias": (36,),
    "nonlin_attention.out_proj.weight": (16, 12),
    "nonlin_attention.out_proj.bias": (16,),
    "feed_forward1.in_proj.weight": (24, 16),
    "feed_forward1.in_proj.bias": (24,),
    "feed_forward1.out_proj.weight": (16, 24),
    "feed_forward2.in_proj.weight": (32, 16),
    "feed_forward2.in_proj.bias": (32,),
    "feed_forward2.out_proj.weight": (16, 32),
    "feed_forward3.in_proj.weight": (40, 16),
    "feed_forward3.in_proj.bias": (40,),
    "feed_forward3.out_proj.weight": (16, 40),
    "feed_forward[123].out_proj.bias": (16,),
    "conv_module[12].in_proj.weight": (32, 16),
    "conv_module[12].in_proj.bias": (32,),
    "conv_module[12].depthwise_conv.causal_conv.weight": (16, 1, 3),
    "conv_module[12].depthwise_conv.causal_conv.bias": (16,),
    "conv_module[12].depthwise_conv.chunkwise_conv.weight": (16, 1, 5),
    "conv_module[12].depthwise_conv.chunkwise_conv.bias": (16,),
    "conv_module[12].depthwise_conv.chunkwise_conv_scale": (2, 16, 5),
    "conv_module[12].out_proj.weight": (16, 16),
    "conv_module[12].out_proj.bias": (16,),
}
"""icefall's names of a layer's parameters, and their shapes for the first stack of TINY."""
AROUND = {
    "encoder_embed.conv.0.weight": (8, 1, 3, 3),
    "encoder_embed.conv.0.bias": (8,),
    "encoder_embed.conv.4.weight": (32, 8, 3, 3),
    "encoder_embed.conv.4.bias": (32,),
    "encoder_embed.conv.7.weight": (128, 32, 3, 3),
    "encoder_embed.conv.7.bias": (128,),
    "encoder_embed.convnext.depthwise_conv.weight": (128, 1, 7, 7),
    "encoder_embed.convnext.depthwise_conv.bias": (128,),
    "encoder_embed.convnext.pointwise_conv1.weight": (384, 128, 1, 1),
    "encoder_embed.convnext.pointwise_conv1.bias": (384,),
    "encoder_embed.convnext.pointwise_conv2.weight": (128, 384, 1, 1),
    "encoder_embed.convnext.pointwise_conv2.bias": (128,),
    "encoder_embed.out.weight": (16, 128 * 19),
    "encoder_embed.out.bias": (16,),
    "encoder_embed.out_norm.log_scale": (),
    "encoder_embed.out_norm.bias": (16,),
    "encoder.encoders.1.downsample.bias": (2,),
    "encoder.encoders.1.out_combiner.bypass_scale": (24,),
    "encoder.encoders.2.downsample.bias": (4,),
    "encoder.encoders.2.out_combiner.bypass_scale": (20,),
    "encoder.downsample_output.bias": (2,),
}
"""icefall's names of everything outside the layers."""


def random_net(seed: int = 0) -> Zipformer:
    """Weights as large as trained ones: those of the start let a block change almost nothing."""
    net = Zipformer(TINY)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            if name.endswith("weight"):
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            elif name.endswith("bias"):
                parameter.copy_(0.2 * noise)
            else:
                parameter.add_(0.2 * noise)
    return net


@cache
def zipformer() -> Zipformer:
    return random_net().eval().requires_grad_(False)


def noise(chunks: int, streams: int = 1, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(streams, chunks * HOP + AHEAD, generator=draw)


def streamed(
    encoder: StreamingEncoder[State],
    samples: Tensor,
    chunk: int,
    left: int,
    added: Tensor | None = None,
    state: State | None = None,
) -> tuple[Tensor, State]:
    """Chunk by chunk through nothing but the protocol."""
    state = encoder.start(len(samples), left) if state is None else state
    hop, rows = chunk * encoder.FRAME_SAMPLES, []
    for k in range((samples.shape[1] - encoder.LOOKAHEAD_SAMPLES) // hop):
        piece = samples[:, k * hop : (k + 1) * hop + encoder.LOOKAHEAD_SAMPLES]
        extra = None if added is None else added[:, k * chunk : (k + 1) * chunk]
        hidden, state = encoder.step(piece, state, extra)
        rows.append(hidden)
    return torch.cat(rows, 1), state


ENCODERS: list[StreamingEncoder[Any]] = [Encoder().requires_grad_(False), zipformer()]
"""Typed, so that mypy refuses an encoder that does not satisfy the protocol."""


@pytest.mark.parametrize("encoder", ENCODERS, ids=["moonshine", "zipformer"])
def test_both_encoders_stream_their_masked_whole_through_the_same_protocol(encoder: StreamingEncoder[Any]) -> None:
    draw = torch.Generator().manual_seed(2)
    samples = 0.1 * torch.randn(2, 5 * CHUNK * encoder.FRAME_SAMPLES + encoder.LOOKAHEAD_SAMPLES, generator=draw)
    added = torch.randn(2, 5 * CHUNK, encoder.added_width, generator=draw)
    for extra in (None, added):
        whole = encoder.forward(samples, CHUNK, LEFT, extra)
        assert whole.shape == (2, 5 * CHUNK, encoder.width)
        assert torch.allclose(streamed(encoder, samples, CHUNK, LEFT, extra)[0], whole, atol=1e-4)


@pytest.mark.parametrize("chunk", [2, 4, 8, 16])
def test_every_chunk_size_streams_its_masked_whole(chunk: int) -> None:
    samples = noise(8, streams=2)
    whole = zipformer()(samples, chunk, LEFT)
    assert torch.allclose(streamed(zipformer(), samples, chunk, LEFT)[0], whole, atol=1e-4)


@pytest.mark.parametrize("left", [0, 2, 6, 64])
def test_every_left_context_streams_its_masked_whole(left: int) -> None:
    samples = noise(6)
    whole = zipformer()(samples, CHUNK, left)
    assert torch.allclose(streamed(zipformer(), samples, CHUNK, left)[0], whole, atol=1e-4)


def test_chunk_size_and_left_context_change_what_is_heard() -> None:
    samples = noise(8)
    whole = zipformer()(samples, CHUNK, LEFT)
    assert not torch.allclose(whole, zipformer()(samples, CHUNK, 2 * LEFT), atol=1e-3)
    assert not torch.allclose(whole, zipformer()(samples, 2 * CHUNK, LEFT), atol=1e-3)


def test_an_addition_reaches_its_own_frames_and_none_of_an_earlier_chunk() -> None:
    samples, added = noise(4), torch.zeros(1, 4 * CHUNK, TINY.widths[0])
    added[:, 2 * CHUNK] = 1.0
    plain, other = zipformer()(samples, CHUNK, LEFT), zipformer()(samples, CHUNK, LEFT, added)
    assert torch.equal(plain[:, : 2 * CHUNK], other[:, : 2 * CHUNK])
    assert not torch.allclose(plain[:, 2 * CHUNK : 3 * CHUNK], other[:, 2 * CHUNK : 3 * CHUNK], atol=1e-2)


def test_later_samples_change_nothing_earlier() -> None:
    samples = noise(8)
    other = samples.clone()
    other[:, 5 * HOP + AHEAD :] = 0.3
    before, after = (zipformer()(x, CHUNK, LEFT) for x in (samples, other))
    assert torch.allclose(before[:, : 5 * CHUNK], after[:, : 5 * CHUNK], atol=1e-6)
    assert not torch.allclose(before[:, 5 * CHUNK :], after[:, 5 * CHUNK :], atol=1e-2)


def test_the_last_lookahead_sample_is_heard() -> None:
    samples = noise(2)
    other = samples.clone()
    other[:, HOP + AHEAD - 1] += 0.5
    before, after = (zipformer()(x, CHUNK, LEFT)[:, :CHUNK] for x in (samples, other))
    assert not torch.allclose(before, after, atol=1e-7)


def test_what_lies_before_the_left_context_of_all_layers_is_forgotten() -> None:
    steps = sum(
        count * (2 * LEFT + factor * (kernel // 2) * 2)
        for factor, count, kernel in zip(TINY.downsampling, TINY.layers, TINY.kernels, strict=True)
    )
    chunks = -(-steps // (2 * CHUNK)) + sum(TINY.layers) + 1
    samples = noise(chunks + 6)
    other = samples.clone()
    other[:, : 3 * HOP] = noise(3, seed=5)[:, : 3 * HOP]
    mine, theirs = (streamed(zipformer(), x, CHUNK, LEFT)[0] for x in (samples, other))
    last = slice((chunks + 4) * CHUNK, None)
    assert torch.allclose(mine[:, last], theirs[:, last], atol=1e-5)
    assert not torch.allclose(mine[:, : 4 * CHUNK], theirs[:, : 4 * CHUNK], atol=1e-2)


def test_a_stream_that_starts_anew_remembers_nothing() -> None:
    samples = noise(3)
    fresh, _ = streamed(zipformer(), samples, CHUNK, LEFT)
    _, used = streamed(zipformer(), noise(4, seed=3), CHUNK, LEFT)
    carried, _ = streamed(zipformer(), samples, CHUNK, LEFT, state=used)
    again, _ = streamed(zipformer(), samples, CHUNK, LEFT)
    assert torch.equal(fresh, again)
    assert not torch.allclose(fresh, carried, atol=1e-2)


def test_a_step_leaves_the_state_it_was_given_as_it_was() -> None:
    start = zipformer().start(1, LEFT)
    piece = noise(1)
    first, _ = zipformer().step(piece, start)
    again, _ = zipformer().step(piece, start)
    assert torch.equal(first, again)
    assert not any(getattr(start.layers[0], name).any() for name in ("key", "gated", "value1", "conv1"))


def test_streams_of_a_batch_do_not_hear_each_other() -> None:
    samples = noise(4, streams=3)
    together, _ = streamed(zipformer(), samples, CHUNK, LEFT)
    for k in range(3):
        alone, _ = streamed(zipformer(), samples[k : k + 1], CHUNK, LEFT)
        assert torch.allclose(together[k], alone[0], atol=1e-4)


def test_streams_of_different_age_share_a_batch() -> None:
    old, new = noise(5), noise(2, seed=4)
    expected = torch.cat(
        (streamed(zipformer(), old, CHUNK, LEFT)[0][:, 3 * CHUNK :], streamed(zipformer(), new, CHUNK, LEFT)[0])
    )
    _, state = streamed(zipformer(), old[:, : 3 * HOP + AHEAD], CHUNK, LEFT)
    fresh = zipformer().start(1, LEFT)
    state.embed, state.frames = torch.cat((state.embed, fresh.embed)), torch.cat((state.frames, fresh.frames))
    for mine, other in zip(state.layers, fresh.layers, strict=True):
        for name, value in vars(mine).items():
            setattr(mine, name, torch.cat((value, getattr(other, name))))
    both = torch.cat((old[:, 3 * HOP :], new))
    assert torch.allclose(streamed(zipformer(), both, CHUNK, LEFT, state=state)[0], expected, atol=1e-4)


def test_names_and_shapes_are_those_of_icefall() -> None:
    shapes = {name: tuple(value.shape) for name, value in zipformer().state_dict().items()}
    inside = re.compile(r"encoder\.encoders\.(\d\.encoder|0)\.layers\.\d\.(.+)")
    matched = {name: match for name in shapes if (match := inside.fullmatch(name))}
    layers: dict[str, set[str]] = {}
    for name, match in matched.items():
        layers.setdefault(name.removesuffix(match[2]), set()).add(match[2])
    assert len(layers) == sum(TINY.layers)
    first = layers["encoder.encoders.0.layers.0."]
    assert all(names == first for names in layers.values())
    for name in first:
        fitting = [shape for pattern, shape in LAYER.items() if re.fullmatch(pattern, name)]
        assert fitting == [shapes[f"encoder.encoders.0.layers.0.{name}"]], name
    assert all(any(re.fullmatch(pattern, name) for name in first) for pattern in LAYER)
    assert {name: shape for name, shape in shapes.items() if name not in matched} == AROUND


def test_a_checkpoint_loads_whatever_else_it_holds() -> None:
    model = dict(random_net(7).state_dict()) | {
        "decoder.embedding.weight": torch.zeros(500, 512),
        "joiner.output_linear.bias": torch.zeros(500),
        "simple_am_proj.weight": torch.zeros(500, 20),
    }
    net = Zipformer(TINY).eval()
    net.load_pretrained(model)
    samples = noise(2)
    assert torch.equal(net(samples, CHUNK, LEFT), random_net(7).eval()(samples, CHUNK, LEFT))


def test_a_checkpoint_with_other_weights_is_refused_by_name() -> None:
    name = "encoder.encoders.0.layers.0.self_attn1.in_proj.bias"
    model = dict(zipformer().state_dict())
    missing = {n: v for n, v in model.items() if n != name}
    with pytest.raises(RuntimeError, match=re.escape(f"expected {name} (24,), found none")):
        Zipformer(TINY).load_pretrained(missing)
    with pytest.raises(RuntimeError, match=re.escape(f"expected {name} (24,), found (25,)")):
        Zipformer(TINY).load_pretrained(model | {name: torch.zeros(25)})
    with pytest.raises(RuntimeError, match=re.escape("found encoder.encoders.3.downsample.bias, expected no such")):
        Zipformer(TINY).load_pretrained(model | {"encoder.encoders.3.downsample.bias": torch.zeros(2)})
    with pytest.raises(RuntimeError, match=re.escape("expected encoder_embed.conv.0.weight (8, 1, 3, 3), found none")):
        Zipformer(TINY).load_pretrained({"module.encoder.x": torch.zeros(1)})


def test_sizes_that_a_stack_cannot_cut_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a chunk of a multiple of 2 frames, got 3"):
        zipformer()(noise(3), 3, LEFT)
    with pytest.raises(ValueError, match="expected a left context of a multiple of 2 frames, got 5"):
        zipformer()(noise(3), CHUNK, 5)
    with pytest.raises(ValueError, match="expected a left context of a multiple of 2 frames, got 5"):
        zipformer().start(1, 5)
    with pytest.raises(ValueError, match=rf"k \* {HOP} \+ {AHEAD} samples for chunks of {CHUNK}, got 4000"):
        zipformer()(torch.zeros(1, 4_000), CHUNK, LEFT)
    with pytest.raises(
        ValueError, match=rf"k \* {HOP} \+ {AHEAD} samples for chunks of {CHUNK}, got {HOP + AHEAD + 1}"
    ):
        zipformer().step(torch.zeros(1, HOP + AHEAD + 1), zipformer().start(1, LEFT))


def test_every_weight_that_is_read_is_trained_and_a_few_steps_lower_a_loss() -> None:
    net = random_net(3).train()
    samples, wanted = noise(3, streams=2), torch.randn(2, 3 * CHUNK, net.width)
    optimiser = torch.optim.Adam((p for p in net.parameters() if p.requires_grad), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = (net(samples, CHUNK, LEFT) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    untouched = {n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    assert {n for n in untouched if not re.fullmatch(r".*layers\.\d\.bypass_scale", n)} == set()


def test_a_gradient_reaches_the_samples() -> None:
    samples = noise(2).requires_grad_()
    zipformer()(samples, CHUNK, LEFT).square().mean().backward()
    assert samples.grad is not None
    assert torch.isfinite(samples.grad).all()
    assert samples.grad.any()
