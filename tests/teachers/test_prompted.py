"""Teachers behind a prompt: each way of asking against the model itself, counted, resumed, and told what fails."""

import json
import math
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch

from hf_distill.teachers import ServedTeacher
from hf_distill.teachers.prompted import CONTENT_FREE, PromptedTeacher
from hf_distill.teachers.prompts import ClassPrompt
from tests.teachers.cases import lines
from tests.teachers.serving import characters, classifier, fond_of, language_model, serve, serving
from tests.teachers.test_likelihoods import alone

CLASSES = {"negative": None, "positive": "somebody likes something", "neutral": None}
PROMPT = ClassPrompt(CLASSES, "How?")
TEXTS = ["w1 w2", "w3 w4 w5", "w9", "w1 w2", "w2 w4 w6 w8"]
DISTINCT = 4
SIMPLE = {"ignored": serve.EXTENSIONS, "with_logprobs": False}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def models():
    tokenizer = characters()
    return fond_of(language_model(), tokenizer, "ABC", by=12.0), tokenizer


@pytest.fixture(scope="module")
def classes():
    return classifier(tuple(CLASSES))


def prompted(server, tokenizer=None, options=None, prompt=PROMPT, **settings):
    served = ServedTeacher("tiny", **{"base_url": server.url, "max_retries": 0, **(options or {})})
    return PromptedTeacher(served, tokenizer, prompt, **settings)


def classifiers(model, tokenizer, texts):
    with torch.no_grad():
        return np.stack([model(**tokenizer(t, return_tensors="pt")).logits[0].log_softmax(-1).numpy() for t in texts])


def first_tokens(model, tokenizer, text):
    """(tokens,) log-probabilities of the first token of an answer by letter."""
    rendered, _ = PROMPT.rendered(text, True, tokenizer)
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokenizer(rendered)["input_ids"]])).logits[0, -1].log_softmax(-1)


def test_a_local_models_log_probabilities_are_conditional_on_naming_a_class(models):
    model, tokenizer = models
    targets = PromptedTeacher(model, tokenizer, PROMPT, batch_size=4)(TEXTS)
    likelihoods = torch.stack([alone(model, tokenizer, text, prompt=PROMPT) for text in TEXTS])
    assert targets.log_probabilities == pytest.approx(likelihoods.log_softmax(-1).numpy(), abs=1e-4)
    assert targets.outside == pytest.approx(1 - likelihoods.exp().sum(-1).numpy(), abs=1e-5)
    assert targets.method == "answers" and targets.counts["asked"] == DISTINCT and targets.counts["requests"] == 0
    by_letter = PromptedTeacher(model, tokenizer, PROMPT, method="letters")(TEXTS)
    assert not np.allclose(by_letter.log_probabilities, targets.log_probabilities, atol=1e-2)


def test_letters_are_read_from_the_first_token(models):
    model, tokenizer = models
    with serving(serve.CausalAnswers(model, tokenizer)) as server:
        targets = prompted(server)(TEXTS)
    assert targets.method == "letters" and len(server.requests) == DISTINCT
    for row, outside, text in zip(targets.log_probabilities, targets.outside, TEXTS, strict=True):
        scores = first_tokens(model, tokenizer, text)
        of_letters = torch.stack([scores[tokenizer(letter)["input_ids"][0]] for letter in "ABC"])
        assert row == pytest.approx(of_letters.log_softmax(-1).numpy(), abs=1e-4)
        assert outside == pytest.approx(1 - of_letters.exp().sum().item(), abs=1e-4)
    counts = {name: targets.counts[name] for name in ("texts", "distinct", "asked", "requests", "retries", "probes")}
    assert counts == {"texts": 5, "distinct": 4, "asked": 4, "requests": 4, "retries": 0, "probes": 0}
    assert targets.counts["tokens_in"] == sum(
        len(tokenizer(PROMPT.rendered(text, True, tokenizer)[0])["input_ids"]) for text in dict.fromkeys(TEXTS)
    )


