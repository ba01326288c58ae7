# %% [markdown]
# # 11 Data augmentation
#
# **What you will see.** A picture rotated by five degrees still shows the same object: augmented examples cost nothing.
# You will change images, texts and a melody in about twenty ways, look at and listen to the results, and verify the
# changes by measurement. Then a network that classifies centred digits well and shifted ones poorly learns to classify
# both, from the same 200 digits. Everything is seeded: each framework gets the same augmented examples, to the last
# bit.

# %%
import os
import zlib
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Audio, display
from PIL import Image
from sklearn.datasets import load_sample_image

import zoo
from zoo import augment
from zoo.tasks.spectrogram import log_mel, normalized

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same
zoo.show.use_fonts()  # labels may be in Chinese

import keras

BLUE, RED = "#0072B2", "#D55E00"

# %% [markdown]
# ## Images
#
# scikit-learn includes two photos, a temple and a flower. A transform is a function of an image and a random generator.
# Most transforms change one image and leave its label; the last two mix a pair of images, and their labels in the same
# proportion:
#
# - **MixUp**: every pixel is $\lambda x + (1 - \lambda) x'$, and the target $\lambda y + (1 - \lambda) y'$;
# - **CutMix**: a rectangle is taken from the other image, and the target is weighted by the number of pixels.
#
# **RandAugment** applies randomly chosen operations out of fourteen, all with the same magnitude.

# %%
temple, flower = (
    np.asarray(Image.fromarray(load_sample_image(name)).resize((192, 128)))[:, 32:160]
    for name in ("china.jpg", "flower.jpg")
)
is_temple, is_flower = np.eye(2, dtype="float32")

pictures = {"temple": temple}
for transform in (
    augment.HorizontalFlip(1.0),
    augment.VerticalFlip(1.0),
    augment.RandomCrop(96, padding=0),
    augment.RandomResizedCrop(128, area=(0.2, 0.5)),
    augment.Rotation(30),
    augment.ColorJitter(hue=0.1),
    augment.RandAugment(operations=2, magnitude=15),
    augment.RandomErasing(1.0),
):
    pictures[type(transform).__name__] = transform(temple, np.random.default_rng(4))
pictures["flower"] = flower
for transform in (augment.MixUp(1.0), augment.CutMix(1.0)):
    mixed, target = transform.mix((temple, is_temple), (flower, is_flower), np.random.default_rng(4))
    pictures[f"{type(transform).__name__}: {target[0]:.2f} temple"] = mixed
    assert abs(target.sum() - 1) < 1e-6

figure, axes = plt.subplots(2, 6, figsize=(13, 4.6), layout="constrained")
for axis in axes.flat:
    axis.axis("off")
for axis, (title, picture) in zip(axes.flat, pictures.items(), strict=False):
    axis.imshow(picture)
    axis.set_title(title, fontsize=10)
plt.show()

# %% [markdown]
# ## Reproducible augmentation
#
# Drawing new changes in every epoch gets more out of the data, but makes a run harder to reproduce. The zoo uses a
# generator keyed by (seed, epoch, index of the example in the data): the result for an example depends neither on the
# framework, nor on the batch it is in, nor on the number of data-loading processes. Compare the fingerprint with
# another framework's.

# %%
digits = zoo.tasks.load("digits", (8, 8, 1))
task = replace(digits, augment=augment.parse("RandomCrop(8, 1), Rotation(10)"))


def fingerprint(epoch):
    images, _ = augment.batch(task, range(64), seed=0, epoch=epoch)
    return zlib.crc32(np.round(images * 255).astype("uint8").tobytes())


print(f"on {keras.backend.backend()}: epoch 0 {fingerprint(0):08x}, epoch 1 {fingerprint(1):08x}")
assert fingerprint(0) == fingerprint(0) != fingerprint(1)
there, _ = augment.batch(task, [7, 2], seed=0, epoch=0)
back, _ = augment.batch(task, [2, 7, 30], seed=0, epoch=0)
assert np.array_equal(there, back[1::-1])

