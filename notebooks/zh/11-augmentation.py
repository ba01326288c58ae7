# %% [markdown]
# # 11 数据增强
#
# **你会看到什么。** 一张照片旋转五度，内容不变，却是一个新的样本，而且不花成本。你将用二十来种方式变换照片、文字和一段旋律，看到、听到结果，并通过测量来核对。然后，一个网络能识别居中的数字，却几乎认不出平移过的；用同样的 200 个数字加上数据增强，它学会了两样都识别。随机变换由种子决定，结果可复现：每个框架得到的图像逐位相同。

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

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # 也可以是 "tensorflow" 或 "jax"：数值相同
zoo.show.use_fonts()  # 图中可以有中文

import keras

BLUE, RED = "#0072B2", "#D55E00"

# %% [markdown]
# ## 图像
#
# scikit-learn 自带两张照片：一座寺庙和一朵花。变换是以图像和随机数生成器为参数的函数。多数变换只改变图像，标签不变；最后两种混合两张图，标签也按同样的比例混合：
#
# - **MixUp**：每个像素是 $\lambda x + (1 - \lambda) x'$，目标是 $\lambda y + (1 - \lambda) y'$；
# - **CutMix**：把一个矩形换成另一张图的内容，目标按像素数的比例计算。
#
# **RandAugment** 从十四种操作中随机选几种，强度相同。

# %%
temple, flower = (
    np.asarray(Image.fromarray(load_sample_image(name)).resize((192, 128)))[:, 32:160]
    for name in ("china.jpg", "flower.jpg")
)
is_temple, is_flower = np.eye(2, dtype="float32")

pictures = {"寺庙": temple}
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
pictures["花"] = flower
for transform in (augment.MixUp(1.0), augment.CutMix(1.0)):
    mixed, target = transform.mix((temple, is_temple), (flower, is_flower), np.random.default_rng(4))
    pictures[f"{type(transform).__name__}：寺庙 {target[0]:.2f}"] = mixed
    assert abs(target.sum() - 1) < 1e-6

figure, axes = plt.subplots(2, 6, figsize=(13, 4.6), layout="constrained")
for axis in axes.flat:
    axis.axis("off")
for axis, (title, picture) in zip(axes.flat, pictures.items(), strict=False):
    axis.imshow(picture)
    axis.set_title(title, fontsize=10)
plt.show()

# %% [markdown]
# ## 可复现的数据增强
#
# 每一轮都重新随机变换，相当于有更多的数据，但也使训练更难复现。zoo 的随机数以（种子、轮次、样本在数据中的序号）为键：一个样本变成什么，与框架无关，与它所在的批次无关，也与读取数据的进程数无关。可以与另一个框架的指纹比较。

# %%
digits = zoo.tasks.load("digits", (8, 8, 1))
task = replace(digits, augment=augment.parse("RandomCrop(8, 1), Rotation(10)"))


def fingerprint(epoch):
    images, _ = augment.batch(task, range(64), seed=0, epoch=epoch)
    return zlib.crc32(np.round(images * 255).astype("uint8").tobytes())


print(f"{keras.backend.backend()}：第 0 轮 {fingerprint(0):08x}，第 1 轮 {fingerprint(1):08x}")
assert fingerprint(0) == fingerprint(0) != fingerprint(1)
there, _ = augment.batch(task, [7, 2], seed=0, epoch=0)
back, _ = augment.batch(task, [2, 7, 30], seed=0, epoch=0)
assert np.array_equal(there, back[1::-1])

# %% [markdown]
# ## 数据增强有效吗？
#
# 用 200 个数字训练。scikit-learn 的数字在训练集和测试集中都整齐地居中。因此我们准备两组留出数据：一组是原样的数字，一组是同样的数字在各个方向上最多平移一个像素，就像相机没有拿稳。

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


runs = {"不增强": fit(None), "RandomCrop(8, 1)": fit("RandomCrop(8, 1)")}
for name, run in runs.items():
    on_centred, on_moved = (accuracy(run.model, images) for images in (centred, moved))
    print(f"居中数字的准确率 {on_centred:.2f}，平移数字 {on_moved:.2f}：{name:16s}")