def test_a_classifier_behind_a_server_gives_its_own_probabilities(classes):
    with serving(serve.ClassifierAnswers(*classes)) as server:
        turned = ClassPrompt([*CLASSES][::-1])
        found = prompted(server)(TEXTS).log_probabilities, prompted(server, prompt=turned)(TEXTS).log_probabilities
    expected = classifiers(*classes, TEXTS)
    assert found[0] == pytest.approx(expected, abs=1e-5) and found[1] == pytest.approx(expected[:, ::-1], abs=1e-5)


@pytest.mark.served
@pytest.mark.parametrize("known", [True, False], ids=["tokenizer", "text"])
@pytest.mark.parametrize("ignored", [(), serve.EXTENSIONS], ids=["prompt_logprobs", "echo"])
def test_scoring_is_the_likelihood_of_whole_answers(models, known, ignored):
    model, tokenizer = models
    prompt = ClassPrompt(CLASSES, "How?", spellings={name: [name] for name in CLASSES})
    with serving(serve.CausalAnswers(model, tokenizer), ignored=ignored) as server:
        targets = prompted(server, tokenizer if known else None, prompt=prompt, method="scoring")(TEXTS)
    local = PromptedTeacher(model, tokenizer if known else characters(chat=False), prompt)(TEXTS)
    assert targets.log_probabilities == pytest.approx(local.log_probabilities, abs=1e-3)
    assert targets.outside == pytest.approx(local.outside, abs=1e-4)
    assert targets.counts["requests"] == DISTINCT and targets.counts["probes"] == len(ignored[:1])


@pytest.mark.parametrize("ignored", [(), serve.EXTENSIONS], ids=["prompt_logprobs", "echo"])
def test_scoring_with_another_tokenizer_than_the_servers_is_refused(models, ignored):
    with (
        serving(serve.CausalAnswers(models[0], characters(reverse=True)), ignored=ignored) as server,
        pytest.raises(ValueError, match="another tokenizer, or reads other tokens than it is sent: its token"),
    ):
        prompted(server, models[1], method="scoring")(TEXTS)


class Odd(serve.CausalAnswers):
    """Gives other numbers than log-probabilities, or fewer tokens than it is asked for."""

    def __init__(self, model, tokenizer, change):
        super().__init__(model, tokenizer)
        self.change = change

    def write(self, *arguments):
        written = super().write(*arguments)
        for token in written.tokens:
            token.top = self.change(token.top)
        return written


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda top: [(i, text, math.exp(value)) for i, text, value in top], "are no log-probabilities: they sum to"),
        (lambda top: top[:2], "returns [23] first tokens, of 20 asked for"),
    ],
)
def test_numbers_that_are_no_log_probabilities_are_not_read(models, change, reason):
    prompt = ClassPrompt([*CLASSES, "other"], "How?")
    with (
        serving(Odd(*models, change), ignored=serve.EXTENSIONS) as server,
        pytest.raises(ValueError, match=reason),
    ):
        prompted(server, prompt=prompt, method="letters")(TEXTS)


class Limited(serve.CausalAnswers):
    """A model whose answers are given, of a server that has only some ways of answering."""

    def __init__(self, model, tokenizer, said, refused=()):
        super().__init__(model, tokenizer)
        self.said, self.refused = said, refused

    def write(self, ids, request, length, top):
        for name in self.refused:
            if request.get(name):
                raise serve.RequestError(f"{name} is not supported", param=name)
        text = self.said(self.tokenizer.decode(ids), request) if "messages" in request else "x"
        return serve.Written(text, [], "stop")

    def choose(self, ids, choices, request):
        return self.write(ids, request, 1, 0)


def by_text(answers):
    return lambda prompt, request: next(said for text, said in answers.items() if f"Text: {text}\n" in prompt)


def test_without_log_probabilities_samples_of_structured_answers_are_counted(models, caplog):
    drawn = iter([0, 0, 1, 0] * DISTINCT)

    def said(prompt, request):
        assert request["response_format"]["json_schema"]["schema"]["properties"]["class"]["enum"] == [*CLASSES]
        return json.dumps({"class": ["positive", "neutral"][next(drawn)]})

    with serving(Limited(*models, said, refused=["logprobs"]), **SIMPLE) as server:
        targets = prompted(server, samples=4)(TEXTS)
    assert targets.method == "structured" and targets.counts["samples"] == 4 * DISTINCT
    assert (targets.counts["requests"], targets.counts["retries"]) == (DISTINCT, 0)
    assert np.exp(targets.log_probabilities) == pytest.approx(np.tile(np.array([0.5, 3, 1]) / 4.5, (5, 1)), abs=1e-5)
    assert "answers by structured" in caplog.text and "Not available: letters" in caplog.text
    assert any("Not available: scoring" in note for note in targets.notes)