# %% [markdown]
# ## Does it help?
#
# The training set has 200 digits. scikit-learn's digits are neatly centred, in training and test data alike. So we hold
# out two test sets: the digits as they are, and the same digits shifted by up to one pixel in each direction, as they
# might come from a less carefully positioned camera.

# %%
x, y = digits.train[0][:200], digits.train[1][:200]
centred, labels = digits.test[0][:320], digits.test[1][:320]
rng = np.random.default_rng(5)
frames = np.pad(centred, ((0, 0), (1, 1), (1, 1), (0, 0)))
corners = rng.integers(0, 3, (320, 2))
moved = np.stack([f[i : i + 8, j : j + 8] for f, (i, j) in zip(frames, corners, strict=True)])


def accuracy(model, images):
    return np.mean(keras.ops.convert_to_numpy(model(images)).argmax(axis=1) == labels)


def fit(changes):
    model = zoo.build("mlp", shape=(8, 8, 1), seed=0)
    return zoo.train(
        model, (x, y), validation=(moved, labels), augment=changes,
        optimizer=zoo.optimizers.Adam(0.002), epochs=60, batch_size=40,
    )  # fmt: skip


runs = {"no augmentation": fit(None), "RandomCrop(8, 1)": fit("RandomCrop(8, 1)")}
for name, run in runs.items():
    on_centred, on_moved = (accuracy(run.model, images) for images in (centred, moved))
    print(f"{name:16s} accuracy on centred digits {on_centred:.2f}, on shifted ones {on_moved:.2f}")
plain, cropped = runs.values()
assert accuracy(plain.model, moved) < 0.55
assert accuracy(cropped.model, moved) > 0.7
assert abs(accuracy(cropped.model, centred) - accuracy(plain.model, centred)) < 0.08

# %%
for (name, run), color, style in zip(runs.items(), (RED, BLUE), ("--", "-"), strict=True):
    plt.plot(
        range(1, 61), [epoch["accuracy"] for epoch in run.history], color=color, linestyle=style, label=name
    )
plt.xlabel("epoch")
plt.ylabel("accuracy on shifted digits")
plt.title("trained on 200 digits, without augmentation and with random crops")
plt.ylim(0, 1)
plt.grid(alpha=0.3)
plt.legend(loc="lower right")
plt.show()

# %% [markdown]
# A shift of one pixel is enough to break the plain network: a multilayer perceptron has no notion of neighbouring
# pixels. Random cropping teaches it. On the centred digits, where nothing is ever shifted, it neither helps nor harms
# much. This holds for all augmentation: it makes the network invariant to exactly what you change. So change what does
# not matter for the label in the application, and nothing that does (exercise 3).
#
# ## Texts
#
# Four small changes at the level of words (Wei and Zou call them "easy data augmentation"), and a large one:
# translation into another language and back. `BackTranslation` takes any two functions of a text, such as
# `zoo.translate` with two trained models. Here two word lists stand in for the translators.

# %%
text = "The quick brown fox jumps over the lazy dog."
table = {"quick": ["fast", "swift"], "jumps": ["leaps", "hops"], "lazy": ["idle", "sleepy"]}
german = {"the": "der", "quick": "schnelle", "brown": "braune", "fox": "Fuchs", "jumps": "springt"}
german |= {"over": "über", "lazy": "faulen", "dog.": "Hund."}
english = {word: known for known, word in german.items()} | {"schnelle": "rapid", "springt": "bounds"}

