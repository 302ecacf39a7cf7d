"""Files of other people are read without running them, and refused by name when they are no good."""

import os
import pickle

import pytest
import torch

from flagst._files import load_weights, sha256_of


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("wrapping", [None, "state_dict", "model_state_dict", "model"])
def test_tensors_of_a_torch_file_wrapped_or_not(tmp_path, wrapping):
    state = {"a": torch.arange(3.0)}
    torch.save(state if wrapping is None else {wrapping: state, "epoch": 3}, tmp_path / "w.bin")
    assert load_weights(tmp_path / "w.bin")["a"].tolist() == [0, 1, 2]


def test_what_is_no_dict_of_tensors_is_refused(tmp_path):
    torch.save({"a": [1, 2]}, tmp_path / "w.bin")
    with pytest.raises(ValueError, match="w.bin cannot be read: it is no dict of tensors"):
        load_weights(tmp_path / "w.bin")
    with pytest.raises(FileNotFoundError, match="gone.bin"):
        load_weights(tmp_path / "gone.bin")


def test_code_in_a_torch_file_is_not_run(tmp_path):
    mark = tmp_path / "ran"
    torch.save({"a": Evil(mark)}, tmp_path / "zip.bin")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": Evil(mark)}, protocol=2))
    for name in ("zip.bin", "plain.pth"):
        with pytest.raises(ValueError, match=f"{name} cannot be read: it asks for posix.system, which is no tensor"):
            load_weights(tmp_path / name)
    assert not mark.exists()
    pickle.loads((tmp_path / "plain.pth").read_bytes())
    assert mark.exists()  # the file does what it is feared for


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_truncated_and_mislabelled_files_are_refused(tmp_path, suffix):
    safetensors = pytest.importorskip("safetensors.torch", reason="reads .safetensors")
    state, path = {"a": torch.zeros(1000)}, tmp_path / f"w{suffix}"
    save, other = (torch.save, safetensors.save_file) if suffix == ".bin" else (safetensors.save_file, torch.save)
    save(state, path)
    whole = path.read_bytes()
    for spoilt in (whole[:-500], b"", b"no weights"):
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match=f"w{suffix} cannot be read"):
            load_weights(path)
    other(state, path)
    with pytest.raises(ValueError, match=f"w{suffix} cannot be read"):
        load_weights(path)


def test_hash_of_a_file(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")  # the first example of FIPS 180
    assert sha256_of(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
