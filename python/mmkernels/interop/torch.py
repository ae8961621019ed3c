"""The torch door: tensors in, tensors out, on the CPU or a CUDA device, gradients through torch's own autograd.

Imported when an operator first meets a tensor. Gradients come from the same contracts as the tape's: the
vector-Jacobian product is evaluated on tensors, by operators, so torch can differentiate it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from numpy.typing import NDArray

from ..autograd import compose, vjp
from ..contract import Operand
from ..errors import BackendError, ContractTypeError
from ..operator import Operator, list_out, map_out
from . import device as devices

__all__ = ["TorchCuda", "call"]


def call(operator: Operator, operands: Sequence[Any], attributes: tuple[Any, ...], out: Any) -> Any:
    """Runs an operator on tensors (and Python numbers); differentiable if a tensor requires gradients."""
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
    for o in list_out(out):
        if not isinstance(o, torch.Tensor):
            raise ContractTypeError(f"{operator.name}: out is a {type(o).__name__}; expected a torch.Tensor")
        _check(operator, "out", o)
        if o.requires_grad and torch.is_grad_enabled():
            raise ContractTypeError(f"{operator.name}: out requires gradients; expected a tensor that does not")
    return _run(operator, operands, attributes, out)


def _run(operator: Operator, operands: Sequence[Any], attributes: tuple[Any, ...], out: Any) -> Any:
    """The operator alone, off torch's graph, where its operands are."""
    places = {o.device.type for o in [*operands, *list_out(out)] if o is not None}
    if len(places) > 1:
        raise ContractTypeError(f"{operator.name}: operands on {' and '.join(sorted(places))}; expected one device")
    if places == {"cuda"}:
        given = [None if o is None else o.detach().resolve_conj().resolve_neg() for o in operands]
        return devices.call(operator, "torch", given, attributes, out)
    if out is not None:
        operator.call(*map(_to_numpy, operands), *attributes, map_out(_to_numpy, out))
        return out
    result = operator.call(*map(_to_numpy, operands), *attributes, None)
    return tuple(map(torch.from_numpy, result)) if isinstance(result, tuple) else torch.from_numpy(result)


def _check(operator: Operator, name: str, tensor: torch.Tensor) -> None:
    if tensor.device.type not in ("cpu", "cuda"):
        raise BackendError(f"{operator.name}: {name} is on {tensor.device}; expected a CPU or a CUDA tensor")
    if tensor.layout is not torch.strided:
        raise ContractTypeError(f"{operator.name}: {name} has layout {tensor.layout}; expected a dense tensor")
    if tensor.dtype is torch.bfloat16 and tensor.device.type == "cpu":  # NumPy has no such dtype to view it as
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
        result = _run(operator, operands, attributes, None)
        outputs = result if isinstance(result, tuple) else (result,)
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


_DTYPES = {
    name: getattr(torch, name)
    for name in ("float32", "float64", "float16", "bfloat16", "int32", "int64", "uint8", "bool", "uint32", "uint64")
    if hasattr(torch, name)
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class TorchCuda:
    """mmkernels.interop.device.Library for CUDA tensors: torch's current stream, memory of its caching allocator."""

    def __init__(self, floor: ModuleType) -> None:
        self.floor = floor

    def see(self, x: Any) -> Operand:
        """Shape, strides in elements, dtype name."""
        return Operand(tuple(x.shape), x.stride(), _NAMES.get(x.dtype, str(x.dtype)))

    def address(self, x: Any) -> int:
        """Of the first element."""
        return int(x.data_ptr())

    def device(self, x: Any) -> int:
        """The number of the device."""
        return int(x.device.index)

    def stream(self, device: int) -> int:
        """The current stream's handle."""
        return int(torch.cuda.current_stream(device).cuda_stream)

    def empty(self, wanted: Operand, device: int) -> Any:
        """A new tensor, not initialised."""
        dtype = _DTYPES[wanted.dtype]
        return torch.empty_strided(wanted.shape, wanted.strides, dtype=dtype, device=torch.device("cuda", device))

    def from_numpy(self, x: NDArray[Any], like: Any) -> Any:
        """A copy on the device of `like`."""
        return torch.from_numpy(x if x.flags.writeable else x.copy()).to(like.device)

    def to_numpy(self, x: Any) -> NDArray[Any]:
        """A copy on the host."""
        return x.detach().cpu().numpy()  # type: ignore[no-any-return]