plain, cropped = runs.values()
assert accuracy(plain.model, moved) < 0.55
assert accuracy(cropped.model, moved) > 0.7
assert abs(accuracy(cropped.model, centred) - accuracy(plain.model, centred)) < 0.08

# %%
for (name, run), color, style in zip(runs.items(), (RED, BLUE), ("--", "-"), strict=True):
    plt.plot(
        range(1, 61), [epoch["accuracy"] for epoch in run.history], color=color, linestyle=style, label=name
    )
plt.xlabel("轮")
plt.ylabel("平移数字的准确率")
plt.title("用 200 个数字训练：不增强与随机裁剪")
plt.ylim(0, 1)
plt.grid(alpha=0.3)
plt.legend(loc="lower right")
plt.show()

# %% [markdown]
# 平移一个像素就足以使没有数据增强的网络出错：多层感知机不知道哪些像素相邻。随机裁剪使它学会了应对平移。对居中的数字没有多大帮助，也没有多大害处。这是数据增强的一般规律：变换什么，网络就学会忽略什么。所以应当变换使用时无关紧要的因素，不要改变其他的（练习 3）。
#
# ## 文字
#
# 四种对词的小改动（Wei 和 Zou 称之为“简易数据增强”），和一种大的改动：回译，即翻译成另一种语言，再翻译回来。`BackTranslation` 接受任意两个以文字为参数的函数，例如用两个训练好的模型调用 `zoo.translate`。这里用两张词表代替翻译模型。

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
# 要注意改动是否影响标签：删词可能把 “not bad” 中的 “not” 删掉。Wei 和 Zou 建议改动大约十分之一的词。
#
# ## 声音
#
# 一段三个音的旋律，带泛音，每秒 8,000 个采样点。我们让它变慢而音高不变，变调而时长不变，再加上噪声。**SpecAugment** 作用在频谱图上：它遮盖几段时间和几个频带，使语音识别模型在缺少这些信息时也能识别。

# %%
RATE = 8000
t = np.arange(int(0.4 * RATE)) / RATE
loudness = np.exp(-3 * t) * np.minimum(1, np.minimum(t, t[-1] - t) / 0.02)  # 先渐强，再渐弱


def note(frequency):
    return loudness * sum(np.sin(2 * np.pi * k * frequency * t) / k**2 for k in (1, 2, 3))


melody = (0.5 * np.concatenate([note(440), note(554), note(659)])).astype("float32")

sounds = {"旋律": melody}
for transform in (augment.TimeStretch((0.7, 0.7)), augment.PitchShift(4), augment.Noise((5, 5))):
    sounds[type(transform).__name__] = transform(melody, np.random.default_rng(4))
masked = augment.SpecAugment(time_width=30, frequency_width=12)(
    normalized(log_mel(melody, RATE, mels=64)), np.random.default_rng(3)
)

figure, axes = plt.subplots(2, 5, figsize=(15, 4.4), layout="constrained")
for (title, wave), (top, bottom) in zip(sounds.items(), axes.T, strict=False):
    top.plot(np.arange(len(wave)) / RATE, wave, color=BLUE, linewidth=0.5)
    top.set(title=title, xlim=(0, 1.75), ylim=(-1, 1), xlabel="时间（秒）", ylabel="振幅")
    picture = log_mel(wave, RATE, mels=64).T
    bottom.imshow(picture, origin="lower", aspect="auto", extent=(0, len(wave) / RATE, 0, 64), vmin=-12)
    bottom.set(xlim=(0, 1.75), xlabel="时间（秒）", ylabel="mel 频带")
axes[0, 4].axis("off")
axes[1, 4].imshow(masked.T, origin="lower", aspect="auto", extent=(0, len(melody) / RATE, 0, 64))
axes[1, 4].set(title="SpecAugment", xlim=(0, 1.75), xlabel="时间（秒）", ylabel="mel 频带")
plt.show()

# %% [markdown]
# 在笔记本中可以播放。然后通过测量核对三种变换：时长、第一个音的频率，以及信噪比，即平均功率之比的 $10 \log_{10}$。有一点与预期不同：变慢的旋律中最后一个音变轻了。时间伸缩使用相位声码器，它让每个频率的相位独立变化，丢掉了相邻频率之间的相位关系；相位不再一致的地方会互相抵消。这叫做相位失真（phasiness），是这种方法的代价。

