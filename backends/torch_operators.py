"""Operators of PyTorch in a form that a graph can record: cuDNN's recurrences, GRU, and CTC's loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

# The last arguments of torch.lstm and torch.gru: biases, layers, dropout, training, both ways, batch first
RECURRENT = True, 1, 0.0, True, False, False
LSTM, GRU = 2, 3  # as cuDNN counts its recurrences


def has_cudnn(x: torch.Tensor) -> bool:
    """Whether cuDNN computes recurrences of this tensor."""
    return torch.version.hip is None and torch.backends.cudnn.is_acceptable(x)


# cuDNN's recurrences as operations: torch.lstm inspects its weights' memory, which a graph cannot record.
@torch.library.custom_op("zoo::cudnn", mutates_args=())
def cudnn(
    mode: int, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor | None, weights: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Outputs, last states, and the inputs of the backward pass: a reserve, and the packed weights."""
    weights = [weight.contiguous() for weight in weights]
    y, h, last, reserve, packed = torch._cudnn_rnn(
        x.contiguous(), weights, len(weights), None, h, c, *_cudnn_shape(mode, h)
    )
    return y, h, h.new_empty(0) if c is None else last, reserve, packed


def _cudnn_shape(mode: int, h: torch.Tensor) -> tuple[Any, ...]:
    """Units, no projection, one layer, steps first, no dropout, training, one way, not packed, no state."""
    return mode, h.shape[-1], 0, 1, False, 0.0, True, False, [], None


@cudnn.register_fake
def _cudnn_shapes(
    mode: int, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor | None, weights: list[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    del mode, weights
    last = h.new_empty(0) if c is None else torch.empty_like(h)
    kept = x.new_empty(0, dtype=torch.uint8), x.new_empty(0)
    return x.new_empty((*x.shape[:2], h.shape[-1])), torch.empty_like(h), last, *kept


@torch.library.custom_op("zoo::cudnn_backward", mutates_args=())
def _cudnn_backward(
    mode: int,
    x: torch.Tensor,
    h: torch.Tensor,
    c: torch.Tensor | None,
    weights: list[torch.Tensor],
    y: torch.Tensor,
    reserve: torch.Tensor,
    packed: torch.Tensor,
    upstream: list[torch.Tensor],
) -> list[torch.Tensor]:
    """The gradients of x, the weights, h and, where there is one, c; `upstream` those of y, h and c."""
    weights, x = [weight.contiguous() for weight in weights], x.contiguous()
    dy, dh, dc = [*(g.contiguous() for g in upstream), None][:3]
    outputs = (True, True, c is not None, True)
    dx, dh, dc, dw = torch.ops.aten._cudnn_rnn_backward(
        x, weights, len(weights), packed, h, c, y, dy, dh, dc, *_cudnn_shape(mode, h), reserve, outputs
    )
    dw = [each.clone() for each in dw]  # they lie in one piece of memory, which an operation may not return
    return [dx.contiguous(), *dw, dh, *([] if c is None else [dc])]


@_cudnn_backward.register_fake
def _cudnn_backward_shapes(
    mode: int,
    x: torch.Tensor,
    h: torch.Tensor,
    c: torch.Tensor | None,
    weights: list[torch.Tensor],
    *_: Any,
) -> list[torch.Tensor]:
    del mode
    return [t.new_empty(t.shape) for t in (x, *weights, h, *([] if c is None else [c]))]


def _cudnn_setup(ctx: Any, inputs: Any, output: Any) -> None:
    mode, x, h, c, weights = inputs
    ctx.mode, ctx.lstm = mode, c is not None
    y, _, _, reserve, packed = output
    ctx.save_for_backward(x, y, reserve, packed, *weights, h, *([c] if ctx.lstm else []))


def _cudnn_gradients(ctx: Any, dy: Any, dh: Any, dc: Any, *_: Any) -> tuple[Any, ...]:
    x, y, reserve, packed, *rest = ctx.saved_tensors
    *weights, h, c = rest if ctx.lstm else (*rest, None)
    upstream = [dy, dh, dc] if ctx.lstm else [dy, dh]
    dx, *found = _cudnn_backward(ctx.mode, x, h, c, weights, y, reserve, packed, upstream)
    return None, dx, found[4], found[5] if ctx.lstm else None, found[:4]


cudnn.register_autograd(_cudnn_gradients, setup_context=_cudnn_setup)


# A custom operation: in a recorded graph torch's would be a dozen for each step, called from Python.
@torch.library.custom_op("zoo::gru", mutates_args=())
def gru(x: torch.Tensor, h: torch.Tensor, weights: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and last state, as torch.gru, in inference."""
    return torch.gru(x, h, weights, *RECURRENT)


@gru.register_fake
def _gru_shapes(
    x: torch.Tensor, h: torch.Tensor, weights: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    del weights
    return x.new_empty((*x.shape[:2], h.shape[-1])), torch.empty_like(h)


# A custom operation: torch's reads the lengths, which are unknown while a graph is recorded.
@torch.library.custom_op("zoo::ctc_loss", mutates_args=())
def ctc(labels: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each example, (b,), and its gradient with respect to the logits, (b, t, classes)."""
    log_p = F.log_softmax(logits.double(), -1).transpose(0, 1)  # (t, b, classes)
    frames, lengths = [log_p.shape[0]] * log_p.shape[1], labels.count_nonzero(1).tolist()
    options = {"blank": 0, "zero_infinity": True}
    losses, alpha = torch.ops.aten._ctc_loss(log_p, labels, frames, lengths, **options)
    gradient = torch.ops.aten._ctc_loss_backward(
        torch.ones_like(losses), log_p, labels, frames, lengths, losses, alpha, **options
    )
    return losses.to(logits.dtype), gradient.transpose(0, 1).to(logits.dtype).contiguous()


@ctc.register_fake
def _ctc_shapes(labels: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    del labels
    return logits.new_empty(logits.shape[0]), logits.new_empty(logits.shape)


def _ctc_setup(ctx: Any, inputs: Any, output: Any) -> None:
    del inputs
    ctx.save_for_backward(output[1])


def _ctc_backward(ctx: Any, upstream: torch.Tensor, _: Any) -> tuple[None, torch.Tensor]:
    return None, upstream[:, None, None] * ctx.saved_tensors[0]


ctc.register_autograd(_ctc_backward, setup_context=_ctc_setup)
