"""Files of other people are read without running them, and refused by name when they are no good."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from flagst._files import drafted, file_name, load_weights, sha256_of


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


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        ({0: torch.zeros(2)}, "a tensor named 0"),
        ({"a": torch.eye(2).to_sparse()}, "a is sparse"),
        ({"a": torch.zeros(2, device="meta")}, "without values"),
        ({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, "quantised"),
    ],
)
def test_tensors_that_no_network_has_are_refused(tmp_path, held, reason):
    torch.save(held, tmp_path / "w.bin")
    with pytest.raises(ValueError, match=f"w.bin cannot be read: .*{reason}"):
        load_weights(tmp_path / "w.bin")


def test_a_file_gets_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "f.npy"
    path.write_text("old")
    with pytest.raises(OSError, match="disk"), drafted(path) as draft:
        draft.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_threads_that_write_the_same_file_do_not_meet(tmp_path):
    both = Barrier(2)

    def write(text):
        with drafted(tmp_path / "f") as draft:
            both.wait(10)
            draft.write_text(text)
            both.wait(10)
            return draft.read_text()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, ["a", "bb"])) == ["a", "bb"]
    assert (tmp_path / "f").read_text() in ("a", "bb") and len(list(tmp_path.iterdir())) == 1


def test_names_of_others_as_names_of_files():
    assert file_name("a b/c\\d:e-1.2") == "a_b_c_d_e-1.2"


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
    from safetensors.torch import save_file

    state, path = {"a": torch.zeros(1000)}, tmp_path / f"w{suffix}"
    save, other = (torch.save, save_file) if suffix == ".bin" else (save_file, torch.save)
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
