"""Speech: features against librosa's formulas, the synthesizer against SciPy's filters, recordings."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_same_everywhere, numpy, python
from numpy import ndarray
from scipy import signal, stats
from sklearn.linear_model import LogisticRegression

import zoo
from zoo import augment, backends, random, tasks, training
from zoo.augment import Noise, PitchShift, SpecAugment, TimeStretch
from zoo.augment.audio import stretch
from zoo.errors import DataUnavailable, WrongConfiguration
from zoo.tasks import sequences, speech
from zoo.tasks.sequences import Sequences, Waves
from zoo.tasks.spectrogram import hertz, log_mel, mel, normalized
from zoo.training import objectives


def rng(*key: int | str) -> np.random.Generator:
    return random.generator("test", *key)


def tone(frequency: float, rate: int, seconds: float = 0.5) -> ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)


# --- features ---


def librosas(wave: ndarray, rate: int, mels: int) -> ndarray:
    """log of librosa.feature.melspectrogram(htk=False, norm="slaney", center=True, power=2), written out."""
    length, hop = round(0.025 * rate), round(0.010 * rate)
    size = 1
    while size < length:
        size *= 2
    window = signal.get_window("hann", length, fftbins=True)
    window = np.pad(window, ((size - length) // 2, size - length - (size - length) // 2))
    padded = np.concatenate([np.zeros(size // 2), wave, np.zeros(size // 2)])
    power = []
    for start in range(0, len(padded) - size + 1, hop):
        power.append(np.abs(np.fft.fft(window * padded[start : start + size])[: size // 2 + 1]) ** 2)

    def to_hz(m: float) -> float:  # librosa.mel_to_hz
        return 1000.0 * np.exp(np.log(6.4) / 27.0 * (m - 15.0)) if m >= 15.0 else 200.0 / 3 * m

    top = 15.0 + np.log(rate / 2 / 1000.0) / (np.log(6.4) / 27.0)
    points = [to_hz(m) for m in np.linspace(0, top, mels + 2)]
    bank = np.zeros((mels, size // 2 + 1))
    for m in range(mels):  # librosa.filters.mel
        for k in range(size // 2 + 1):
            f = k * rate / size
            up = (f - points[m]) / (points[m + 1] - points[m])
            down = (points[m + 2] - f) / (points[m + 2] - points[m + 1])
            bank[m, k] = max(0.0, min(up, down)) * 2.0 / (points[m + 2] - points[m])
    return np.log(np.maximum(1e-10, np.array(power) @ bank.T))


@pytest.mark.parametrize(("rate", "mels"), [(8000, 40), (16_000, 80), (22_050, 40)])
@pytest.mark.parametrize("samples", [0, 1, 79, 1234, 4000])
def test_log_mel_is_librosas(samples: int, rate: int, mels: int) -> None:
    wave = rng(samples).standard_normal(samples)
    ours, theirs = log_mel(wave, rate, mels=mels), librosas(wave, rate, mels)
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape == (1 + samples // round(0.010 * rate), mels)
    assert np.abs(ours - theirs).max() <= 2e-6  # of values up to 23, in float32


def test_slaneys_mels_are_linear_to_1_khz_and_then_27_for_a_factor_of_6_4() -> None:
    assert mel(200 / 3) == pytest.approx(1)
    assert mel(1000) == pytest.approx(15)
    assert mel(6400) == pytest.approx(42)
    assert hertz(np.array([1.0, 15.0, 42.0])) == pytest.approx([200 / 3, 1000, 6400])


@pytest.mark.parametrize("frequency", [300.0, 700.0, 1500.0, 3000.0])
def test_a_tone_is_loudest_in_the_band_around_it(frequency: float) -> None:
    middles = hertz(np.linspace(0, mel(4000), 42))[1:-1]
    loudest = log_mel(tone(frequency, 8000), 8000)[5:-5].argmax(1)
    assert set(loudest) == {np.abs(middles - frequency).argmin()}


def test_twice_as_loud_is_log_4_more_in_every_band() -> None:
    wave = rng().standard_normal(4000)
    assert np.abs(log_mel(2 * wave, 8000) - log_mel(wave, 8000) - np.log(4)).max() <= 1e-5


def test_normalized_bands_have_mean_0_and_deviation_1_and_a_constant_one_is_0() -> None:
    x = (5 + 3 * rng().standard_normal((50, 4))).astype(np.float32)
    x[:, 2] = -23.0
    ours = normalized(x)
    assert np.abs(ours.mean(0)).max() <= 1e-5
    assert ours.std(0) == pytest.approx([1, 1, 0, 1], abs=1e-5)
    assert ours.dtype == np.float32


@pytest.mark.parametrize(
    ("wave", "options", "said"),
    [
        (np.zeros((2, 8)), {}, r"shape \(2, 8\); expected \(n,\)"),
        (np.zeros(8), {"mels": 0}, "0 mels"),
        (np.zeros(8), {"hop": 1e-6}, "1 or more samples in window and hop"),
    ],
)
def test_log_mel_says_what_it_takes(wave: ndarray, options: dict, said: str) -> None:
    with pytest.raises(WrongConfiguration, match=said):
        log_mel(wave, 8000, **options)


# --- the synthesizer ---


def test_the_tract_is_three_resonators_in_a_row() -> None:
    """H(s) = w^2 / (s^2 + 2 pi B s + w^2) of each formant, in SciPy."""
    formants = np.array([[500.0, 1500.0, 2500.0], [270.0, 2290.0, 3010.0]])
    ours = speech.tract_filter(formants)
    for row, found in zip(formants, ours, strict=True):
        theirs = np.ones(len(speech.FREQUENCIES))
        for f, bandwidth in zip(2 * np.pi * row, 2 * np.pi * speech.BANDWIDTHS, strict=True):
            _, h = signal.freqs([f**2], [1, bandwidth, f**2], 2 * np.pi * speech.FREQUENCIES)
            theirs *= np.abs(h)
        assert found == pytest.approx(theirs / np.sqrt(np.mean(theirs**2)), rel=1e-12)


@pytest.mark.parametrize("pitch", [90.0, 137.0, 220.0])
def test_pulses_come_as_often_as_the_pitch_says(pitch: float) -> None:
    pulses = speech.pulse_train(np.full(2 * speech.RATE, pitch))
    assert abs(np.count_nonzero(pulses) - 2 * pitch) <= 1
    assert np.mean(pulses**2) == pytest.approx(1, rel=0.01)


def test_spectra_that_nothing_changes_add_up_to_the_wave() -> None:
    wave = rng().standard_normal(20 * speech.HOP)
    again = speech.overlap_add(np.fft.irfft(speech.spectrum(wave), speech.FRAME))
    assert np.abs(again[speech.HOP : len(wave)] - wave[speech.HOP :]).max() <= 1e-12


def test_utterances_are_two_to_five_digits_each_as_likely() -> None:
    waves, digits = speech.spoken_digits(count=300)
    assert Counter(map(len, digits)).keys() == {2, 3, 4, 5}
    assert stats.chisquare(np.bincount(np.concatenate(digits), minlength=10)).pvalue > 1e-3
    assert all(wave.dtype == np.float32 and np.abs(wave).max() <= 1 for wave in waves)


def test_an_utterance_depends_on_the_seed_and_its_number_alone() -> None:
    few, many = speech.spoken_digits(count=2, seed=1)[0], speech.spoken_digits(count=4, seed=1)[0]
    assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=False))
    other = speech.spoken_digits(count=2, seed=2)[0]
    assert not any(np.array_equal(a, b) for a in many for b in other)


def test_utterances_are_the_same_bytes_in_a_process_without_a_framework() -> None:
    code = """