# %%
for title, wave in sounds.items():
    print(title)
    display(Audio(wave, rate=RATE))


def loudest(wave):
    """前 0.3 秒中最强的正弦波的频率，单位 Hz。"""
    spectrum = np.abs(np.fft.rfft(wave[: int(0.3 * RATE)], 16 * RATE))
    return spectrum.argmax() / 16


length = len(sounds["TimeStretch"]) / len(melody)
semitones = np.random.default_rng(4).uniform(-4, 4)  # PitchShift 抽到的值
ratio = loudest(sounds["PitchShift"]) / loudest(melody)
snr = 10 * np.log10(np.mean(melody**2) / np.mean((sounds["Noise"] - melody) ** 2))
still = loudest(sounds["TimeStretch"])
last = [np.std(np.array_split(sounds[title], 3)[2]) for title in ("TimeStretch", "旋律")]
print(f"拉长到原来的 {length:.3f} 倍，第一个音仍是 {still:.0f} Hz")
print(f"最后一个音的振幅是原来的 {last[0] / last[1]:.2f}")
print(f"变调 {semitones:.2f} 个半音：频率变为 {ratio:.3f} 倍，应为 {2 ** (semitones / 12):.3f}")
print(f"信噪比 {snr:.2f} dB，应为 5")
assert abs(length - 1 / 0.7) < 1e-3
assert last[0] < 0.8 * last[1]
assert abs(still - 440) < 5
assert abs(ratio - 2 ** (semitones / 12)) < 0.02
assert abs(snr - 5) < 0.01

# %% [markdown]
# ## 练习
#
# **1.** 十二个半音是一个八度，频率加倍。旋律的第三个音（659 Hz）比第一个音（440 Hz）高多少个半音？请用公式求出。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# 2^(s / 12) = 659 / 440，所以 s = 12 log2(659 / 440)：七个半音，即纯五度，误差不到百分之一。
fifth = 12 * np.log2(659 / 440)
print(f"{fifth:.2f} 个半音")
assert abs(fifth - 7) < 0.01

# %% [markdown]
# **2.** 自己写一个变换：`augment.Transform` 的子类，`__call__` 接受图像和随机数生成器，返回带椒盐噪声的图像，每个像素以百分之五的概率变成黑或白。用一张均匀的灰色图像验证比例正确，且同样的随机数生成器给出同样的图像。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
noise_rate = 0.05


class SaltAndPepper(augment.Transform):
    def __call__(self, image, rng):
        hit = rng.random(image.shape[:2]) < noise_rate
        values = rng.integers(0, 2, image.shape[:2])
        return np.where(hit[..., None], values[..., None].astype(image.dtype), image)


grey = np.full((200, 200, 1), 0.5, "float32")
first, second = (SaltAndPepper()(grey, np.random.default_rng(0)) for _ in range(2))
share = np.mean(first != grey)
print(f"改变的像素占 {share:.4f}")
assert np.array_equal(first, second)
assert abs(share - noise_rate) < 0.005

# %% [markdown]
# **3.** 哪种变换不适合数字？用 `"Rotation(180)"` 训练，并解释居中数字的准确率。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# 6 转 180 度就是 9，而标签仍是 6：网络在用错误的标签训练。
upside_down = fit("Rotation(180)")
with_it, without = accuracy(upside_down.model, centred), accuracy(plain.model, centred)
print(f"准确率 {with_it:.2f}，不增强时 {without:.2f}")
assert with_it < without - 0.05

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[跨框架对比](12-side-by-side.ipynb)
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_computer-vision/image-augmentation.html) 13.1 节：图像增广
# - Goodfellow、Bengio、Courville，[Deep Learning](https://www.deeplearningbook.org/contents/regularization.html) 7.4 节
# - 图像：Zhang 等 2018，[mixup](https://arxiv.org/abs/1710.09412)；Yun 等 2019，[CutMix](https://arxiv.org/abs/1905.04899)；Cubuk 等 2020，[RandAugment](https://arxiv.org/abs/1909.13719)
# - 文字：Wei、Zou 2019，[EDA](https://arxiv.org/abs/1901.11196)；Sennrich 等 2016，[回译](https://arxiv.org/abs/1511.06709)
# - 声音：Park 等 2019，[SpecAugment](https://arxiv.org/abs/1904.08779)
