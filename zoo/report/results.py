"""The results of `zoo.compare`, `zoo.parity` and `zoo.bench`, field by field.

They are JSON objects; a number that is not finite is null in the files. docs/result.md is written from these
classes by `python docs/_results.py`.
"""

from typing import Literal, NotRequired, TypedDict

Number = float | None  # None: not measured, or in a file a number that is not finite


class Environment(TypedDict):
    """The machine and the software."""

    platform: str
    """the operating system, as it names itself"""
    python: str
    """the version of Python"""
    processor: str
    """the processor, as the operating system names it"""
    cores: int
    """processors that this process may use"""
    threads: int
    """CPU threads of each run"""
    memory_gb: Number
    """memory of the machine, in GB of 2^30 bytes"""
    versions: dict[str, str]
    """the versions of installed packages, by package"""
    devices: dict[str, str]
    """by framework: `cpu`, or the accelerator's name"""


# A comparison


class Baseline(TypedDict):
    """The result of a non-neural method on a task."""

    method: str
    """the method, in words"""
    metric: str
    """a metric of the task"""
    value: float
    """the metric on the held-out examples"""


class Recipe(TypedDict):
    """How a model was trained."""

    optimizer: str
    """the optimizer with its settings"""
    epochs: int | None
    """passes over the data; null if `steps` were given instead"""
    batch_size: int | None
    """examples per step; null if every run failed"""
    steps: int | None
    """steps of the whole training; null if every run failed"""


class Definition(TypedDict):
    """The source code of a model."""

    file: str
    """the path in the repository"""
    code: str
    """Python source"""


class Drift(TypedDict):
    """How far one run differs from itself under 1-ulp perturbations of its initial weights."""

    run: str
    """the run, as `backend/engine/mode`"""
    runs: int
    """perturbed runs"""
    losses: float
    """the largest difference of a loss, absolute"""


class ModelResult(TypedDict):
    """A model, its task and its recipe."""

    name: str
    """as in `zoo list`; `runs` and `differences` refer to it"""
    paper: str
    """the source"""
    url: str | None
    """the URL of the source"""
    idea: str
    """the idea in one line"""
    parameters: int
    """trainable parameters"""
    multiply_adds: int
    """multiply-adds of the forward pass of one example"""
    task: str
    """the data set, as in `zoo train --task`"""
    metric: str | None
    """the main metric of the task, a name in `metrics` of a run; null if every run failed"""
    seed: int
    """seed of the initial weights, the order of batches, dropout and augmentation"""
    baseline: Baseline | None
    """the non-neural baseline of the task, if it has one"""
    recipe: Recipe
    """how it was trained"""
    definition: Definition
    """its source code"""
    drift: NotRequired[Drift]
    """only if losses differ by more than their bound"""
    bounds: NotRequired[dict[str, float]]
    """bounds that replace those of `zoo.ladder.bounds.BOUNDS`, by name; beside a `drift`, five times it"""


class WorkersResult(TypedDict):
    """A run on several processes (scale.md), beside the same one of one process."""

    count: int
    """how many there were"""
    losses: Number
    """the largest difference of a step's loss from that of one process, relative to it"""
    equal_weights: bool
    """whether the trained weights of all were the same to the bit"""


