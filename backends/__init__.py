"""The three frameworks behind one contract.

`zoo.backends.torch`, `zoo.backends.tensorflow` and `zoo.backends.jax` are three columns of one table: the
same functions, in the same order. They are the only modules of the zoo that import a framework; what each
function does is said once, in `Backend`, and tested for all three.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import random
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from zoo.checks import is_integer
from zoo.errors import BackendError, nearest

if TYPE_CHECKING:
    import keras
    import numpy as np

# The ways each framework's native engine runs, the default first.
MODES = {
    "torch": ("traced", "eager", "compiled"),
    "tensorflow": ("graph", "xla", "eager"),
    "jax": ("jit", "eager"),
}
NAMES = tuple(MODES)
ALIASES = {"pytorch": "torch", "pt": "torch", "tf": "tensorflow"}  # as people call them
Tensor = Any  # a tensor of whichever framework runs

# Added to the score of a masked key: so far below any other that exp gives 0, representable in float16, and
# finite, so that the softmax of a query whose keys are all masked, and its gradient, are finite.
MASK_VALUE = -3e4


@dataclass(frozen=True)
class Device:
    """A processor a framework can compute on: `name` is what `zoo.use(device=...)` takes."""

    name: str  # "cpu", "cuda:0", "mps", "tpu:0"
    kind: str  # CPU, CUDA, ROCm, MPS, TPU
    description: str
    memory_bytes: int | None  # None where the framework does not say


@dataclass(frozen=True)
class LossScaling:
    """Dynamic loss scaling: halved by gradients that are not finite, doubled after so many steps that are.

    The defaults are those of keras.optimizers.LossScaleOptimizer; torch.amp.GradScaler starts at 2^16.
    """

    initial_scale: float = 2.0**15
    growth_steps: int = 2000


class Optimizer(Protocol):
    """What a backend uses of a `zoo.optimizers.Optimizer`, beside its own settings (betas, momentum ...)."""

    SLOTS: tuple[str, ...]
    CYCLED: str | None
    rate: Any  # a number or a schedule
    scheduled: bool
    loss_scale_factor: Any
    gradient_accumulation_steps: Any
    clipvalue: Any
    clipnorm: Any
    global_clipnorm: Any
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None

    @property
    def cycles(self) -> bool:
        """Whether the momentum (Adam's beta_1) follows the schedule."""
        ...

    def rate_at(self, step: int) -> float:
        """The learning rate of an update, counted from 0."""
        ...

    def momentum_at(self, step: int) -> float:
        """The momentum (Adam's beta_1) of an update, counted from 0."""
        ...

    def group(self, variable: keras.Variable) -> tuple[float, float]:
        """(learning rate multiplier, weight decay) of this variable."""
        ...

    def fresh(self) -> Any:
        """The same optimizer without its state."""
        ...


class Updater(Protocol):
    """The native optimizer and all that `zoo.optimizers` says about gradients and averages around it."""

    def __call__(self, gradients: Sequence[Tensor], weight: Any = None) -> None:
        """One update of the model's variables by the gradients of the scaled loss.

        `weight`, an integer, is that of the batch where gradients are accumulated: how many labels or
        examples its loss is the mean of. None weighs all batches alike.
        """
        ...

    def scale(self, loss: Tensor) -> Tensor:
        """The loss whose gradients it takes: scaled as the optimizer says, or the policy."""
        ...

    def state_dict(self) -> dict[str, np.ndarray]:
        """The optimizer state by the names of `zoo.optimizers.Optimizer.state_dict`, with the loss scale."""
        ...

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Load such a state, of whichever framework and engine."""
        ...

    def copy_ema_to_weights(self) -> None:
        """Copy the exponential moving averages into the model's weights, if any are kept."""
        ...


class Step(Protocol):
    """One step of training, state inside: `(state, batch) -> (state, loss)` with the state kept for you."""

    updater: Updater
    mode: str  # of `MODES`: what cannot be compiled in the mode chosen runs in another, with a warning

    def __call__(self, x: Tensor, y: Tensor, weight: int | None = None) -> Tensor:
        """The batch's loss before the update, left on the device so that steps can run ahead.

        `weight` is the updater's.
        """
        ...

    def sync(self) -> None:
        """Write the state back into the model's variables (and the optimizer's position).

        Read them no earlier: on JAX they have given their arrays to the step.
        """
        ...


class Backend(Protocol):
    """What every framework offers."""

    NAME: str

    # The machine

    def version(self) -> str:
        """The framework's version."""
        ...

    def devices(self) -> list[Device]:
        """The devices found, the one that is used first."""
        ...

    def use_device(self, name: str) -> None:
        """Compute on this device from now on. Called before the first tensor is made."""
        ...

    def on_device(self) -> AbstractContextManager[Any]:
        """Within, what the framework itself makes lies on the device in use, as Keras's tensors always do."""
        ...

    def set_threads(self, count: int) -> None:
        """How many CPU threads one operation may use. Called before the first tensor is made."""
        ...

    def threads(self) -> int:
        """How many CPU threads one operation may use."""
        ...

    def peak_memory(self) -> int:
        """Bytes held at the highest point so far: the accelerator's, or the process's on a CPU."""
        ...

    def set_deterministic(self) -> None:
        """Only algorithms that give the same bits on every run; an error for those that cannot."""
        ...

    def synchronize(self, value: Tensor) -> None:
        """Return once `value` has been computed."""
        ...

    def clear_cache(self) -> None:
        """Free what was compiled, to be compiled again if it is run again: JAX keeps every program."""
        ...

    # Tensors, and the framework's own operations where Keras's are measured slow or inexact

    def tensor(self, array: np.ndarray) -> Tensor:
        """The array on the device in use."""
        ...

    def empty(self, shape: Sequence[int], *, kernel: bool = False) -> np.ndarray:
        """float32 of that shape, of any value, in memory that suits the framework: to fill, and to adopt.

        That of a `kernel` ([h, w,] in, out) lies as the framework's own operations read it.
        """
        ...

    def from_numpy(self, array: np.ndarray) -> Tensor:
        """The float32 array on the device in use, laid in memory as it is; it may be the same memory."""
        ...

    def concrete_value(self, x: Tensor) -> np.ndarray | None:
        """The numbers of a tensor in the host's memory; None elsewhere, or while a function is traced."""
        ...

    def conv(
        self, x: Tensor, kernel: Tensor, bias: Tensor | None, *, stride: int, padding: int, groups: int = 1
    ) -> Tensor:
        """(b, h, w, in) * (k, k, in / groups, out) -> (b, h', w', out), `padding` zeros on each side.

        Output channels are in `groups` equal runs; each sees its own run of the input channels.
        """
        ...

    def max_pool(self, x: Tensor, size: int, stride: int, padding: int) -> Tensor:
        """(b, h, w, c) -> (b, h', w', c), the largest of each window; padding never wins."""
        ...

    def average_pool(self, x: Tensor, size: int, stride: int) -> Tensor:
        """(b, h, w, c) -> (b, h', w', c), the mean of each window."""
        ...

    def dense(self, x: Tensor, kernel: Tensor, bias: Tensor | None, *, transposed: bool = False) -> Tensor:
        """(..., in) x (in, out) + (out) -> (..., out); a `transposed` kernel is (out, in)."""
        ...

    def batch_norm(
        self,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        mean: Tensor,
        variance: Tensor,
        *,
        momentum: float,
        epsilon: float,
        training: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(..., c) -> (..., c) and the new running mean and (unbiased) variance.

        Of one value per channel the variance is 0, the unbiased one too. An empty batch is normalized by the
        running statistics and leaves them unchanged.
        """
        ...

    def layer_norm(self, x: Tensor, gamma: Tensor, beta: Tensor, *, epsilon: float) -> Tensor:
        """(..., c) -> (..., c), each vector normalized."""
        ...

    def rms_norm(self, x: Tensor, gamma: Tensor, *, epsilon: float) -> Tensor:
        """x / sqrt(mean(x^2) + epsilon) gamma over the last axis."""
        ...

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None = None,
        *,
        causal: bool = False,
        scale: float,
        drop: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """(b, n, heads, d), (b, m, heads, d) twice -> (b, n, heads, d): softmax(scale q k^T + bias) v.

        The bias is (1 or b, 1 or heads, 1 or n, m). If causal, n is m, and no query sees a later key, even if
        the bias hides all others. `drop` is done to the softmax.
        """
        ...

    def lstm(
        self,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        kernel: Tensor,
        recurrent_kernel: Tensor,
        bias: Tensor,
        recurrent_bias: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(b, n, c), states (b, u) -> h at every step (b, n, u), and the last h and c.

        Kernels (c, 4u) and (u, 4u), biases (4u), the gates in torch's order: input, forget, cell, output.
        """
        ...

    def gru(
        self,
        x: Tensor,
        h: Tensor,
        kernel: Tensor,
        recurrent_kernel: Tensor,
        bias: Tensor,
        recurrent_bias: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """(b, n, c), state (b, u) -> h at every step (b, n, u), and the last.

        Kernels (c, 3u) and (u, 3u), biases (3u), in torch's order: reset, update, new. With a recurrent bias
        the reset gate acts on what the recurrent kernel gives, as torch's and cuDNN's; without, on the state
        before it, as in Cho et al. 2014.
        """
        ...

    def scan(
        self,
        step: Callable[[Sequence[Tensor], Tensor], Sequence[Tensor]],
        states: Sequence[Tensor],
        x: Tensor,
    ) -> Sequence[Tensor]:
        """`states = step(states, x[t])` for every t: the states after each step, stacked (n, ...)."""
        ...

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x + y, each computed once however many read the sum: where a branch joins what it left."""
        ...

    def gelu(self, x: Tensor, *, approximate: bool) -> Tensor:
        """x Phi(x), exact, or by Hendrycks and Gimpel's tanh; precise in the dtype of x."""
        ...

    def cross_entropy(self, labels: Tensor, logits: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """(b,), (b, classes) -> the mean over the batch of -log softmax(logits)[label].

        Labels of every step, (b, n) of logits (b, n, classes), give the mean over those that are not -1, and
        0 where all are. Soft
        labels, (b, classes) as the logits, give -sum labels log softmax(logits). Smoothing gives each class
        label_smoothing / classes of the target, as torch.nn.CrossEntropyLoss.
        """
        ...

    def ctc_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """(b, l), (b, t, classes) -> the mean over the batch of -log p(labels | logits), over all alignments.

        Graves et al. 2006, "Connectionist temporal classification", equations 3 to 8. Class 0 is the blank;
        labels are 1 to classes - 1, then zeros. Every frame counts: a frame beyond an utterance's end says
        blank with probability 1. Within it is float64, as long sums of logarithms cost float32 four digits
        of the gradient. Labels that do not fit the frames, a repeated one taking a blank between, have
        probability 0: their loss is infinite and its gradient 0.
        """
        ...

    # Training

    def optimizer(self, spec: Optimizer, variables: Sequence[keras.Variable]) -> Any:
        """The framework's own optimizer over these variables, with the meaning of the zoo's."""
        ...

    def updater(
        self,
        spec: Optimizer,
        variables: Sequence[keras.Variable],
        scaling: LossScaling | None = None,
    ) -> Updater:
        """That optimizer at work on them."""
        ...

    def gradients(
        self, model: keras.Model, loss: Loss
    ) -> Callable[[Tensor, Tensor], tuple[Tensor, list, list]]:
        """`(x, y) -> (loss, gradients, state)` in training mode; the model stays as it is.

        One gradient a trainable variable, and for each that is not, what the pass would make of it.
        """
        ...

    def input_gradient(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The gradient of a function of one tensor, with a scalar value, at x: of x's shape."""
        ...

    def step(
        self,
        model: keras.Model,
        loss: Loss,
        optimizer: Optimizer,
        mode: str,
        scaling: LossScaling | None = None,
    ) -> Step:
        """The native engine's training step in one of `MODES`."""
        ...

    def stream(self, model: keras.Model, batches: Iterator[tuple[Any, np.ndarray]]) -> Any:
        """Batches (x, y) whose lengths differ, as Keras's `fit` takes them."""
        ...

    def predictor(self, model: keras.Model, mode: str) -> Callable[[Tensor], Tensor]:
        """`x -> logits` in inference mode, compiled as the mode says."""
        ...

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The framework's own compiler over a pure function of tensors."""
        ...


Loss = Callable[[Tensor, Tensor], Tensor]  # (y, logits) -> scalar


def installed() -> tuple[str, ...]:
    """The frameworks that can be imported here, in the order of `NAMES`; imports none."""
    return tuple(name for name in NAMES if importlib.util.find_spec(name) is not None)


def use(
    name: str, *, device: str | None = None, threads: int | None = None, deterministic: bool = False
) -> None:
    """Choose the framework of this process, before the first model is built.

    `device` is one of the names that `zoo doctor` lists ("cpu", "cuda:0", ...), `threads` how many CPU
    threads one operation may use; `deterministic` allows only algorithms that give the same bits on every
    run. Raises BackendError when the name is wrong, the framework is not installed, Keras already runs
    another, or the device is not there.
    """
    name = checked(name, "zoo.use")
    _check_running(name)
    if threads is not None and not is_integer(threads):
        raise BackendError(f"zoo.use(threads={threads!r}): expected 1 or more")
    before = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = name  # first: importing TensorFlow may import Keras
    try:
        backend = load(name)
        if deterministic:
            backend.set_deterministic()
        if threads is not None:
            backend.set_threads(threads)
        if device is not None:
            backend.use_device(device)
    except Exception:
        os.environ.pop("KERAS_BACKEND")
        if before is not None:
            os.environ["KERAS_BACKEND"] = before
        raise


_preferred: dict[str, Any] = {}  # arguments of `use`, until the framework is needed


def prefer(name: str | None = None, *, device: str | None = None, threads: int | None = None) -> str:
    """Choose as `use` does, but import the framework only when it is first needed; returns its name.

    Errors that need no framework then come before its import, which takes seconds. Raises BackendError for a
    name that is wrong, not installed, or not that of the framework which already runs.
    """
    name = settle() if name is None else checked(name, "zoo.use")
    _check_running(name)
    os.environ["KERAS_BACKEND"] = name
    _preferred.clear()
    _preferred.update(device=device, threads=threads)
    return name


def start() -> str:
    """The name of the framework to import now, set up as `prefer` was told; see `settle`."""
    name = settle()
    if _preferred:
        arguments = dict(_preferred)
        _preferred.clear()
        use(name, **arguments)
    return name


def current() -> Backend:
    """The backend in use, chosen now if nothing has chosen yet.

    In order: `zoo.use`, the KERAS_BACKEND variable, keras.json, the first framework installed. Raises
    BackendError when there is none.
    """
    return load(start())


def settle() -> str:
    """Choose the framework if nothing has, so that `import keras` takes the one the zoo takes."""
    if running := _running():
        return checked(running, "Keras")
    if name := os.environ.get("KERAS_BACKEND"):
        os.environ["KERAS_BACKEND"] = name = checked(
            name, "the variable KERAS_BACKEND"
        )  # Keras knows no alias
        return name
    # Keras writes "tensorflow" into keras.json on its first import, asked or not: a framework named there
    # but not installed is no choice of the user's.
    name = _keras_json()
    if name not in installed():
        if not installed():
            raise BackendError(f"no framework is installed. {_how_to_install('torch')}")
        name = installed()[0]
    os.environ["KERAS_BACKEND"] = name
    return name


def tensors(x: Any) -> Any:
    """An array, or a dict of arrays by input name, on the device in use."""
    tensor = current().tensor
    return {name: tensor(part) for name, part in x.items()} if isinstance(x, Mapping) else tensor(x)


def load(name: str) -> Backend:
    """The module of one framework, whichever runs: it answers about the machine without Keras.

    Raises BackendError where what goes with the framework is missing: JAX has optax beside it.
    """
    name = checked(name, "zoo.backends.load")
    try:
        return cast(Backend, importlib.import_module(f"zoo.backends.{name}"))
    except ModuleNotFoundError as error:
        raise BackendError(
            f"{name} is here without {error.name}, which the zoo needs with it. {_how_to_install(name)}"
        ) from error


def allowed(name: str, mode: str | None) -> str:
    """The mode, or that backend's default for None. Raises BackendError for one it does not have."""
    modes = MODES[name]
    if mode is not None and mode not in modes:
        raise BackendError(f"{name} has no mode {mode!r}; there are: {', '.join(modes)}")
    return mode or modes[0]


@contextmanager
def drawing_nothing() -> Iterator[None]:
    """Around the Python of a step that is compiled: raises RuntimeError where it draws random numbers.

    From Python's or NumPy's global generator, that is; what is compiled would repeat them at every step.
    """
    _keras_generator()
    before = _global_generators()
    yield
    if _global_generators() != before:
        raise RuntimeError("it draws from Python's or NumPy's global generator, once and not at every step")


def _keras_generator() -> None:
    """Let Keras make its global generator, which draws its seed from Python's, if it has not."""
    from keras.src.random import seed_generator

    with suppress(ValueError):  # on JAX it is refused while a function is traced
        seed_generator.global_seed_generator()


def _global_generators() -> tuple[Any, ...]:
    """The states of Python's generator and NumPy's."""
    import numpy as np

    name, key, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), name, bytes(np.asarray(key)), *rest


def fall_back(model: keras.Model, mode: str, to: str, error: Exception) -> str:
    """The mode `to`, with a warning: the model runs in it, and cannot be compiled in `mode`."""
    lines = [line.strip() for line in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines() if line.strip()]
    if lines and lines[0].startswith("Exception encountered"):  # Keras's first line names the layer alone
        del lines[0]
    if lines and lines[0] == "in user code:":  # TensorFlow's last one is the error's own
        lines = [line.partition(": ")[2] for line in lines if line.startswith(type(error).__name__)] or lines
    warnings.warn(
        f"{model.name} runs in mode {to!r}, as {mode!r} cannot compile it: "
        f"{type(error).__name__}: {lines[0][:200] if lines else ''}",
        stacklevel=2,
    )
    return to


def find_device(devices: list[Device], name: str) -> Device:
    """The device of that name ("cuda" means "cuda:0"). Raises BackendError naming those there are."""
    for device in devices:
        if name.lower() in (device.name, device.name.removesuffix(":0")):
            return device
    raise BackendError(f"no device {name!r}; there are: {', '.join(d.name for d in devices)}")


def processor() -> str:
    """The name of the machine's processor, as its maker has it where the system says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores() -> int:
    """The processors this process may run on; macOS and Windows only say how many the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def host_memory() -> int:
    """The most memory this process has held so far, in bytes."""
    if sys.platform == "win32":
        raise BackendError("peak memory is read from getrusage, which Windows lacks; use WSL")
    try:  # Linux: getrusage would answer for the parent too, whose peak a child takes over
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


@contextmanager
def without_tensorflow() -> Iterator[None]:
    """Within, Keras serializes objects without importing TensorFlow, to ask whether they are TensorFlow's.

    Keras offers no such choice: the flag is private, and without it TensorFlow is imported as before.
    """
    tensorflow: Any = importlib.import_module("keras.src.utils.module_utils").tensorflow
    undecided = "tensorflow" not in sys.modules and getattr(tensorflow, "_available", True) is None
    if undecided:
        tensorflow._available = False
    try:
        yield
    finally:
        if undecided:
            tensorflow._available = None


def _running() -> str | None:
    """The backend of a Keras that is already imported."""
    keras = sys.modules.get("keras")
    return keras.backend.backend() if keras is not None and hasattr(keras, "backend") else None


def _check_running(name: str) -> None:
    if (running := _running()) not in (None, name):
        raise BackendError(
            f"zoo.use({name!r}): Keras already runs on {running} in this process and cannot change. "
            f"Call zoo.use before anything imports keras, or start a new process with KERAS_BACKEND={name}."
        )


def checked(name: str, who: str) -> str:
    """The framework's proper name. Raises BackendError, on behalf of `who`, unless it is installed here."""
    name = ALIASES.get(name.lower(), name.lower())
    if name not in NAMES:
        raise BackendError(f"{who}: no backend {name!r}; {nearest(name, NAMES)}")
    if name != _running() and name not in installed():  # in this order: to look for a package takes a while
        raise BackendError(f"{who}: {name} is not installed. {_how_to_install(name)}")
    return name


def _how_to_install(name: str) -> str:
    return f'To install it: pip install "keras-zoo-parity[{name}]"'


def _keras_json() -> str | None:
    folder = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    try:
        return json.loads((folder / "keras.json").read_text()).get("backend")
    except (OSError, ValueError):
        return None
