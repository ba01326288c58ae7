"""The implementations of a model that are timed in turn: the zoo's, the reference's, Keras's."""

from __future__ import annotations

from dataclasses import dataclass

from zoo import backends
from zoo.benchmarks.references import find_module, shared_file

# By framework: the endings of the references' files, and the modes that they have.
LIBRARIES = {"torch": ("torch",), "tensorflow": ("tensorflow",), "jax": ("flax", "jax")}
MODES = {"torch": ("eager", "compiled"), "tensorflow": ("graph", "xla"), "jax": ("jit",)}


@dataclass(frozen=True)
class Implementation:
    """One way to run a model on a framework."""

    kind: str  # "zoo", "plain" (the reference), "keras"
    mode: str

    @property
    def name(self) -> str:
        return f"{self.kind} {self.mode}"


def list_implementations(model: str, backend: str, what: str) -> list[Implementation]:
    """The zoo's default mode first, then the modes of the reference if there is one, then Keras.

    Keras builds as the zoo does, and does not generate.
    """
    file = shared_file(model, *LIBRARIES[backend])
    if what == "build":
        plain = ["build"] if file else []
        return [Implementation("zoo", "build"), *(Implementation("plain", mode) for mode in plain)]
    modes = MODES[backend] if find_reference(model, backend) else ()
    if what == "generate":  # only Hugging Face's models do
        modes = modes[:1] if file == "transformers_torch" else ()
    ours = [Implementation("zoo", backends.MODES[backend][0])]
    keras = {"train": ["fit"], "infer": ["predict"]}.get(what, [])
    return [
        *ours,
        *(Implementation("plain", mode) for mode in modes),
        *(Implementation("keras", mode) for mode in keras),
    ]


def find_reference(model: str, backend: str) -> str | None:
    """The module of a model's reference on a backend, without importing it; None if there is none."""
    return find_module(model, *LIBRARIES[backend])
