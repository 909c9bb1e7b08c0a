"""The folder of a finished run."""

import pytest
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, set_seed

from hf_distill import LSTMStudentConfig, LSTMStudentForSequenceClassification
from hf_distill.reports.report import Report
from tests.conftest import tiny_bert

WORDS = "fine great lovely awful bad dull food it place room service staff was".split()
NAMES = {0: "bad", 1: "good", 2: "neither"}
QUALITY = {"accuracy": {"value": 0.91, "low": 0.9, "high": 0.92}}


def tokenizer():
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", eos_token="[PAD]", model_max_length=16
    )


def save(model, folder):
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model.eval()


def named(**config):
    return {"id2label": NAMES, "label2id": {name: number for number, name in NAMES.items()}, **config}


def lstm():
    set_seed(1)
    sizes = {"vocab_size": 20, "embedding_size": 4, "hidden_size": 6, "initializer_range": 1.0}
    config = LSTMStudentConfig(**sizes, pad_token_id=0, **named())
    return LSTMStudentForSequenceClassification(config)


def measured(parameters, milliseconds):
    return {
        "quality": QUALITY,
        "parameters": parameters,
        "bytes": 4 * parameters,
        "latency_ms": {"batch_1": {"p50": milliseconds, "p95": milliseconds}},
        "throughput": {"batch_32": 1000.0},
        "tokens_per_text": 5.0,
    }


def finished_run(tmp_path):
    """The folder of a finished run: a BERT, an LSTM, and what else a run leaves."""
    folder = tmp_path / "out"
    save(tiny_bert(**named()), folder / "teacher")
    save(lstm(), folder / "student")
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump(
            {
                "task": "text-classification",
                "output_dir": str(folder),
                "data": {"path": str(tmp_path / "reviews.csv"), "text": "review"},
                "teacher": {"model": str(tmp_path / "base"), "fine_tune": {}},
            }
        )
    )
    report = Report(
        task="text-classification",
        metrics=["accuracy"],
        examples=1234,
        models={"teacher": measured(9876, 8.0), "student": measured(543, 0.5)},
        ratios={"faster": 16.0},
    )
    report.save(folder)
    report.save(folder / "student")
    card = "---\nlicense: mit\nbase_model: user/base\nmodel-index:\n- name: reviews\n  results: []\n---\n# reviews\n"
    (folder / "student" / "README.md").write_text(card)
    for name in ("student/training_args.bin", "student/_kd_bridge.safetensors", "student/onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


@pytest.fixture
def run(tmp_path):
    return finished_run(tmp_path)
