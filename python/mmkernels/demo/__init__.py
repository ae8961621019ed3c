"""The main job: learn handwritten digits on this machine, then draw new ones (``mmkernels demo``).

Offline, on scikit-learn's 1,797 digits of 8x8 pixels: LeNet-5 learns to read them, a class-conditional diffusion model
learns to draw them, and two classifiers judge the drawings. Everything that reaches a result comes from mmkernels
operators, exact elementwise arithmetic and Philox, so a seed gives the same digits.npz on every machine.

>>> from mmkernels.demo import FULL, QUICK
>>> FULL.train_steps > QUICK.train_steps
True
"""

from .job import Report, run
from .settings import FULL, QUICK, Settings

__all__ = ["FULL", "QUICK", "Report", "Settings", "run"]
