"""pl.history: curves from a model or a table, train and validation in one panel."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from flagst.pl import history


@pytest.fixture
def recorded():
    def frame(values):
        index = pd.Index(range(1, 6), name="epoch")
        return pd.DataFrame({"value": np.asarray(values, dtype=object)}, index=index)

    return {
        "train_loss_step": frame([9, 9, 9, 9, 9]),
        "train_loss_epoch": frame([5, 4, 3, 2, 1]),
        "validation_loss": frame([6, 5, 4, 3, 2]),
        "align_train": frame([1, 1, 1, 1, 1]),
        "lr": frame([1e-3] * 5),
    }


def curves(ax):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines}


def test_model(recorded):
    axes = history(SimpleNamespace(history_=recorded))
    assert [ax.get_title() for ax in axes] == ["loss", "align", "lr"]
    epochs = [1, 2, 3, 4, 5]
    assert curves(axes[0]) == {"train": (epochs, [5, 4, 3, 2, 1]), "validation": (epochs, [6, 5, 4, 3, 2])}
    assert axes[0].get_legend() is not None and axes[2].get_legend() is None
    assert all(ax.get_xlabel() == "epoch" for ax in axes)


def test_table_with_plain_lists():
    recorded = {"train_loss": [3, 2], "validation_loss": np.array([4.0, 3])}
    table = SimpleNamespace(uns={"flagst": {"history": recorded}})
    (ax,) = history(table, log=True)
    assert curves(ax) == {"train": ([0, 1], [3, 2]), "validation": ([0, 1], [4, 3])}
    assert ax.get_yscale() == "log"


def test_epochs_at_which_nothing_was_logged_are_no_gaps():
    recorded = {"structure_validation": [np.nan, 0.5, np.nan, 0.75, np.nan]}
    (ax,) = history(SimpleNamespace(uns={"flagst": {"history": recorded}}))
    assert curves(ax) == {"validation": ([1, 3], [0.5, 0.75])}


def test_errors():
    with pytest.raises(KeyError, match="has no history_; train the model"):
        history(SimpleNamespace())
    with pytest.raises(KeyError, match="has no history_; train the model"):
        history(SimpleNamespace(history_=None))
    with pytest.raises(KeyError, match="no 'history'"):
        history(SimpleNamespace(uns={}))
    with pytest.raises(ValueError, match="history is empty"):
        history(SimpleNamespace(history_={}))
