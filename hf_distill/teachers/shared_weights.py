"""Whether a student would train the weights that its teacher computes with."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call

from hf_distill.models import base_model, device_of, evaluating, forward_arguments, unwrapped


def check_weights_are_not_shared(student: nn.Module, teachers: Iterable[nn.Module]) -> None:
    """Raise where the teacher's forward uses a parameter that the student trains.

    Frozen weights may be shared, and so may a model whose adapters are switched off for the teacher: whether a shared
    parameter is used is found out by a forward of two tokens.

    Args:
        student: with `requires_grad` set as it will be trained.
        teachers: a model, or the members of an ensemble.
    Raises:
        ValueError: the teacher would change with the student.
    """
    trained = {_storage(parameter) for parameter in student.parameters() if parameter.requires_grad} - {0}
    used = [name for teacher in teachers for name in _used(unwrapped(teacher), trained)]
    if used:
        raise ValueError(
            f"The teacher computes with weights that the student trains: {', '.join(used[:3])}"
            f"{', ...' if len(used) > 3 else ''} ({len(used)} in all). It would change with the student, and the soft "
            "loss would teach nothing (0 at every step where both are the same model). get_peft_model changes the "
            "model that it is given in place. Pass a copy (copy.deepcopy before anything is added, or load the teacher "
            "once more); freeze what both share (requires_grad_(False)); or, for adapters of a student, pass "
            "hf_distill.teachers.WithoutAdapter(student), which switches them off while the teacher is called."
        )


def check_nothing_is_shared(student: nn.Module, teacher: Any) -> None:
    """Raise where a teacher that is sharded or offloaded has weights of the student, which would be moved with it.

    Args:
        student: any.
        teacher: a model or an ensemble.
    Raises:
        ValueError: they share weights, frozen or not.
    """
    own = {_storage(parameter) for parameter in student.parameters()} - {0}
    for model in getattr(teacher, "models", [teacher]):
        shared = [name for name, each in model.named_parameters() if _storage(each) in own]
        if shared:
            raise ValueError(
                f"teacher_placement: the teacher shares {len(shared)} weights with the student, {shared[0]} for "
                "instance, and they would be sharded or offloaded with it. Leave teacher_placement at replicate, or "
                "load the teacher once more."
            )


def _storage(parameter: Tensor) -> int:
    parameter = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    # Weights on the meta device have no storage, and the pointer 0.
    return 0 if parameter.numel() == 0 or parameter.is_meta else parameter.untyped_storage().data_ptr()


def _used(teacher: Any, storages: set[int]) -> list[str]:
    """The names of the parameters in some storages that the outputs of a forward depend on."""
    leaves = {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in teacher.named_parameters(remove_duplicate=False)
        if _storage(parameter) in storages
    }
    if not leaves:
        return []
    end = getattr(base_model(teacher).config.get_text_config(), "eos_token_id", None)
    ids = torch.tensor(
        [[0, end[0] if isinstance(end, list) else end or 0]], device=device_of(teacher, torch.device("cpu"))
    )
    arguments = forward_arguments(teacher)
    inputs: dict[str, Tensor] = {name: ids for name in ("input_ids", "decoder_input_ids") if name in arguments}
    if "attention_mask" in arguments:
        inputs["attention_mask"] = torch.ones_like(ids)
    with evaluating(teacher), torch.enable_grad():
        outputs = functional_call(teacher, leaves, kwargs=inputs)["logits"]
        if not outputs.requires_grad:
            return []
        gradients = torch.autograd.grad(outputs.float().sum(), list(leaves.values()), allow_unused=True)
    return [name for name, gradient in zip(leaves, gradients, strict=True) if gradient is not None]