transforms = [
    augment.RandomDeletion(0.2),
    augment.RandomSwap(0.2),
    augment.RandomInsertion(0.2, table),
    augment.SynonymReplacement(0.8, table),
    augment.BackTranslation(
        there=lambda text: " ".join(german[word.lower()] for word in text.split()),
        back=lambda text: " ".join(english[word] for word in text.split()).capitalize(),
    ),
]
print(f"{'':20s}{text}")
texts = [transform(text, np.random.default_rng(10)) for transform in transforms]
for transform, changed in zip(transforms, texts, strict=True):
    print(f"{type(transform).__name__:20s}{changed}")
    assert changed != text
assert set(texts[0].split()) < set(text.split())
assert sorted(texts[1].split()) == sorted(text.split())

# %% [markdown]
# Consider how a change may affect the label: deletion may remove the "not" from "not bad". Wei and Zou found that
# changing a tenth of the words works well.
#
# ## Sound
#
# A melody of three notes with overtones, 8,000 samples per second. We make it slower at the same pitch, shift its pitch
# at the same duration, and add noise. **SpecAugment** works on the spectrogram: it masks time intervals and frequency
# bands, so that a speech recognizer learns not to depend on any of them.

# %%
RATE = 8000
t = np.arange(int(0.4 * RATE)) / RATE
loudness = np.exp(-3 * t) * np.minimum(1, np.minimum(t, t[-1] - t) / 0.02)  # fades in, then decays


def note(frequency):
    return loudness * sum(np.sin(2 * np.pi * k * frequency * t) / k**2 for k in (1, 2, 3))


melody = (0.5 * np.concatenate([note(440), note(554), note(659)])).astype("float32")

sounds = {"melody": melody}
for transform in (augment.TimeStretch((0.7, 0.7)), augment.PitchShift(4), augment.Noise((5, 5))):
    sounds[type(transform).__name__] = transform(melody, np.random.default_rng(4))
masked = augment.SpecAugment(time_width=30, frequency_width=12)(
    normalized(log_mel(melody, RATE, mels=64)), np.random.default_rng(3)
)

figure, axes = plt.subplots(2, 5, figsize=(15, 4.4), layout="constrained")
for (title, wave), (top, bottom) in zip(sounds.items(), axes.T, strict=False):
    top.plot(np.arange(len(wave)) / RATE, wave, color=BLUE, linewidth=0.5)
    top.set(title=title, xlim=(0, 1.75), ylim=(-1, 1), xlabel="time (s)", ylabel="amplitude")
    picture = log_mel(wave, RATE, mels=64).T
    bottom.imshow(picture, origin="lower", aspect="auto", extent=(0, len(wave) / RATE, 0, 64), vmin=-12)
    bottom.set(xlim=(0, 1.75), xlabel="time (s)", ylabel="mel band")
axes[0, 4].axis("off")
axes[1, 4].imshow(masked.T, origin="lower", aspect="auto", extent=(0, len(melody) / RATE, 0, 64))
axes[1, 4].set(title="SpecAugment", xlim=(0, 1.75), xlabel="time (s)", ylabel="mel band")
plt.show()

# %% [markdown]
# In a notebook you can listen to the results. Then we measure whether the three transforms did what they claim: the
# length, the frequency of the first note, and the signal-to-noise ratio, $10 \log_{10}$ of the ratio of mean powers.
# One thing has changed: the last note of the slowed melody is fainter. The phase vocoder, which does the stretching,
# advances the phase of every frequency separately and loses the phase relations between neighbouring frequencies; where
# they no longer agree, they cancel. This is known as phasiness, a limitation of the method.

# %%
for title, wave in sounds.items():
    print(title)
    display(Audio(wave, rate=RATE))


def loudest(wave):
    """The frequency, in Hz, of the strongest sine in the first 0.3 s."""
    spectrum = np.abs(np.fft.rfft(wave[: int(0.3 * RATE)], 16 * RATE))
    return spectrum.argmax() / 16


