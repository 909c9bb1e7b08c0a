"""Taggers whose answers are known, asked about words that two tokenizers cut differently."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.metrics import f1_score, matthews_corrcoef
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from hf_distill.evaluation import predictor
from hf_distill.evaluation.predictions import Predictors
from hf_distill.evaluation.predictor import Predictor
from hf_distill.reports.classification import compare
from hf_distill.reports.report import Report

PIECE = 50
TAGS = ("O", "B-PER", "I-PER")


class Tags(BertForTokenClassification):
    """Tags a token by its number, modulo the classes, but for some that it gets wrong; never looks around."""

    mistakes = frozenset()

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        wrong = torch.isin(input_ids, torch.tensor(sorted(self.mistakes), dtype=torch.long))
        said = (input_ids + wrong.long()) % self.config.num_labels
        output = super().forward(input_ids=input_ids, attention_mask=attention_mask)
        return type(output)(logits=torch.nn.functional.one_hot(said, self.config.num_labels) * 4.0)


def tagger(mistakes=(), names=TAGS):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = Tags(BertConfig(vocab_size=60, **sizes, id2label=dict(enumerate(names))))
    model.mistakes = frozenset(mistakes)
    return model


@pytest.fixture(scope="module")
def sentences():
    """Words are numbers from 3 to 39, and a word's tag is its number modulo 3. The first sentence is empty."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 12, size=59)
    return [[], *(generator.integers(3, 40, size=length).tolist() for length in lengths)]


def tokenized(sentences, pieces=1, longest=100, prefix=""):
    """A special token 1, then each word in some pieces: its number first, then 50s; cut at the longest."""
    columns = {"input_ids": [], "word_starts": [], "attention_mask": [], "labels": []}
    for words in sentences:
        ids, starts, labels = [1], [-100], [-100]
        for word in words:
            ids += [word, *[PIECE] * (pieces - 1)]
            starts += [1, *[0] * (pieces - 1)]
            labels += [word % 3, *[-100] * (pieces - 1)]
        for name, values in zip(columns, (ids, starts, [1] * len(ids), labels), strict=True):
            columns[name].append(values[:longest])
    if prefix:
        del columns["labels"]
    return {prefix + name: values for name, values in columns.items()}


def both(sentences, longest=100, teacher_longest=100):
    """The student reads two pieces a word, the teacher three."""
    return Dataset.from_dict(
        tokenized(sentences, 2, longest) | tokenized(sentences, 3, teacher_longest, prefix="teacher_")
    )


def right(sentences, mistakes):
    return pytest.approx(float((~np.isin(np.concatenate(sentences), list(mistakes))).mean()), abs=1e-5)


def tag(teacher, student, dataset, **settings):
    settings = {"metrics": ["accuracy"], "resamples": 50} | settings
    return compare(teacher, student, dataset, task="token-classification", **settings)


@pytest.fixture(scope="module")
def report(sentences):
    return tag(
        tagger([5]),
        tagger([5, 6]),
        both(sentences),
        metrics=["accuracy", "macro_f1", "seqeval"],
        baseline_model=tagger([5, 6, 7, 8]),
        controls={"half": [[word % 3 if word < 20 else 0 for word in words] for words in sentences]},
        texts=[[str(word) for word in words] for words in sentences],
    )


def accuracy(report, name):
    return report.models[name]["quality"]["accuracy"]["value"]


def test_words_are_scored_across_two_tokenizers(report, sentences):
    for name, mistakes in (("teacher", [5]), ("student", [5, 6]), ("baseline", [5, 6, 7, 8])):
        assert accuracy(report, name) == right(sentences, mistakes)
        assert set(report.models[name]["quality"]) == {"accuracy", "macro_f1", "seqeval"}
    words = np.concatenate(sentences).astype(int)
    half = ((words < 20) | (words % 3 == 0)).mean()
    commonest = np.bincount(words % 3).max() / len(words)
    assert report.controls["half"]["accuracy"]["value"] == pytest.approx(half, abs=1e-5)
    assert report.controls["majority_class"]["accuracy"]["value"] == pytest.approx(commonest, abs=1e-5)
    assert report.examples == 59
    assert report.words == {
        "words": len(words),
        "cut_off_teacher": 0,
        "cut_off_student": 0,
        "read_by_all": len(words),
        "scored": len(words),
    }
    assert not any("cut off" in warning for warning in report.warnings)