class RunResult(TypedDict):
    """A training run of a model, framework, engine and mode. If it failed, optional fields may be missing."""

    model: str
    """a `name` of `models`"""
    backend: str
    """the framework: `torch`, `tensorflow` or `jax`"""
    engine: Literal["keras", "native"]
    """`keras` is `compile` and `fit`, `native` the framework's own loop"""
    mode: str
    """how a step is executed: `fit`, `traced`, `eager`, `compiled`, `jit`, `graph` or `xla`"""
    error: str | None
    """null, or one line such as `ImportError: ...`"""
    hash: NotRequired[str | None]
    """of an exact run: the SHA-256 of its weights, losses and held-out logits, else null"""
    losses: NotRequired[list[Number]]
    """the mean loss over the batch before the update of each step, in order"""
    metrics: NotRequired[dict[str, Number]]
    """on the held-out examples after training, by name, e.g. `accuracy` (0 to 1) and `loss`"""
    steps: NotRequired[int]
    """steps of the training run"""
    batch_size: NotRequired[int]
    """examples per step"""
    step_ms: NotRequired[Number]
    """median time of a step in milliseconds, without the first"""
    step_ms_quartiles: NotRequired[list[Number]]
    """first and third quartile of the time of a step in milliseconds"""
    examples_per_second: NotRequired[Number]
    """examples per second, at the median time of a step"""
    compile_s: NotRequired[Number]
    """the part of the first step that was tracing and compilation, in seconds"""
    first_step_s: NotRequired[Number]
    """time of the first step in seconds, including compilation"""
    train_s: NotRequired[Number]
    """time of the training run in seconds, including the first step"""
    peak_mb: NotRequired[Number]
    """peak memory of the process, including the framework, in MB of 2^20 bytes"""
    version: NotRequired[str]
    """the version of the framework"""
    device: NotRequired[str]
    """`cpu`, or the accelerator's name"""
    code: NotRequired[str]
    """Python source of the training loop"""
    workers: NotRequired[WorkersResult]
    """of `workers=`: the same run on so many processes"""


class LayerDifference(TypedDict):
    """A layer whose outputs before training differ by more than the bound."""

    layer: str
    """the name of the layer"""
    difference: Number
    """relative to the largest output"""


class PairResult(TypedDict):
    """The largest differences of two runs of the same model; they are symmetric."""

    model: str
    """a `name` of `models`"""
    a: str
    """a run, as `backend/engine/mode`"""
    b: str
    """another run"""
    initial_weights: Number
    """absolute; bound: 0, bit-for-bit equal"""
    outputs: Number
    """of the logits before training, relative to the largest; bound: 1e-5"""
    losses: Number
    """absolute, over all steps; bound: 1e-5, or the model's own"""
    final_weights: Number
    """absolute, after training; no bound"""
    predictions: int
    """held-out examples that the two runs classify differently; no bound"""
    first_layer: LayerDifference | None
    """the first layer, in the order of the forward pass, whose outputs differ"""


class ComparisonResult(TypedDict):
    """The result of `zoo.compare`: result.json."""

    zoo: str
    """the version of this package"""
    created: str
    """the end of the comparison: ISO 8601 with the offset from UTC"""
    models: list[ModelResult]
    """one object per model"""
    runs: list[RunResult]
    """one object per model, framework, engine and mode"""
    differences: list[PairResult]
    """one object per pair of finished runs of the same model"""
    environment: Environment
    """the machine and the software"""


# The parity ladder


class RungResult(TypedDict):
    """A rung that was run."""

    number: int
    """1 to 11"""
    name: str
    """one word"""
    claim: str
    """what is compared, and how"""
    float32: float | None
    """the bound in float32; null: five times the chaos floor"""
    float64: float
    """the bound in float64"""


class Location(TypedDict):
    """Where the results of two frameworks first differ."""

    layer: str
    """the first layer in the order of the forward pass, or from the loss backwards"""
    difference: Number
    """the difference, as the rung's claim defines it"""
    suspect: NotRequired[str]
    """the operation that is likely to cause it"""
    cause: NotRequired[str]
    """the likely cause in a word or two, `epsilon` for example, if recomputing with it gives both outputs"""
    explanation: NotRequired[str]
    """the cause in words, with both values"""
    rounding: NotRequired[Number]
    """how far 1-ulp perturbations of weights and inputs move the value, relative to its largest"""
    index: NotRequired[list[int]]
    """the position of the largest difference"""
    a: NotRequired[float | str]
    """the value of `a` there, or its shape if the shapes differ"""
    b: NotRequired[float | str]
    """the value of `b` there, or its shape"""