import sys
from zoo.tasks import speech
waves, digits = speech.spoken_digits(count=3, seed=1)
assert not {"torch", "tensorflow", "jax"} & sys.modules.keys()
print(b"".join(a.tobytes() for a in waves + digits).hex())
"""
    waves, digits = speech.spoken_digits(count=3, seed=1)
    assert python(code) == b"".join(a.tobytes() for a in waves + digits).hex()


def test_the_same_digits_of_two_speakers_differ_in_pitch_and_length() -> None:
    waves = [speech.speak([3, 1], rng(i)) for i in range(40)]
    lengths = [len(wave) for wave in waves]
    assert max(lengths) > 1.3 * min(lengths)
    voiced = [wave[len(wave) // 2 :] for wave in waves]  # the vowel and the nasal of "one"
    lags = [
        40 + np.argmax(np.correlate(w, w, "full")[len(w) - 1 :][40:110])  # 73 to 200 Hz
        for w in voiced
    ]
    assert max(lags) > 1.5 * min(lags)


def test_a_linear_classifier_tells_the_digits_of_unseen_speakers_apart() -> None:
    def words(split: str, count: int) -> tuple[ndarray, ndarray]:
        digits = np.arange(count) % 10
        features = [log_mel(speech.speak([d], rng(split, i)), speech.RATE) for i, d in enumerate(digits)]
        places = [np.linspace(0, len(x) - 1, 12).round().astype(int) for x in features]
        return np.stack([normalized(x)[p].ravel() for x, p in zip(features, places, strict=True)]), digits

    classifier = LogisticRegression(max_iter=200).fit(*words("train", 400))
    assert classifier.score(*words("test", 200)) >= 0.9


def test_frames_hold_their_labels_after_two_strides_of_two_even_as_fast_as_time_stretch_makes_them() -> None:
    found = speech.read(training=40, testing=10)
    assert [len(found[split][0]) for split in ("train", "test")] == [40, 10]
    for wave, y in zip(*found["train"], strict=True):
        assert y.dtype == np.int32
        assert 1 <= y.min() <= y.max() <= 10
        for rate in (1, TimeStretch().rates[1]):
            frames = log_mel(stretch(wave, rate), speech.RATE)
            assert len(frames) // 4 >= len(y) + np.count_nonzero(np.diff(y) == 0)


def test_labels_that_are_read_are_the_digits_and_one() -> None:
    waves, digits = speech.spoken_digits(count=3)
    found = speech.read(training=2, testing=1)
    labels = [*found["train"][1], *found["test"][1]]
    assert [list(y) for y in labels] == [list(d + 1) for d in digits]
    assert np.array_equal(found["test"][0][0], waves[2])


# --- augmentation ---


def tones() -> tasks.Task:
    """Half a second of a tone each, the label telling the frequency."""
    labels = [1 + i % 4 for i in range(24)]
    waves = [tone(200.0 * 2**label, 8000, 0.5 + 0.01 * i) for i, label in enumerate(labels)]
    x = Waves([wave.astype(np.float32) for wave in waves], 8000)
    return tasks.from_arrays((x, Sequences([np.array([label], np.int32) for label in labels])), loss="ctc")


def augmented(policy: str) -> tuple[ndarray, ndarray]:
    """The first batch, of all examples."""
    return next(replace(tones(), augment=augment.parse(policy)).batches(24, 0, 0))


@pytest.mark.parametrize("policy", ["Noise, TimeStretch, SpecAugment", "SpecAugment, Noise, TimeStretch"])
def test_waves_are_changed_then_made_frames_then_those_are_changed(policy: str) -> None:
    task = replace(tones(), augment=augment.parse(policy))
    x, y = augment.batch(task, [3, 14], seed=1, epoch=2)
    for row, label, i in zip(x, y, [3, 14], strict=True):
        rng = random.generator(1, "augment", 2, i)
        wave = TimeStretch()(Noise()(task.train[0].waves[i], rng), rng)
        theirs = SpecAugment()(normalized(log_mel(wave, 8000)), rng)
        assert np.array_equal(row[: len(theirs)], theirs)
        assert not row[len(theirs) :].any()
        assert label[0] == 1 + i % 4


def test_an_augmented_tone_is_loudest_where_its_label_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Octaves are told apart after a shift by four semitones; normalized frames would not tell a loudest."""
    monkeypatch.setattr(Waves, "frames", lambda self, wave: log_mel(wave, self.rate))
    x, y = augmented("TimeStretch, PitchShift(4), Noise, TimeShift")
    middles = hertz(np.linspace(0, mel(4000), 42))[1:-1]
    heard = middles[np.exp(x).sum(1).argmax(1)]
    assert [round(float(np.log2(f / 400))) for f in heard] == list(y[:, 0] - 1)


