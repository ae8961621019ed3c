"""Independent NumPy references: one function per operator, computed in the dtype of its operands.

Callers pass operands one precision up: float64 copies of float32, longdouble copies of float64.
"""
