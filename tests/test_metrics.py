"""Metrics against numbers worked out by hand, scikit-learn and scipy."""

import math
import traceback

import evaluate
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from hf_distill import metrics

SAID = [1, 0, 1, 1, 0, 2]
TRUE = [1, 0, 0, 1, 1, 2]


def value(name, predictions, references, **settings):
    return metrics.load(name).compute(predictions=predictions, references=references, **settings)[name]


def test_accuracy_by_hand():
    assert value("accuracy", SAID, TRUE) == pytest.approx(4 / 6)


def test_macro_f1_by_hand():
    # Class 0: 1 hit, named 2 + 2 times; class 1: 2 hits of 3 + 3; class 2: 1 of 1 + 1.
    assert value("macro_f1", SAID, TRUE) == pytest.approx((2 / 4 + 4 / 6 + 2 / 2) / 3)


def test_f1_of_the_positive_class_by_hand():
    assert value("f1", [1, 1, 0, 0], [1, 0, 1, 0]) == pytest.approx(0.5)
    assert value("f1", SAID, TRUE, average="micro") == pytest.approx(4 / 6)


def test_matthews_correlation_agrees_with_the_closed_form():
    said, true = np.array([1, 1, 0, 0, 1, 0]), np.array([1, 0, 0, 1, 1, 0])
    tp, tn, fp, fn = 2, 2, 1, 1
    closed = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert value("matthews_correlation", said, true) == pytest.approx(closed)


def test_unlabelled_examples_are_not_counted():
    for name in ("accuracy", "macro_f1", "matthews_correlation"):
        assert value(name, [*SAID, 0, 1], [*TRUE, -100, -100]) == pytest.approx(value(name, SAID, TRUE))


def test_nothing_labelled_is_an_error():
    with pytest.raises(ValueError, match="all are -100"):
        value("accuracy", [1, 0], [-100, -100])


