"""Modules: names, weights and their bits, the tape, files."""

import sys

import numpy as np
import pytest

import mmkernels as mmk
from mmkernels import BackendError, ContractError, nn
from mmkernels.autograd import Variable, no_grad
from mmkernels.ops import conv
from mmkernels.verify import random_words


def some(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def small_model():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))


def test_names_and_shapes_are_pytorchs():
    model = small_model()
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        "0.weight": (4, 1, 3, 3), "0.bias": (4,), "4.weight": (3, 16), "4.bias": (3,)
    }  # fmt: skip
    assert [name for name, _ in model.named_modules()] == ["", "0", "1", "2", "3", "4"]
    assert nn.Embedding(5, 2).weight.shape == (5, 2)
    assert nn.LayerNorm((3, 4)).weight.shape == (3, 4)
    assert nn.Conv2d(6, 4, (3, 5), groups=2, bias=False).weight.shape == (4, 3, 3, 5)
    assert list(nn.Conv2d(6, 4, 1, bias=False).state_dict()) == ["weight"]
    assert list(nn.GroupNorm(2, 4, affine=False).state_dict()) == []


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions_of_every_kind(dims):
    """Shapes and state keys are PyTorch's; a call is the function's, and training reaches every parameter."""
    kernel, x = (3, 2, 1)[:dims], np.random.default_rng(0).standard_normal((2, 6, *(5, 4, 3)[:dims])).astype(np.float32)
    layer = getattr(nn, f"Conv{dims}d")(6, 4, kernel, stride=2, padding=1, groups=2, activation="silu").initialize(1)
    assert layer.weight.shape == (4, 3, *kernel) and layer.bias.shape == (4,)
    found = getattr(conv, f"conv{dims}d")(x, layer.weight.data, layer.bias.data, 2, 1, 1, 2, activation="silu")
    assert (layer(x) == found).all() and "stride=2, padding=1, groups=2, activation=silu" in repr(layer)
    up = getattr(nn, f"ConvTranspose{dims}d")(6, 4, kernel, 2, 1, 1, 2, dilation=3).initialize(1)
    assert up.weight.shape == (6, 2, *kernel) and up.bias.shape == (4,)
    found = getattr(conv, f"conv_transpose{dims}d")(x, up.weight.data, up.bias.data, 2, 1, 1, 2, 3)
    assert (up(x) == found).all() and "output_padding=1, dilation=3, groups=2" in repr(up)
    bound = 1 / np.sqrt(2 * np.prod(kernel))  # PyTorch counts what one element of the input reaches
    assert 0.7 * bound < np.abs(up.weight.data).max() <= bound
    y = up(Variable(x))
    (y * y).sum().backward()
    assert all(p.grad is not None and np.abs(p.grad).max() > 0 for p in (up.weight, up.bias))
    with pytest.raises(
        ContractError, match=f"ConvTranspose{dims}d: kernel_size is .*; expected one integer, or {dims}"
    ):
        getattr(nn, f"ConvTranspose{dims}d")(6, 4, (3,) * 4)


def test_weights_are_philox_words_of_seed_and_name():
    model = small_model().initialize(seed=5)

    def fold(key, data):  # philox_fold_in by definition: counter (data, 0, 1)
        low, high = 0xFFFFFFFF, 32
        c, k = [data & low, data >> high, 0, 1], [key & low, key >> high]
        for _ in range(10):
            p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
            c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & low, (p0 >> 32) ^ c[3] ^ k[1], p0 & low]
            k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
        return c[0] | c[1] << 32

    name = 0xCBF29CE484222325
    for byte in b"4.weight":
        name = (name ^ byte) * 0x100000001B3 % 2**64
    unit = (random_words(fold(5, name), 48) & np.uint32(0xFFFFFF)).astype(np.float64) * 2.0**-24
    expected = ((2 * unit - 1).astype(np.float32) * np.float32(1 / np.sqrt(16))).reshape(3, 16)
    assert (model.state_dict()["4.weight"] == expected).all()


