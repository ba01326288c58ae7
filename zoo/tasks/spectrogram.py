"""What a wave sounds like: the logarithm of its power in bands as wide as an ear's, frame by frame.

    wave  ->  frames, each under a window  ->  |Fourier transform|^2  ->  mel bands  ->  log

The conventions are those of librosa.feature.melspectrogram (McFee et al. 2015, "librosa: Audio and music
signal analysis in Python"): frames centred on multiples of the hop, zeros beyond both ends, a periodic Hann
window, Slaney's mel scale, and bands of equal area. Axes: n samples, t frames, f frequencies, m mel bands.
"""

from __future__ import annotations

from functools import cache
from math import ceil, log, log2

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from zoo.checks import is_integer
from zoo.errors import WrongConfiguration

FLOOR = 1e-10  # the least power that a logarithm is taken of: librosa.power_to_db's

# Slaney 1998, "Auditory toolbox": 200 / 3 Hz a mel up to 1 kHz, then 27 mels for a factor of 6.4.
HERTZ, BREAK, STEP = 200 / 3, 1000.0, log(6.4) / 27


def log_mel(
    wave: np.ndarray, rate: int, *, mels: int = 40, window: float = 0.025, hop: float = 0.010
) -> np.ndarray:
    """A waveform (n,) of `rate` samples per second -> log-mel spectrogram, float32 (1 + n // hop length,
    mels).

    Natural logarithms; `window` and `hop` are in seconds. The transform has the next power of two of a
    window's samples, with the window centred in zeros. Raises WrongConfiguration for another shape, or a hop
    shorter than one sample.
    """
    wave = np.asarray(wave)
    if wave.ndim != 1:
        raise WrongConfiguration(f"a wave of shape {wave.shape}; expected (n,): average the channels first")
    if not is_integer(mels) or min(round(window * rate), round(hop * rate)) < 1:
        raise WrongConfiguration(
            f"{mels} mels, a window of {window} s and a hop of {hop} s at {rate} samples a second; expected "
            "1 or more mels, and 1 or more samples in window and hop"
        )
    samples = round(window * rate)
    size = 2 ** ceil(log2(samples))
    taper = np.zeros(size)
    start = (size - samples) // 2
    taper[start : start + samples] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(samples) / samples)
    frames = sliding_window_view(np.pad(wave, size // 2), size)[:: round(hop * rate)]  # (t, size)
    power = np.abs(np.fft.rfft(frames * taper)) ** 2  # (t, f)
    return np.log(np.maximum(power @ mel_bands(rate, size, mels), FLOOR)).astype(np.float32)


@cache
def mel_bands(rate: int, size: int, mels: int) -> np.ndarray:
    """(f, m): triangles that rise from one edge to the next and fall to the one after, each of area 1 Hz.

    The edges are evenly apart in mels from 0 to half the rate; f counts the frequencies of a transform of
    `size` samples.
    """
    frequencies = np.fft.rfftfreq(size, 1 / rate)[:, None]  # (f, 1)
    edges = hertz(np.linspace(0, mel(rate / 2), mels + 2))
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rise, fall = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)


def mel(frequency: float) -> float:
    """Slaney's mels of a frequency in Hz."""
    return frequency / HERTZ if frequency < BREAK else BREAK / HERTZ + log(frequency / BREAK) / STEP


def hertz(mels: np.ndarray) -> np.ndarray:
    """The frequencies of Slaney's mels."""
    return np.where(
        mels < BREAK / HERTZ, mels * HERTZ, BREAK * np.exp(STEP * np.maximum(0, mels - BREAK / HERTZ))
    )


def normalized(features: np.ndarray) -> np.ndarray:
    """(t, m) -> (t, m), each band with mean 0 and standard deviation 1 over the utterance; a constant one 0.

    This removes what does not change within an utterance: loudness, microphone, room.
    """
    deviation = features.std(0)
    return (features - features.mean(0)) / np.where(deviation > 1e-5, deviation, 1)