def test_rows_are_multi_label():
    said, true = [[1, 0], [1, 1], [0, 0]], [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    assert value("accuracy", said, true) == pytest.approx(2 / 3)
    expected = sklearn.metrics.f1_score(np.array(true), np.array(said), average="macro")
    assert value("macro_f1", said, true) == pytest.approx(expected)


def test_correlations_agree_with_scipy_and_are_zero_for_a_constant():
    generator = np.random.default_rng(0)
    said, true = generator.normal(size=20), generator.normal(size=20)
    assert value("pearson", said, true) == pytest.approx(np.corrcoef(said, true)[0, 1])
    assert value("spearman", said, true) == pytest.approx(scipy.stats.spearmanr(said, true).statistic)
    assert value("pearson", [1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0
    assert value("spearman", [1.0, 2.0, 3.0], [2.0, 2.0, 2.0]) == 0


def test_teacher_agreement_reads_logits_and_class_numbers():
    student, teacher = np.array([[2.0, 1.0], [0.0, 3.0], [5.0, 1.0]]), np.array([[9.0, 1.0], [0.0, 1.0], [1.0, 5.0]])
    assert value("teacher_agreement", student, teacher) == pytest.approx(2 / 3)
    assert value("teacher_agreement", [0, 1, 0], [0, 1, 1]) == pytest.approx(2 / 3)


def test_teacher_kl_by_hand():
    student, teacher = np.log([[0.5, 0.5], [0.2, 0.8]]), np.log([[0.9, 0.1], [0.2, 0.8]])
    first = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert value("teacher_kl", student, teacher) == pytest.approx(first / 2)
    assert value("teacher_kl", student, teacher + 7) == pytest.approx(first / 2)


def test_teacher_kl_survives_a_class_that_is_ruled_out():
    assert value("teacher_kl", [[0.0, 0.0]], [[0.0, -np.inf]]) == pytest.approx(math.log(2))


def test_teacher_kl_softens_both_sides():
    logits = np.array([[0.0, 2.0]])
    assert value("teacher_kl", logits, 2 * logits, temperature=2.0) == pytest.approx(
        value("teacher_kl", logits / 2, logits)
    )


def test_calibration_error_by_hand():
    # Two examples at confidence 0.9, one right: a gap of 0.4. Two at 0.6, both right: a gap of 0.4 the other way.
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    assert value("calibration_error", logits, [0, 1, 0, 1]) == pytest.approx(0.4)
    # In one bin the gaps cancel.
    assert value("calibration_error", logits, [0, 1, 0, 1], bins=1) == pytest.approx(0.0)


def test_bits_per_byte_counts_bytes_not_characters():
    nats = [math.log(2) * 6, math.log(2) * 4]
    assert value("bits_per_byte", nats, ["né", "ab"]) == pytest.approx(2.0)
    assert value("bits_per_byte", nats, ["12", "345"]) == pytest.approx(2.0)


def test_bits_per_byte_reads_numbers_of_bytes():
    assert value("bits_per_byte", [math.log(2) * 6, math.log(2) * 4], [3, 2]) == pytest.approx(2.0)
    assert value("bits_per_byte", [math.log(2) * 6, 1.0], [3.0, -100.0]) == pytest.approx(2.0)


@pytest.mark.parametrize("references", [["", ""], [0, 0]])
def test_bits_of_no_bytes_are_an_error(references):
    with pytest.raises(ValueError, match="The 2 references have no byte between them"):
        value("bits_per_byte", [1.0, 2.0], references)


def test_distinct_n_by_hand():
    distinct = metrics.load("distinct_n")
    texts = ["I like it. I like", "it", "", "LIKE it!"]
    # i like it . i like | it | like it ! : 5 of 10 words differ; of the 5 + 2 pairs "i like" and "like it" come twice.
    for n, expected in ((1, 5 / 10), (2, 5 / 7), (3, 5 / 5), (6, 1.0), (7, 0.0)):
        assert distinct.compute(predictions=texts, n=n) == {"distinct_n": pytest.approx(expected)}
    assert distinct.compute(predictions=texts) == distinct.compute(predictions=texts, n=2)
    assert distinct.compute(predictions=["na " * 50], n=1) == {"distinct_n": pytest.approx(1 / 50)}
    with pytest.raises(ValueError, match="expected the number of words in an n-gram, 1 or more, got 0"):
        distinct.compute(predictions=texts, n=0)


def test_seqeval_scores_whole_entities_and_leaves_out_unlabelled_positions():
    pytest.importorskip("seqeval")
    true = [["B-PER", "I-PER", "O"], ["B-LOC", "-100"]]
    said = [["B-PER", "O", "O"], ["B-LOC", "B-LOC"]]
    result = metrics.load("seqeval").compute(predictions=said, references=true)
    assert result == {"seqeval": pytest.approx(0.5), "precision": pytest.approx(0.5), "recall": pytest.approx(0.5)}


def test_sacrebleu_and_chrf_agree_with_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu")
    said = ["the cat sat on the mat", "a dog barked at me"]
    true = [["the cat sat on a mat", "a cat sat on the mat"], ["a dog barked"]]
    streams = [["the cat sat on a mat", "a dog barked"], ["a cat sat on the mat", None]]
    assert value("sacrebleu", said, true) == pytest.approx(sacrebleu.corpus_bleu(said, streams).score)
    assert value("chrf", said, [row[0] for row in true]) == pytest.approx(
        sacrebleu.corpus_chrf(said, streams[:1]).score
    )


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu", None)
    with pytest.raises(ImportError, match=r"pip install 'hf-distill\[generation\]'"):
        value("sacrebleu", ["a"], ["a"])


@pytest.mark.parametrize("name", metrics.METRICS)
def test_every_metric_goes_by_its_own_name(name):
    assert metrics.load(name).name == name


def test_metrics_work_with_evaluate_in_batches_and_combined():
    both = evaluate.combine([metrics.load("accuracy"), metrics.load("macro_f1")])
    both.add_batch(predictions=SAID[:3], references=TRUE[:3])
    both.add_batch(predictions=SAID[3:], references=TRUE[3:])
    assert both.compute() == pytest.approx(
        {"accuracy": value("accuracy", SAID, TRUE), "macro_f1": value("macro_f1", SAID, TRUE)}
    )


def test_a_local_folder_is_a_metric_where_it_may_run(tmp_path):
    script, ran = tmp_path / "always_one" / "always_one.py", tmp_path / "ran"
    script.parent.mkdir()
    script.write_text(
        f"import datasets\nimport evaluate\nfrom pathlib import Path\nPath({str(ran)!r}).touch()\n"
        "class AlwaysOne(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        number = datasets.Value('int64')\n"
        "        features = datasets.Features({'predictions': number, 'references': number})\n"
        "        return evaluate.MetricInfo(description='', citation='', inputs_description='', features=features)\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'always_one': 1.0}\n"
    )
    for name in (str(script), str(script.parent)):
        with pytest.raises(
            ValueError, match=r"not run unless you ask for it\. .* set compare\.trust_remote_code: true"
        ):
            metrics.load(name)
    assert not ran.exists()
    metric = metrics.load(str(script.parent), trust_remote_code=True)
    assert ran.exists()
    assert metric.compute(predictions=[0], references=[1]) == {"always_one": 1.0}


def test_a_metric_of_the_hub_runs_only_where_it_may_and_better_at_a_commit(monkeypatch, caplog):
    asked = []
    monkeypatch.setattr(evaluate, "load", lambda name, **options: asked.append((name, options)))
    with pytest.raises(ValueError, match=r"https://huggingface\.co/user/x; .*compare\.revision to the commit"):
        metrics.load("user/x")
    assert not asked
    metrics.load("user/x", trust_remote_code=True)
    assert "compare.revision says which commit is run" in caplog.text
    caplog.clear()
    metrics.load("user/x", trust_remote_code=True, revision="abc")
    assert not caplog.records
    assert asked == [("user/x", {"revision": None}), ("user/x", {"revision": "abc"})]


def test_an_unknown_name_is_answered_with_the_nearest(monkeypatch):
    def unreachable(name, revision):
        raise FileNotFoundError("no network at http://me:pw@host")

    monkeypatch.setattr(evaluate, "load", unreachable)
    with pytest.raises(ValueError, match=r"did you mean 'accuracy'.*no network at http://host$") as caught:
        metrics.load("acuracy", trust_remote_code=True)
    assert "pw" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ValueError, match=r"did you mean 'accuracy'"):
        metrics.load("acuracy")
