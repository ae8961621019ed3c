"""The main job, end to end: its files, its bits, interruption, and what it says when something is missing."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from mmkernels import _core
from mmkernels.cli import main

pytest.importorskip("sklearn")
pytest.importorskip("PIL")
pytest.importorskip("rich")
pytest.importorskip("safetensors")
pytest.importorskip("tqdm")

from numpy._core import _multiarray_umath

from mmkernels import demo

TINY = demo.Settings(
    lenet_epochs=1, channels=8, train_steps=6, batch=16, warm_up_steps=2, sampling_steps=3, samples_per_digit=1
)
FILES = {"digits.png", "process.gif", "digits.npz", "model.safetensors"}


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "mmkernels.cli", *arguments],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_quick_demo(tmp_path):
    from PIL import Image

    done = command("demo", "--quick", "--seed", "3", "--out", str(tmp_path / "deep" / "folder"), COLUMNS="100")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "deep" / "folder"
    assert {p.name for p in out.iterdir()} == FILES
    with np.load(out / "digits.npz") as found:
        images, labels, arithmetic = found["images"], found["labels"], found["arithmetic"]
    assert images.shape == (100, 8, 8) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1 and images.std() > 0.1
    assert labels.dtype == np.int64 and labels.tolist() == [n for n in range(10) for _ in range(10)]
    import mmkernels

    assert arithmetic.shape == () and str(arithmetic) == mmkernels.__arithmetic__
    with Image.open(out / "digits.png") as picture:
        assert min(picture.size) > 600 and len(picture.convert("RGB").getcolors(1 << 24)) > 32
    with Image.open(out / "process.gif") as film:
        assert film.n_frames > 5
    for word in ("conv", "norm", "LeNet-5", "SVM", "Time by kernel family"):
        assert word in done.stdout, word


def test_interrupted_and_resumed_is_as_if_nothing_had_happened(tmp_path):
    demo.run(tmp_path / "whole", 5, TINY, verbose=False)
    steps = []

    def press(step):
        steps.append(step)
        if step == 4:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        demo.run(tmp_path / "cut", 5, TINY, verbose=False, on_step=press)
    assert {p.name for p in (tmp_path / "cut").iterdir()} == {"checkpoint.safetensors"}
    demo.run(tmp_path / "cut", 5, TINY, verbose=False, on_step=steps.append)
    assert steps == [1, 2, 3, 4, 5, 6], "the second run went on where the first one stopped"
    assert {p.name for p in (tmp_path / "cut").iterdir()} == FILES
    for name in ("digits.npz", "model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path):
    def press(step):
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        demo.run(tmp_path, 5, TINY, verbose=False, on_step=press)
    steps = []
    demo.run(tmp_path, 6, TINY, verbose=False, on_step=steps.append)
    assert steps[0] == 1


def test_the_same_bytes_on_any_threads_and_instruction_set(tmp_path):
    code = f"from mmkernels import demo; import sys; demo.run(sys.argv[1], 2, demo.{TINY}, verbose=False)"
    found = {}
    isas = [isa for isa in _core.available_isas() if isa != "portable"]  # portable is minutes: its kernels have tests
    for isa, threads in [(isas[0], 1), (isas[-1], 2)]:
        out = tmp_path / f"{isa}-{threads}"
        environment = {**os.environ, "MMK_ISA": isa, "MMK_NUM_THREADS": str(threads)}
        if threads == 1:  # NumPy's own instruction sets must not show either
            environment["NPY_DISABLE_CPU_FEATURES"] = " ".join(_multiarray_umath.__cpu_dispatch__)
        subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(out)], env=environment, timeout=120, check=True)
        found[isa, threads] = (out / "digits.npz").read_bytes()
    assert len(set(found.values())) == 1, "the bytes differ"
    other = tmp_path / "other"
    demo.run(other, 3, TINY, verbose=False)
    assert (other / "digits.npz").read_bytes() not in found.values(), "another seed draws the same"


def test_a_missing_extra_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert main(["demo", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said == "mmkernels: demo: pillow, tqdm not installed; expected: pip install 'mmkernels[demo]'\n"
    assert not any(tmp_path.iterdir())


def test_info_needs_nothing(capsys):
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("mmkernels ") and _core.get_isa() in said and "threads" in said


def test_unknown_commands_are_refused(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["dance"])
    assert exit.value.code == 2
    assert "demo" in capsys.readouterr().err