def test_reasoning_models_without_structured_output_give_hard_labels(models):
    answers = {"w1 w2": "Positive.", "w3 w4 w5": "neutral", "w9": "I cannot say", "w2 w4 w6 w8": "negative"}
    said = by_text({text: f"<think>\nIs it negative? No.\n</think>\n\n{answer}" for text, answer in answers.items()})
    with serving(Limited(*models, said, refused=["logprobs", "response_format"]), **SIMPLE) as server:
        targets = prompted(server)(TEXTS)
    assert targets.method == "hard" and targets.labels.tolist() == [1, 2, -100, 1, 0]
    assert targets.counts["without_target"] == 1 and targets.counts["requests"] == DISTINCT


@pytest.mark.served
def test_a_model_that_begins_with_something_else_is_not_read_by_letters(models):
    thinking = fond_of(language_model(), models[1], "<", by=40.0)
    with serving(serve.CausalAnswers(thinking, models[1])) as server:
        targets = prompted(server)(TEXTS)
    assert targets.method == "scoring"
    assert any(
        "Not available: letters: its first token" in note and "begins with '<'" in note for note in targets.notes
    )


def test_a_server_that_gives_fewer_tokens_is_asked_for_fewer(models):
    with serving(serve.CausalAnswers(*models), max_logprobs=3) as server:
        targets = prompted(server)(TEXTS)
    assert targets.method == "letters" and {request["top_logprobs"] for request in server.requests} == {3}
    flagged = targets.unreturned.any(axis=1)
    assert targets.counts["unreturned"] == flagged.sum()