def test_initialisation_depends_on_seed_and_name_alone():
    small_model()  # layers made before change nothing
    first, second = small_model().initialize(3).state_dict(), small_model().initialize(3).state_dict()
    other = small_model().initialize(4).state_dict()
    for key, value in first.items():
        assert (value == second[key]).all() and (value != other[key]).any()
    fresh = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    assert (fresh[0].weight.data != fresh[1].weight.data).any(), "layers of equal shape start equal"


def test_initial_distributions():
    layer = nn.Conv2d(8, 32, 3, groups=2).initialize(0)
    bound = 1 / np.sqrt(4 * 9)
    for p in (layer.weight.data, layer.bias.data):
        assert np.abs(p).max() <= bound and np.abs(p).max() > 0.9 * bound
    assert abs(layer.weight.data.mean()) < 4 * bound / np.sqrt(3 * layer.weight.data.size)
    table = nn.Embedding(100, 50).initialize(0).weight.data
    assert abs(table.mean()) < 4 / np.sqrt(5000) and abs(table.std() - 1) < 0.05
    norm = nn.GroupNorm(2, 4)
    assert (norm.weight.data == 1).all() and (norm.bias.data == 0).all()


def test_loading_names_every_fault_and_then_changes_nothing():
    model = small_model()
    before = {k: v.copy() for k, v in model.state_dict().items()}
    state = {k: v + 1 for k, v in before.items()}
    del state["0.bias"]
    state["4.bias"] = np.zeros(4, np.float32)
    state["9.weight"] = np.zeros(1, np.float32)
    with pytest.raises(ContractError) as error:
        model.load_state_dict(state)
    assert str(error.value) == (
        "load_state_dict: missing: 0.bias; unexpected: 9.weight; misshaped: 4.bias is (4,), expected (3,)"
    )
    assert all((v == before[k]).all() for k, v in model.state_dict().items())
    model.load_state_dict({k: (v + 1).astype(np.float64) for k, v in before.items()})
    assert all((v == before[k] + 1).all() and v.dtype == np.float32 for k, v in model.state_dict().items())


def test_arrays_infer_and_variables_record():
    model, x = small_model().initialize(1), some(0, 2, 1, 4, 4)
    y = model(x)
    assert type(y) is np.ndarray
    recorded = model(Variable(x))
    assert isinstance(recorded, Variable) and recorded.requires_grad and (recorded.data == y).all()
    with no_grad():
        assert not model(Variable(x)).requires_grad
    nn.mse_loss(recorded, np.zeros((2, 3), np.float32)).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_one_parameter_in_two_places_is_trained_once_and_saved_twice():
    class Tied(nn.Module):
        def __init__(self):
            self.a = nn.Linear(3, 3, bias=False)
            self.b = nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

    model = Tied()
    assert len(list(model.parameters())) == 1 and list(model.state_dict()) == ["a.weight", "b.weight"]


def test_results_kept_as_attributes_are_no_parameters():
    class Keeps(nn.Module):
        def __init__(self):
            self.scale = nn.Parameter(np.ones(1, np.float32))
            self.register_buffer("mean", np.zeros(2, np.float32))

        def forward(self, x):
            self.last = mmk.mul(x, *nn.taped(x, self.scale))
            return self.last

    model = Keeps()
    model(Variable(some(0, 2)))
    assert list(model.state_dict()) == ["scale", "mean"] and len(list(model.parameters())) == 1
    assert [name for name, _ in model.named_buffers()] == ["mean"]


