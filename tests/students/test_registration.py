"""Transformers' auto classes find our students by themselves, whichever of the two packages was imported first."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig

from hf_distill import (
    LSTMStudentConfig,
    LSTMStudentForSequenceClassification,
    StaticStudentConfig,
    StaticStudentForSequenceClassification,
)
from tests.students.lstm import cases as lstm
from tests.students.static import cases as static

FOUND = """
import sys
{imports}
import torch
from hf_distill import LSTMStudentForSequenceClassification, StaticStudentForSequenceClassification
ids, logits = torch.load(sys.argv[1] + "/ids.pt"), dict()
kinds = {{"lstm": LSTMStudentForSequenceClassification, "static": StaticStudentForSequenceClassification}}
for kind, student in kinds.items():
    model = transformers.AutoModelForSequenceClassification.from_pretrained(f"{{sys.argv[1]}}/{{kind}}").eval()
    assert type(model) is student, type(model)
    assert type(model).__module__ == f"hf_distill.students.{{kind}}.modeling_{{kind}}", "the copy in the folder was run"
    logits[kind] = model(ids).logits
torch.save(logits, sys.argv[1] + "/logits.pt")
"""
ORDERS = {
    "hf_distill first": "import hf_distill, transformers",
    "transformers first": """
import transformers
transformers.AutoModelForSequenceClassification
import hf_distill""",
    "names of hf_distill first": """
from hf_distill import LSTMStudentForSequenceClassification
import transformers""",
}


@pytest.mark.parametrize(
    "order",
    [
        "transformers first",
        *(pytest.param(order, marks=pytest.mark.long) for order in ("hf_distill first", "names of hf_distill first")),
    ],
)
def test_students_load_without_trust_in_any_order_of_imports(order, tmp_path):
    models = {
        "lstm": LSTMStudentForSequenceClassification(lstm.config(num_labels=3)).eval(),
        "static": static.built(StaticStudentForSequenceClassification, num_labels=3),
    }
    ids = torch.randint(4, 40, (2, 5))
    torch.save(ids, tmp_path / "ids.pt")
    for kind, model in models.items():
        model.save_pretrained(tmp_path / kind)
    words = [sys.executable, "-c", FOUND.format(imports=ORDERS[order]), tmp_path]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for kind, logits in torch.load(tmp_path / "logits.pt").items():
        with torch.no_grad():
            torch.testing.assert_close(logits, models[kind](ids).logits)


@pytest.mark.parametrize("config", [LSTMStudentConfig, StaticStudentConfig])
def test_the_configuration_is_known(config):
    assert type(AutoConfig.for_model(config.model_type)) is config