def test_every_answer_is_kept_and_asked_once(classes, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    with serving(serve.ClassifierAnswers(*classes)) as server:
        teacher = prompted(server)
        before = teacher.describe(TEXTS, ledger=ledger)
        assert not server.requests and (before.distinct, before.answered, before.method) == (DISTINCT, 0, None)
        first = teacher(TEXTS[:2], ledger=ledger)
        between = teacher.describe(TEXTS, ledger=ledger)
        assert (between.answered, between.requests, between.method) == (2, 2, "letters")
        everything = prompted(server)(TEXTS, ledger=ledger)
        assert (first.counts["asked"], everything.counts["asked"], everything.counts["answered"]) == (2, 2, 2)
        assert len(server.requests) == DISTINCT
        again = prompted(server)(TEXTS, ledger=ledger)
        assert again.counts["asked"] == again.counts["requests"] == 0 and len(server.requests) == DISTINCT
        assert np.array_equal(again.log_probabilities, everything.log_probabilities)
        for change in (
            {"prompt": ClassPrompt(CLASSES, "Else?")},
            {"prompt": ClassPrompt([*CLASSES], "How?")},
            {"options": {"seed": 1}},
        ):
            prompted(server, **change)(TEXTS, ledger=ledger)
        assert len(server.requests) == 4 * DISTINCT
    moved = prompted(server, options={"base_url": "http://127.0.0.1:9/v1"})
    assert np.array_equal(moved(TEXTS, ledger=ledger).log_probabilities, everything.log_probabilities)


@pytest.mark.served
def test_the_way_of_asking_is_decided_once(models, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    with serving(
        Limited(*models, lambda *_: json.dumps({"class": "neutral"}), refused=["logprobs"]), **SIMPLE
    ) as server:
        prompted(server)(TEXTS[:1], ledger=ledger)
    with serving(serve.CausalAnswers(*models)) as server:  # which has log-probabilities
        targets = prompted(server)(TEXTS, ledger=ledger)
    assert targets.method == "structured" and all("response_format" in request for request in server.requests)


@pytest.mark.served
def test_the_prior_is_asked_for_and_kept(classes, tmp_path):
    with serving(serve.ClassifierAnswers(*classes)) as server:
        teacher = prompted(server)
        plain = teacher(TEXTS)
        corrected = teacher(TEXTS, prior=CONTENT_FREE)
    prior = np.exp(classifiers(*classes, CONTENT_FREE)).mean(axis=0)
    expected = np.exp(plain.log_probabilities) / prior
    assert np.exp(corrected.log_probabilities) == pytest.approx(expected / expected.sum(1, keepdims=True), abs=1e-4)
    assert corrected.counts["requests"] == DISTINCT + len(CONTENT_FREE) and corrected.counts["texts"] == len(TEXTS)


@pytest.mark.served
def test_retries_are_counted_apart(classes):
    class Busy(serve.ClassifierAnswers):
        faults = 2

        def write(self, *arguments):
            if Busy.faults:
                Busy.faults -= 1
                raise serve.RequestError("Rate limit reached", 429, "rate_limit_exceeded")
            return super().write(*arguments)

    with serving(Busy(*classes)) as server:
        targets = prompted(server, options={"max_retries": 3})(TEXTS[:1])
    assert (targets.counts["requests"], targets.counts["retries"], targets.counts["probes"]) == (1, 2, 0)


def test_what_is_asked_is_shown_before(models):
    model, tokenizer = models
    local = PromptedTeacher(model, tokenizer, PROMPT)
    assert local.describe(TEXTS).prompt == PROMPT.rendered(TEXTS[0], False, tokenizer)[0]
    assert "5 texts, 4 different ones, 0 of them answered before; at most 0 requests" in str(local.describe(TEXTS))
    served = PromptedTeacher(ServedTeacher("tiny", base_url="http://127.0.0.1:9/v1"), prompt="How?", classes=CLASSES)
    shown = served.describe(TEXTS)
    assert shown.prompt.startswith("[system]\nHow?\n\nA: negative\n") and "[user]\nText: w1 w2\n" in shown.prompt
    assert shown.requests == 8 * DISTINCT and shown.method is None


@pytest.mark.parametrize(
    ("options", "key", "error", "message"),
    [
        ({"api_key": "wrong-key-12345"}, "right", ValueError, "Incorrect API key provided.*correct the key"),
        ({"base_url": "http://me:pass-word@127.0.0.1:9/v1"}, None, ConnectionError, r"tiny at http://127.0.0.1:9/v1/"),
    ],
)
def test_wrong_keys_and_addresses_are_told_without_secrets(classes, tmp_path, options, key, error, message):
    with serving(serve.ClassifierAnswers(*classes), key=key) as server, pytest.raises(error, match=message) as caught:
        prompted(server, options=options)(TEXTS, ledger=tmp_path / "ledger.jsonl")
    told, links = caught.value, []
    while told is not None:
        links.append(str(told))
        told = told.__cause__ or told.__context__
    assert "wrong-key-12345" not in str(links) and "pass-word" not in str(links)
    assert not lines(tmp_path / "ledger.jsonl")


def test_a_prompt_that_is_too_long_is_told_before_any_other_is_sent(models, tmp_path):
    texts = ["short", "long " * 200, "also short"]
    with (
        serving(serve.CausalAnswers(*models)) as server,
        pytest.raises(ValueError, match=r"did not answer 'long .*maximum context length is 700 tokens"),
    ):
        prompted(server)(texts, ledger=tmp_path / "ledger.jsonl")
    assert len(server.requests) == 1 and not lines(tmp_path / "ledger.jsonl")


def test_no_way_of_asking_is_told_with_every_reason(models):
    refused = ["logprobs", "response_format", "messages"]
    with (
        serving(Limited(*models, lambda *_: "", refused), **SIMPLE) as server,
        pytest.raises(ValueError, match=r"cannot be asked for classes. letters: .*scoring: .*structured: .*hard: "),
    ):
        prompted(server)(TEXTS)
    with (
        serving(Limited(*models, lambda *_: "", refused), **SIMPLE) as server,
        pytest.raises(ValueError, match=r"cannot be asked for classes. letters: [^;]*logprobs is not supported"),
    ):
        prompted(server, method="letters")(TEXTS)


def test_broken_json_is_no_class(models):
    said = iter(['{"class": "positive"}', '{"class": "posi', "[]", '{"class": "good"}'] * DISTINCT)
    with serving(Limited(*models, lambda *_: next(said), refused=["logprobs"]), **SIMPLE) as server:
        targets = prompted(server, samples=4)(TEXTS)
    assert targets.outside == pytest.approx([0.75] * 5) and targets.labels.tolist() == [1] * 5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "Qwen/Qwen3-8B"}, TypeError, "Expected a PreTrainedModel or a ServedTeacher, got str"),
        ({"prompt": "How?"}, ValueError, r"Which classes\? Pass classes"),
        ({"prompt": PROMPT, "classes": ["a", "b"]}, ValueError, "leave classes out"),
        ({"prompt": PROMPT, "method": "answers"}, ValueError, "expected one of letters, scoring, structured, hard"),
        ({"prompt": PROMPT, "samples": 0}, ValueError, "samples and batch_size must be at least 1"),
        (
            {"prompt": PROMPT, "model": ServedTeacher("tiny", api_key="x", temperature=0)},
            ValueError,
            "leave temperature",
        ),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        PromptedTeacher(**{"model": ServedTeacher("tiny", api_key="x"), **arguments})