def test_train_and_eval_reach_every_module():
    model = nn.Sequential(nn.Sequential(nn.Dropout(0.5, seed=1)))
    x = np.ones((4, 200), np.float32)
    first, second = model(x), model(x)
    assert set(np.unique(first)) == {0.0, 2.0} and 300 < np.count_nonzero(first) < 500
    assert (first != second).any(), "two calls draw the same mask"
    assert model.eval()(x) is x and not model[0][0].training and model.train()[0][0].training


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.SelfAttention2d(8, 2, 4), (2, 8, 3, 3)),
        (lambda: nn.LayerNorm(6), (3, 6)),
        (lambda: nn.Sequential(nn.Upsample(2), nn.AvgPool2d(3, 1, 1), nn.GELU()), (1, 2, 3, 3)),
        (lambda: nn.Sequential(nn.Sigmoid(), nn.Tanh(), nn.SiLU(), nn.LeakyReLU(0.2)), (5,)),
        (lambda: nn.Linear(6, 4, activation="silu"), (2, 3, 6)),
    ],
    ids=["attention", "layer norm", "pictures", "activations", "linear"],
)
def test_gradients_are_slopes(layer, shape):
    """In float64: along a random direction, the tape's slope is the difference quotient's."""
    module = layer().initialize(2)
    for p in module.parameters():
        p.data = p.data.astype(np.float64)
    leaves = [Variable(some(1, *shape).astype(np.float64), requires_grad=True), *module.parameters()]
    directions = [some(i + 7, *leaf.shape).astype(np.float64) for i, leaf in enumerate(leaves)]
    weights = some(3, *module(leaves[0]).shape).astype(np.float64)

    def value():
        return float((module(leaves[0].data) * weights).sum())

    mmk.sum(mmk.mul(module(leaves[0]), weights)).backward()
    slope = sum(float((leaf.grad * d).sum()) for leaf, d in zip(leaves, directions, strict=True))
    values = []
    for h in (1e-5, -2e-5):  # to +1e-5, then to -1e-5
        for leaf, d in zip(leaves, directions, strict=True):
            leaf.data = leaf.data + h * d
        values.append(value())
    # the quotient's own error: h^2 times a third derivative, and rounding over h
    assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6, abs=1e-8)


def test_losses():
    logits, labels = some(0, 6, 5), np.array([0, 4, 2, 2, 1, 3])
    exact = logits.astype(np.float64)
    expected = np.mean(np.log(np.exp(exact).sum(1)) - exact[np.arange(6), labels])
    assert float(nn.cross_entropy(logits, labels)) == pytest.approx(expected, rel=1e-6)
    x = Variable(logits, requires_grad=True)
    nn.cross_entropy(x, labels).backward()
    softmax = np.exp(exact) / np.exp(exact).sum(1, keepdims=True)
    softmax[np.arange(6), labels] -= 1
    np.testing.assert_allclose(x.grad, softmax / 6, rtol=0, atol=1e-6)
    with pytest.raises(ContractError, match="no class"):
        nn.cross_entropy(logits, labels + 1)
    with pytest.raises(ContractError, match="expected"):
        nn.cross_entropy(logits, labels[:5])
    with pytest.raises(ContractError, match="mse_loss"):
        nn.mse_loss(logits, logits[:, :1])


def test_bad_layers_are_refused():
    with pytest.raises(ContractError, match="groups is 3"):
        nn.Conv2d(4, 6, 3, groups=3)
    with pytest.raises(ContractError, match="num_groups is 3"):
        nn.GroupNorm(3, 4)
    with pytest.raises(ContractError, match="num_heads"):
        nn.SelfAttention2d(8, 3)
    with pytest.raises(ContractError, match="p is 1"):
        nn.Dropout(1.0)


def test_files(tmp_path):
    pytest.importorskip("safetensors")
    model, other = small_model().initialize(1), small_model().initialize(2)
    nn.save(model, tmp_path / "m.safetensors", {"epoch": "3"})
    other.load_state_dict(nn.load(tmp_path / "m.safetensors"))
    assert all((v == model.state_dict()[k]).all() for k, v in other.state_dict().items())
    assert nn.metadata(tmp_path / "m.safetensors") == {"epoch": "3"}
    strided = some(0, 4, 6)[:, ::2].T
    nn.save({"a": strided, "b": np.float32(2)}, tmp_path / "s.safetensors")
    back = nn.load(tmp_path / "s.safetensors")
    assert (back["a"] == strided).all() and back["b"].shape == ()