def test_the_other_figures_are_those_of_words_too(report, sentences):
    words = np.concatenate(sentences)
    assert report.fidelity["agreement"] == right(sentences, [6])
    assert (report.fidelity["examples"], report.fidelity["words"]) == (60, len(words))
    errors = [np.isin(words, mistakes).sum() for mistakes in ([5, 6], [5])]
    assert report.errors["error_ratio"]["value"] == pytest.approx(errors[0] / errors[1], rel=1e-4)
    assert report.differences["gain_over_best_control"]["control"] == "baseline"
    assert report.per_class["O"]["support"] == (words % 3 == 0).sum()
    # The two differ on the word 6 alone: the share of a sentence's words that are 6 orders them.
    shares = [np.mean(np.array(row) == 6) if row else 0 for row in sentences]
    differing = [share for share in sorted(shares, reverse=True) if share][:10]
    assert [shares[row["example"]] for row in report.most_different] == differing
    worst = report.most_different[0]
    assert worst["text"] == [str(word) for word in sentences[worst["example"]]]
    assert worst["label"] == worst["teacher"]
    assert len(worst["student"]) == len(worst["text"])


def test_a_tagging_report_is_saved_and_drawn(report, tmp_path):
    report.save(tmp_path)
    assert Report.load(tmp_path) == report
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_cut_off_words_are_counted_and_scored_for_nobody(sentences):
    # The student reads three words of a sentence, the teacher four; what lies beyond nobody is judged by.
    dataset = both(sentences, longest=7, teacher_longest=12)
    whole = [[word % 3 for word in words] for words in sentences]
    report = tag(tagger(), tagger([6]), dataset, controls={"right": whole})
    total = sum(map(len, sentences))
    first = [sum(min(len(words), count) for words in sentences) for count in (3, 4)]
    assert report.words["read_by_all"] == report.words["scored"] == first[0]
    assert report.words["words"] == total
    assert report.words["cut_off_student"] == total - first[0]
    assert report.words["cut_off_teacher"] == total - first[1]
    assert any(f"{total - first[0]} for the student" in warning for warning in report.warnings)
    assert accuracy(report, "student") == right([words[:3] for words in sentences], [6])
    assert report.controls["right"]["accuracy"]["value"] == 1


def with_all_labels(sentences, **lengths):
    return both(sentences, **lengths).add_column("word_labels", [[word % 3 for word in words] for words in sentences])


def test_labels_of_unread_words_alone(sentences):
    """Nothing that was read can be calibrated, which ended in an error about a value of NaN."""
    dataset = both(sentences, longest=7, teacher_longest=10)
    dataset = dataset.map(lambda row: {"labels": [-100] * len(row["labels"])})
    labels = [[-100] * len(words[:3]) + [word % 3 for word in words[3:]] for words in sentences]
    report = tag(tagger(), tagger(), dataset.add_column("word_labels", labels))
    assert report.words["lost_words"] == report.words["scored"] == sum(len(words[3:]) for words in sentences)
    assert report.calibration == {}


def test_a_teacher_that_reads_less_is_told(sentences):
    report = tag(tagger(), tagger(), with_all_labels(sentences, longest=100, teacher_longest=10))
    lost = sum(len(words[3:]) for words in sentences)
    assert any(f"the teacher did not read {lost} and the student 0" in warning for warning in report.warnings)


def test_words_that_were_not_read_are_wrong(sentences):
    """The student reads three words of a sentence and the teacher four, of the data's own count."""
    dataset = with_all_labels(sentences, longest=7, teacher_longest=12)
    whole = [[word % 3 for word in words] for words in sentences]
    settings = {"metrics": ["accuracy", "macro_f1", "matthews_correlation", "seqeval", "calibration_error"]}
    report = tag(tagger(), tagger([6]), dataset, controls={"right": whole}, **settings)
    words = np.concatenate(sentences).astype(int)
    read = {count: np.concatenate([np.arange(len(row)) < count for row in sentences]) for count in (3, 4)}
    assert report.words["words"] == report.words["scored"] == len(words)
    assert report.words["lost_words"] == report.words["cut_off_student"] == (~read[3]).sum()
    assert accuracy(report, "student") == pytest.approx((read[3] & (words != 6)).mean(), abs=1e-5)
    assert accuracy(report, "teacher") == pytest.approx(read[4].mean(), abs=1e-5)
    assert report.controls["right"]["accuracy"]["value"] == 1
    said = np.where(read[3], (words + (words == 6)) % 3, 3)  # to scikit-learn, a class of its own
    quality = report.models["student"]["quality"]
    assert quality["macro_f1"]["value"] == pytest.approx(
        f1_score(words % 3, said, labels=[0, 1, 2], average="macro"), abs=1e-5
    )
    assert quality["matthews_correlation"]["value"] == pytest.approx(matthews_corrcoef(words % 3, said), abs=1e-5)
    ends = np.cumsum([len(row) for row in sentences])[:-1]
    names = np.array([*TAGS, "O"])
    rows = [[part.tolist() for part in np.split(names[numbers], ends)] for numbers in (words % 3, said)]
    assert quality["seqeval"]["value"] == pytest.approx(seqeval_f1(*rows), abs=1e-5)
    true = [set(get_entities(row)) for row in rows[0]]
    assert report.words["entities"] == sum(map(len, true))
    assert report.words["lost_entities"] == sum(last >= 3 for row in true for _, _, last in row)
    # What is about answers is about words that were read.
    assert report.fidelity["words"] == read[3].sum()
    assert report.fidelity["agreement"] == pytest.approx((words[read[3]] != 6).mean(), abs=1e-5)
    assert report.calibration["student"] < 0.1 and report.calibration["teacher"] < 0.1
    lost = f"Of {len(words)} labelled words the student did not read {(~read[3]).sum()}, nor "
    assert any(warning.startswith(lost) for warning in report.warnings)


