"""Models: compositions of the operators, one file each."""

from .lenet import LeNet5
from .unet import UNet

__all__ = ["LeNet5", "UNet"]