def test_texts_are_checked_before_anything_is_sent(classes, tmp_path):
    with serving(serve.ClassifierAnswers(*classes)) as server:
        teacher = prompted(server)
        for texts, error, message in (
            ([], ValueError, "no texts"),
            ("w1", TypeError, "Expected a list of texts"),
            (["w1", " "], ValueError, "1 of 2 texts are blank"),
            (["w1", None], TypeError, "got NoneType as number 1"),
            (["w1", "\ud83d"], ValueError, "Text number 1 holds half of a surrogate pair"),
        ):
            for call in (teacher, teacher.describe):
                with pytest.raises(error, match=message):
                    call(texts)
    assert not server.requests


def test_an_edited_ledger_is_told(classes, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    with serving(serve.ClassifierAnswers(*classes)) as server:
        prompted(server)(TEXTS, ledger=ledger)
        entries = lines(ledger)
        entries[-1]["answer"] = "positive"
        ledger.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
        with pytest.raises(ValueError, match=r"not one about 3 classes: 'positive'.* Delete its line"):
            prompted(server)(TEXTS, ledger=ledger)


def test_a_local_model_writes_and_has_its_tokenizer(models, classes):
    with pytest.raises(TypeError, match="BertForSequenceClassification writes no answers"):
        PromptedTeacher(*classes, PROMPT)
    with pytest.raises(ValueError, match="needs its tokenizer"):
        PromptedTeacher(models[0], prompt=PROMPT)


KILLED = """
    import sys
    from hf_distill.teachers import ServedTeacher
    from hf_distill.teachers.prompted import PromptedTeacher

    served = ServedTeacher("tiny", base_url=sys.argv[1], requests_in_flight=4)
    teacher = PromptedTeacher(served, prompt="How?", classes=["negative", "positive", "neutral"])
    teacher([f"text {n}" for n in range(200)], ledger=sys.argv[2])
"""


@pytest.mark.served
def test_after_a_kill_at_most_the_requests_in_flight_are_repeated(classes, tmp_path):
    class Slow(serve.ClassifierAnswers):
        delay = 0.02

        def write(self, *arguments):
            time.sleep(Slow.delay)
            return super().write(*arguments)

    ledger, texts = tmp_path / "ledger.jsonl", [f"text {number}" for number in range(200)]
    with serving(Slow(*classes)) as server:
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(KILLED), server.url, str(ledger)])
        deadline = time.time() + 800
        while (not ledger.exists() or ledger.read_bytes().count(b"\n") < 20) and time.time() < deadline:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        kept = ledger.read_bytes().count(b"\n") - 1  # and the decision
        assert 19 <= kept < len(texts)
        time.sleep(0.2)  # what was in flight
        Slow.delay = 0.0
        served = ServedTeacher("tiny", base_url=server.url, requests_in_flight=4)
        targets = PromptedTeacher(served, prompt="How?", classes=["negative", "positive", "neutral"])(
            texts, ledger=ledger
        )
        assert 0 <= len(server.requests) - len(texts) <= 4
    assert targets.has_target.all() and math.isfinite(targets.log_probabilities.sum())
