"""A finding as a program that anybody can run with KERAS_BACKEND=..., without the zoo."""

from __future__ import annotations

import numpy as np

from zoo.hunt.cases import Array
from zoo.hunt.findings import Finding

PATTERNS = {
    "zeros": "np.zeros({shape})",
    "ones": "np.ones({shape})",
    "cos": "np.cos(np.arange({size})).reshape({shape})",
    "arange": "np.arange({size}.0).reshape({shape})",
}
FLOAT64 = """keras.config.set_floatx("float64")
keras.src.backend.common.dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"  # default: float32
"""
GRADIENT = """if keras.backend.backend() == "torch":
    f({at}.requires_grad_()).backward()
    print({at}.grad)
elif keras.backend.backend() == "jax":
    import jax
    print(jax.grad(f)({at}))
else:
    import tensorflow as tf
    with tf.GradientTape() as tape:
        tape.watch({at})
        value = f({at})
    print(tape.gradient(value, {at}))
"""
COMPILE = {
    "jit": ("import jax", "jax.jit({f})"),
    "xla": ("import tensorflow as tf", "tf.function({f}, jit_compile=True)"),
    "graph": ("import tensorflow as tf", "tf.function({f})"),
    "traced": ("from torch.fx.experimental.proxy_tensor import make_fx", "make_fx({f})({x})"),
    "compiled": ("import torch", "torch.compile({f})"),
}


def pattern(name: str, shape: tuple[int, ...]) -> Array:
    """An array that a program can write in a few words."""
    size = int(np.prod(shape))
    made = {"zeros": np.zeros, "ones": np.ones}
    flat = (
        made[name](size)
        if name in made
        else {"cos": np.cos, "arange": lambda x: x}[name](np.arange(float(size)))
    )
    return flat.reshape(shape)


def array_text(x: Array) -> str:
    """An array as an expression of Python."""
    shape = f"({', '.join(map(str, x.shape))}{',' if x.ndim == 1 else ''})"
    if x.dtype.kind == "f":
        for name, text in PATTERNS.items():
            if x.size > 2 and np.array_equal(pattern(name, x.shape).astype(x.dtype), x):
                return text.format(shape=shape, size=x.size).replace(
                    f".reshape({shape})", "" if x.ndim == 1 else f".reshape{shape}"
                )
    if 0 in x.shape:
        return f"np.zeros({shape})"
    text = repr(x.tolist()).replace("nan", "np.nan").replace("inf", "np.inf")
    return f"np.array({text})"


def program(finding: Finding) -> str:
    """The program that prints the value, or the gradient, on the backend that it is run with."""
    case, float64 = finding.case, finding.float64
    text = "import keras\nimport numpy as np\nfrom keras import layers, ops\n\n"
    text += FLOAT64 if float64 else ""
    for name, x in case.inputs.items():
        dtype = f', "{"float64" if float64 else "float32"}"' if x.dtype == np.float64 else ""
        dtype = f', "{x.dtype}"' if x.dtype.kind == "f" and x.dtype != np.float64 else dtype
        text += f"{name} = ops.convert_to_tensor({array_text(x)}{dtype})\n"
    for name, made in case.layers.items():
        text += f"{name} = {made}\n"
    if "gradient" in finding.kind:
        return text + _gradient(finding)
    if "compiled" in finding.kind or case.layers:
        return text + _function(finding)
    return text + "".join(f"{line}\n" for line in case.lines) + "print(y)\n"


def _function(finding: Finding) -> str:
    """The lines as a function: with layers it is called once to build them, and it may be compiled."""
    case, names = finding.case, ", ".join(finding.case.inputs)
    body = "".join(f"    {line}\n" for line in case.lines)
    text = f"def f({names}):\n{body}    return y\n{_weights(finding, f'f({names})')}print(f({names}))\n"
    if "compiled" not in finding.kind:
        return text
    mode = next(m for m in (label.partition(" ")[2] for label in finding.values) if m != "eager")
    imports, compiled = COMPILE[mode]
    return text + f"{imports}\nprint({compiled.format(f='f', x=names)}({names}))\n"


def _weights(finding: Finding, call: str) -> str:
    """The lines that give the layers their weights, once the call has built them."""
    if not finding.weights:
        return ""
    found = " + ".join(f"{name}.trainable_weights" for name in finding.case.layers)
    return f"{call}\nfor w in {found}:\n    w.assign(np.cos(np.arange(np.prod(w.shape))).reshape(w.shape))\n"


def _gradient(finding: Finding) -> str:
    """The gradient of the outputs' sum, each times a cosine, with respect to an input or a weight."""
    at, case = finding.where or case_floats(finding)[0], finding.case
    cosine = "np.cos(np.arange(np.prod(y.shape))).reshape(y.shape)"
    layer, _, name = at.rpartition(".")
    argument, start, indent = (at, "", "    ") if not layer else ("w", "w = weight.value\n", " " * 8)
    body = "".join(f"{indent}{line}\n" for line in case.lines) + f"{indent}return ops.sum(y * {cosine})\n"
    if not layer:
        text = f"def f({at}):\n{body}{_weights(finding, f'f({at})')}"
        return text + GRADIENT.format(at=at)
    plain = "".join(f"    {line}\n" for line in case.lines)
    names = ", ".join(case.inputs)
    text = f"def built({names}):\n{plain}{_weights(finding, f'built({names})')}"
    text += f'weight = next(w for w in {layer}.trainable_weights if w.name == "{name}")\n'
    text += f"def f({argument}):\n    with keras.StatelessScope(state_mapping=[(weight, w)]):\n"
    names = ", ".join(case.inputs)
    return text + body + start + GRADIENT.format(at="w").replace("w.requires_grad_()", "w") + ""


def case_floats(finding: Finding) -> list[str]:
    """The inputs of floats."""
    return [name for name, x in finding.case.inputs.items() if x.dtype.kind == "f"] or ["x"]
