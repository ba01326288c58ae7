"""Speech: digits spoken by a formant synthesizer in NumPy, and recordings in a folder.

The synthesizer has a source and a filter (Fant 1960, "Acoustic theory of speech production"). The source is
a train of pulses, as from the vocal folds, or noise, as from air in a narrow place; the filter has the
resonances of the vocal tract, the formants, by the cascade of Klatt 1980, "Software for a cascade/parallel
formant synthesizer". They move from those of one sound to those of the next, which distinguishes most sounds.

    recordings/transcripts.csv: a first line "path,text", then one recording per line, paths relative to it
    recordings/transcripts.tsv: the same with tabs; quotes have no special meaning

Axes: n samples, t frames, m mel bands, f frequencies.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import zoo.tasks.tables as tables
from zoo import random, storage
from zoo.errors import DataUnavailable, shortlist
from zoo.storage import is_dir, is_file

Generator = np.random.Generator
Split = tuple[list[np.ndarray], list[np.ndarray]]

RATE = 8000  # samples per second of the digits, as in telephony
RECORDED = 16_000  # samples per second of recordings
RATES = 1_000, 768_000  # samples per second of files; a file at 1 Hz would become 16,000 times as long
# The most samples of a file: 17 minutes at 16 kHz, and this many for each of its bytes. Opus at 6 kbit/s
# decodes to 64 samples per byte, silence in FLAC to 100,000.
SAMPLES, SAMPLES_PER_BYTE = 2**24, 64
BLOCK = 2**20  # samples read at once, of all channels
# A folder's table, and the separators of its columns.
TRANSCRIPTS = {"transcripts.tsv": ("\t",), "transcripts.csv": tables.SEPARATORS}
SUFFIXES = {".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".ogg", ".opus", ".w64", ".wav"}
FRAME, HOP = 128, 64  # samples per frame of constant filter, and from one frame to the next
FREQUENCIES = np.fft.rfftfreq(FRAME, 1 / RATE)
BANDWIDTHS = np.array([80.0, 110.0, 160.0])  # of the formants, Hz

# Sound -> three formants in Hz, the proportion of voice (the rest is noise), and the loudness. Vowels are the
# men's of Peterson and Barney 1952, "Control methods used in a study of the vowels", table II.
SOUNDS: dict[str, tuple[float, float, float, float, float]] = {
    "": (500, 1500, 2500, 1.0, 0.0),
    "i": (270, 2290, 3010, 1.0, 0.8),
    "ɪ": (390, 1990, 2550, 1.0, 0.9),
    "ɛ": (530, 1840, 2480, 1.0, 1.0),
    "ʌ": (640, 1190, 2390, 1.0, 1.0),
    "ɑ": (730, 1090, 2440, 1.0, 1.0),
    "ɔ": (570, 840, 2410, 1.0, 1.0),
    "ʊ": (440, 1020, 2240, 1.0, 0.9),
    "u": (300, 870, 2240, 1.0, 0.8),
    "w": (290, 610, 2150, 1.0, 0.5),
    "r": (310, 1060, 1380, 1.0, 0.6),
    "n": (250, 1700, 2600, 1.0, 0.3),
    "v": (250, 1100, 2100, 0.7, 0.25),
    "z": (2000, 3300, 3800, 0.3, 0.3),
    "s": (2700, 3400, 3800, 0.0, 0.3),
    "f": (1000, 2200, 3500, 0.0, 0.12),
    "θ": (1400, 2600, 3700, 0.0, 0.12),
    "t": (2000, 3000, 3700, 0.0, 0.5),
    "k": (1500, 1900, 2600, 0.0, 0.5),
}
# Digit -> its sounds and their durations in ms.
WORDS: tuple[tuple[tuple[str, int], ...], ...] = (
    (("z", 50), ("ɪ", 50), ("r", 40), ("ɔ", 50), ("ʊ", 50)),
    (("w", 50), ("ʌ", 90), ("n", 60)),
    (("", 20), ("t", 30), ("u", 130)),
    (("θ", 60), ("r", 50), ("i", 100)),
    (("f", 70), ("ɔ", 100), ("r", 60)),
    (("f", 60), ("ɑ", 70), ("ɪ", 60), ("v", 40)),
    (("s", 70), ("ɪ", 60), ("", 20), ("k", 30), ("s", 70)),
    (("s", 60), ("ɛ", 60), ("v", 40), ("ʌ", 40), ("n", 50)),
    (("ɛ", 60), ("ɪ", 80), ("", 30), ("t", 30)),
    (("n", 50), ("ɑ", 70), ("ɪ", 60), ("n", 60)),
)


def read(*, training: int = 1500, testing: int = 300) -> dict[str, Split]:
    """Spoken digits to recognize: waves (n,) at `RATE`, and labels (l,), int32, d + 1 for digit d.

    Every utterance has a different speaker, so no test speaker occurs in training.
    """
    x, digits = spoken_digits(count=training + testing)
    y = [each + 1 for each in digits]
    return {"train": (x[:training], y[:training]), "test": (x[training:], y[training:])}


def spoken_digits(*, count: int, seed: int = 0) -> Split:
    """`count` utterances of two to five digits: waves (n,), float32 in [-1, 1] at 8 kHz, and digits, int32.

    Each has its own speaker (pitch, melody and length of the vocal tract), tempo, loudness and background
    noise, which depend only on the seed and the index of the utterance.
    """
    waves, digits = [], []
    for i in range(count):
        rng = random.generator("spoken-digits", seed, i)
        said = rng.integers(10, size=rng.integers(2, 6)).astype(np.int32)
        waves.append(speak(said, rng))
        digits.append(said)
    return waves, digits


def speak(digits: Sequence[int] | np.ndarray, rng: Generator) -> np.ndarray:
    """A waveform (n,) of these digits, spoken by a random speaker."""
    sounds = [("", rng.uniform(30, 80))]
    for digit in digits:
        sounds += [*WORDS[digit], ("", rng.uniform(10, 60))]
    lengths = np.array([length for _, length in sounds]) * rng.uniform(0.65, 0.95)  # the tempo
    lengths *= rng.uniform(0.85, 1.15, size=len(lengths))
    middles = np.cumsum(lengths) - lengths / 2
    frames = int(lengths.sum() * RATE / 1000 / HOP)
    times = np.arange(frames) * HOP / RATE * 1000
    targets = np.array([SOUNDS[name] for name, _ in sounds])
    *formants, voice, loudness = (np.interp(times, middles, column) for column in targets.T)
    # A shorter vocal tract has higher formants and, mostly, a higher voice.
    shortness = rng.uniform(-1, 1)
    tract = tract_filter(np.stack(formants, axis=1) * 1.1 ** (shortness + rng.uniform(-0.3, 0.3)))  # (t, f)
    pitch = 140 * 1.5 ** (shortness + rng.uniform(-0.3, 0.3)) * np.linspace(1.1, 0.85, frames)
    pulses, hiss = pulse_train(np.repeat(pitch, HOP)), rng.standard_normal(frames * HOP)
    source = voice[:, None] * spectrum(pulses) + (1 - voice[:, None]) * spectrum(hiss)
    spectra = tract * loudness[:, None] * source
    wave = overlap_add(np.fft.irfft(spectra, FRAME))
    noise = np.sqrt(np.mean(wave**2)) * 10 ** (-rng.uniform(5, 25) / 20)  # by the ratio in dB
    wave = wave + noise * rng.standard_normal(len(wave))
    return (wave * rng.uniform(0.2, 1) / np.abs(wave).max()).astype(np.float32)


def tract_filter(formants: np.ndarray) -> np.ndarray:
    """(t, 3) in Hz -> the gains (t, f) of three resonances in series, with mean square 1 in every frame."""
    centre, width = formants[:, :, None], BANDWIDTHS[:, None]
    ratio = FREQUENCIES / centre  # (t, 3, f)
    gains = 1 / np.sqrt((1 - ratio**2) ** 2 + (ratio * width / centre) ** 2)
    gains = gains.prod(axis=1)
    return gains / np.sqrt(np.mean(gains**2, axis=1, keepdims=True))


def pulse_train(pitch: np.ndarray) -> np.ndarray:
    """A pitch (n,) in Hz -> one pulse per period (n,), with a mean square of about 1."""
    period = np.floor(np.cumsum(pitch) / RATE)
    return np.diff(period, prepend=0) * np.sqrt(RATE / pitch)


def spectrum(wave: np.ndarray) -> np.ndarray:
    """(n,) -> (n / HOP, f): the spectra of frames under a Hann window."""
    frames = sliding_window_view(np.pad(wave, (0, FRAME - HOP)), FRAME)[::HOP]
    return np.fft.rfft(frames * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)))


def overlap_add(frames: np.ndarray) -> np.ndarray:
    """(t, FRAME), each starting HOP after the previous one -> their sum (n,)."""
    wave = np.zeros((len(frames) + 1, HOP))
    wave[:-1] += frames[:, :HOP]
    wave[1:] += frames[:, HOP:]
    return wave.ravel()


# Recordings


def recordings(folder: str | Path, rate: int = RECORDED) -> tuple[list[np.ndarray], list[str]]:
    """The waveforms (n,), float32 at `rate` samples per second, and texts that a folder's table lists.

    Reads WAV, FLAC and the other formats of libsndfile at any sample rate, and averages the channels.
    Recordings that are not in the table are skipped, with a warning. Raises DataUnavailable if there is no
    table or the soundfile package is missing, and for broken lines and files, which it names.
    """
    folder = Path(folder)
    _soundfile(folder)
    table, lines = _transcripts(folder)
    waves, texts, broken = [], [], []
    for number, path, text in lines:
        try:
            if not path or not text:
                raise ValueError("path or text missing")
            waves.append(_wave(folder / path, rate))
        except (ValueError, DataUnavailable) as error:
            broken.append(f"line {number}, {path or 'no path'}: {error}")
            continue
        texts.append(text)
    if broken:
        lines = shortlist(broken, 20, separator="; ")
        raise DataUnavailable(f"{table}: {len(broken)} broken: {lines}. Correct or remove them")
    listed = {(folder / path).resolve() for _, path, _ in lines}
    if unlisted := [path for path in _sounds(folder) if path.resolve() not in listed]:
        names = shortlist(path.relative_to(folder) for path in unlisted)
        warnings.warn(
            f"{folder.name}: {len(unlisted)} recordings are not in {table.name} and were skipped: {names}",
            stacklevel=2,
        )
    return waves, texts


def _sounds(folder: Path) -> list[Path]:
    """The audio files in a folder and its sub-folders, by their suffixes, without hidden ones."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and is_file(path))
    return sorted(p for p in found if not any(map(tables.hidden, map(Path, p.relative_to(folder).parts))))


