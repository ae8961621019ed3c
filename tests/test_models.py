"""Models: sizes, names, batches, and that they learn."""

import numpy as np
import pytest

from mmkernels import nn, optim
from mmkernels.autograd import Variable
from mmkernels.models import LeNet5, UNet


def some(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def noisy_unet():
    """A small U-Net whose last convolutions are not zero, so that everything reaches the result."""
    model = UNet(channels=8, seed=1)
    for i, p in enumerate(model.parameters()):
        p.data += 0.1 * some(i, *p.shape)
    return model


def test_lenet_has_the_papers_layers():
    model = LeNet5()
    sizes = {name: p.data.size for name, p in model.named_parameters() if name.endswith("weight")}
    assert list(sizes.values()) == [6 * 25, 16 * 6 * 25, 120 * 16 * 25, 84 * 120, 10 * 84]
    x, maps = some(0, 1, 1, 32, 32), []
    for layer in model.features:
        x = layer(x)
        maps.append(x.shape[1:])
    assert maps == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (120, 1, 1), (120,)]


def test_lenet_learns_eight_pictures():
    model, x, labels = LeNet5(seed=2), some(1, 8, 1, 32, 32), np.arange(8)
    optimizer = optim.Adam(model.parameters(), 2e-3)
    losses = []
    for _ in range(30):
        loss = nn.cross_entropy(model(Variable(x)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5 and losses[-1] < 0.1
    assert (model(x).argmax(1) == labels).all()


def test_unet_starts_at_zero_and_has_its_size():
    model = UNet()
    x = some(0, 3, 1, 8, 8)
    assert (model(x, np.array([0, 500, 999]), np.array([0, 9, model.null_class])) == 0).all()
    count = sum(p.data.size for p in model.parameters())
    assert 300_000 <= count <= 500_000, count


@pytest.mark.parametrize("size", [(8, 8), (4, 12)])
def test_unet_takes_any_even_picture(size):
    model = noisy_unet()
    assert model(some(0, 2, 1, *size), np.array([1, 2]), np.array([0, 1])).shape == (2, 1, *size)


def test_every_sample_is_its_own():
    """A picture's prediction has the same bits alone and in a batch, and depends on its time and class."""
    model = noisy_unet()
    x, t, labels = some(0, 4, 1, 8, 8), np.array([3, 3, 900, 3]), np.array([1, 10, 1, 1])
    x[1:] = x[0]
    y = model(x, t, labels)
    assert (y[0] == y[3]).all() and (y[0] != y[1]).any() and (y[0] != y[2]).any()
    for i in range(4):
        assert (model(x[i : i + 1], t[i : i + 1], labels[i : i + 1]) == y[i : i + 1]).all()


def test_every_parameter_of_the_unet_gets_a_gradient():
    model = noisy_unet()
    y = model(Variable(some(0, 2, 1, 8, 8)), np.array([3, 700]), np.array([1, 10]))
    nn.mse_loss(y, some(1, 2, 1, 8, 8)).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and np.isfinite(p.grad).all() and (p.grad != 0).any(), name


def test_null_class_is_the_last_row():
    model = UNet(num_classes=4, channels=8)
    assert model.null_class == 4 and model.classes.weight.shape[0] == 5
