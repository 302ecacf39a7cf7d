"""Weights are found, fetched only when asked for, and fit entirely or not at all."""

import pytest
import torch

from flagst._files import load_weights
from flagst._weights import fit_weights
from flagst.encoders._checkpoint import download, find_weights


def network():
    torch.manual_seed(0)
    return torch.nn.ModuleDict({"stem": torch.nn.Linear(3, 4), "norm": torch.nn.BatchNorm1d(4)})


def saved(path, change=lambda state: state):
    torch.save(change(network().state_dict()), path)
    return path


def fill(path):
    empty = network()
    with torch.no_grad():
        empty["stem"].weight.zero_()
    fit_weights(empty, load_weights(path), file=path.name, model="tiny_net", spare=("head.",))
    return empty


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
def test_weights_come_in_whatever_stands_before_their_names(tmp_path, prefix):
    path = saved(tmp_path / "w.bin", lambda state: {prefix + name: value for name, value in state.items()})
    for name, value in fill(path).state_dict().items():
        assert torch.equal(value, network().state_dict()[name])


def test_half_precision_weights_and_a_classifier_left_over(tmp_path):
    path = saved(
        tmp_path / "w.pth", lambda s: {**s, "stem.weight": s["stem.weight"].half(), "head.weight": s["stem.bias"]}
    )
    assert fill(path)["stem"].weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "stem.bias"}, r"1 missing \(stem.bias\)"),
        (lambda s: {**s, "tail.weight": s["stem.bias"]}, r"1 that it has no place for \(tail.weight\)"),
        (
            lambda s: {**s, "stem.weight": torch.zeros(5, 3)},
            r"1 of another shape \(stem.weight is \(5, 3\), wanted \(4, 3\)\)",
        ),
        (lambda s: {f"other.{k}": v for k, v in s.items()}, "7 missing .*7 that it has no place for"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, change, reason):
    with pytest.raises(ValueError, match=rf"w.bin does not fit tiny_net: weights {reason}"):
        fill(saved(tmp_path / "w.bin", change))


def test_weights_that_are_not_finite_are_refused(tmp_path):
    path = saved(tmp_path / "w.bin", lambda s: {**s, "stem.bias": s["stem.bias"] / 0})
    with pytest.raises(ValueError, match="w.bin has values in stem.bias that are not finite"):
        fill(path)


def test_weights_are_found_in_a_folder(tmp_path):
    only = saved(tmp_path / "epoch_10.pth")
    (tmp_path / "README.md").touch()
    assert find_weights(tmp_path) == find_weights(only) == only
    second = saved(tmp_path / "epoch_20.pth")
    with pytest.raises(ValueError, match="several weights files, epoch_10.pth, epoch_20.pth"):
        find_weights(tmp_path)
    named = saved(tmp_path / "pytorch_model.bin")
    assert find_weights(tmp_path) == named
    assert find_weights(tmp_path, ("epoch_20.pth", "pytorch_model.bin")) == second


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone. Expected model.safetensors or pytorch_model.bin"):
        find_weights(tmp_path / "gone")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match="has no a.bin; found notes.txt. Ask Ann."):
        find_weights(tmp_path, ("a.bin",), hint="Ask Ann.")
    with pytest.raises(ValueError, match="notes.txt is no weights file"):
        find_weights(tmp_path / "notes.txt")


def test_a_download_takes_the_first_file_there_is_and_says_what_failed(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="comes with transformers and timm")

    def fetch(repository, name):
        if name != "b.bin":
            raise OSError(f"no route to {repository}")
        return str(tmp_path / name)

    monkeypatch.setattr(hub, "hf_hub_download", fetch)
    assert download("lab/net", ["a.bin", "b.bin"]) == tmp_path / "b.bin"
    with pytest.raises(FileNotFoundError, match=r"a.bin of lab/net could not be downloaded \(a.bin: no route.*path="):
        download("lab/net", ["a.bin"])
