"""Students without torch: what the runtime answers is what a pipeline of transformers does."""

import json
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertTokenizer,
    ConvBertConfig,
    ConvBertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    RobertaTokenizer,
    pipeline,
    set_seed,
)

from hf_distill import (
    LSTMStudentConfig,
    LSTMStudentForSequenceClassification,
    LSTMStudentForTokenClassification,
    runtime,
)
from hf_distill.evaluation.deferral import confidences
from hf_distill.export import export_onnx
from hf_distill.hub.push import additions
from hf_distill.runtime import Student
from hf_distill.tag_schemes import spans_of, tag_scheme

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CORPUS = ["The food was lovely, and the staff don't rush.", "Ada Lovelace lived in London", "über café naïve 漢字"] * 3
TEXTS = [
    "The food was lovely",
    "",
    "   ",
    "awful " * 300,
    "Ada Lovelace lived in London, and the café was über-lovely.",
    "漢字 🤖 zero\u200bwidth e\u0301 \u00a0 \x07 tab\tline\nend",
    "[SEP] [PAD] [CLS] <s> </s> [MASK]",
    "staff",
]
PAIRS = [("The food", "was lovely"), ("awful " * 40, "short"), ("short", "lovely " * 40), ("one", ""), ("", "two")]
NAMES = {0: "bad", 1: "good", 2: "neither"}
HEADS = {
    "single": {"id2label": NAMES, "problem_type": "single_label_classification"},
    "single, untold": {"id2label": NAMES},
    "several": {"id2label": NAMES, "problem_type": "multi_label_classification"},
    "regression": {"num_labels": 1, "problem_type": "regression"},
    "regressions": {"id2label": NAMES, "problem_type": "regression"},
    "one class, untold": {"num_labels": 1},
    "default names": {},
}


def wordpiece(kind=BertTokenizer, **settings):
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.normalizer = normalizers.BertNormalizer()
    raw.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=90, special_tokens=SPECIAL))
    return kind(vocab=raw.get_vocab(), **{"model_max_length": 32, **settings})


def byte_level(**settings):
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    model = json.loads(raw.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, add_prefix_space=True, model_max_length=32, **settings)


