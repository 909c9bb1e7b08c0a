"""The cache of a teacher that marks spans: the trainer takes it, a failure loses nothing, and data is checked first."""

import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from transformers import DataCollatorForTokenClassification

from hf_distill import (
    DistillationArguments,
    DistillationTrainer,
    LSTMStudentConfig,
    LSTMStudentForTokenClassification,
    SpanTeacher,
    cache_span_outputs,
)
from hf_distill.data import tokenize
from hf_distill.teachers import Sentence
from tests.teachers.cases import lines
from tests.teachers.serving import classifier
from tests.teachers.test_spans import Answering, Marking, tagger

CLASSES = ["PER", "LOC"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TEXTS = ["Maria met Joan", "nobody came", "in Rome", "in Rome", "Joan"]
WORDS = [text.split() for text in TEXTS]
COLUMNS = ["teacher_logits", "teacher_word_starts"]


def rows(**columns):
    return datasets.Dataset.from_dict(columns or {"words": WORDS})


def teacher(marking=None, name="marking 1", **options):
    return SpanTeacher(marking or Marking(score=0.8), CLASSES, name=name, **options)


def logits_of(made, classes=5):
    return [np.array(row, dtype=np.float64).reshape(-1, classes) for row in made["teacher_logits"]]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-6), ("float16", 0.01), ("bfloat16", 0.1), ("int8", 0.1)]
)
def test_one_row_a_word_in_the_order_of_the_rows(tmp_path, dtype, tolerance):
    marking = Marking(score=0.8)
    made, targets = cache_span_outputs(rows(), teacher(marking), output_dir=tmp_path / "cache", dtype=dtype)
    assert made["words"] == WORDS and targets.tags == TAGS
    assert made["teacher_word_starts"] == [[1] * len(words) for words in WORDS]
    assert marking.asked == TEXTS[:3] + TEXTS[4:] and targets.counts["asked"] == 4
    expected = teacher().targets([Sentence.of_words(words) for words in WORDS]).log_probabilities
    turned, known = cache_span_outputs(
        rows().select(range(5)[::-1]), teacher(marking), output_dir=tmp_path / "cache", dtype=dtype
    )
    assert len(marking.asked) == 4 and turned["words"] == WORDS[::-1]
    for found, again, one in zip(targets.log_probabilities, known.log_probabilities[::-1], expected, strict=True):
        assert found == pytest.approx(one, abs=tolerance) and again == pytest.approx(found, abs=0)
    if dtype == "float32":
        assert all((a == b).all() for a, b in zip(logits_of(made), expected, strict=True))
    assert known.counts == targets.counts and known.seconds == targets.seconds
    record = json.loads((tmp_path / "cache" / "provenance.json").read_text())
    assert record["teacher"]["name"] == "marking 1" and record["options"]["tags"] == TAGS
    assert record["answers"]["counts"]["spans"] == 4


def test_a_tagger_learns_from_them_and_knows_more_words_than_it_reads(tmp_path):
    made, targets = cache_span_outputs(rows(), teacher(), output_dir=tmp_path / "cache")
    _, tokenizer = classifier()
    tokens = tokenize(made.select_columns(["words"]), tokenizer, max_length=2)  # Maria met: the third word is cut off
    train = datasets.concatenate_datasets([tokens, made.select_columns(COLUMNS)], axis=1)
    assert [len(row) for row in train["teacher_logits"]] == [3, 2, 2, 2, 1] and len(train[0]["input_ids"]) == 2
    arguments = DistillationArguments(
        str(tmp_path),
        max_steps=3,
        temperature=1.0,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        hard_label_weight=0.0,
        soft_target_weight=1.0,
        logging_steps=1,
        learning_rate=0.05,
        per_device_train_batch_size=5,
        save_strategy="no",
    )
    config = LSTMStudentConfig(
        vocab_size=len(tokenizer), embedding_size=8, hidden_size=8, dropout=0.0, id2label=dict(enumerate(targets.tags))
    )
    student = LSTMStudentForTokenClassification(config)
    names = ("input_ids", "attention_mask")
    ids, mask = (torch.tensor([row + [0] * (2 - len(row)) for row in tokens[name]]) for name in names)
    with torch.no_grad():
        said = student(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)[mask == 1]
    taught = torch.tensor(np.concatenate([row[:2] for row in targets.log_probabilities]))
    expected = (taught.exp() * (taught - said)).sum(-1).mean().item()
    trainer = DistillationTrainer(
        student, arguments, train_dataset=train, data_collator=DataCollatorForTokenClassification(tokenizer)
    )
    trainer.train()
    losses = [entry["soft_loss"] for entry in trainer.state.log_history if "soft_loss" in entry]
    assert losses[0] == pytest.approx(expected, abs=1e-4) and losses[2] < losses[0]


