"""Training in two processes on one machine: one model, the same on both ranks, as good as that of one process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent
SCRIPT = HERE.parent / "helpers" / "train_in_ranks.py"
N_EPOCHS = 60
TIMEOUT = 300  # seconds; ranks that wait for each other would do so for half an hour


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Results of every rank that goes on after training, by strategy: those of a script and of a notebook."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | {"PYTHONPATH": os.pathsep.join(sys.path)}
    started = {}
    for strategy in ("ddp", "ddp_notebook"):
        folder = tmp_path_factory.mktemp(strategy)
        command = [sys.executable, SCRIPT, HERE.parent / "helpers" / "tiny_models.py", folder, strategy, str(N_EPOCHS)]
        # a group of its own, so that ranks which hang end with the script
        process = subprocess.Popen(
            [str(part) for part in command],
            env=environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started[strategy] = folder, process
    results = {}
    try:
        for strategy, (folder, process) in started.items():
            output, _ = process.communicate(timeout=TIMEOUT)
            assert process.returncode == 0, output
            results[strategy] = [dict(np.load(path)) for path in sorted(folder.glob("rank_*.npz"))]
            assert {path.suffix for path in folder.iterdir()} == {".npz"}, "training has left files behind"
    finally:
        for _, process in started.values():
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()
    return results


@pytest.fixture(scope="module")
def alone(make):
    """Losses of one process, by name, for two seeds: ``(2, n_epochs)``."""
    histories = []
    for seed in range(2):
        model = make.model(make.table(), seed=seed)
        model.train(**make.QUICK | {"max_epochs": N_EPOCHS})
        histories.append(model.history_)
    return {name: np.array([history[name].to_numpy().ravel() for history in histories]) for name in histories[0]}


def test_ranks_end_with_one_model(runs):
    first, second = runs["ddp"]
    for name in ("weights", "shared_sd", "prediction", "upper"):
        np.testing.assert_array_equal(first[name], second[name])
    assert np.isfinite(first["prediction"]).all() and first["prediction"].std() > 0


def test_a_notebook_gets_the_model_of_a_script(runs):
    """There ranks end after training, and the process that started them goes on with their weights."""
    (only,) = runs["ddp_notebook"]
    for name in ("weights", "shared_sd", "prediction", "upper", "train_loss"):
        np.testing.assert_array_equal(only[name], runs["ddp"][0][name])


def test_ranks_see_different_windows_in_half_the_steps(runs):
    first, second = (rank["seen"] for rank in runs["ddp"])
    assert len(first) == len(second) == N_EPOCHS * 3  # six windows an epoch
    assert (first[:, 1] != second[:, 1]).all()  # of two networks
    for start in range(0, len(first), 3):
        epoch = np.concatenate([first[start : start + 3], second[start : start + 3]])
        assert len({tuple(window) for window in epoch}) == 6


def test_losses_are_logged_once_and_fall_as_in_one_process(runs, alone):
    """The mean of the first and the last quarter of the epochs, within 0.06; seeds of one process differ by 0.05."""
    first, second = runs["ddp"]
    assert "train_loss" not in second
    assert {"train_loss", "denoising_loss_validation", "align_loss_train"} <= set(first)
    quarter = N_EPOCHS // 4
    for name in ("train_loss", "denoising_loss_train", "denoising_loss_validation"):
        assert len(first[name]) == N_EPOCHS
        for part in (slice(quarter), slice(-quarter, None)):
            assert first[name][part].mean() == pytest.approx(alone[name][:, part].mean(), abs=0.06)
    assert first["train_loss"][-quarter:].mean() < first["train_loss"][:quarter].mean() - 0.15


def test_several_devices_need_a_strategy(make):
    model = make.model(make.table())
    with pytest.raises(ValueError, match="2 devices need a strategy.*got None. Pass strategy='ddp'"):
        model.train(**make.QUICK, devices=2)
    with pytest.raises(ValueError, match="'ddp_spawn' is not supported"):
        model.train(**make.QUICK, devices=2, strategy="ddp_spawn")
    with pytest.raises(ValueError, match="early_stopping=True works in one process only"):
        model.train(**make.QUICK, devices=2, strategy="ddp", early_stopping=True)
    assert not model.is_trained_
