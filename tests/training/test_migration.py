"""The code in docs/migration.md: every "after" runs, and where it is said to compute the same as before, it does."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_distill import losses
from tests.conftest import tiny_bert, tiny_rows

# The page says nothing of devices, so Trainer asks for pinned memory here too.
pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator")

PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text()
SNIPPET = re.compile(r'^```python title="(\w+)"\n(.*?)^```', re.M | re.S)


def snippets(heading):
    """The code of one section, by its title."""
    (section,) = [part for part in re.split(r"^## ", PAGE, flags=re.M) if part.startswith(heading)]
    return dict(SNIPPET.findall(section))


def execute(code, names, folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(compile(code, "docs/migration.md", "exec"), names)
    return names["trainer"]


def tokenizer():
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(50)}, "w1"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", unk_token="w1")


def narrow_bert():
    set_seed(3)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=3, **size, **dropout))


def learned(trainer, since):
    """Whether training moved the student's weights."""
    return any(not torch.equal(since[name], weight.cpu()) for name, weight in trainer.model.state_dict().items())


def names_of(student, teacher, **more):
    return {"student": student, "teacher": teacher, "tokenizer": tokenizer(), **more}


def test_every_section_has_its_code():
    titles = [title for title, _ in SNIPPET.findall(PAGE)]
    assert titles == ["before", "after"] * 4


def test_a_compute_loss_of_ones_own_is_the_same_loss(tmp_path, monkeypatch):
    code = snippets("From a `compute_loss`")
    found = {}
    for title in ("before", "after"):
        names = names_of(tiny_bert(num_labels=3), tiny_bert(seed=1, num_labels=3), train=tiny_rows(8))
        names |= {"torch": torch, "F": F, "Trainer": Trainer, "TrainingArguments": TrainingArguments}
        start = {name: weight.clone() for name, weight in names["student"].state_dict().items()}
        trainer = execute(code[title], names, tmp_path, monkeypatch)
        if title == "before":
            trainer.train()
        assert learned(trainer, start)
        found[title] = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    torch.testing.assert_close(found["after"], found["before"])


def test_textbrewer(tmp_path, monkeypatch):
    code = snippets("From TextBrewer")["after"]
    names = names_of(narrow_bert(), tiny_bert(seed=1, num_labels=3), train=tiny_rows(16), validation=tiny_rows(8))
    start = {name: weight.clone() for name, weight in names["student"].state_dict().items()}
    trainer = execute(code, names, tmp_path, monkeypatch)
    assert learned(trainer, start)
    assert {"hard_loss", "soft_loss", "hidden_state_loss"} <= {
        name for row in trainer.state.log_history for name in row
    }


def test_textbrewers_weight_is_ours_times_the_squared_temperature():
    torch.manual_seed(0)
    student, teacher, temperature = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3), 4.0
    theirs = -((teacher / temperature).softmax(-1) * (student / temperature).log_softmax(-1)).sum(-1).mean()
    ours = losses.forward_kl(student, teacher, temperature).mean() / temperature**2
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in (theirs, ours)))


class SetFitLike:
    """What of a `SetFitModel` the page uses."""

    def predict_proba(self, inputs, batch_size=32, as_numpy=False, show_progress_bar=None):
        assert as_numpy
        odds = np.array([[len(text), 5.0, 1.0] for text in inputs])
        return odds / odds.sum(axis=1, keepdims=True)


def test_setfit(tmp_path, monkeypatch):
    code = snippets("From SetFit")["after"]
    texts = [f"w{row % 9 + 2} w{row % 7 + 2}" * (1 + row % 3) for row in range(16)]
    names = names_of(tiny_bert(num_labels=3), SetFitLike(), unlabelled=Dataset.from_dict({"text": texts}))
    names["validation"] = tiny_rows(8)
    start = {name: weight.clone() for name, weight in names["student"].state_dict().items()}
    trainer = execute(code, names, tmp_path, monkeypatch)
    assert learned(trainer, start)
    assert trainer.state.log_history[-1]["eval_loss"] > 0


@pytest.mark.parametrize("labels", ["all", "answer"])
def test_trl(tmp_path, monkeypatch, labels):
    code = snippets("From TRL")["after"]
    made = []
    for seed in (0, 1):
        set_seed(seed)
        size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        made.append(LlamaForCausalLM(LlamaConfig(vocab_size=50, num_key_value_heads=2, **size)))
    rows = tiny_rows(16)
    prompt = 0 if labels == "all" else 1
    rows = rows.map(lambda row: {"labels": [-100] * prompt + row["input_ids"][prompt:]}, remove_columns="labels")
    names = names_of(*made, train=rows)
    start = {name: weight.clone() for name, weight in names["student"].state_dict().items()}
    trainer = execute(code, names, tmp_path, monkeypatch)
    assert learned(trainer, start)
    assert trainer.settings.soft_target_loss == "jensen_shannon"
