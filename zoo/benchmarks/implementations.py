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
    """The zoo's default mode, the modes of the reference if there is one, the zoo's other modes, Keras.

    Keras builds as the zoo does, and does not generate; generation has one mode.
    """
    file = shared_file(model, *LIBRARIES[backend])
    if what == "build":
        plain = ["build"] if file else []
        return [Implementation("zoo", "build"), *(Implementation("plain", mode) for mode in plain)]
    modes = MODES[backend] if find_reference(model, backend) else ()
    first, *others = backends.MODES[backend]
    if what == "generate":  # only Hugging Face's models do
        modes, others = modes[:1] if file == "transformers_torch" else (), []
    keras = {"train": ["fit"], "infer": ["predict"]}.get(what, [])
    kinds = {"plain": modes, "zoo": others, "keras": keras}
    return [
        Implementation("zoo", first),
        *(Implementation(kind, mode) for kind, named in kinds.items() for mode in named),
    ]


def find_reference(model: str, backend: str) -> str | None:
    """The module of a model's reference on a backend, without importing it; None if there is none."""
    return find_module(model, *LIBRARIES[backend])