def test_where_all_words_are_read_their_labels_change_nothing(sentences):
    found = [
        tag(tagger([5]), tagger([5, 6]), dataset, metrics=["accuracy", "macro_f1", "seqeval"], detailed_costs=False)
        for dataset in (both(sentences), with_all_labels(sentences))
    ]
    assert found[0].fidelity == found[1].fidelity and found[0].breakdown == found[1].breakdown
    for name in ("teacher", "student"):
        assert found[0].models[name]["quality"] == found[1].models[name]["quality"]
    assert found[1].words == found[0].words | {
        "lost_words": 0,
        "entities": found[1].words["entities"],
        "lost_entities": 0,
    }
    assert not any("did not read" in warning for warning in found[1].warnings)


def test_labels_of_other_words_are_refused(sentences):
    dataset = with_all_labels(sentences)
    labels = [list(row) for row in dataset["word_labels"]]
    shorter = dataset.remove_columns("word_labels").add_column("word_labels", [row[:-1] for row in labels])
    with pytest.raises(ValueError, match=r"has \d+ labels in row 1, of which the teacher reads \d+ words"):
        tag(tagger(), tagger(), shorter)
    other = [[(label + 1) % 3 for label in row] for row in labels]
    with pytest.raises(ValueError, match="of row 1 does not begin with the labels of the words"):
        tag(tagger(), tagger(), dataset.remove_columns("word_labels").add_column("word_labels", other))


def test_a_word_without_a_tag_is_not_scored(sentences):
    dataset = both(sentences)
    labels = [[-100 if label == 1 else label for label in row] for row in dataset["labels"]]
    partly = dataset.remove_columns("labels").add_column("labels", labels)
    report = tag(tagger(), tagger([4, 6]), partly)  # 4 is one of those without
    words = np.concatenate(sentences)
    assert report.words["scored"] == (words % 3 != 1).sum()
    assert accuracy(report, "student") == pytest.approx((words[words % 3 != 1] != 6).mean(), abs=1e-5)
    assert report.fidelity["words"] == len(words)
    assert "label" not in report.most_different[0] or "B-PER" not in report.most_different[0]["label"]


def test_without_a_column_of_starts_the_labels_mark_the_words(sentences):
    dataset = Dataset.from_dict(tokenized(sentences, 2)).remove_columns("word_starts")
    assert accuracy(tag(tagger(), tagger([6]), dataset), "student") == right(sentences, [6])


def test_padding_on_the_left_moves_the_words(sentences):
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1}, unk_token="a"))
    left = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", padding_side="left")
    report = tag(
        tagger([5]), tagger([6]), both(sentences), student_processing_class=left, teacher_processing_class=left
    )
    assert accuracy(report, "student") == right(sentences, [6])
    assert accuracy(report, "teacher") == right(sentences, [5])


def test_fidelity_needs_no_labels(sentences):
    texts = both(sentences[:30]).remove_columns("labels")
    report = tag(tagger([5]), tagger([5, 6]), both(sentences), fidelity_dataset=texts)
    assert report.fidelity["agreement"] == right(sentences[:30], [6])
    assert report.fidelity["examples"] == 30


def test_cached_teacher_logits_are_one_row_a_word(sentences):
    said = [np.eye(3)[[(word + 1) % 3 for word in words]].tolist() if words else [] for words in sentences]
    cached = both(sentences).add_column("teacher_logits", said)
    assert accuracy(tag(tagger(), tagger(), cached), "teacher") == 0
    short = both(sentences).add_column("teacher_logits", [row[:1] for row in said])
    with pytest.raises(ValueError, match=r"59 rows for \d+ words that the teacher reads"):
        tag(tagger(), tagger(), short)


def test_predictions_are_given_sentence_by_sentence(sentences):
    dataset = both(sentences)
    reader = Predictor(tagger([6]), dataset, word_level=True)
    with reader.ready():
        one = predictor.predict_word_logits(reader, dataset, name="student", batch_size=1)
        many = predictor.predict_word_logits(reader, dataset, name="student", batch_size=64)
    assert [len(row) for row in many] == [len(words) for words in sentences]
    assert all(np.array_equal(*pair) for pair in zip(one, many, strict=True))
    for as_teacher in (False, True):
        said = predictor.predict_tags(tagger([6]), dataset, None, as_teacher=as_teacher)
        assert said == [[(word + (word == 6)) % 3 for word in words] for words in sentences]


