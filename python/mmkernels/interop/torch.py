"""The torch door: CPU tensors in, CPU tensors out, gradients through torch's own autograd.

Imported when an operator first meets a tensor. Gradients come from the same contracts as the tape's: the
vector-Jacobian product is evaluated on tensors, by operators, so torch can differentiate it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..autograd import compose, vjp
from ..errors import BackendError, ContractTypeError
from ..operator import Operator

__all__ = ["call"]


def call(operator: Operator, operands: Sequence[Any], attributes: tuple[Any, ...], out: Any) -> Any:
    """Runs an operator on CPU tensors (and Python numbers); differentiable if a tensor requires gradients."""
    for argument, o in zip(operator.contract.inputs, operands, strict=True):
        if isinstance(o, torch.Tensor):
            _check(operator, argument.name, o)
    operands = operator.without_scalars(operands)
    if torch.is_grad_enabled() and any(o is not None and o.requires_grad for o in operands):
        if out is not None:
            raise ContractTypeError(f"{operator.name}: out= was given; expected none, as an operand requires gradients")
        names = operator.names(tuple(operands), attributes)
        if operator.composed(names):
            return compose(operator, operands, names)
        if operator.contract.vjp:
            result = _Call.apply(operator, attributes, *operands)
            return result if len(result) > 1 else result[0]
    if out is not None:
        if not isinstance(out, torch.Tensor):
            raise ContractTypeError(f"{operator.name}: out is a {type(out).__name__}; expected a torch.Tensor")
        _check(operator, "out", out)
        if out.requires_grad and torch.is_grad_enabled():
            raise ContractTypeError(f"{operator.name}: out requires gradients; expected a tensor that does not")
        operator.call(*map(_to_numpy, operands), *attributes, _to_numpy(out))
        return out
    result = operator.call(*map(_to_numpy, operands), *attributes, None)
    return tuple(map(torch.from_numpy, result)) if isinstance(result, tuple) else torch.from_numpy(result)


def _check(operator: Operator, name: str, tensor: torch.Tensor) -> None:
    if tensor.device.type != "cpu":
        raise BackendError(f"{operator.name}: {name} is on {tensor.device}; expected a CPU tensor")
    if tensor.layout is not torch.strided:
        raise ContractTypeError(f"{operator.name}: {name} has layout {tensor.layout}; expected a dense tensor")
    if tensor.dtype in (torch.bfloat16,):  # NumPy has no such dtype to view it as
        raise ContractTypeError(f"{operator.name}: {name}.dtype is {tensor.dtype}; expected float32 or float64")


def _to_numpy(o: Any) -> Any:
    """The same memory as a NumPy array; lazily negated or conjugated tensors are resolved first."""
    if o is None:
        return None
    return o.detach().resolve_conj().resolve_neg().numpy()


class _Call(torch.autograd.Function):
    """One operator call on torch's graph; the contract says how to go back."""

    @staticmethod
    def forward(ctx: Any, operator: Operator, attributes: tuple[Any, ...], *operands: Any) -> Any:
        result = operator.call(*map(_to_numpy, operands), *attributes, None)
        arrays = result if isinstance(result, tuple) else (result,)
        outputs = tuple(map(torch.from_numpy, arrays))
        ctx.operator, ctx.attributes = operator, attributes
        ctx.present = [o is not None for o in operands]
        ctx.save_for_backward(*[o for o in operands if o is not None], *outputs)
        ctx.mark_non_differentiable(*[y for y in outputs if not y.is_floating_point()])
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        saved = list(ctx.saved_tensors)
        operands = [saved.pop(0) if present else None for present in ctx.present]
        names = ctx.operator.names(tuple(operands), ctx.attributes)
        wanted = list(ctx.needs_input_grad[2:])
        back = vjp(ctx.operator, operands, saved, gradients, wanted, names)
        return (None, None, *back)