class ParityRow(TypedDict):
    """One comparison: a model, a float type, a rung and a pair of frameworks."""

    model: str
    """a name of `models`"""
    dtype: Literal["float32", "float64", "bfloat16", "mixed_bfloat16", "mixed_float16", "tf32"]
    """the float type; on rung 11 the number format"""
    rung: int
    """the number of the rung; 0, too, if a process crashed"""
    name: str
    """the name of the rung; `process` if a process crashed"""
    a: str
    """a framework"""
    b: str
    """another framework, or `a` again where results of one framework are compared"""
    measured: Number
    """the largest difference, as the rung's claim defines it"""
    bound: float | None
    """the bound of `measured`"""
    verdict: Literal["holds", "fails", "gap", "closed"]
    """`gap`: fails, and is in `zoo.ladder.bounds.GAPS`; `closed`: is listed there but holds, a failure too"""
    where: Location | None
    """null if the row holds"""
    chaos: float | None
    """the chaos floor, in float32 on rungs 5, 7 and 8"""
    reason: str | None
    """the reason of a known gap, with its upstream issue"""
    error: str | None
    """the error that ended the process of framework `a` (rung 0), else null"""


class ParityResult(TypedDict):
    """The result of `zoo.parity`: parity.json."""

    zoo: str
    """the version of this package"""
    created: str
    """the end of the run: ISO 8601 with the offset from UTC"""
    backends: list[str]
    """the frameworks"""
    models: list[str]
    """the models"""
    rungs: list[RungResult]
    """the rungs that were run"""
    rows: list[ParityRow]
    """one object per model, float type, rung and pair of frameworks"""
    notes: dict[str, list[str]]
    """by model: what was done to make the frameworks comparable, and what was not compared, in words"""
    environment: Environment
    """the machine and the software"""


class FaultRow(TypedDict):
    """One injected fault (`zoo parity --faults`); the first row is without one."""

    fault: str | None
    """the fault, in words; null for none"""
    rung: int | None
    """the rung that should detect it"""
    caught: int | None
    """the first rung that detected it; null if none did"""
    measured: Number
    """the difference on that rung"""
    bound: float | None
    """its bound"""
    where: str | None
    """the first layer that differs"""
    suspect: str | None
    """the operation that is likely to cause it"""
    cause: str | None
    """the cause that was recomputed, in a word or two; null if none was"""
    explanation: str | None
    """the cause in words, with both values"""
    error: str | None
    """the error that ended the process, or null"""


# Benchmarks


class BenchmarkRow(TypedDict):
    """One implementation of one model on one framework (`zoo.bench`)."""

    model: str
    """as in `zoo list`"""
    backend: str
    """the framework: `torch`, `tensorflow` or `jax`"""
    device: str | None
    """as it was given; null: the first that the framework finds"""
    threads: int
    """CPU threads"""
    what: Literal["train", "infer", "generate", "build"]
    """the kind of work"""
    contestant: str
    """the implementation, e.g. `zoo traced`, `plain eager`, `keras fit`"""
    error: str | None
    """the error that ended the process, or null"""
    batch_size: NotRequired[int]
    """examples per step; not of `build`"""
    rounds: NotRequired[int]
    """bursts of steps per implementation; not of `build`"""
    burst: NotRequired[int]
    """steps per burst; not of `build`"""
    step_ms: NotRequired[float]
    """median time of a step in milliseconds; not of `build`"""
    step_ms_quartiles: NotRequired[list[float]]
    """first and third quartile of the time of a step in milliseconds; not of `build`"""
    compile_s: NotRequired[float]
    """seconds by which the first step takes longer than a later one; not of `build`"""
    loss: NotRequired[float | None]
    """after a burst of steps, null for inference; not of `build`"""
    build_s: NotRequired[float]
    """median time to build the model in seconds; of `build` alone"""
    build_s_quartiles: NotRequired[list[float]]
    """first and third quartile of the time to build in seconds; of `build` alone"""
    ratio: NotRequired[float | None]
    """to the plain implementation's first mode beside it, the median over bursts; null without one"""
    ratio_fastest: NotRequired[float | None]
    """to the plain implementation's fastest mode; null without one"""
    peak_mb: NotRequired[float | None]
    """peak memory of the process in MB of 2^20 bytes"""