def test_stretched_sound_has_frames_at_rates_uniform_in_the_range_in_a_few_lengths() -> None:
    task = replace(tones(), augment=(TimeStretch((0.8, 1.25)),))
    rates, lengths = [], set()
    for epoch in range(20):
        for x, _ in task.batches(1, 0, epoch):
            lengths.add(x.shape[1])
        found = augment.batch(task, range(24), 0, epoch)[0]
        rates += list(task.train[0].lengths / [np.count_nonzero(row.any(1)) for row in found])
    assert stats.kstest(rates, stats.uniform(0.8, 0.45).cdf).pvalue > 1e-4
    assert len(lengths) <= 6  # four, and two quarters more


def test_sound_is_changed_by_seed_epoch_and_place_and_by_nothing_else() -> None:
    policy = "TimeStretch, PitchShift, Noise, TimeShift, SpecAugment"
    assert all(np.array_equal(*pair) for pair in zip(augmented(policy), augmented(policy), strict=True))
    task = replace(tones(), augment=augment.parse(policy))
    (alone,), _ = augment.batch(task, [5], seed=1, epoch=2)
    among, _ = augment.batch(task, [7, 5, 6], seed=1, epoch=2)
    kept = min(len(alone), len(among[1]))
    assert np.array_equal(alone[:kept], among[1, :kept])
    for seed, epoch in ((1, 3), (2, 2)):
        (other,), _ = augment.batch(task, [5], seed, epoch)
        assert other.shape != alone.shape or not np.array_equal(other, alone)


