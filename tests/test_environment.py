"""What is told of a machine, and what is missing in it."""

import platform

import pytest
import torch

from hf_distill.environment import accelerator, environment, has_fast_bf16, optional, peak_memory, summary
from hf_distill.recipes.training import training_arguments
from hf_distill.soft_targets.shards import Processes


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


class NoModule:
    """The module of a device that tells nothing of it."""


class FastModule:
    """The module of a device."""

    @staticmethod
    def is_bf16_supported() -> bool:
        return True

    @staticmethod
    def get_device_name(device: torch.device) -> str:
        return f"a {device.type} of a maker"


@pytest.mark.parametrize(("kind", "module", "fast"), [("mps", NoModule, False), ("xpu", FastModule, True)])
def test_any_make_of_accelerator_is_used(monkeypatch, tmp_path, kind, module, fast):
    """Apple's and Intel's GPUs, by recipes' trainings and the cache pass; CUDA is not asked for."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", lambda device: 7)
    monkeypatch.setattr(torch, "get_device_module", lambda device=None: module)
    assert accelerator() == Processes.assembled(None).device == torch.device(kind)
    assert has_fast_bf16() is fast
    name = "a xpu of a maker" if fast else "mps"
    assert summary(False).startswith(f"{name} and 1 more, float32")
    told = environment(torch.device(kind))
    assert (told["accelerator"], told["peak_device_memory_bytes"]) == (name, 7)
    assert not training_arguments({}, tmp_path, rows=64, seed=0, metric="accuracy").use_cpu


def test_without_an_accelerator_the_processor_is_used(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert accelerator() is None
    assert Processes.assembled(None).device == torch.device("cpu")
    assert training_arguments({}, tmp_path, rows=64, seed=0, metric="accuracy").use_cpu
