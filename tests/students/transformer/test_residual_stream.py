"""A narrower residual stream, turned onto its principal components."""

import pytest
import torch

from hf_distill.students.from_teacher import student_from_teacher
from hf_distill.students.transformer.config import TransformerStudentConfig
from hf_distill.students.transformer.residual_stream import random_tokens
from tests.students.transformer.cases import make_teacher


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "mpnet"])
def test_a_narrower_stream_is_turned_onto_its_principal_components(name):
    teacher = make_teacher(name)
    teacher.train()
    teacher.base_model.encoder.eval() if hasattr(teacher.base_model, "encoder") else teacher.base_model.eval()
    modes = [module.training for module in teacher.modules()]
    width = teacher.config.hidden_size
    student, carried = student_from_teacher(teacher, TransformerStudentConfig(hidden_size=8))
    assert [module.training for module in teacher.modules()] == modes
    own, whole = student.get_input_embeddings().weight, teacher.get_input_embeddings().weight
    directions = torch.linalg.lstsq(whole.double(), own.double()).solution  # whole @ directions = own
    assert torch.allclose(whole.double() @ directions, own.double(), atol=1e-5)
    assert torch.allclose(directions.T @ directions, torch.eye(8).double(), atol=1e-4)
    table = next(path for path in carried if path.endswith("word_embeddings.weight"))
    assert carried[table] == f"{table}, 8 principal components of the hidden states"

    # What the norms leave on the same random tokens lies in those directions more than in any others.
    states = []
    norms = [module for module in teacher.base_model.modules() if isinstance(module, torch.nn.LayerNorm)]
    hooks = [each.register_forward_hook(lambda *call: states.append(call[2].flatten(0, -2))) for each in norms]
    with torch.no_grad():
        teacher.eval().base_model(input_ids=random_tokens(teacher))
    for hook in hooks:
        hook.remove()
    shares = [each.double() / each.double().norm() for each in states]
    kept = sum((each @ directions).square().sum() for each in shares)
    others = torch.linalg.qr(torch.randn(20, width, 8, generator=torch.Generator().manual_seed(0)).double()).Q
    assert all(kept > sum((each @ other).square().sum() for each in shares) for other in others)

    # The units that a head pools lie behind a nonlinearity: they are chosen, not turned.
    pooled = [path for path, words in carried.items() if f"8 of {width} pooled units" in words]
    assert bool(pooled) == (name != "distilbert")  # this one tags: nothing is pooled


def test_random_tokens_are_never_padding():
    teacher = make_teacher("roberta")
    ids = random_tokens(teacher)
    assert torch.equal(ids, random_tokens(teacher))
    assert teacher.config.pad_token_id not in ids
    assert ids.max() < teacher.config.vocab_size
    assert ids.unique().numel() > 0.9 * (teacher.config.vocab_size - 1)