def test_a_batch_of_augmented_sound_goes_on_where_a_run_was_cut() -> None:
    task = replace(tones(), augment=augment.parse("TimeStretch, SpecAugment"))
    whole = islice(task.batches(4, 3, 2), 2, None)
    for ours, theirs in zip(whole, task.batches(4, 3, 2, first=2), strict=True):
        assert all(np.array_equal(*pair) for pair in zip(ours, theirs, strict=True))


def test_frames_are_made_once_but_for_waves_that_were_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(wave: ndarray, rate: int) -> ndarray:
        made.append(rate)
        return log_mel(wave, rate)

    monkeypatch.setattr(sequences, "log_mel", counted)
    task = tones()
    for policy, times in (("", 24), ("SpecAugment", 24), ("Noise", 48)):
        changed = replace(task, augment=augment.parse(policy))
        assert sum(len(y) for _, y in changed.batches(7, 0, 0)) == 24
        assert made == [8000] * times, policy
    list(replace(task, augment=augment.parse("Noise")).held_out(7))
    assert len(made) == 48


@pytest.mark.parity
def test_augmented_sound_is_the_same_bytes_on_every_framework() -> None:
    code = (
        "import hashlib, keras; from dataclasses import replace; from zoo import augment, tasks\n"
        "from zoo.tasks.sequences import Sequences, Waves; from zoo.tasks import speech\n"
        "x, y = speech.spoken_digits(count=12)\n"
        "task = tasks.from_arrays((Waves(x, speech.RATE), Sequences(y)), loss='ctc')\n"
        "policy = 'TimeStretch, PitchShift, Noise, TimeShift, SpecAugment'\n"
        "task = replace(task, augment=augment.parse(policy))\n"
        "d = hashlib.sha256()\n"
        "for x, y in task.batches(5, 1, 2): d.update(x.tobytes() + y.tobytes())\n"
        "print(keras.backend.backend(), d.hexdigest())"
    )
    assert_same_everywhere(code)


@pytest.mark.once  # the ladder trains it on every framework
@pytest.mark.parametrize("engine", training.ENGINES)
def test_speech_trains_on_augmented_sound(engine: str) -> None:
    """The loss of the first step is that of the first augmented batch."""
    small = {"width": 8, "filters": 4, "classes": 5, "dropout_rate": 0.0}
    policy = "Noise, TimeStretch, SpecAugment"
    run = zoo.train(
        zoo.build("speech", seed=1, **small),
        tones(),
        loss="ctc",
        engine=engine,
        augment=policy,
        steps=2,
        batch_size=24,
        progress=False,
    )
    x, y = augmented(policy)
    logits = zoo.build("speech", seed=1, **small)(backends.tensors(x))
    theirs = objectives.Objective("ctc").native()(backends.tensors(y), logits)
    assert run.losses[0] == pytest.approx(float(numpy(theirs)), rel=1e-5)