def texts(folder: str | Path) -> list[str]:
    """The texts of a folder of recordings, as its table lists them.

    Raises DataUnavailable if there is no table.
    """
    return [text for _, _, text in _transcripts(Path(folder))[1]]


def load(path: str | Path, rate: int = RECORDED) -> np.ndarray:
    """A recording's waveform (n,), float32 at `rate` samples per second, its channels averaged.

    Raises DataUnavailable if the soundfile package is missing, or the file is missing or not audio.
    """
    return _wave(Path(path), rate)


def _wave(path: Path, rate: int) -> np.ndarray:
    """See `load`. The header's number of samples is not believed: they are counted as they are read."""
    soundfile = _soundfile(path)
    with storage.reading(path, "not a recording, or damaged"), soundfile.SoundFile(path) as file:
        if not RATES[0] <= file.samplerate <= RATES[1]:
            raise ValueError(f"{file.samplerate:,} samples per second; expected {RATES[0]:,} to {RATES[1]:,}")
        size = path.stat().st_size
        parts, left = [np.empty(0, np.float32)], SAMPLES + SAMPLES_PER_BYTE * size
        while len(part := file.read(max(1, BLOCK // file.channels), dtype="float32", always_2d=True)):
            if (left := left - part.size) < 0:
                raise ValueError(f"{size:,} bytes with over {SAMPLES + SAMPLES_PER_BYTE * size:,} samples")
            parts.append(part.mean(axis=1))
        return resampled(np.concatenate(parts), file.samplerate, rate)


def _soundfile(folder: Path) -> Any:
    try:
        import soundfile
    except ImportError:
        raise DataUnavailable(
            f"{folder}: reading recordings takes soundfile, which is not installed. To install it: "
            'pip install "keras-zoo-parity[audio]"'
        ) from None
    return soundfile


def _transcripts(folder: Path) -> tuple[Path, list[tuple[int, str, str]]]:
    """The table of a folder, and the number, path and text of each line."""
    if (table := transcripts(folder)) is None:
        raise DataUnavailable(
            f"{folder}: no {' and no '.join(TRANSCRIPTS)}; expected one, with columns 'path' and 'text'"
        )
    separators, names = TRANSCRIPTS[table.name.lower()], ("path", "text")
    decoded, bad = tables.lines(table)
    found = tables.header(decoded, names, separators)
    quoting = csv.QUOTE_NONE if found.separator == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(decoded[found.line :], delimiter=found.separator, quoting=quoting)
    lines = []
    with storage.reading(table, "not CSV"):
        for row in reader:
            cells = {name: row[i] for name, i in found.columns.items() if i < len(row)}
            if any(cell.strip() for cell in row):
                number = found.line + reader.line_num
                lines.append((number, cells.get("path", "").strip(), cells.get("text", "")))
    if not lines or len(found.columns) < len(names):
        raise DataUnavailable(
            f"{table}: the first line is {str(found)!r}; expected {separators[0].join(names)!r}, then one "
            "line per recording"
        )
    tables.refuse(table, bad)
    return table, lines


def transcripts(folder: Path) -> Path | None:
    """The table of a folder of recordings, its name matched without case; None for other folders.

    Raises DataUnavailable for a folder with two tables.
    """
    names = sorted(p.name for p in folder.iterdir()) if is_dir(folder) else []
    found = [folder / name for name in names if name.lower() in TRANSCRIPTS and is_file(folder / name)]
    if len(found) > 1:
        raise DataUnavailable(
            f"{folder}: has {' and '.join(p.name for p in found)}; expected only one of them"
        )
    return found[0] if found else None


def resampled(wave: np.ndarray, old: int, new: int) -> np.ndarray:
    """A waveform (n,) resampled from `old` to `new` samples per second (ceil(n new / old)), polyphase."""
    from scipy.signal import resample_poly

    if old == new or not len(wave):
        return wave
    common = gcd(old, new)
    return resample_poly(wave, new // common, old // common).astype(np.float32)
