"""The three frameworks behind one contract.

`zoo.backends.torch`, `zoo.backends.tensorflow` and `zoo.backends.jax` have the same functions in the
same order. They are the only modules of the zoo that import a framework; their functions are documented once,
in `Backend`, and tested for all three.
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
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

from zoo.backends.world import TIMEOUT_S, WHOLE, Launch, Part, World, check_launch, get_world, join, launched

from zoo.checks import is_integer
from zoo.errors import BackendError, WrongConfiguration, nearest

if TYPE_CHECKING:
    import keras
    import numpy as np

# The modes of each framework's native engine, the default first.
MODES = {
    "torch": ("traced", "eager", "compiled"),
    "tensorflow": ("graph", "xla", "eager"),
    "jax": ("jit", "eager"),
}
# Those of exact runs. TensorFlow's eager mode reads variables past the scope of Keras, and loses their
# gradients.
EXACT_MODES = {"torch": ("traced", "eager"), "tensorflow": ("graph", "xla"), "jax": ("jit",)}
NAMES = tuple(MODES)
ALIASES = {"pytorch": "torch", "pt": "torch", "tf": "tensorflow"}  # other names in use
Tensor = Any  # a tensor of the framework in use

# Added to the score of a masked key: so far below any other that exp gives 0, representable in float16, and
# finite, so that the softmax of a query whose keys are all masked, and its gradient, are finite.
MASK_VALUE = -3e4


@dataclass(frozen=True)
class Device:
    """A device of a framework: `name` is the argument of `zoo.use(device=...)`."""

    name: str  # "cpu", "cuda:0", "mps", "tpu:0"
    kind: str  # CPU, CUDA, ROCm, MPS, TPU
    description: str
    memory_bytes: int | None  # None if the framework does not report it


@dataclass(frozen=True)
class LossScaling:
    """Dynamic loss scaling: halved if gradients are not finite, doubled after `growth_steps` finite steps.

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

    def start(self, variable: keras.Variable) -> int:
        """The update, counted from 0, from which this variable is trained."""
        ...

    def fresh(self) -> Any:
        """The same optimizer without its state."""
        ...


class Updater(Protocol):
    """The native optimizer with loss scaling, accumulation, clipping and averaging, see `zoo.optimizers`."""

    def __call__(self, gradients: Sequence[Tensor], weight: Any = None) -> None:
        """Update the model's variables by the gradients of the scaled loss.

        `weight` is the batch's integer weight in gradient accumulation: the number of labels or examples
        that its loss is the mean of. None gives all batches equal weights.
        """
        ...

    def scale(self, loss: Tensor) -> Tensor:
        """The scaled loss, whose gradients the updater is called with."""
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
    """One training step, which keeps the training state: `(state, batch) -> (state, loss)`."""

    updater: Updater
    mode: str  # one of `MODES`; a model that cannot be compiled runs in another mode, with a warning

    def __call__(self, x: Tensor, y: Tensor, weight: int | None = None, part: Part = WHOLE) -> Tensor:
        """Train on a batch; returns its loss before the update, on the device so that steps can run ahead.

        `weight` is that of the updater. Of several workers each is called with its part, as `World.batch`
        gives it.
        """
        ...

    def sync(self) -> None:
        """Write the state back to the model's variables.

        They must not be read earlier: on JAX their arrays have been donated to the step.
        """
        ...