@pytest.mark.parametrize("policy", ["HorizontalFlip", "Noise, RandomDeletion", "SpecAugment, MixUp"])
def test_speech_refuses_what_changes_something_else_before_any_work(policy: str) -> None:
    steps: list[int] = []
    with pytest.raises(
        WrongConfiguration, match=r"^arrays: \w+ does not change waves or frames; leave it out$"
    ):
        zoo.train(
            zoo.build("speech", width=8, filters=4, classes=5),
            tones(),
            loss="ctc",
            augment=policy,
            steps=1,
            watch=lambda step, loss: steps.append(step),
        )
    assert not steps


# --- recordings ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tone of 440 Hz as WAV, and stereo of 48 kHz as FLAC, one channel silent."""
    soundfile = pytest.importorskip("soundfile")
    (tmp_path / "a").mkdir()
    soundfile.write(tmp_path / "a" / "mono.wav", tone(440, 16_000), 16_000)
    stereo = np.stack([tone(440, 48_000), np.zeros(24_000)], axis=1)
    soundfile.write(tmp_path / "a" / "stereo.flac", stereo, 48_000)
    (tmp_path / "transcripts.tsv").write_text('path\ttext\na/mono.wav\t"one\na/stereo.flac\tzwei, drei\n')
    return tmp_path


def test_recordings_are_read_at_one_rate_with_the_channels_averaged(folder: Path) -> None:
    waves, texts = speech.recordings(folder)
    assert texts == ['"one', "zwei, drei"]
    assert np.abs(waves[0] - tone(440, 16_000)).max() <= 2**-15
    assert len(waves[1]) == 8000
    assert waves[1].dtype == np.float32
    assert np.abs(waves[1] - tone(440, 16_000) / 2)[200:-200].max() <= 2e-3  # but for the filter's ends


def test_recordings_are_augmented_as_waves(folder: Path) -> None:
    waves, texts = speech.recordings(folder)
    task = replace(tasks.load(str(folder), (None, 40)), augment=(PitchShift(12.0),))
    x, y = augment.batch(task, [0, 1], seed=0, epoch=0)
    for i, (row, labels) in enumerate(zip(x, y, strict=True)):
        assert "".join(task.names[v - 1] for v in labels if v) == texts[i]
        shifted = PitchShift(12.0)(waves[i], random.generator(0, "augment", 0, i))
        assert np.array_equal(row[: 1 + 8000 // 160], normalized(log_mel(shifted, 16_000)))


def test_a_folder_of_recordings_is_named_without_reading_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a recording was read")

    monkeypatch.setattr("soundfile.read", refuse)
    name, source = tasks.source(str(folder))
    assert (name, source.names) == (folder.name, tuple(sorted(set('"onezwei, drei'))))
    assert source.classes == len(source.names) + 1


def test_a_csv_is_a_table_of_recordings_too(folder: Path) -> None:
    for name in ("transcripts.tsv", "a/stereo.flac"):
        (folder / name).unlink()
    (folder / "transcripts.csv").write_text('path,text\na/mono.wav,"one, two"\n')
    (wave,), texts = speech.recordings(folder, rate=8000)
    assert texts == ["one, two"]
    assert len(wave) == 4000


def test_every_broken_file_and_line_is_named(folder: Path) -> None:
    (folder / "a" / "torn.wav").write_bytes(b"RIFF1234")
    with (folder / "transcripts.tsv").open("a") as table:
        table.write("a/torn.wav\tthree\na/lost.wav\tfour\na/mono.wav\n")
    with pytest.raises(DataUnavailable, match="3 broken") as error:
        speech.recordings(folder)
    for named in ("line 4, a/torn.wav", "line 5, a/lost.wav", "line 6, a/mono.wav: path or text missing"):
        assert named in str(error.value)


def test_a_folder_without_a_table_or_of_other_columns_is_no_folder_of_recordings(tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    with pytest.raises(DataUnavailable, match=r"no transcripts\.tsv and no transcripts\.csv"):
        speech.recordings(tmp_path)
    (tmp_path / "transcripts.csv").write_text("file,words\na.wav,one\n")
    with pytest.raises(DataUnavailable, match=r"the first line is 'file,words'; expected 'path,text'"):
        speech.recordings(tmp_path)


def test_without_soundfile_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(DataUnavailable, match=r'pip install "keras-zoo-parity\[audio\]"'):
        speech.recordings(tmp_path)
