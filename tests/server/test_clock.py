"""Meeting time: whole numbers, so a day of it is as exact as a second."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.clock import ms_to_samples, samples_to_ms

RATES_HZ = st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
DAY_S = 86_400


@given(st.integers(0, DAY_S), RATES_HZ)
def test_whole_seconds_are_exact_for_a_day(seconds: int, rate_hz: int) -> None:
    assert samples_to_ms(seconds * rate_hz, rate_hz) == seconds * 1000
    assert ms_to_samples(seconds * 1000, rate_hz) == seconds * rate_hz


@given(st.integers(0, DAY_S * 48_000), RATES_HZ)
def test_time_is_rounded_down_and_never_off_by_a_millisecond(samples: int, rate_hz: int) -> None:
    time_ms = samples_to_ms(samples, rate_hz)
    assert time_ms * rate_hz <= samples * 1000 < (time_ms + 1) * rate_hz


@given(st.integers(0, DAY_S * 48_000), st.integers(0, 100_000), RATES_HZ)
def test_time_does_not_run_backwards(samples: int, more: int, rate_hz: int) -> None:
    assert samples_to_ms(samples + more, rate_hz) >= samples_to_ms(samples, rate_hz)


def test_two_hours_in_uneven_steps_end_where_one_step_does() -> None:
    rate_hz = 44_100
    clock = 0
    for _ in range(2 * 3600 * 100):  # 10 ms frames of 441 samples
        clock += 441
    assert samples_to_ms(clock, rate_hz) == 7_200_000


def test_numbers_beyond_sixty_four_bits_hold() -> None:
    assert samples_to_ms(2**70 * 16_000) == 2**70 * 1000
