"""Sound augmented: ours against the phase vocoder as published, SciPy, and what each draw means."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from conftest import python
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from scipy import signal, stats

from zoo import random
from zoo.augment import audio
from zoo.augment.audio import Noise, PitchShift, SpecAugment, TimeShift, TimeStretch
from zoo.augment.base import Transform
from zoo.errors import WrongConfiguration

pytestmark = pytest.mark.once

RATE = 8000
WAVES: list[Transform] = [TimeStretch(), PitchShift(), Noise(), TimeShift()]
of_waves = pytest.mark.parametrize("transform", WAVES, ids=lambda t: type(t).__name__)


def rng(*key: int | str) -> np.random.Generator:
    return random.generator("test", *key)


def tone(frequency: float, samples: int = RATE) -> ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(samples) / RATE)


def loudest(wave: ndarray) -> float:
    """The frequency of the highest peak of a spectrum, to a tenth of a Hz."""
    size = 10 * RATE
    return float(np.abs(np.fft.rfft(wave * np.hanning(len(wave)), size)).argmax() * RATE / size)


def uniform(found: Any, least: float, most: float) -> bool:
    return stats.kstest(found, stats.uniform(least, most - least).cdf).pvalue > 1e-4


# --- stretch and pitch ---


def published(wave: ndarray, rate: float) -> ndarray:
    """Ellis 2002, pvoc.m and pvsample.m, a frame at a time; SciPy's transforms around it."""
    size, hop = audio.SIZE, audio.HOP
    window = signal.get_window("hann", size)
    padded = np.concatenate([np.zeros(size // 2), wave, np.zeros(size // 2)])
    frames = [np.fft.rfft(window * padded[i : i + size]) for i in range(0, len(padded) - size + 1, hop)]
    there = len(frames)
    frames += [np.zeros(size // 2 + 1, complex)] * 2
    expected = 2 * np.pi * hop * np.arange(size // 2 + 1) / size
    phase, made = np.angle(frames[0]), []
    for t in np.arange(0, there, rate):
        a, b = frames[int(t)], frames[int(t) + 1]
        share = t - int(t)
        made.append(((1 - share) * np.abs(a) + share * np.abs(b)) * np.exp(1j * phase))
        turn = np.angle(b) - np.angle(a) - expected
        phase = phase + expected + turn - 2 * np.pi * np.round(turn / (2 * np.pi))
    total, weight = np.zeros((2, (len(made) - 1) * hop + size))
    for i, spectrum in enumerate(made):
        total[i * hop : i * hop + size] += window * np.fft.irfft(spectrum, size)
        weight[i * hop : i * hop + size] += window**2
    return (total / np.maximum(weight, 1e-8))[size // 2 :][: max(1, round(len(wave) / rate))]


@pytest.mark.parametrize("rate", [0.5, 0.8, 1.1, 1.25, 2.0])
@pytest.mark.parametrize("samples", [1, 100, 511, 4000])
def test_stretch_is_the_phase_vocoder_as_published(samples: int, rate: float) -> None:
    wave = rng(samples).standard_normal(samples)
    ours, theirs = audio.stretch(wave, rate), published(wave, rate)
    assert len(ours) == max(1, round(samples / rate))
    assert np.abs(ours[: len(theirs)] - theirs).max() <= 1e-9
    assert not ours[len(theirs) :].any()


@pytest.mark.parametrize("rate", [0.7, 0.9, 1.3])
@pytest.mark.parametrize("frequency", [220.0, 1000.0, 2750.0])
def test_a_stretched_tone_keeps_its_pitch(frequency: float, rate: float) -> None:
    assert abs(loudest(audio.stretch(tone(frequency), rate)) - frequency) <= 1


@pytest.mark.parametrize("semitones", [-12, -3, 1, 7])
def test_a_shifted_tone_has_its_pitch_times_a_twelfth_power_of_two_and_its_length(semitones: float) -> None:
    shifted = audio.shift_pitch(tone(500), semitones)
    assert len(shifted) == RATE
    assert abs(loudest(shifted) - 500 * 2 ** (semitones / 12)) <= 1


def test_no_stretch_and_no_shift_leave_the_wave() -> None:
    wave = rng().standard_normal(3000)
    assert np.array_equal(audio.stretch(wave, 1.0), wave)
    assert np.array_equal(audio.shift_pitch(wave, 0.0), wave)


def test_rates_and_semitones_are_uniform_in_their_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    shifts: list[float] = []
    monkeypatch.setattr(audio, "stretch", lambda wave, rate: rates.append(rate))
    monkeypatch.setattr(audio, "shift_pitch", lambda wave, semitones: shifts.append(semitones))
    for i in range(2000):
        TimeStretch((0.7, 1.6))(np.zeros(4), rng(i))
        PitchShift(3.0)(np.zeros(4), rng(i))
    assert uniform(rates, 0.7, 1.6)
    assert uniform(shifts, -3, 3)


# --- noise and shift ---


def test_noise_is_white_normal_and_at_ratios_uniform_in_the_range() -> None:
    wave = tone(440, 2000)
    added = [Noise((3.0, 20.0))(wave, rng(i)) - wave for i in range(500)]
    assert uniform([10 * np.log10(np.mean(wave**2) / np.mean(noise**2)) for noise in added], 3, 20)
    unit = np.stack([noise / noise.std() for noise in added])
    assert stats.kstest(unit[:, :20].ravel(), stats.norm.cdf).pvalue > 1e-4
    beside = np.mean(unit[:, 1:] * unit[:, :-1])  # 1e6 products of independent numbers
    assert abs(beside) <= 4 / np.sqrt(unit[:, 1:].size)


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_a_short_wave_has_its_ratio_exactly(samples: int) -> None:
    wave = 1 + rng().random(samples)
    noise = Noise((10.0, 10.0))(wave, rng(samples)) - wave
    assert 10 * np.log10(np.mean(wave**2) / np.mean(noise**2)) == pytest.approx(10)


def test_silence_gets_no_noise() -> None:
    assert not Noise()(np.zeros(100), rng()).any()


def test_shifts_are_uniform_and_fill_with_zeros() -> None:
    wave, moves = np.arange(1.0, 101), Counter[int]()
    for i in range(2100):
        found = TimeShift(0.1)(wave, rng(i))
        by = int(wave[50] - found[50])
        moves[by] += 1
        theirs = np.concatenate([np.zeros(max(0, by)), wave, np.zeros(max(0, -by))])
        assert np.array_equal(found, theirs[max(0, -by) :][:100])
    assert sorted(moves) == list(range(-10, 11))
    assert stats.chisquare(list(moves.values())).pvalue > 1e-4


# --- SpecAugment ---


def runs(masked: ndarray) -> list[int]:
    """The lengths of runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], masked.astype(int), [0]])))
    return list(edges[1::2] - edges[::2])


def test_one_mask_is_a_run_of_uniform_width_and_place() -> None:
    """Park et al. 2019, section 2: f is uniform in [0, F], f0 in [0, bands - f]."""
    widths, starts = [], []
    for i in range(2000):
        x = SpecAugment(0, 0, 1.0, 1, 6)(np.ones((9, 20)), rng(i))
        masked = (x == 0).all(0)
        assert ((x == 0).any(0) == masked).all()
        assert len(runs(masked)) <= 1
        widths.append(int(masked.sum()))
        if masked.sum() == 5:
            starts.append(int(masked.argmax()))
    assert stats.chisquare(np.bincount(widths, minlength=7)).pvalue > 1e-4
    assert set(starts) == set(range(16))
    assert stats.chisquare(np.bincount(starts, minlength=16)).pvalue > 1e-4


def test_a_time_mask_is_no_wider_than_its_width_and_its_share_of_the_frames() -> None:
    for transform, most in [(SpecAugment(1, 7, 1.0, 0, 0), 7), (SpecAugment(1, 100, 0.25, 0, 0), 10)]:
        found = [transform(np.ones((40, 3)), rng(i)) == 0 for i in range(600)]
        assert all((x.all(1) == x.any(1)).all() for x in found)
        counts = np.bincount([int(x.all(1).sum()) for x in found], minlength=most + 1)
        assert len(counts) == most + 1
        assert stats.chisquare(counts).pvalue > 1e-4


def test_several_masks_of_both_kinds_cover_frames_and_bands_and_leave_the_rest() -> None:
    x = rng().standard_normal((60, 40)).astype(np.float32)
    kept = x.copy()
    most = 0
    for i in range(200):
        found = SpecAugment()(x, rng(i))
        time, band = (found == 0).all(1), (found == 0).all(0)
        assert np.array_equal(found, np.where(time[:, None] | band, np.float32(0), x))
        assert time.sum() <= 2 * 10
        assert band.sum() <= 2 * 8
        most = max(most, len(runs(time)) + len(runs(band)))
    assert most == 4
    assert np.array_equal(x, kept)


# --- what holds of all ---


@of_waves
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_an_empty_wave_and_one_sample_are_waves(transform: Transform, kind: type) -> None:
    for samples in (0, 1, 2):
        for i in range(5):
            found = transform(np.full(samples, 0.5, kind), rng(i))
            assert found.dtype == kind
            assert found.shape == (samples,)
            assert np.isfinite(found).all()


@of_waves
def test_a_very_long_wave_is_a_wave(transform: Transform) -> None:
    """Two minutes."""
    wave = rng().standard_normal(120 * RATE).astype(np.float32)
    found = transform(wave, rng())
    assert 0.8 <= len(wave) / len(found) <= 1.25
    assert np.isfinite(found).all()
    assert 0.5 <= found.std() <= 1.5


@given(st.integers(0, 1500), st.integers(0, 10), st.sampled_from(WAVES))
@settings(max_examples=60, deadline=None)
def test_a_wave_of_any_length_is_left_alone_and_another_of_its_kind_made(
    samples: int, seed: int, transform: Transform
) -> None:
    wave = rng(seed).standard_normal(samples).astype(np.float32)
    kept = wave.copy()
    found = transform(wave, rng(seed))
    assert np.array_equal(wave, kept)
    assert found.dtype == np.float32
    assert round(samples / 1.25) <= len(found) <= round(samples / 0.8)
    assert np.isfinite(found).all()


@given(st.integers(0, 30), st.integers(0, 12), st.integers(0, 10))
@settings(max_examples=60, deadline=None)
def test_features_of_any_shape_keep_it(frames: int, bands: int, seed: int) -> None:
    x = np.ones((frames, bands), np.float32)
    found = SpecAugment()(x, rng(seed))
    assert found.shape == x.shape
    assert found.dtype == np.float32
    assert set(np.unique(found)) <= {0, 1}


def test_sound_is_changed_to_the_same_bytes_in_a_process_without_a_framework() -> None:
    code = """
import sys
import numpy as np
from zoo import random
from zoo.augment.audio import Noise, PitchShift, SpecAugment, TimeShift, TimeStretch
wave = random.generator("wave").standard_normal(3000, dtype=np.float32)
found = [t(wave, random.generator("t")) for t in (TimeStretch(), PitchShift(), Noise(), TimeShift())]
found.append(SpecAugment()(wave.reshape(75, 40), random.generator("t")))
made = b"".join(x.tobytes() for x in found).hex()
"""
    here: dict[str, Any] = {}
    exec(code, here)
    check = '\nassert not {"torch", "tensorflow", "jax"} & sys.modules.keys()\nprint(made)'
    assert python(code + check) == here["made"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TimeStretch((1.2, 0.8)), "rates=.*expected two speeds, 0.1 <= first <= second <= 10"),
        (lambda: TimeStretch((0.0, 1.0)), "rates="),
        (lambda: PitchShift(-1.0), "semitones=-1.0; expected 0 to 24"),
        (lambda: Noise((20.0, 10.0)), "snr=.*expected two ratios in dB, first <= second"),
        (lambda: TimeShift(1.5), "share=1.5; expected a fraction of the length, 0 to 1"),
        (lambda: SpecAugment(time_masks=-1), "time_masks=-1; expected an integer of 0 or more"),
        (lambda: SpecAugment(frequency_width=2.5), "frequency_width=2.5"),  # pyright: ignore
        (lambda: Noise()(np.zeros((3, 2)), rng()), r"shape \(3, 2\); expected a wave \(n,\) of floats"),
        (lambda: Noise()(np.zeros(3, np.int16), rng()), "int16 of shape"),
        (lambda: SpecAugment()(np.zeros(3), rng()), r"shape \(3,\); expected features \(t, m\) of floats"),
    ],
)
def test_errors_say_what_was_expected(make: Any, said: str) -> None:
    with pytest.raises(WrongConfiguration, match=said):
        make()
