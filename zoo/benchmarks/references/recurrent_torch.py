"""Recurrent classifiers the PyTorch way: nn.Embedding, nn.LSTM or nn.GRU, nn.Linear on the last state.

Texts (b, n) are padded at the end. In one direction, it is fastest to process the padding too and take the
state at each text's end. The backward direction must not start in the padding: torch uses packed sequences.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from zoo.benchmarks.references import Reference, choose

MODES = {"eager": lambda function: function, "compiled": torch.compile}
CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "birnn": nn.LSTM}
VOCABULARY, EMBEDDING, WIDTH, CLASSES = 259, 64, 128, 20

Texts = tuple[Tensor, Tensor]  # tokens (b, n), lengths (b,)
Arrays = Mapping[str, np.ndarray]


class Classifier(nn.Module):
    def __init__(self, model: str) -> None:
        super().__init__()
        self.directions = ("forward", "backward") if model == "birnn" else ("forward",)
        self.embedding = nn.Embedding(VOCABULARY, EMBEDDING)
        self.rnn = CELLS[model](EMBEDDING, WIDTH, batch_first=True, bidirectional=len(self.directions) > 1)
        self.head = nn.Linear(WIDTH * len(self.directions), CLASSES)

    def forward(self, texts: Texts) -> Tensor:
        tokens, lengths = texts
        x = self.embedding(tokens)  # (b, n, c)
        if len(self.directions) > 1:
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            _, (last, _) = self.rnn(packed)  # (2, b, u)
            return self.head(torch.cat([last[0], last[1]], -1))
        outputs, _ = self.rnn(x)  # (b, n, u)
        return self.head(outputs[torch.arange(len(tokens)), lengths - 1])  # (b, classes)


def reference(model: str) -> Reference:
    make = partial(Classifier, model)
    return Reference(prepare, partial(trainer, make), partial(predictor, make), make, layout="zoo")


def prepare(x: np.ndarray, y: np.ndarray) -> tuple[Texts, Tensor]:
    return (torch.tensor(x), torch.tensor((x > 0).sum(1))), torch.tensor(y, dtype=torch.int64)


def trainer(
    make: Callable[[], Classifier],
    weights: Arrays,
    *,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    mode: str = "eager",
) -> tuple[Callable[[Texts, Tensor], Tensor], Callable[[], dict[str, np.ndarray]]]:
    model = load(make(), weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    cross_entropy = choose(mode, MODES)(lambda x, y: F.cross_entropy(model(x), y))

    def step(x: Texts, y: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(x, y)
        loss.backward()
        optimizer.step()
        return loss.detach()  # .item() would wait for the device

    return step, lambda: read(model)


def predictor(
    make: Callable[[], Classifier], weights: Arrays, *, mode: str = "eager"
) -> Callable[[Texts], Tensor]:
    model = choose(mode, MODES)(load(make(), weights).eval())

    @torch.inference_mode()
    def predict(x: Texts) -> Tensor:
        return model(x)

    return predict


def names(model: Classifier) -> dict[str, Tensor]:
    """The parameters by the zoo's names; all matrices but the table are transposed in the zoo."""
    named = {"embedding/table": model.embedding.weight}
    ours = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")
    for direction, theirs in zip(model.directions, model.rnn.all_weights, strict=True):
        named |= {f"layer1_{direction}/{name}": weight for name, weight in zip(ours, theirs, strict=True)}
    return named | {"head/kernel": model.head.weight, "head/bias": model.head.bias}


@torch.no_grad()
def load(model: Classifier, weights: Arrays) -> Classifier:
    for name, parameter in names(model).items():
        array = weights[name] if name.endswith("table") else weights[name].T
        parameter.copy_(torch.tensor(np.array(array)))
    return model


def read(model: Classifier) -> dict[str, np.ndarray]:
    arrays = {name: parameter.numpy(force=True) for name, parameter in names(model).items()}
    return {name: np.array(x if name.endswith("table") else x.T) for name, x in arrays.items()}
