"""Functions, pipelines and language models that mark spans: what they are asked, and what is refused before."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast, pipeline, set_seed

from hf_distill.teachers import PromptedTeacher, Sentence, ServedTeacher, SpanTeacher, TextTeacher
from hf_distill.teachers.ask import FunctionTeacher
from tests.conftest import tiny_bert
from tests.teachers.cases import lines
from tests.teachers.serving import characters, language_model, serving
from tests.teachers.test_prompted import SIMPLE, Limited

SENTENCES = [Sentence.of_words(words.split()) for words in ("Maria met Joan", "nobody came", "in Rome", "in Rome")]
PLACES = {"Maria": "PER", "Joan": "PER", "Rome": "LOC"}


class Marking:
    """A function that marks the words of `PLACES`, and remembers what it was asked."""

    def __init__(self, fails_at=None, **more):
        self.asked, self.fails_at, self.more = [], fails_at, more

    def __call__(self, texts):
        if self.fails_at in texts:
            raise OSError("gone")
        self.asked += texts
        return [
            [{"start": text.index(word), "end": text.index(word) + len(word), "label": label, **self.more}]
            if (word := next((each for each in PLACES if each in text), None)) and (label := PLACES[word])
            else []
            for text in texts
        ]


class Answering(TextTeacher):
    """A model that answers with JSON, and remembers what it was asked."""

    def __init__(self, answer='[{"text": "Rome", "label": "LOC"}]'):
        self.asked, self.answer = [], answer

    @property
    def name(self):
        return "answering"

    def answers(self, texts):
        self.asked += texts
        yield from ((number, self.answer if "Rome" in text else "[]") for number, text in enumerate(texts))


def tags_of(targets):
    return [[targets.tags[tag] for tag in row] for row in targets.labels]


def test_a_function_is_asked_each_text_once_and_never_again(tmp_path):
    marking = Marking(score=np.float32(0.75), word="no key of ours", start_=torch.tensor(1))
    teacher = SpanTeacher(marking, ["PER", "LOC"], name="marking 1", batch_size=2)
    targets = teacher.targets(SENTENCES, ledger=tmp_path / "ledger.jsonl")
    assert marking.asked == ["Maria met Joan", "nobody came", "in Rome"]
    assert tags_of(targets) == [["B-PER", "O", "O"], ["O", "O"], ["O", "B-LOC"], ["O", "B-LOC"]]
    assert np.exp(targets.log_probabilities[2][1]) == pytest.approx([0.25, 0, 0, 0.75, 0], abs=1e-6)
    counts = targets.counts
    assert (counts["texts"], counts["distinct"], counts["asked"], counts["answered"]) == (4, 3, 3, 0)
    assert json.loads(lines(tmp_path / "ledger.jsonl")[0]["answer"])[0]["score"] == 0.75
    again = SpanTeacher(marking, ["PER", "LOC"], name="marking 1").targets(SENTENCES, ledger=tmp_path / "ledger.jsonl")
    assert len(marking.asked) == 3 and (again.counts["asked"], again.counts["answered"]) == (0, 3)
    assert all(
        (one == other).all() for one, other in zip(*(t.log_probabilities for t in (targets, again)), strict=True)
    )


def test_after_a_failure_only_the_rest_is_asked(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    failing = SpanTeacher(Marking(fails_at="in Rome"), ["PER", "LOC"], name="marking 1", batch_size=1)
    with pytest.raises(OSError, match="gone"):
        failing.targets(SENTENCES, ledger=ledger)
    mended = Marking()
    targets = SpanTeacher(mended, ["PER", "LOC"], name="marking 1").targets(SENTENCES, ledger=ledger)
    assert mended.asked == ["in Rome"] and (targets.counts["asked"], targets.counts["answered"]) == (1, 2)


def test_numbers_of_numpy_and_torch_are_numbers():
    def marked(texts):
        return [[{"start": np.int64(0), "end": torch.tensor(5), "entity_group": "PER", "score": np.float64(0.5)}]]

    targets = SpanTeacher(marked, ["PER"]).targets(SENTENCES[:1])
    assert targets.counts["spans"] == 1 and targets.counts["bad_score"] == 0
    assert np.exp(targets.log_probabilities[0][0]) == pytest.approx([0.5, 0.5, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda texts: [[]] * (len(texts) + 1), ValueError, "given 1 texts, .* and returned 2"),
        (lambda texts: {"label": "PER"}, ValueError, "and returned a dict"),
        (lambda texts: ["PER"], TypeError, "Expected a list of spans of each text"),
        (lambda texts: [{"label": "PER"}], TypeError, "Expected a list of spans of each text"),
        (
            lambda texts: [[("PER", 0, 5)]],
            TypeError,
            r"each a mapping with label or entity_group or entity",
        ),
        (lambda texts: [None], TypeError, "got None of 'Maria met Joan'"),
        (lambda texts: [[{"label": "X", "start": 0, "end": 5}]], ValueError, "1 spans have a label that is no class"),
    ],
)
def test_functions_that_return_something_else(answer, error, message):
    with pytest.raises(error, match=message):
        SpanTeacher(answer, ["PER"]).targets(SENTENCES[:1])


def test_a_model_is_asked_a_question_that_shows_the_classes(tmp_path):
    model = Answering()
    teacher = SpanTeacher(model, {"PER": "a person's name", "LOC": None}, instruction="Who, and where?")
    question = teacher.question("in Rome")
    assert question.startswith("Who, and where?\n\n- PER (a person's name)\n- LOC\n\nAnswer with a JSON list")
    assert '"label": one of "PER", "LOC"' in question and question.endswith("Text: in Rome\n\nAnswer:")
    targets = teacher.targets(SENTENCES, ledger=tmp_path / "ledger.jsonl")
    assert model.asked == [teacher.question(text) for text in ("Maria met Joan", "nobody came", "in Rome")]
    assert tags_of(targets) == [["O"] * 3, ["O"] * 2, ["O", "B-LOC"], ["O", "B-LOC"]]
    assert [line["text"] for line in lines(tmp_path / "ledger.jsonl")] == ["Maria met Joan", "nobody came", "in Rome"]
    SpanTeacher(model, ["PER", "LOC"], instruction="Else?").targets(SENTENCES, ledger=tmp_path / "ledger.jsonl")
    assert len(model.asked) == 6  # another question is asked again


@pytest.mark.served
def test_a_server_that_answers_with_json(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    said = lambda prompt, _: '```json\n[{"text": "Rome", "label": "loc"}]\n```' if "in Rome" in prompt else "[]"  # noqa: E731
    with serving(Limited(language_model(), characters(), said), **SIMPLE) as server:
        served = ServedTeacher("tiny", base_url=server.url, api_key="x", max_retries=0, max_tokens=50)
        targets = SpanTeacher(served, ["PER", "LOC"]).targets(SENTENCES)
        assert len(server.requests) == 3
    assert tags_of(targets)[2] == ["O", "B-LOC"] and targets.counts["unreadable"] == 0


# Pipelines

WORDS = ["[PAD]", "[UNK]", "Maria", "##s", "met", "Joan", "in", "Rome", "nobody", "came"]
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def tagger(strategy="simple", labels=LABELS, places=24, limit=20, **options):
    set_seed(1)
    words = {word: number for number, word in enumerate(WORDS)}
    made = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", model_max_length=limit
    )
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=places,
        initializer_range=0.8,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
    )
    model = BertForTokenClassification(config).eval()
    return pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy=strategy, **options)


def test_a_pipeline_keeps_its_probabilities(tmp_path):
    marked = tagger()
    teacher = SpanTeacher(marked, batch_size=2)
    assert teacher.classes == ["PER", "LOC"] and teacher.tags == LABELS
    texts = ["Maria met Joan", "Marias met Joan in Rome", "nobody came"]
    sentences = [Sentence.of_words(text.split()) for text in texts]
    targets = teacher.targets(sentences, ledger=tmp_path / "ledger.jsonl")
    given = 0
    for text, sentence, found in zip(texts, sentences, targets.log_probabilities, strict=True):
        for span in marked(text):
            given += 1
            starts = [place[0] for place in sentence.places]
            if span["start"] in starts:  # a span of whole words, or the first piece of one
                score = np.exp(found[starts.index(span["start"])])[targets.tags.index(f"B-{span['entity_group']}")]
                assert score == pytest.approx(span["score"], abs=2e-6)
    assert given == targets.counts["spans_given"] > 2
    assert SpanTeacher(tagger()).name == teacher.name != SpanTeacher(tagger("first")).name
    assert teacher.targets(sentences, ledger=tmp_path / "ledger.jsonl").counts["asked"] == 0


def test_pipelines_that_would_answer_with_something_else():
    with pytest.raises(ValueError, match=r'pieces of words.*aggregation_strategy="simple"'):
        SpanTeacher(tagger("none"))
    with pytest.raises(ValueError, match=r"groups B- and I- tags alone"):
        SpanTeacher(tagger(labels=["O", "B-PER", "E-PER", "S-PER"]))
    with pytest.raises(ValueError, match=r"the pipeline marks \['PER', 'LOC'\], got \['PER'\]"):
        SpanTeacher(tagger(), ["PER"])
    model, tokenizer = tiny_bert(), tagger().tokenizer
    with pytest.raises(TypeError, match="A TextClassificationPipeline marks no spans"):
        SpanTeacher(pipeline("text-classification", model=model, tokenizer=tokenizer), ["PER"])
    with pytest.raises(ValueError, match="name: a TokenClassificationPipeline does not take one"):
        SpanTeacher(tagger(), name="mine")


@pytest.mark.parametrize("sizes", [{"limit": 20}, {"places": 20, "limit": 10**30}])
def test_texts_that_a_pipeline_would_cut_are_told_before_any_is_read(sizes):
    long = Sentence.of_words(["Rome"] * 21)
    with pytest.raises(ValueError, match=r"1 of 2 texts are longer than the 20 tokens that the pipeline reads.*of 21"):
        SpanTeacher(tagger(**sizes)).targets([SENTENCES[0], long])


# What is refused


@pytest.mark.parametrize("classes", [None, [], "PER", ["PER", "PER"], ["PER", "per"], [" "], [1], {"PER": ""}])
def test_classes_that_are_none(classes):
    with pytest.raises(ValueError, match=r"[Cc]lasses"):
        SpanTeacher(Marking(), classes, name="m")


def test_teachers_that_mark_no_spans():
    served = ServedTeacher("tiny", base_url="http://127.0.0.1:1/v1", api_key="x")
    for teacher in (tiny_bert(), PromptedTeacher(served, prompt="How?", classes=["a", "b"]), "name", None):
        with pytest.raises(TypeError, match="marks no spans: expected a function"):
            SpanTeacher(teacher, ["PER"])
    with pytest.raises(ValueError, match="instruction: a Marking does not take one"):
        SpanTeacher(Marking(), ["PER"], instruction="Find them")
    with pytest.raises(ValueError, match="name: a Answering does not take one"):
        SpanTeacher(Answering(), ["PER"], name="x")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        SpanTeacher(Marking(), ["PER"], batch_size=0)


@pytest.mark.parametrize(
    "tags",
    [
        ["O", "B-PER", "I-PER"],
        ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"],
        ["B-PER", "I-PER", "B-LOC", "I-LOC"],
        ["O", "PER", "LOC"],
        ["O", "B-PER", "I-PER", "B-LOC", "B-LOC"],
        ["O", "B-per", "I-per", "B-loc", "I-loc"],
    ],
)
def test_other_tags_are_an_error_before_anything_is_asked(tags):
    marking = Marking()
    with pytest.raises(ValueError, match=r"tags: expected the IOB2 tags of the teacher's classes \['PER', 'LOC'\]"):
        SpanTeacher(marking, ["PER", "LOC"]).targets(SENTENCES, tags=tags)
    assert not marking.asked


def test_blank_texts_and_functions_without_a_name(tmp_path):
    marking = Marking()
    with pytest.raises(ValueError, match="1 of 2 texts are blank"):
        SpanTeacher(marking, ["PER", "LOC"]).targets([SENTENCES[0], Sentence.of_words([])])
    with pytest.raises(ValueError, match="Pass name="):
        SpanTeacher(marking, ["PER", "LOC"]).targets(SENTENCES, ledger=tmp_path / "ledger.jsonl")
    assert not marking.asked


def test_a_function_of_texts_that_writes_json_is_a_text_teacher():
    teacher = SpanTeacher(
        FunctionTeacher(lambda texts: ['[{"text": "Joan", "label": "PER"}]'] * len(texts), 8), ["PER"]
    )
    assert tags_of(teacher.targets(SENTENCES[:1])) == [["O", "O", "B-PER"]]