def test_after_a_failure_nothing_is_asked_twice(tmp_path):
    failing = Marking(fails_at="in Rome")
    with pytest.raises(OSError, match="gone"):
        cache_span_outputs(rows(), teacher(failing, batch_size=1), output_dir=tmp_path)
    assert failing.asked == TEXTS[:2]
    mended = Marking()
    _, targets = cache_span_outputs(rows(), teacher(mended), output_dir=tmp_path)
    assert mended.asked == ["in Rome", "Joan"]
    assert (targets.counts["asked"], targets.counts["answered"]) == (2, 2)
    assert len(lines(tmp_path / "answers.jsonl")) == 4


def test_a_ledger_serves_several_caches_and_tags_in_another_order(tmp_path):
    first, second = Marking(), Marking()
    made, _ = cache_span_outputs(rows(), teacher(first), output_dir=tmp_path / "a", ledger=tmp_path / "answers.jsonl")
    other = TAGS[::-1]
    turned, targets = cache_span_outputs(
        rows(), teacher(second), output_dir=tmp_path / "b", ledger=tmp_path / "answers.jsonl", tags=other
    )
    assert len(first.asked) == 4 and not second.asked and targets.tags == other
    assert all((a == b[:, ::-1]).all() for a, b in zip(logits_of(made), logits_of(turned), strict=True))


def test_texts_are_split_into_words(tmp_path):
    texts = ["In  Rome, Maria!", "Joan's"]
    made, targets = cache_span_outputs(rows(tweet=texts), teacher(), output_dir=tmp_path, text="tweet")
    assert made["words"] == [["In", "Rome", ",", "Maria", "!"], ["Joan", "'", "s"]] and made["tweet"] == texts
    assert [[TAGS[tag] for tag in row] for row in targets.labels] == [
        ["O", "O", "O", "B-PER", "O"],
        ["B-PER", "O", "O"],
    ]
    assert targets.counts["widened"] == 0
    with pytest.raises(ValueError, match="holds the outputs of another pass: rows"):  # another space is another text
        cache_span_outputs(rows(tweet=["In Rome, Maria!", "Joan's"]), teacher(), output_dir=tmp_path, text="tweet")


def test_rows_whose_answer_cannot_be_read_are_left_out_and_told(tmp_path, caplog):
    model = SpanTeacher(Answering("Rome is a city."), CLASSES)
    made, targets = cache_span_outputs(rows(), model, output_dir=tmp_path, dtype="int8")
    again, known = cache_span_outputs(rows(), model, output_dir=tmp_path, dtype="int8")
    assert made["words"] == again["words"] == [words for words in WORDS if "Rome" not in words]
    assert targets.has_target.tolist() == known.has_target.tolist() == ["Rome" not in text for text in TEXTS]
    assert (targets.counts["unreadable"], targets.counts["without_target"]) == (2, 2)
    assert "2 of 5 rows are left out: the teacher's answer holds no list of spans" in caplog.text


def test_a_pipeline_is_named_by_its_model_and_matched_by_its_weights(tmp_path):
    first, targets = cache_span_outputs(rows(), SpanTeacher(tagger()), output_dir=tmp_path)
    again, known = cache_span_outputs(rows(), SpanTeacher(tagger()), output_dir=tmp_path)
    assert first["teacher_logits"] == again["teacher_logits"] and targets.counts == known.counts
    assert json.loads((tmp_path / "provenance.json").read_text())["teacher"]["name"] == "BertForTokenClassification"
    other = tagger()
    other.model.classifier.bias.data += 0.1
    with pytest.raises(ValueError, match=r"holds the outputs of another pass: teacher.weights"):
        cache_span_outputs(rows(), SpanTeacher(other), output_dir=tmp_path)


def test_another_teacher_or_question_is_another_cache(tmp_path):
    cache_span_outputs(rows(), teacher(), output_dir=tmp_path / "a")
    with pytest.raises(ValueError, match=r"holds the outputs of another pass: teacher.weights"):
        cache_span_outputs(rows(), teacher(name="marking 2"), output_dir=tmp_path / "a")
    with pytest.raises(ValueError, match=r"holds the outputs of another pass: options.tags"):
        cache_span_outputs(rows(), teacher(), output_dir=tmp_path / "a", tags=TAGS[::-1])
    cache_span_outputs(rows(), SpanTeacher(Answering(), CLASSES), output_dir=tmp_path / "b")
    with pytest.raises(ValueError, match=r"holds the outputs of another pass: .*options.question"):
        cache_span_outputs(rows(), SpanTeacher(Answering(), CLASSES, instruction="Else?"), output_dir=tmp_path / "b")