def test_further_test_sets_are_tagged_too(sentences):
    report = tag(tagger(), tagger([6]), both(sentences), test_sets={"news": both(sentences[:20])})
    assert report.test_sets["news"]["examples"] == 19
    assert report.test_sets["news"]["student"]["quality"]["accuracy"]["value"] == right(sentences[:20], [6])


def test_groups_are_of_sentences_or_of_words(sentences):
    unseen = [[word > 30 for word in words] for words in sentences]
    genres = ["news" if row % 2 else "fiction" for row in range(60)]
    report = tag(tagger([31]), tagger([31, 32, 7]), both(sentences), groups={"unseen": unseen, "genre": genres})
    words = np.concatenate(sentences)
    odd = np.concatenate(sentences[1::2])
    assert report.breakdown["genre"]["news"]["examples"] == 30
    assert report.breakdown["genre"]["news"]["student"]["accuracy"] == right(sentences[1::2], [31, 32, 7])
    assert len(odd) < len(words)
    assert report.breakdown["unseen"]["True"]["words"] == (words > 30).sum()
    rare = words[words > 30]
    assert report.breakdown["unseen"]["True"]["error_ratio"] == pytest.approx(
        np.isin(rare, [31, 32]).sum() / (rare == 31).sum(), rel=1e-4
    )
    assert "error_ratio" not in report.breakdown["unseen"]["False"]  # the teacher makes none there


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"controls": {"a": [[0]]}}, "predicts 1 examples, but the test set has 60"),
        ({"controls": {"a": [[]] * 60}}, "predicts 0 words of row 1, but all models read"),
        ({"groups": {"genre": ["a"]}}, "has 1 values for 60 examples"),
        ({"groups": {"unseen": [[]] * 60}}, r"has 0 values for the \d+ words of row 1"),
        ({"texts": ["a"]}, "a text for each of the 60 examples"),
    ],
)
def test_what_does_not_fit_is_refused(sentences, settings, message):
    with pytest.raises(ValueError, match=message):
        tag(tagger(), tagger([6]), both(sentences), **settings)


def test_words_must_be_found(sentences):
    dataset = both(sentences)
    with pytest.raises(ValueError, match="Expected the column teacher_word_starts"):
        tag(tagger(), tagger(), dataset.remove_columns("teacher_word_starts"))
    with pytest.raises(ValueError, match="Expected the column word_starts"):
        Predictor(tagger(), dataset.remove_columns(["word_starts", "labels"]), word_level=True)
    with pytest.raises(ValueError, match="once an example"):
        Predictor(tagger(), dataset).word_positions(dataset)
    with pytest.raises(ValueError, match="None of the 1 rows has a word"):
        tag(tagger(), tagger(), dataset.select([0]))
    unlabelled = dataset.remove_columns("labels").add_column("labels", [[-100] * len(row) for row in dataset["labels"]])
    with pytest.raises(ValueError, match="words of the test set has a label"):
        tag(tagger(), tagger(), unlabelled)


def test_entities_need_names(sentences):
    plain = tagger(names=("LABEL_0", "LABEL_1", "LABEL_2"))
    with pytest.raises(ValueError, match="Set its id2label"):
        tag(tagger(), plain, both(sentences), metrics=["seqeval"])


def test_nan_is_found_in_words(sentences):
    class Broken(Tags):
        def forward(self, input_ids=None, attention_mask=None, **kwargs):
            output = super().forward(input_ids, attention_mask)
            output.logits[:] = float("nan")
            return output

    broken = tagger()
    broken.__class__ = Broken
    with pytest.raises(ValueError, match=r"student gives NaN logits on \d+ of \d+ words"):
        tag(tagger(), broken, both(sentences))


def test_each_text_is_one_item():
    class Text:
        """Stands in for a reader: nothing is asked of it where there is a cache."""

    dataset = Dataset.from_dict({"teacher_logits": [[0.0, 1.0], [2.0, 1.0]], "labels": [1, 1]})
    together = Predictors(
        {"teacher": Text()}, "single_label_classification", ["no", "yes"], word_level=False, batch_size=2
    )
    said = together.predict(dataset, {"guess": [0, 0]})
    assert said.decisions["teacher"].tolist() == [1, 0]
    assert said.decisions["guess"].tolist() == [0, 0]
    assert said.items.owners.tolist() == [0, 1]
    part = said.where(np.array([False, True]))
    assert part.items.owners.tolist() == [1]
    assert part.logits["teacher"].tolist() == [[2.0, 1.0]]
