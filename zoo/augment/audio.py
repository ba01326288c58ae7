"""Random changes of audio that keep what is said.

Waveforms are (n,), in floats, and keep their type: time stretching, pitch shifting, noise, time shifting.
SpecAugment works on spectrogram frames (t, m), after `zoo.tasks.spectrogram`: waveform transforms are applied
first, in whatever order they are listed. An empty waveform stays empty. Axes: n samples, t frames, f
frequencies, m mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from zoo.augment.base import Transform
from zoo.errors import WrongConfiguration

Generator = np.random.Generator

SIZE, HOP = 512, 128  # samples of the phase vocoder's windows, and from one to the next
WINDOW = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(SIZE) / SIZE)


@dataclass(frozen=True)
class WaveTransform(Transform):
    """Changes one waveform (n,), using only the random generator it is given.

    Raises WrongConfiguration for invalid arguments.
    """


@dataclass(frozen=True)
class TimeStretch(WaveTransform):
    """Change the speed at the same pitch, by a factor uniform in `rates`; see `stretch`."""

    rates: tuple[float, float] = (0.8, 1.25)

    def __call__(self, wave: np.ndarray, rng: Generator) -> np.ndarray:
        return stretch(_checked(self, wave, 1), rng.uniform(*self.rates))


@dataclass(frozen=True)
class PitchShift(WaveTransform):
    """Shift the pitch by up to so many semitones, drawn uniformly, at the same length; see `shift_pitch`."""

    semitones: float = 2.0

    def __call__(self, wave: np.ndarray, rng: Generator) -> np.ndarray:
        return shift_pitch(_checked(self, wave, 1), rng.uniform(-self.semitones, self.semitones))


@dataclass(frozen=True)
class Noise(WaveTransform):
    """White noise at a signal-to-noise ratio uniform in `snr`, in dB, of mean powers; none on silence."""

    snr: tuple[float, float] = (5.0, 30.0)

    def __call__(self, wave: np.ndarray, rng: Generator) -> np.ndarray:
        wave = _checked(self, wave, 1)
        ratio, noise = 10 ** (rng.uniform(*self.snr) / 10), rng.standard_normal(len(wave))
        if not wave.any():
            return wave
        # The noise that was drawn, not what is expected of it: a short wave keeps the ratio, too.
        gain = np.sqrt(np.mean(np.square(wave, dtype=np.float64)) / ratio / np.mean(noise**2))
        return (wave + gain * noise).astype(wave.dtype)


@dataclass(frozen=True)
class TimeShift(WaveTransform):
    """Shift in time by up to this fraction of the length, drawn uniformly; the gap is filled with zeros."""

    share: float = 0.1

    def __call__(self, wave: np.ndarray, rng: Generator) -> np.ndarray:
        wave = _checked(self, wave, 1)
        most = int(self.share * len(wave))
        by = int(rng.integers(-most, most + 1))
        shifted = np.zeros_like(wave)
        shifted[max(0, by) : len(wave) + min(0, by)] = wave[max(0, -by) : len(wave) - max(0, by)]
        return shifted


@dataclass(frozen=True)
class SpecAugment(Transform):
    """Mask time intervals and frequency bands with 0, which is the mean of normalized features.

    Park et al. 2019, "SpecAugment", arXiv:1904.08779, section 2, without its time warp, which the paper finds
    to matter least. A mask's width is uniform from 0 to `time_width` frames (the paper's T), at most a
    fraction `share` of them (p), or to `frequency_width` bands (F), and its position is uniform. Features are
    (t, m).
    """

    time_masks: int = 2
    time_width: int = 10
    share: float = 0.2
    frequency_masks: int = 2
    frequency_width: int = 8

    def __call__(self, features: np.ndarray, rng: Generator) -> np.ndarray:
        features = _checked(self, features, 2).copy()
        frames, bands = features.shape
        for _ in range(self.time_masks):
            features[_run(frames, min(self.time_width, int(self.share * frames)), rng)] = 0
        for _ in range(self.frequency_masks):
            features[:, _run(bands, min(self.frequency_width, bands), rng)] = 0
        return features


def _run(length: int, widest: int, rng: Generator) -> slice:
    width = int(rng.integers(widest + 1))
    start = int(rng.integers(length - width + 1))
    return slice(start, start + width)


def _checked(transform: Any, x: np.ndarray, axes: int) -> np.ndarray:
    if x.ndim != axes or not np.issubdtype(x.dtype, np.floating):
        expected = "a wave (n,)" if axes == 1 else "features (t, m)"
        raise WrongConfiguration(f"{transform}: {x.dtype} of shape {x.shape}; expected {expected} of floats")
    return x


# The phase vocoder


def stretch(wave: np.ndarray, rate: float) -> np.ndarray:
    """`rate` times as fast at the same pitch: (n,) -> (round(n / rate),).

    A phase vocoder: Flanagan and Golden 1966; Dolson 1986, "The phase vocoder: a tutorial". Conventions are
    Ellis's of 2002, "A phase vocoder in Matlab", as librosa.effects.time_stretch follows them: frames are
    read at multiples of the rate, magnitudes interpolated between two of them, phases advanced as they do
    there. A sample at least is left.
    """
    if rate == 1 or not len(wave):
        return wave
    spectra = _transform(wave)  # (t, f)
    at = np.arange(0, len(spectra), rate)
    before, share = at.astype(int), (at % 1)[:, None]
    spectra = np.pad(spectra, ((0, 2), (0, 0)))
    first, second = spectra[before], spectra[before + 1]
    magnitude = (1 - share) * np.abs(first) + share * np.abs(second)
    expected = (
        2 * np.pi * HOP / SIZE * np.arange(SIZE // 2 + 1)
    )  # of a frequency's phase, from frame to frame
    turn = np.angle(second) - np.angle(first) - expected
    advance = expected + turn - 2 * np.pi * np.round(turn / (2 * np.pi))
    phase = np.angle(spectra[0]) + np.cumsum(advance, axis=0) - advance  # of what came before
    return _inverse(magnitude * np.exp(1j * phase), max(1, round(len(wave) / rate))).astype(wave.dtype)


def shift_pitch(wave: np.ndarray, semitones: float) -> np.ndarray:
    """Every frequency times 2^(semitones / 12) in the same time: stretched, then resampled to its length."""
    from scipy.signal import resample

    slower = stretch(wave, 2 ** (-semitones / 12))
    if len(slower) in (0, len(wave)):
        return slower
    return resample(slower, len(wave)).astype(wave.dtype)


def _transform(wave: np.ndarray) -> np.ndarray:
    """(n,) -> (t, f): the transform of windows centred on multiples of the hop."""
    padded = np.pad(wave, SIZE // 2)
    return np.fft.rfft(sliding_window_view(padded, SIZE)[::HOP] * WINDOW)


def _inverse(spectra: np.ndarray, length: int) -> np.ndarray:
    """(t, f) -> (length,): the wave whose windows are nearest, Griffin and Lim 1984, equation 6."""
    frames = np.fft.irfft(spectra, SIZE) * WINDOW
    parts = SIZE // HOP
    wave, weight = np.zeros((2, max(len(frames) + parts, -(-(length + SIZE) // HOP)), HOP))
    for part in range(parts):  # of each frame, a hop long
        samples = slice(part * HOP, (part + 1) * HOP)
        wave[part : part + len(frames)] += frames[:, samples]
        weight[part : part + len(frames)] += WINDOW[samples] ** 2
    whole = wave.ravel() / np.maximum(weight.ravel(), 1e-8)
    return whole[SIZE // 2 : SIZE // 2 + length]