def labelled(names, values=None, column="labels"):
    kind = datasets.Value("string") if names is None else datasets.ClassLabel(names=names)
    values = values or [[0] * len(words) for words in WORDS]
    features = datasets.Features({"words": datasets.List(datasets.Value("string")), column: datasets.List(kind)})
    return datasets.Dataset.from_dict({"words": WORDS, column: values}, features=features)


def test_tags_are_those_of_the_data(tmp_path):
    _, targets = cache_span_outputs(labelled(TAGS[::-1]), teacher(), output_dir=tmp_path / "a")
    assert targets.tags == TAGS[::-1]
    strings = [["B-PER", "O", "O"], ["O", "O"], ["O", "B-LOC"], ["O", "B-LOC"], ["B-PER"]]
    _, targets = cache_span_outputs(labelled(None, strings, "label"), teacher(), output_dir=tmp_path / "b")
    assert targets.tags == TAGS
    feelings = rows().add_column("label", ["good"] * 5)  # of whole texts
    assert cache_span_outputs(feelings, teacher(), output_dir=tmp_path / "d")[1].tags == TAGS
    numbers = [[-100] * len(words) for words in WORDS[:-1]] + [[4]]
    _, targets = cache_span_outputs(rows(words=WORDS, labels=numbers), teacher(), output_dir=tmp_path / "c")
    assert targets.tags == TAGS


@pytest.mark.parametrize(
    ("data", "tags", "message"),
    [
        (labelled(["O", "B-PER", "I-PER"]), None, r"tags of the column 'labels': expected the IOB2 tags"),
        (labelled(["O", "B-PERSON", "I-PERSON"], column="label"), None, r"missing: \['B-PER', .*unknown: \['B-PERSON'"),
        (labelled(TAGS), TAGS[::-1], r"the column 'labels' has \['O', 'B-PER', .* in this order; got \['I-LOC'"),
        (labelled(None, [["O"] * len(w) for w in WORDS[:-1]] + [["B-ORG"]]), None, r"has \['B-ORG'\], and the tags"),
        (rows(words=WORDS, labels=[[0] * len(w) for w in WORDS[:-1]] + [[5]]), None, r"has \['5'\], and the tags are"),
        (rows(), ["O", "B-PER", "I-PER"], r"missing: \['B-LOC', 'I-LOC'\]; unknown: \[\]"),
    ],
)
def test_classes_that_are_not_the_datas_are_an_error_before_anything_is_asked(tmp_path, data, tags, message):
    marking = Marking()
    with pytest.raises(ValueError, match=message):
        cache_span_outputs(data, teacher(marking), output_dir=tmp_path / "cache", tags=tags)
    assert not marking.asked and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("data", "text", "error", "message"),
    [
        (rows().to_iterable_dataset(), "words", TypeError, "a stream has to be loaded first"),
        (rows().select([]), "words", ValueError, "has no rows"),
        (rows(), "tweet", ValueError, "text: there is no column 'tweet'"),
        (rows(words=WORDS, teacher_logits=[[0.0]] * 5), "words", ValueError, "has a column teacher_logits already"),
        (rows(words=WORDS, teacher_word_starts=[[1]] * 5), "words", ValueError, "column teacher_word_starts already"),
        (rows(words=[["a"], []]), "words", ValueError, "1 of 2 texts are blank"),
        (rows(words=[["a"], None]), "words", TypeError, "got None in row 1"),
        (rows(words=[[1], [2]]), "words", TypeError, r"got \[1\] in row 0"),
        (rows(tweet=["a", " "]), "tweet", ValueError, "1 of 2 texts are blank"),
        (rows(tweet=["a", None]), "tweet", TypeError, "got a in row 0"),
        (rows(tweet=TEXTS, words=WORDS), "tweet", ValueError, "would become the column 'words', which is there"),
        (rows(words=TEXTS), "words", ValueError, "would become the column 'words', which is there"),
        (rows(tweet=["今天天气很好"]), "tweet", ValueError, "a script without spaces"),
    ],
)
def test_what_cannot_be_asked_about_is_refused(tmp_path, data, text, error, message):
    marking = Marking()
    with pytest.raises(error, match=message):
        cache_span_outputs(data, teacher(marking), output_dir=tmp_path, text=text)
    assert not marking.asked


def test_functions_without_a_name_are_refused_before_they_are_called(tmp_path):
    marking = Marking()
    with pytest.raises(ValueError, match="Pass name="):
        cache_span_outputs(rows(), teacher(marking, name=None), output_dir=tmp_path)
    assert not marking.asked


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "tagging.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "cache_span_outputs" in block)
    monkeypatch.chdir(tmp_path)
    names = {"tokenizer": classifier()[1]}
    exec(compile(code, "tagging.md", "exec"), names)
    assert capsys.readouterr().out == "['O', 'B-LOC', 'I-LOC'] 2 1\n"
    assert {"input_ids", "word_starts", *COLUMNS} <= {*names["train"].column_names}
