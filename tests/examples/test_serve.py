"""examples/serve.py: what the official client gets from it, in the shapes of OpenAI and vLLM."""

import json
import math
from collections import Counter

import openai
import pytest
import torch

from tests.teachers.serving import characters, classifier, language_model, serve, serving

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def models():
    return language_model().double(), characters()


@pytest.fixture
def server(models, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(serve.CausalAnswers(*models)) as server:
        yield server


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def naive(model, ids):
    """(length, vocabulary) log-probabilities of what follows each token."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)


def test_models_are_listed(client):
    (model,) = client.models.list().data
    assert (model.id, model.max_model_len) == ("tiny", 700)


def test_chat_gives_the_log_probabilities_of_its_tokens(client, models):
    model, tokenizer = models
    response = client.chat.completions.create(
        model="tiny", messages=MESSAGES, temperature=0, max_tokens=3, logprobs=True, top_logprobs=4
    )
    ids = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert response.usage.prompt_tokens == len(ids) and response.choices[0].finish_reason == "length"
    for token in response.choices[0].logprobs.content:
        scores = naive(model, ids)[-1]
        values, best = scores.topk(4)
        assert [entry.token for entry in token.top_logprobs] == [tokenizer.decode([i]) for i in best.tolist()]
        assert [entry.logprob for entry in token.top_logprobs] == pytest.approx(values.tolist(), abs=1e-5)
        assert token.logprob == pytest.approx(values[0].item(), abs=1e-5)
        ids = [*ids, int(best[0])]


def test_prompt_logprobs_and_echo_score_a_prompt_of_token_ids(client, models):
    model, tokenizer = models
    ids = tokenizer("some text")["input_ids"]
    extra = {"prompt_logprobs": 3, "return_token_ids": True, "return_tokens_as_token_ids": True}
    choice = client.completions.create(
        model="tiny", prompt=ids, max_tokens=1, echo=True, logprobs=3, extra_body=extra
    ).choices[0]
    assert choice.prompt_token_ids == ids and choice.prompt_logprobs[0] is None
    scores = naive(model, ids)
    for place in range(1, len(ids)):
        entries = choice.prompt_logprobs[place]
        values, best = scores[place - 1].topk(3)
        assert {str(i) for i in best.tolist()} | {str(ids[place])} == {*entries}
        assert [entries[str(i)]["logprob"] for i in best.tolist()] == pytest.approx(values.tolist(), abs=1e-5)
        assert entries[str(ids[place])]["decoded_token"] == tokenizer.decode([ids[place]])
        echoed = choice.logprobs.top_logprobs[place]
        assert echoed == pytest.approx({f"token_id:{i}": entry["logprob"] for i, entry in entries.items()})
    assert choice.logprobs.tokens[: len(ids)] == [f"token_id:{i}" for i in ids]
    assert len(choice.logprobs.tokens) == len(ids) + 1 and choice.logprobs.token_logprobs[0] is None


@pytest.mark.served
def test_several_prompts_answers_and_stops(client):
    response = client.completions.create(model="tiny", prompt=["ab", "c"], max_tokens=5, n=2, temperature=1, seed=1)
    assert [choice.index for choice in response.choices] == [0, 1, 2, 3]
    again = client.completions.create(model="tiny", prompt=["ab", "c"], max_tokens=5, n=2, temperature=1, seed=1)
    assert [choice.text for choice in again.choices] == [choice.text for choice in response.choices]
    text = client.completions.create(model="tiny", prompt="ab", max_tokens=5, temperature=0).choices[0].text
    stopped = client.completions.create(model="tiny", prompt="ab", max_tokens=5, temperature=0, stop=text[1]).choices[0]
    assert stopped.text == text[: text.index(text[1])] and stopped.finish_reason == "stop"


@pytest.mark.served
def test_a_schema_of_choices_is_drawn_by_likelihood(client, models):
    model, tokenizer = models
    names = ["yes", "no"]
    value = {"type": "string", "enum": names}
    schema = {"type": "object", "properties": {"class": value}, "required": ["class"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    response = client.chat.completions.create(
        model="tiny", messages=MESSAGES, response_format=form, n=100, temperature=30, seed=1
    )
    drawn = Counter(json.loads(choice.message.content)["class"] for choice in response.choices)
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    totals = []
    for name in names:
        ids = tokenizer(json.dumps({"class": name}))["input_ids"]
        scores = naive(model, [*prompt, *ids])
        totals.append(sum(scores[len(prompt) - 1 + place, i].item() for place, i in enumerate(ids)))
    share = 1 / (1 + math.exp((totals[1] - totals[0]) / 30))
    assert drawn["yes"] / 100 == pytest.approx(share, abs=0.2)


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"model": "other"}, 404, "The model 'other' does not exist"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "Requested sample logprobs of 21, .* max allowed: 20"),
        ({"max_tokens": 700}, 400, "maximum context length is 700 tokens"),
        ({"messages": [{"text": "Hello"}]}, 400, "The request is malformed"),
        ({"n": 0}, 400, "n must be between 1 and 128"),
        ({"response_format": {"type": "json_object"}}, 400, "Only a json_schema of one choice"),
    ],
)
def test_errors_have_openais_shape(client, change, status, message):
    with pytest.raises(openai.APIStatusError, match=message) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": MESSAGES, "max_tokens": 1, **change})
    assert caught.value.status_code == status and caught.value.body["type"] == "invalid_request_error"


def test_a_key_and_addresses_are_checked(models):
    with serving(serve.CausalAnswers(*models), key="right") as server:
        with (
            openai.OpenAI(base_url=server.url, api_key="wrong", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError, match="Incorrect API key"),
        ):
            client.models.list()
        with (
            openai.OpenAI(base_url=server.url + "/more", api_key="right", max_retries=0) as client,
            pytest.raises(openai.NotFoundError, match="There is no /v1/more/models"),
        ):
            client.models.list()


def test_a_classifiers_classes_are_letters_in_the_order_of_the_prompt(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    model, tokenizer = classifier()
    system = "Which?\n\nA: neutral (neither)\nB: positive\nC: negative\n\nAnswer."
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": "Text: w1 w2 w3\n\nWhich letter?"},
    ]
    with (
        serving(serve.ClassifierAnswers(model, tokenizer)) as server,
        openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client,
    ):
        choice = client.chat.completions.create(
            model="tiny", messages=messages, temperature=0, max_tokens=1, logprobs=True, top_logprobs=5
        ).choices[0]
        with pytest.raises(openai.BadRequestError, match="has no class 'good'"):
            client.chat.completions.create(model="tiny", messages=[{"role": "system", "content": "A: good"}])
    with torch.no_grad():
        scores = model(**tokenizer("w1 w2 w3", return_tensors="pt")).logits[0].log_softmax(-1).tolist()
    found = {entry.token: entry.logprob for entry in choice.logprobs.content[0].top_logprobs}
    assert found == pytest.approx({"A": scores[2], "B": scores[1], "C": scores[0]})
    assert choice.message.content == max(found, key=found.get)
