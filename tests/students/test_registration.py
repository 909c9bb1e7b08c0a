"""Transformers' auto classes find LSTM students by themselves, whichever of the two packages was imported first."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig

from hf_distill import LSTMStudentConfig, LSTMStudentForSequenceClassification
from tests.students.lstm.cases import config

FOUND = """
import sys
{imports}
import torch
model = transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
assert type(model) is LSTMStudentForSequenceClassification, type(model)
assert type(model).__module__ == "hf_distill.students.lstm.modeling_lstm", "the copy in the folder was run"
torch.save(model(torch.load(sys.argv[2])).logits, sys.argv[2])
"""
ORDERS = {
    "hf_distill first": "import hf_distill, transformers\nfrom hf_distill import LSTMStudentForSequenceClassification",
    "transformers first": """
import transformers
transformers.AutoModelForSequenceClassification
import hf_distill
from hf_distill import LSTMStudentForSequenceClassification""",
    "names of hf_distill first": """
from hf_distill import LSTMStudentForSequenceClassification
import transformers""",
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_student_loads_without_trust_in_any_order_of_imports(order, tmp_path):
    model = LSTMStudentForSequenceClassification(config(num_labels=3)).eval()
    model.save_pretrained(tmp_path / "student")
    ids = torch.randint(4, 40, (2, 5))
    torch.save(ids, tmp_path / "tensor.pt")
    words = [sys.executable, "-c", FOUND.format(imports=ORDERS[order]), tmp_path / "student", tmp_path / "tensor.pt"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "tensor.pt"), model(ids).logits)


def test_the_configuration_is_known():
    assert type(AutoConfig.for_model("lstm_student")) is LSTMStudentConfig