class Backend(Protocol):
    """The functions that each framework's module has."""

    NAME: str

    # The machine

    def version(self) -> str:
        """The framework's version."""
        ...

    def devices(self) -> list[Device]:
        """The available devices, the default first."""
        ...

    def use_device(self, name: str) -> None:
        """Use this device from now on. Called before the first tensor is created."""
        ...

    def on_device(self) -> AbstractContextManager[Any]:
        """A context in which the framework itself creates tensors on the device in use, as Keras does."""
        ...

    def set_threads(self, count: int) -> None:
        """Set the number of CPU threads per operation. Called before the first tensor is created."""
        ...

    def threads(self) -> int:
        """The number of CPU threads per operation."""
        ...

    def peak_memory(self) -> int:
        """Peak memory so far in bytes: of the accelerator, or of the process on a CPU."""
        ...

    def set_deterministic(self) -> None:
        """Use only deterministic algorithms; operations without one raise an error."""
        ...

    def use_tf32(self, enabled: bool) -> bool:
        """Round the factors of float32 matrix products to TF32's 11 bits, or not; whether the device can."""
        ...

    def enable_float64(self) -> None:
        """Enable float64 tensors; on JAX, for the rest of the process."""
        ...

    def float64(self) -> AbstractContextManager[Any]:
        """Within, there are float64 tensors; on JAX, in this thread."""
        ...

    def join(self, launch: Launch, timeout: float, device: str | None) -> World:
        """The world of the workers that were launched together, which answer each other in `timeout` seconds.

        Without a `device` each worker of a machine has an accelerator of its own, where there are any. Called
        before the first tensor is created, instead of `use_device`.
        """
        ...

    def check_workers(self, mode: str, model: keras.Model) -> None:
        """Raise WrongConfiguration for a mode or a layer with which workers do not compute as one."""
        ...

    def synchronize(self, value: Tensor) -> None:
        """Wait until `value` has been computed."""
        ...

    def clear_cache(self) -> None:
        """Free compiled programs, which are compiled again when needed: JAX keeps every one."""
        ...

    # Tensors, and the framework's own operations where Keras's were measured to be slow or inexact

    def tensor(self, array: np.ndarray) -> Tensor:
        """The array on the device in use."""
        ...

    def empty(self, shape: Sequence[int], *, kernel: bool = False) -> np.ndarray:
        """An uninitialized float32 array in memory that `from_numpy` need not copy.

        A `kernel` ([h, w,] in, out) has the memory layout of the framework's own operations.
        """
        ...

    def from_numpy(self, array: np.ndarray) -> Tensor:
        """The float32 array on the device in use, with the same memory layout; it may share the memory."""
        ...

    def concrete_value(self, x: Tensor) -> np.ndarray | None:
        """The values of a tensor in host memory; None on other devices, or while a function is traced."""
        ...

    def conv(
        self, x: Tensor, kernel: Tensor, bias: Tensor | None, *, stride: int, padding: int, groups: int = 1
    ) -> Tensor:
        """(b, h, w, in) * (k, k, in / groups, out) -> (b, h', w', out), `padding` zeros on each side.

        Output channels form `groups` equal groups; each has its own group of input channels as input.
        """
        ...

    def max_pool(self, x: Tensor, size: int, stride: int, padding: int) -> Tensor:
        """(b, h, w, c) -> (b, h', w', c), the maximum of each window, without padding."""
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

        With one value per channel the variance is 0, also the unbiased one. An empty batch is normalized by
        the running statistics and does not change them.
        """
        ...

    def layer_norm(self, x: Tensor, gamma: Tensor, beta: Tensor, *, epsilon: float) -> Tensor:
        """(..., c) -> (..., c), normalized over the last axis."""
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

        The bias is (1 or b, 1 or heads, 1 or n, m). If causal, n is m, and no query attends to later keys,
        even if the bias masks all others. `drop` is applied to the softmax.
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
        the reset gate is applied after the recurrent kernel, as in torch and cuDNN; without, before it, as in
        Cho et al. 2014.
        """
        ...

    def scan(
        self,
        step: Callable[[Sequence[Tensor], Tensor], Sequence[Tensor]],
        states: Sequence[Tensor],
        x: Tensor,
    ) -> Sequence[Tensor]:
        """`states = step(states, x[t])` for every t; returns the states of all steps, stacked (n, ...)."""
        ...

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x + y at the end of a residual branch, computed once for all consumers."""
        ...

    def gelu(self, x: Tensor, *, approximate: bool) -> Tensor:
        """x Phi(x), exact, or with Hendrycks and Gimpel's tanh; accurate in the dtype of x."""
        ...

    def cross_entropy(self, labels: Tensor, logits: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """(b,), (b, classes) -> the mean over the batch of -log softmax(logits)[label].

        Labels of every step, (b, n) with logits (b, n, classes), give the mean over those that are not -1,
        and 0 if all are. Soft labels (b, classes) give -sum labels log softmax(logits). Smoothing gives each
        class label_smoothing / classes of the target, as in torch.nn.CrossEntropyLoss.
        """
        ...

    def ctc_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """(b, l), (b, t, classes) -> the mean over the batch of -log p(labels | logits), over all alignments.

        Graves et al. 2006, "Connectionist temporal classification", equations 3 to 8. Class 0 is the blank;
        labels are 1 to classes - 1, then zeros. Every frame counts: frames after the end of an utterance must
        have probability 1 for the blank. It is computed in float64, as long sums of logarithms cost float32
        four digits of the gradient. Labels that do not fit into the frames (repeated ones need a blank
        between them) have probability 0: their loss is infinite and its gradient 0.
        """
        ...

    # Training

    def optimizer(self, spec: Optimizer, variables: Sequence[keras.Variable]) -> Any:
        """The framework's own optimizer over these variables, with the zoo's semantics."""
        ...

    def updater(
        self,
        spec: Optimizer,
        variables: Sequence[keras.Variable],
        scaling: LossScaling | None = None,
    ) -> Updater:
        """The updater of these variables by that optimizer."""
        ...

    def gradients(
        self, model: keras.Model, loss: Loss
    ) -> Callable[[Tensor, Tensor], tuple[Tensor, list, list]]:
        """`(x, y) -> (loss, gradients, state)` in training mode; the model is not changed.

        There is a gradient for each trainable variable, and an updated value for each of the others.
        """
        ...

    def input_gradient(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The gradient at x of a scalar function of one tensor, in x's shape."""
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

    def fit_step(self, model: keras.Model) -> Callable[[Any], Any] | None:
        """A faster `train_function` for Keras's `fit` of a compiled model, with the same numbers, or None."""
        ...

    def stream(self, model: keras.Model, batches: Iterator[tuple[Any, np.ndarray]]) -> Any:
        """Batches (x, y) of different lengths, in a form that Keras's `fit` accepts."""
        ...

    def predictor(self, model: keras.Model, mode: str) -> Callable[[Tensor], Tensor]:
        """`x -> logits` in inference mode, compiled according to the mode."""
        ...

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A pure function of tensors, compiled by the framework's compiler."""
        ...

    def program(self, function: Callable[..., Any], mode: str) -> Callable[..., Any]:
        """A pure function of tensors, lists and dicts of them, in one of `MODES`, and in no other."""
        ...

    def custom_gradient(self, function: Callable[..., tuple[Any, Callable]], *tensors: Tensor) -> Any:
        """`function(*tensors)[0]`, one tensor or several, whose gradients are by `function(*tensors)[1]`.

        That takes a gradient of every result and returns one of every tensor.
        """
        ...

    def value_and_gradients(
        self, function: Callable[[list], tuple[Tensor, Any]], tensors: Sequence[Tensor]
    ) -> tuple[Tensor, Any, list]:
        """`function(tensors)`, a scalar and whatever else it returns, and the scalar's gradients."""
        ...


Loss = Callable[[Tensor, Tensor], Tensor]  # (y, logits) -> scalar


def installed() -> tuple[str, ...]:
    """The frameworks that are installed, in the order of `NAMES`; imports none."""
    return tuple(name for name in NAMES if importlib.util.find_spec(name) is not None)


def use(
    name: str,
    *,
    device: str | None = None,
    threads: int | None = None,
    deterministic: bool = False,
    exact: bool = False,
    workers: int | None = None,
    worker_timeout: float | None = None,
    shard: str | None = None,
) -> None:
    """Choose the framework of this process, before the first model is built.

    `device` is one of the names that `zoo doctor` lists ("cpu", "cuda:0", ...), `threads` the number of
    CPU threads per operation; `deterministic` allows only deterministic algorithms; `exact`
    makes `zoo.train` compute the same bits on every framework (docs/exact.md).

    `workers`: train on so many processes, of which this is one, started by torchrun, srun or
    `python -m zoo.processes.launcher` (docs/scale.md); one that does not answer for `worker_timeout` seconds,
    by default 600, ends the run. With `shard="weights"`, on JAX, each worker holds a part of every large
    weight and of the optimizer's state for it, as ZeRO's third stage (Rajbhandari et al. 2019,
    arXiv:1910.02054), so that a model may be larger than a device.

    Raises BackendError if the name is wrong, the framework is not installed, Keras already uses another, the
    device does not exist, this process is not one of so many workers, or `shard` is not supported.
    """
    name = checked(name, "zoo.use")
    _check_running(name)
    _check_workers(workers)
    check_shard(name, shard, workers)
    if threads is not None and not is_integer(threads):
        raise BackendError(f"zoo.use: threads={threads!r}; expected an integer, 1 or more")
    before = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = name  # first: importing TensorFlow may import Keras
    try:
        backend = load(name)
        if deterministic:
            backend.set_deterministic()
        if threads is not None:
            backend.set_threads(threads)
        if workers not in (None, 1):
            join(backend.join, workers, TIMEOUT_S if worker_timeout is None else worker_timeout, device)
            if shard is not None:
                cast(Any, get_world()).shard_weights()
        elif device is not None:
            backend.use_device(device)
        if exact:
            backend.enable_float64()
        _settings["exact"] = exact
    except Exception:
        os.environ.pop("KERAS_BACKEND")
        if before is not None:
            os.environ["KERAS_BACKEND"] = before
        raise


_settings: dict[str, bool] = {}  # exact, of `use`


@contextmanager
def exactly(exact: bool | None) -> Iterator[bool]:
    """Within, `current()` is the exact backend if `exact`, by default as set by `use`; yields whether."""
    if not (_settings.get("exact", False) if exact is None else exact):
        yield False
        return
    with current().float64(), importlib.import_module("zoo.backends.exact").active():
        yield True


def is_exact() -> bool:
    """Whether `current()` is the exact backend."""
    exact = sys.modules.get("zoo.backends.exact")
    return exact is not None and exact.is_active()


_preferred: dict[str, Any] = {}  # arguments of `use`, until the framework is needed


def _check_workers(workers: int | None) -> None:
    """Raise BackendError unless this process is one of so many workers."""
    if workers in (None, 1):
        return
    if not is_integer(workers) or workers < 1:
        raise BackendError(f"workers={workers!r}; expected an integer, 1 or more")
    check_launch(workers)


def check_shard(name: str | None, shard: str | None, workers: int | None) -> None:
    """Raise BackendError unless this framework, by default the one of `settle`, shards that over workers."""
    if shard is None:
        return
    name = settle() if name is None else checked(name, "zoo.use")
    if shard != "weights":
        raise BackendError(f"shard={shard!r}; expected 'weights'")
    if name != "jax":
        raise BackendError(
            f"shard='weights' on {name}: Keras's variables there are whole in every process; use jax"
        )
    if workers in (None, 1):
        raise BackendError("shard='weights' with one worker, which holds them all; give workers=2 or more")


def workers() -> int:
    """How many workers train together, this one included; none needs to have joined yet."""
    return max(get_world().size, _preferred.get("workers") or 1)


def worker() -> int:
    """The number of this worker, 0 where there is one."""
    found = launched() if workers() > 1 else None
    return 0 if found is None else found.rank


def prefer(
    name: str | None = None,
    *,
    device: str | None = None,
    threads: int | None = None,
    workers: int | None = None,
    worker_timeout: float | None = None,
    shard: str | None = None,
) -> str:
    """Choose as `use` does, but import the framework only when it is first needed; returns its name.

    Errors that need no framework are then raised before its import, which takes seconds. Raises BackendError
    for a name that is wrong, not installed, or not that of the framework already in use.
    """
    name = settle() if name is None else checked(name, "zoo.use")
    _check_running(name)
    _check_workers(workers)
    check_shard(name, shard, workers)
    os.environ["KERAS_BACKEND"] = name
    _preferred.clear()
    _preferred.update(
        device=device, threads=threads, workers=workers, worker_timeout=worker_timeout, shard=shard
    )
    return name


def start() -> str:
    """The framework to import now, with the settings given to `prefer`; see `settle`."""
    name = settle()
    if _preferred:
        arguments = dict(_preferred)
        _preferred.clear()
        use(name, **arguments)
    return name


def current() -> Backend:
    """The backend in use, chosen now if none has been chosen.

    In this order: `zoo.use`, the KERAS_BACKEND variable, keras.json, the first framework installed. Raises
    BackendError if there is none.
    """
    name = start()
    return cast(Backend, sys.modules["zoo.backends.exact"]) if is_exact() else load(name)


def settle() -> str:
    """Choose the framework, unless it has been chosen, so that `import keras` uses the same one."""
    if running := _running():
        return checked(running, "Keras")
    if name := os.environ.get("KERAS_BACKEND"):
        os.environ["KERAS_BACKEND"] = name = checked(
            name, "the variable KERAS_BACKEND"
        )  # Keras has no aliases
        return name
    # Keras writes "tensorflow" to keras.json on its first import: a framework named there but not installed
    # was not chosen by the user.
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
    """The module of a framework, whichever is in use; its functions about the machine need no Keras.

    Raises BackendError if a package that the zoo needs with it is missing, as optax for JAX.
    """
    name = checked(name, "zoo.backends.load")
    loaded = sys.modules.get(f"zoo.backends.{name}")
    if loaded is not None:  # TensorFlow's AutoGraph, which traces this too, warns of imports
        return cast(Backend, loaded)
    try:
        return cast(Backend, importlib.import_module(f"zoo.backends.{name}"))
    except ModuleNotFoundError as error:
        raise BackendError(
            f"{name} is installed without {error.name}, which the zoo needs, too. {_how_to_install(name)}"
        ) from error


def allowed(name: str, mode: str | None) -> str:
    """The mode, or the backend's default for None. Raises BackendError for an unknown one."""
    modes = MODES[name]
    if mode is not None and mode not in modes:
        raise BackendError(f"{name} has no mode {mode!r}; there are: {', '.join(modes)}")
    return mode or modes[0]


@contextmanager
def drawing_nothing() -> Iterator[None]:
    """Raise RuntimeError if the code inside draws from Python's or NumPy's global generator.

    A compiled step would repeat these numbers every time.
    """
    _keras_generator()
    before = _global_generators()
    yield
    if _global_generators() != before:
        raise RuntimeError(
            "it draws from Python's or NumPy's global generator, which a compiled step does only once"
        )


def _keras_generator() -> None:
    """Let Keras create its global generator, whose seed it draws from Python's."""
    from keras.src.random import seed_generator

    with suppress(ValueError):  # on JAX not allowed while a function is traced
        seed_generator.global_seed_generator()


def _global_generators() -> tuple[Any, ...]:
    """The states of Python's generator and NumPy's."""
    import numpy as np

    name, key, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), name, bytes(np.asarray(key)), *rest


def fall_back(model: keras.Model, mode: str, to: str, error: Exception) -> str:
    """The mode `to`, with a warning that the model cannot be compiled in `mode`."""
    lines = [line.strip() for line in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines() if line.strip()]
    if lines and lines[0].startswith("Exception encountered"):  # Keras's first line only names the layer
        del lines[0]
    if lines and lines[0] == "in user code:":  # TensorFlow's last line is the error itself
        lines = [line.partition(": ")[2] for line in lines if line.startswith(type(error).__name__)] or lines
    warnings.warn(
        f"{model.name} runs in mode {to!r}, as {mode!r} cannot compile it: "
        f"{type(error).__name__}: {lines[0][:200] if lines else ''}",
        stacklevel=2,
    )
    return to


def check_layers(model: keras.Model) -> None:
    """Raise WrongConfiguration for layers of Keras that see only a worker's part of a batch."""
    import keras

    for layer in reversed(list(model._flatten_layers())):  # a layer before the one that contains it
        own = [v for v in layer.variables if v.name == "seed_generator_state"]
        norm = isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        if not (own or norm or layer.activity_regularizer is not None):
            continue
        what = "draws" if own else "takes statistics" if norm else "penalizes outputs"
        raise WrongConfiguration(
            f"{model.name}: {layer.name}, a {type(layer).__name__} of Keras, {what} for a worker's part of a "
            "batch alone; use the layers of zoo.layers, train on JAX, or on one worker"
        )


def find_device(devices: list[Device], name: str) -> Device:
    """The device of that name ("cuda" means "cuda:0"). Raises BackendError that names the existing ones."""
    for device in devices:
        if name.lower() in (device.name, device.name.removesuffix(":0")):
            return device
    raise BackendError(f"no device {name!r}; there are: {', '.join(d.name for d in devices)}")


def processor() -> str:
    """The model name of the processor, if the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores() -> int:
    """The number of processors available to this process; on macOS and Windows, to the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def host_memory() -> int:
    """The peak memory of this process so far, in bytes."""
    if sys.platform == "win32":
        raise BackendError("peak memory is read from getrusage, which Windows does not have; use WSL")
    try:  # Linux: getrusage includes the parent's peak
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


@contextmanager
def without_tensorflow() -> Iterator[None]:
    """A context in which Keras serializes objects without importing TensorFlow to check their types.

    Keras has no public option for this: the flag is private, and without it TensorFlow is imported.
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


@contextmanager
def tensorboard_stub() -> Iterator[None]:
    """A context in which tensorboard uses its own stub for TensorFlow, unless TensorFlow is imported already.

    Otherwise it imports TensorFlow where that is installed; the existence of this module is its switch.
    """
    name = "tensorboard.compat.notf"
    stubbed = "tensorflow" not in sys.modules and name not in sys.modules
    if stubbed:
        sys.modules[name] = ModuleType(name)
    try:
        yield
    finally:
        if stubbed:
            del sys.modules[name]


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
    """The framework's canonical name. Raises BackendError, in the name of `who`, unless it is installed."""
    name = ALIASES.get(name.lower(), name.lower())
    if name not in NAMES:
        raise BackendError(f"{who}: no backend {name!r}; {nearest(name, NAMES)}")
    if name != _running() and name not in installed():  # in this order: looking for a package is slow
        raise BackendError(f"{who}: {name} is not installed. {_how_to_install(name)}")
    return name


def _how_to_install(name: str) -> str:
    return f'To install it: pip install "keras-zoo-parity[{name}]"'


def _keras_json() -> str | None:
    try:
        folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
        return json.loads((folder / "keras.json").read_text()).get("backend")
    except (OSError, ValueError, RuntimeError):  # the last without a home
        return None
