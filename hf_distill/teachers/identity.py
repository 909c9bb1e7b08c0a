"""Hashes of a teacher's weights, config and tokenizer."""

import hashlib
import json
from typing import Any

import torch

from hf_distill.models import unwrapped
from hf_distill.paths import is_hub_id
from hf_distill.teachers.ensemble import TeacherEnsemble
from hf_distill.teachers.live import LiveTeacher
from hf_distill.teachers.placement import class_name, full_state, whole

# Fields of a config that do not change a model's outputs.
IGNORED_FIELDS = ("_name_or_path", "transformers_version", "dtype", "id2label", "label2id", "architectures")


def short_hash(content: bytes) -> str:
    """A hash of 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def weights_hash(teacher: LiveTeacher) -> str:
    """A hash of a teacher's weights, independent of the model's name and folder."""
    digest = hashlib.sha256()
    for member in teacher.members:
        for name, tensor in sorted(full_state(unwrapped(member)).items()):
            digest.update(name.encode())
            digest.update(whole(tensor.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy())
    if isinstance(teacher.model, TeacherEnsemble):
        digest.update(str(teacher.model.weights).encode())
    return digest.hexdigest()


def config_hash(teacher: LiveTeacher) -> str:
    """A hash of the fields of a teacher's config that differ from the defaults and affect its outputs."""
    configs = [_without_ignored(member.config.to_diff_dict()) for member in teacher.members]
    return short_hash(json.dumps(configs, sort_keys=True, default=str).encode())


def _without_ignored(config: Any) -> Any:
    """A config, and the configs nested in it, without `IGNORED_FIELDS`."""
    if not isinstance(config, dict):
        return config
    return {str(name): _without_ignored(value) for name, value in config.items() if name not in IGNORED_FIELDS}


def tokenizer_hash(tokenizer: Any) -> str:
    """A hash of everything that affects the token ids of a text; padding and truncation are left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = {} if backend is None else json.loads(backend.to_str())
    content = {name: value for name, value in content.items() if name not in ("padding", "truncation")}
    parts = [content, sorted(tokenizer.get_vocab().items()), sorted(map(str, tokenizer.all_special_tokens))]
    return short_hash(json.dumps(parts, sort_keys=True).encode())


def public_name(teacher: LiveTeacher) -> str:
    """The Hub ids of a teacher's members; the class of the first member in place of a local path."""
    # The name of a local folder may reveal something about its owner's machine.
    names = [getattr(member.config, "_name_or_path", "") for member in teacher.members]
    return " + ".join(name if name and is_hub_id(name) else class_name(unwrapped(teacher.members[0])) for name in names)