length = len(sounds["TimeStretch"]) / len(melody)
semitones = np.random.default_rng(4).uniform(-4, 4)  # what PitchShift drew
ratio = loudest(sounds["PitchShift"]) / loudest(melody)
snr = 10 * np.log10(np.mean(melody**2) / np.mean((sounds["Noise"] - melody) ** 2))
still = loudest(sounds["TimeStretch"])
last = [np.std(np.array_split(sounds[title], 3)[2]) for title in ("TimeStretch", "melody")]
print(f"stretched to {length:.3f} of the length, the first note still at {still:.0f} Hz")
print(f"its last note has {last[0] / last[1]:.2f} of the amplitude")
print(f"shifted by {semitones:.2f} semitones: times {ratio:.3f}, expected {2 ** (semitones / 12):.3f}")
print(f"noise at {snr:.2f} dB, expected 5")
assert abs(length - 1 / 0.7) < 1e-3
assert last[0] < 0.8 * last[1]
assert abs(still - 440) < 5
assert abs(ratio - 2 ** (semitones / 12)) < 0.02
assert abs(snr - 5) < 0.01

# %% [markdown]
# ## Exercises
#
# **1.** Twelve semitones are an octave, a doubling of the frequency. By how many semitones is the melody's third note
# (659 Hz) above the first (440 Hz)? Compute it.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# 2^(s / 12) = 659 / 440, so s = 12 log2(659 / 440): seven semitones, a fifth, to a hundredth.
fifth = 12 * np.log2(659 / 440)
print(f"{fifth:.2f} semitones")
assert abs(fifth - 7) < 0.01

# %% [markdown]
# **2.** Write your own transform: a subclass of `augment.Transform` whose `__call__` takes an image and a generator and
# returns the image with salt-and-pepper noise: each pixel becomes black or white with probability 0.05. Show on a
# uniform grey image that the probability is right and that the same generator gives the same result.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
noise_rate = 0.05


class SaltAndPepper(augment.Transform):
    def __call__(self, image, rng):
        hit = rng.random(image.shape[:2]) < noise_rate
        values = rng.integers(0, 2, image.shape[:2])
        return np.where(hit[..., None], values[..., None].astype(image.dtype), image)


grey = np.full((200, 200, 1), 0.5, "float32")
first, second = (SaltAndPepper()(grey, np.random.default_rng(0)) for _ in range(2))
share = np.mean(first != grey)
print(f"{share:.4f} of the pixels changed")
assert np.array_equal(first, second)
assert abs(share - noise_rate) < 0.005

# %% [markdown]
# **3.** Which augmentation is wrong for digits? Train with `"Rotation(180)"` and explain the accuracy on the centred
# digits.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# A 6 rotated by 180 degrees is a 9, but its label stays 6: the network is trained with wrong labels.
upside_down = fit("Rotation(180)")
with_it, without = accuracy(upside_down.model, centred), accuracy(plain.model, centred)
print(f"accuracy {with_it:.2f}, without augmentation {without:.2f}")
assert with_it < without - 0.05

# %% [markdown]
# ## Further reading
#
# - The next chapter: [three frameworks side by side](12-side-by-side.ipynb)
# - [Dive into Deep Learning](https://d2l.ai/chapter_computer-vision/image-augmentation.html), section 14.1: image
#   augmentation
# - Goodfellow, Bengio, Courville, [Deep Learning](https://www.deeplearningbook.org/contents/regularization.html),
#   section 7.4
# - Images: Zhang et al. 2018, [mixup](https://arxiv.org/abs/1710.09412); Yun et al. 2019,
#   [CutMix](https://arxiv.org/abs/1905.04899); Cubuk et al. 2020, [RandAugment](https://arxiv.org/abs/1909.13719)
# - Texts: Wei, Zou 2019, [EDA](https://arxiv.org/abs/1901.11196); Sennrich et al. 2016,
#   [back-translation](https://arxiv.org/abs/1511.06709)
# - Sound: Park et al. 2019, [SpecAugment](https://arxiv.org/abs/1904.08779)
