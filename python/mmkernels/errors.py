"""What mmkernels raises. A message names the operator, the operand, what was found and what was wanted."""

__all__ = ["BackendError", "ContractError", "ContractTypeError"]


class ContractError(ValueError):
    """An extent, an attribute or a value breaks an operator's contract."""


class ContractTypeError(TypeError):
    """An operand is of a kind, a library or a dtype that the operator does not take."""


class BackendError(RuntimeError):
    """The device or the compiled part that a call needs is not there."""