def unigram(**settings):
    """Without special tokens around a text, so that an empty one has no token."""
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "<unk>"]
    raw.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=80, special_tokens=special, unk_token="<unk>"))
    names = {"pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=32, **names, **settings)


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
ROUGH = {"initializer_range": 0.5, "max_position_embeddings": 40}


def lstm(tokenizer, tags=False, **config):
    kind = LSTMStudentForTokenClassification if tags else LSTMStudentForSequenceClassification
    shape = {"vocab_size": len(tokenizer), "embedding_size": 8, "hidden_size": 8, "initializer_range": 0.8}
    return kind(LSTMStudentConfig(**shape, pad_token_id=tokenizer.pad_token_id, **config))


def bert(tokenizer, tags=False, **config):
    kind = BertForTokenClassification if tags else BertForSequenceClassification
    return kind(BertConfig(vocab_size=len(tokenizer), **SMALL, **ROUGH, **config))


def distilbert(tokenizer, **config):
    shape = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
    return DistilBertForSequenceClassification(DistilBertConfig(vocab_size=len(tokenizer), **shape, **ROUGH, **config))


def roberta(tokenizer, tags=False, **config):
    kind = RobertaForTokenClassification if tags else RobertaForSequenceClassification
    shape = {"vocab_size": len(tokenizer), "type_vocab_size": 1, "pad_token_id": 1}
    return kind(RobertaConfig(**shape, **SMALL, **ROUGH, **config))


def exported(folder, make, tokenizer, int8=False, **config):
    """A student's folder, and its model."""
    set_seed(0)
    model = make(tokenizer, **config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    export_onnx(model, folder, int8=int8)
    return model


def expected(model, folder, texts, **options):
    """What a pipeline answers to each text alone."""
    classify = pipeline("text-classification", model, tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu")
    given = [{"text": text[0], "text_pair": text[1]} if isinstance(text, tuple) else text for text in texts]
    return [classify([text], truncation=True, **options)[0] for text in given]


def same(got, wanted):
    assert [answer["label"] for answer in got] == [answer["label"] for answer in wanted]
    scores = [[answer["score"] for answer in answers] for answers in (got, wanted)]
    np.testing.assert_allclose(*scores, atol=1e-5, rtol=1e-5)


STUDENTS = {
    "lstm": (lstm, wordpiece),
    "lstm, padded on the left": (lstm, lambda: wordpiece(padding_side="left", truncation_side="left")),
    "lstm, no special tokens": (lstm, unigram),
    "bert": (bert, wordpiece),
    "bert, padded on the left": (bert, lambda: wordpiece(padding_side="left")),
    "bert, tokenizer without segments": (bert, lambda: wordpiece(DistilBertTokenizer)),
    "bert, special tokens of texts split": (bert, lambda: wordpiece(split_special_tokens=True)),
    "distilbert": (distilbert, lambda: wordpiece(DistilBertTokenizer)),
    "roberta": (roberta, byte_level),
}


def test_a_student_classifies_as_a_pipeline_does(small):
    model = LSTMStudentForSequenceClassification.from_pretrained(small)
    texts = [*TEXTS, *PAIRS]
    same(Student(small)(texts), expected(model, small, texts))


@pytest.mark.cheapest
@pytest.mark.parametrize("name", STUDENTS)
def test_texts_and_pairs_are_classified_as_by_a_pipeline(name, tmp_path):
    make, tokenizer = STUDENTS[name]
    model = exported(tmp_path, make, tokenizer(), id2label=NAMES)
    student = Student(tmp_path)
    texts = [*TEXTS, *PAIRS] if "no special tokens" not in name else [text for text in TEXTS if text.strip()]
    wanted = expected(model, tmp_path, texts)
    same(student(texts), wanted)
    same(student(texts, batch_size=1), wanted)
    same([student(text)[0] for text in texts], wanted)


@pytest.mark.cheapest
@pytest.mark.parametrize("head", HEADS)
def test_every_head(head, tmp_path):
    model = exported(tmp_path, lstm, wordpiece(), **HEADS[head])
    student = Student(tmp_path)
    same(student(TEXTS), expected(model, tmp_path, TEXTS))
    for got, wanted in zip(student(TEXTS, top_k=None), expected(model, tmp_path, TEXTS, top_k=None), strict=True):
        same(got, wanted)
    same(student(TEXTS[0], top_k=2)[0], expected(model, tmp_path, TEXTS[:1], top_k=2)[0])


def test_a_text_without_tokens(tmp_path):
    model = exported(tmp_path, lstm, unigram(), id2label=NAMES)
    padded = AutoTokenizer.from_pretrained(tmp_path)(["", "food"], padding=True, return_tensors="pt")
    logits = model(padded["input_ids"], padded["attention_mask"]).logits[0].detach()
    for texts in ([""], ["", "food"]):
        answer = Student(tmp_path)(texts)[0]
        assert answer["label"] == NAMES[int(logits.argmax())]
        assert answer["score"] == pytest.approx(float(logits.softmax(-1).max()), abs=1e-6)


@pytest.mark.cheapest
def test_models_whose_logits_depend_on_padding_read_texts_alone(tmp_path):
    shape = {"embedding_size": 16, "head_ratio": 1, "conv_kernel_size": 3}
    make = lambda tokenizer, **config: ConvBertForSequenceClassification(  # noqa: E731
        ConvBertConfig(vocab_size=len(tokenizer), **shape, **SMALL, **ROUGH, **config)
    )
    model = exported(tmp_path, make, wordpiece(), id2label=NAMES)
    same(Student(tmp_path)(TEXTS), expected(model, tmp_path, TEXTS))


BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TAGGERS = {
    "lstm": (lstm, wordpiece, BIO),
    "bert, padded on the left": (bert, lambda: wordpiece(padding_side="left"), BIO),
    "lstm, unigram": (lstm, unigram, BIO),
    "roberta": (roberta, byte_level, BIO),
    "part of speech": (lstm, wordpiece, ["NOUN", "VERB", "X"]),
}
SENTENCES = [text.split() for text in TEXTS[:1] + TEXTS[3:5]] + [["don't", "co-operate", "漢字漢", "naïve"]]


def tags_of_words(model, folder, sentences):
    """By word, what a pipeline answers at its first token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tag = pipeline("token-classification", model, tokenizer=tokenizer, ignore_labels=[])
    for words in sentences:
        of_tokens = tag(words, is_split_into_words=True)
        of_tokens = of_tokens[0] if of_tokens and isinstance(of_tokens[0], list) else of_tokens
        encoding = tokenizer(words, is_split_into_words=True, truncation=True)
        firsts = [encoding.word_to_tokens(number) for number in range(len(words))]
        by_index = {token["index"]: token for token in of_tokens}
        yield [by_index[first.start] if first else None for first in firsts]


@pytest.mark.cheapest
@pytest.mark.parametrize("name", TAGGERS)
def test_words_are_tagged_as_by_a_pipeline(name, tmp_path):
    make, tokenizer, names = TAGGERS[name]
    model = exported(tmp_path, make, tokenizer(), tags=True, id2label=dict(enumerate(names)))
    student = Student(tmp_path)
    given = student(SENTENCES, words=True)
    if names != BIO:
        assert given == student(SENTENCES)
    for words, got, wanted in zip(SENTENCES, given, tags_of_words(model, tmp_path, SENTENCES), strict=True):
        read = [answer for answer, token in zip(got, wanted, strict=True) if token]
        assert [answer["label"] for answer in read] == [token["entity"] for token in wanted if token]
        scores = [float(token["score"]) for token in wanted if token]
        np.testing.assert_allclose([answer["score"] for answer in read], scores, atol=1e-5)
        assert [answer["word"] for answer in got] == words
        text = " ".join(words)
        assert [text[answer["start"] : answer["end"]] for answer in got] == words
        beyond = [answer for answer, token in zip(got, wanted, strict=True) if not token]
        assert all(answer["label"] is answer["score"] is None for answer in beyond)
        assert beyond or len(words) < 100


@pytest.mark.cheapest
@pytest.mark.parametrize("name", ["lstm", "bert, padded on the left"])
def test_entities_of_texts_are_those_of_a_pipeline(name, tmp_path):
    make, tokenizer, names = TAGGERS[name]
    model = exported(tmp_path, make, tokenizer(), tags=True, id2label=dict(enumerate(names)))
    reads = AutoTokenizer.from_pretrained(tmp_path)
    tag = pipeline("token-classification", model, tokenizer=reads, aggregation_strategy="first")
    texts = [text for text in TEXTS if "[SEP]" not in text]
    for text, got in zip(texts, Student(tmp_path)(texts), strict=True):
        wanted = tag(text)
        assert [(each["label"], each["start"], each["end"]) for each in got] == [
            (each["entity_group"], each["start"], each["end"]) for each in wanted
        ]
        np.testing.assert_allclose([each["score"] for each in got], [each["score"] for each in wanted], atol=1e-5)
        assert all(text[each["start"] : each["end"]] == each["word"] for each in got)


@pytest.mark.cheapest
def test_a_word_of_no_token_is_read_as_the_unknown_one(tmp_path):
    exported(tmp_path, lstm, wordpiece(), tags=True, id2label=dict(enumerate(BIO)))
    student = Student(tmp_path)
    got, unknown = student([["Ada", "\x07", "", "lived"], ["Ada", "[UNK]", "[UNK]", "lived"]], words=True)
    assert [each["label"] for each in got] == [each["label"] for each in unknown]
    assert [each["word"] for each in got] == ["Ada", "\x07", "", "lived"]
    assert student([[], ["Ada"]], words=True)[0] == []
    student.unknown = None
    assert [each["label"] is None for each in student([["Ada", "\x07"]], words=True)[0]] == [False, True]


TYPES = {
    "IOB": ["O", "B-A", "I-A", "B-B", "I-B"],
    "IOB without types": ["O", "B", "I"],
    "IOBES": ["O", "B-A", "I-A", "E-A", "S-A", "B-B", "E-B"],
    "BILOU": ["O", "B-A", "I-A", "L-A", "U-A", "I-B", "L-B"],
    "BMES": ["O", "B-A", "M-A", "E-A", "S-A"],
}


@pytest.mark.parametrize("scheme", TYPES)
def test_entities_are_read_as_the_package_reads_them(scheme):
    names = TYPES[scheme]
    letters = runtime._entity_letters(names)
    spans = spans_of(names)
    for tags in product(names, repeat=4):
        got = runtime.entities(tags, complete=not letters <= {"B", "I"})
        assert len(got) == len({*got}) and {*got} == spans(tags), tags


@pytest.mark.parametrize(
    "names", [*TYPES.values(), ["NN", "O"], ["B", "C"], ["I", "L"], ["O"], ["B-X", "Q-X"], ["S", "O"], ["", "B-X"]]
)
def test_tags_of_entities_are_known_by_their_names(names):
    assert bool(runtime._entity_letters(names)) == (tag_scheme(names) is not None)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An exported classifier, in float32 and int8."""
    folder = tmp_path_factory.mktemp("small")
    exported(folder, lstm, wordpiece(), int8=True, id2label=NAMES)
    return folder


@pytest.fixture
def copied(small, tmp_path):
    return Path(shutil.copytree(small, tmp_path / "copy"))


def changed(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_int8_answers_nearly_the_same(small):
    exact, quantized = Student(small)(TEXTS), Student(small, int8=True)(TEXTS)
    differences = [abs(one["score"] - other["score"]) for one, other in zip(exact, quantized, strict=True)]
    assert 0 < max(differences) < 0.1


@pytest.mark.parametrize("given", ["a text", ("one", "two"), {"text": "one", "text_pair": "two"}, {"text": "one"}])
def test_one_text_or_pair_needs_no_list(given, small):
    student = Student(small)
    assert student(given) == student([given]) == student(iter([given]))
    assert student([["one", "two"]]) == student(("one", "two")) == student({"text": "one", "text_pair": "two"})
    assert student({"text": "one", "text_pair": None}) == student("one") == student(np.array(["one"]))


WRONG = [
    None,
    3,
    b"text",
    {"a set"},
    [None],
    [3.5],
    ["a", ["b"]],
    [["a", "b", "c"]],
    [("a", 1)],
    [{"words": "a"}],
    [{}],
]


@pytest.mark.parametrize("given", WRONG, ids=str)
def test_what_is_no_text(given, small):
    with pytest.raises(TypeError, match=r"Expected texts, or pairs as \(text, text_pair\) or dicts.*; text \d is "):
        Student(small)(given)


def test_no_text_and_arguments_that_do_not_fit(small):
    student = Student(small)
    for nothing in ([], (text for text in ())):
        with pytest.raises(ValueError, match=r"There is no text in .*Expected texts, or pairs"):
            student(nothing)
    for wrong in ({"top_k": 0}, {"batch_size": 0}, {"words": True}):
        with pytest.raises(ValueError, match=r"Got top_k=.* and batch_size=.* \(at least 1\), words="):
            student("a text", **wrong)


def test_files_that_are_missing(copied, tmp_path):
    with pytest.raises(ValueError, match=r"There is no folder .*nowhere.*snapshot_download"):
        Student(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"Expected .*model\.onnx, which does not exist.*student is in student/"):
        Student(tmp_path)
    (copied / "onnx" / "model_quantized.onnx").unlink()
    with pytest.raises(ValueError, match=r"Expected .*model_quantized\.onnx, which does not exist\. Write it with"):
        Student(copied, int8=True)
    for name in ("tokenizer.json", "config.json"):
        (copied / name).unlink()
        with pytest.raises(ValueError, match=rf"has no {name}\. Save student and tokenizer there with save_pretrained"):
            Student(copied)


def test_a_translator_is_refused(copied):
    (copied / "onnx" / "encoder_model.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is a translator\. Run it with hf_distill\.export\.GreedyTranslator"):
        Student(copied)


def test_files_that_are_damaged_or_do_not_fit(copied):
    config = copied / "config.json"
    whole = config.read_text()
    changed(config, id2label={"0": "bad", "1": "good"})
    with pytest.raises(ValueError, match=r"config\.json names 2 classes, .*model\.onnx has 3\. Export it again"):
        Student(copied)
    for damaged in (whole[:40], "[1, 2]", ""):
        config.write_text(damaged)
        with pytest.raises(ValueError, match=r"config\.json: expected a JSON object: .*Save it again"):
            Student(copied)
    config.write_text(whole)
    (copied / "onnx" / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"onnxruntime cannot load .*model\.onnx\. Export or download it again\."):
        Student(copied)


def test_a_text_beyond_the_positions_of_a_model(tmp_path):
    exported(tmp_path, bert, wordpiece(model_max_length=None), id2label=NAMES)
    student = Student(tmp_path)
    assert len(student(["staff", "the " * 30])) == 2
    with pytest.raises(ValueError, match=r"62 tokens cannot be read\. Set model_max_length in tokenizer_config\.json"):
        student(["staff", "the " * 60])


def test_answers_below_the_threshold_are_deferred(copied):
    config = copied / "config.json"
    plain = Student(copied)(TEXTS)
    assert not any("deferred" in answer for answer in plain)
    middle = float(np.median([answer["score"] for answer in plain]))
    changed(config, cascade_threshold=middle)
    answers = Student(copied)(TEXTS)
    assert [answer.pop("deferred") for answer in answers] == [answer["score"] < middle for answer in plain]
    assert answers == plain
    assert len({answer["deferred"] for answer in Student(copied)(TEXTS[0], top_k=None)[0]}) == 1
    changed(config, problem_type="multi_label_classification")
    every = [[answer["score"] for answer in answers] for answers in Student(copied)(TEXTS, top_k=None)]
    unsure = [min(max(score, 1 - score) for score in scores) < middle for scores in every]
    assert [answer["deferred"] for answer in Student(copied)(TEXTS)] == unsure
    for problem, wrong in (("regression", 0.5), ("single_label_classification", 7), ("regression", "high")):
        changed(config, problem_type=problem, cascade_threshold=wrong)
        with pytest.raises(
            ValueError, match=rf"cascade_threshold: expected 0 to 1 for classes, got {wrong!r} for {problem}"
        ):
            Student(copied)


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_confidence_is_read_at_the_temperature(copied, problem):
    config, texts = copied / "config.json", TEXTS[4:] + TEXTS[:1]
    changed(config, problem_type=problem)
    every = [{each["label"]: each["score"] for each in row} for row in Student(copied)(texts, top_k=None)]
    order = Student(copied).labels
    sure = confidences([[row[name] for name in order] for row in every], 3.0, problem.startswith("multi"))
    for threshold in sure * (1 + 1e-6):  # above one text's and below the next
        changed(config, cascade_threshold=float(threshold), cascade_temperature=3.0)
        assert [each["deferred"] for each in Student(copied)(texts)] == (sure < threshold).tolist()
    for wrong in (0, -1.0, "high", 1000):
        changed(config, cascade_temperature=wrong)
        with pytest.raises(ValueError, match=rf"cascade_temperature: expected 0\.01 to 100, got {wrong!r}\. Fit"):
            Student(copied)


@pytest.mark.cheapest
def test_tags_below_the_threshold_are_deferred(tmp_path):
    exported(tmp_path, lstm, wordpiece(), tags=True, id2label=dict(enumerate(BIO)))
    changed(tmp_path / "config.json", cascade_threshold=0.3)
    for words in (True, False):
        answers = [answer for answers in Student(tmp_path)(SENTENCES, words=words) for answer in answers]
        assert {answer["deferred"] for answer in answers} == {True, False}
        assert all(answer["deferred"] == (answer["score"] is None or answer["score"] < 0.3) for answer in answers)
    for wrong in ({"top_k": 2}, {"top_k": None}):
        with pytest.raises(ValueError, match=r"Got top_k=.*words=False \(taggers alone, without top_k\)"):
            Student(tmp_path)("Ada", **wrong)
    for given in ([["Ada", 3]], [{"text": "Ada"}], [None]):
        with pytest.raises(TypeError, match="Expected texts or lists of words; text 0 is "):
            Student(tmp_path)(given)
    student = Student(tmp_path)
    student.tokenizer.pre_tokenizer = None
    with pytest.raises(ValueError, match="cannot split texts into words: give the words"):
        student("Ada lived")


ALONE = """
import sys
sys.modules.update(dict.fromkeys(("torch", "transformers", "hf_distill", "wrapt"), None))
sys.argv = sys.argv[1:]
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def alone(*words):
    """A run of a folder's own runtime.py, where neither torch, transformers nor this package can be imported."""
    words = [sys.executable, "-I", "-c", ALONE, *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


@pytest.mark.cheapest
def test_the_folder_alone_suffices(copied):
    assert (copied / "runtime.py").read_bytes() == Path(runtime.__file__).read_bytes()
    for file in copied.glob("*_lstm.py"):  # the student's code, which is never run
        file.write_text("raise SystemExit('code of the folder was run')")
    texts = TEXTS[:2] + TEXTS[4:6]
    done = alone(copied / "runtime.py", copied, *texts)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == Student(copied)(texts)
    done = alone(copied / "runtime.py", copied, "one", "--pair", "two", "--int8")
    assert [json.loads(line) for line in done.stdout.splitlines()] == Student(copied, int8=True)([("one", "two")])
    (copied / "tokenizer.json").unlink()
    done = alone(copied / "runtime.py", copied, "a text")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"runtime\.py: .* has no tokenizer\.json\. Save .*", line)


def test_it_is_pushed_with_the_student(small):
    assert "runtime.py" in {each.path_in_repo for each in additions(small)}


def test_a_missing_package_is_named_with_the_command():
    code = "import sys; sys.modules['onnxruntime'] = None; import hf_distill.runtime"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "A student's runtime needs: pip install onnxruntime tokenizers numpy" in done.stderr.splitlines()[-1]


def test_tokenizers_with_segments_are_those_of_transformers():
    for name in dir(transformers):
        of_texts = name.endswith(("Tokenizer", "TokenizerFast")) and not name.startswith(("LayoutLM", "MarkupLM"))
        kind = getattr(transformers, name) if of_texts else None
        if isinstance(kind, type) and issubclass(kind, PreTrainedTokenizerFast):
            segments = "token_type_ids" in kind.model_input_names
            assert bool(runtime.SEGMENTED.fullmatch(name)) == segments, name