def test_files_without_safetensors(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(BackendError, match="pip install safetensors"):
        nn.load("nowhere.safetensors")


def test_repr_tells_the_tree():
    assert repr(nn.Sequential(nn.Linear(2, 1), nn.Tanh())) == (
        "Sequential(\n  (0): Linear(weight=(1, 2), bias=(1,))\n  (1): Tanh()\n)"
    )


# ---- statistics that run ----------------------------------------------------------------------------------------


def test_batch_norm_trains_by_the_batch_and_infers_by_what_ran():
    layer = nn.BatchNorm2d(3)
    assert list(layer.state_dict()) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    x = some(1, 4, 3, 5, 6) * 2 + 1
    y = layer(x)
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(layer.running_mean, 0.1 * x.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(layer.running_var, 0.9 + 0.1 * x.var((0, 2, 3), ddof=1), rtol=1e-5)
    assert int(layer.num_batches_tracked) == 1
    kept = {k: v.copy() for k, v in layer.state_dict().items()}
    infer = layer.eval()(x)
    np.testing.assert_array_equal(
        infer, mmk_batch_norm(x, kept["running_mean"], kept["running_var"], *ones_and_zeros(3))
    )
    assert all((layer.state_dict()[k] == v).all() for k, v in kept.items()), "inference changed a buffer"
    other = nn.BatchNorm2d(3)
    other.load_state_dict(kept)
    np.testing.assert_array_equal(other.eval()(x), infer)


def ones_and_zeros(n):
    return np.ones(n, np.float32), np.zeros(n, np.float32)


def mmk_batch_norm(*arguments):
    from mmkernels.ops.norm_batch import batch_norm

    return batch_norm(*arguments)


def test_batch_norm_is_recorded():
    layer = nn.BatchNorm1d(3, momentum=None)
    x = some(2, 5, 3)
    for k in (1, 2):
        y = layer(Variable(x + k))
        assert isinstance(y, Variable) and isinstance(layer.running_mean, np.ndarray)
        np.testing.assert_allclose(layer.running_mean, x.mean(0) + (1 + k) / 2, rtol=1e-5)
    (y * y).sum().backward()
    assert layer.weight.grad is not None and layer.bias.grad is not None
    plain = nn.BatchNorm1d(3, affine=False, track_running_stats=False).eval()
    assert list(plain.state_dict()) == [] and abs(plain(x).mean()) < 1e-6
    with pytest.raises(ContractError, match="BatchNorm1d: x has 4 extents; expected 2 or 3"):
        layer(some(0, 1, 3, 2, 2))
    with pytest.raises(ContractError, match="InstanceNorm3d: x has 4 extents; expected 5"):
        nn.InstanceNorm3d(3)(some(0, 1, 3, 2, 2))


def test_further_layers_are_their_functions():
    from mmkernels.ops import activation_channels, activation_rectifiers, norm

    x = some(3, 2, 6, 4, 5) * 4
    for layer, function, arguments in (
        (nn.ReLU6(), activation_rectifiers.relu6, ()), (nn.Mish(), activation_rectifiers.mish, ()),
        (nn.Hardsigmoid(), activation_rectifiers.hardsigmoid, ()), (nn.SELU(), activation_rectifiers.selu, ()),
        (nn.Hardswish(), activation_rectifiers.hardswish, ()), (nn.ELU(0.5), activation_rectifiers.elu, (0.5,)),
        (nn.QuickGELU(), activation_rectifiers.quick_gelu, ()), (nn.CELU(0.5), activation_rectifiers.celu, (0.5,)),
        (nn.Hardtanh(-2, 1), activation_rectifiers.hardtanh, (-2, 1)),
        (nn.Softplus(2.0), activation_rectifiers.softplus, (2.0,)),
        (nn.PReLU(6), activation_channels.prelu, (np.full(6, 0.25, np.float32),)),
        (nn.LocalResponseNorm(3, 0.5), activation_channels.local_response_norm, (3, 0.5)),
        (nn.RMSNorm((4, 5)), norm.rms_norm, ((4, 5), np.ones((4, 5), np.float32))),
        (nn.InstanceNorm2d(6, affine=True), norm.instance_norm, (None, None, *ones_and_zeros(6))),
    ):  # fmt: skip
        np.testing.assert_array_equal(layer(x), function(x, *arguments), err_msg=repr(layer))
        assert isinstance(layer(Variable(x)), Variable)
