"""What is told of a machine, and what is missing in it."""

import platform

import pytest
import torch

from hf_distill.environment import environment, optional, peak_memory


def test_a_machine_is_described_and_not_named():
    told = environment(torch.device("cpu"))
    assert told["device"] == "cpu" and told["threads"] == torch.get_num_threads()
    assert told["torch"] == torch.__version__ and told["processor"]
    assert platform.node() not in told.values()
    assert "accelerator" not in told


def test_peak_memory_is_in_bytes():
    assert 50 * 2**20 < peak_memory() < 2**40  # torch alone takes more than that: as KiB it would be less


def test_a_package_of_an_extra():
    assert optional("os.path", "onnx").join("a", "b") == "a/b"
    with pytest.raises(ImportError, match=r"This needs nopackage, .* pip install 'hf-distill\[onnx\]'"):
        optional("nopackage.inside", "onnx")
