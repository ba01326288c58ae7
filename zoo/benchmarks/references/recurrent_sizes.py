"""The sizes of the recurrent references: the zoo's, and the gates of torch's cells."""

VOCABULARY, EMBEDDING, WIDTH, CLASSES = 259, 64, 128, 20
GATES = {"lstm": 4, "gru": 3, "birnn": 4}


def shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Of each weight by its name in the zoo."""
    ways, gates = ("forward", "backward") if model == "birnn" else ("forward",), GATES[model] * WIDTH
    named: dict[str, tuple[int, ...]] = {"embedding/table": (VOCABULARY, EMBEDDING)}
    for name in (f"layer1_{way}" for way in ways):
        named |= {f"{name}/kernel": (EMBEDDING, gates), f"{name}/recurrent_kernel": (WIDTH, gates)}
        named |= {f"{name}/bias": (gates,), f"{name}/recurrent_bias": (gates,)}
    return {**named, "head/kernel": (len(ways) * WIDTH, CLASSES), "head/bias": (CLASSES,)}
