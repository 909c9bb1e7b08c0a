# /// script
# requires-python = ">=3.11"
# dependencies = ["torch", "transformers>=5.23,<6"]
# ///
"""A minimal OpenAI-compatible server for this machine, over any local causal model or sequence classifier.

    python examples/serve.py --model HuggingFaceTB/SmolLM2-135M-Instruct --port 8000
    python examples/serve.py --classifier outputs/demo/teacher --port 8000

For tests, tutorials and benchmarks: one request at a time is computed, on 127.0.0.1 only. It has what a teacher behind
a server is asked for, in the shapes of OpenAI and vLLM:

- `GET /v1/models`, `POST /v1/chat/completions`, `POST /v1/completions`;
- `logprobs` and `top_logprobs`, `prompt_logprobs`, `echo`, prompts of token ids, `return_token_ids` and
  `return_tokens_as_token_ids`, of at most `--max-logprobs` tokens (vLLM's flag and its default, 20);
- `n`, `temperature`, `max_tokens`, `stop`, `seed`; `response_format` with a JSON schema of one choice (`enum`), whose
  answers are drawn by the model's likelihood of each;
- errors in OpenAI's shape.

With `--classifier` the model is a sequence classifier. The classes must be listed in the system message, one a line, as
`A: name` (or `- name`), and the last message is `Text: <text>` and a last paragraph that asks for the answer: the
answer is the letter (or the name) of a class, and its log-probabilities are the classifier's.
"""

import argparse
import hmac
import json
import math
import re
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

EXTENSIONS = ("prompt_logprobs", "return_token_ids", "return_tokens_as_token_ids", "continue_final_message")
KIND = "invalid_request_error"


class RequestError(Exception):
    """A request that is answered with an error."""

    def __init__(self, message: str, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


@dataclass
class Token:
    """One token of an answer or a prompt.

    Attributes:
        id: its number.
        text: as decoded alone.
        logprob: None for the first token of a prompt.
        top: the most likely tokens there, (id, text, log-probability).
    """

    id: int
    text: str
    logprob: float | None
    top: list[tuple[int, str, float]] = field(default_factory=list)


@dataclass
class Written:
    """An answer: its text, its tokens and why it ended."""

    text: str
    tokens: list[Token]
    finish_reason: str


class CausalAnswers:
    """Answers of a causal language model.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        positions = getattr(model.config, "max_position_embeddings", None)
        self.limit = min(positions or tokenizer.model_max_length, tokenizer.model_max_length)
        ends = model.generation_config.eos_token_id
        self.ends = {ends} if isinstance(ends, int) else {*(ends or ())}

    def chat_ids(self, request: dict[str, Any]) -> list[int]:
        """The token ids of a conversation, by the tokenizer's chat template."""
        if not self.tokenizer.chat_template:
            raise RequestError("This model has no chat template: use /v1/completions.")
        more = bool(request.get("continue_final_message"))
        return self.tokenizer.apply_chat_template(
            request["messages"],
            add_generation_prompt=request.get("add_generation_prompt", not more),
            continue_final_message=more,
            return_dict=False,
        )

    def text_ids(self, prompt: str) -> list[int]:
        """The token ids of a text, with the special tokens that the tokenizer adds."""
        return self.tokenizer(prompt)["input_ids"]

    @torch.no_grad()
    def logprobs(self, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """For each row (length, vocabulary): what follows each token, in float32."""
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        return [scores[: len(row)].log_softmax(-1) for row, scores in zip(rows, logits, strict=True)]

    def token(self, token_id: int, scores: torch.Tensor | None, top: int) -> Token:
        """A token with its log-probability under `scores` (vocabulary,), and the `top` most likely ones."""
        text = self.tokenizer.decode([token_id])
        if scores is None:
            return Token(token_id, text, None)
        values, ids = scores.topk(min(top, len(scores)))
        pairs = zip(ids.tolist(), values.tolist(), strict=True)
        return Token(token_id, text, scores[token_id].item(), [(i, self.tokenizer.decode([i]), v) for i, v in pairs])

    def prompt_tokens(self, ids: Sequence[int], top: int) -> list[Token]:
        """The tokens of a prompt; nothing comes before the first."""
        scores = self.logprobs([ids])[0]
        return [self.token(each, scores[place - 1] if place else None, top) for place, each in enumerate(ids)]

    def write(self, ids: Sequence[int], request: dict[str, Any], length: int, top: int) -> Written:
        """An answer of at most `length` tokens that goes on from `ids`."""
        stops = request.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        tokens: list[Token] = []
        while len(tokens) < length:
            scores = self.logprobs([[*ids, *(token.id for token in tokens)]])[0][-1]
            made = self.token(drawn(scores, request), scores, top)
            tokens.append(made)
            if made.id in self.ends:
                text = self.tokenizer.decode([token.id for token in tokens[:-1]])
                return Written(text, tokens, "stop")
            text = self.tokenizer.decode([token.id for token in tokens])
            found = [text.index(stop) for stop in stops if stop in text]
            if found:
                return Written(text[: min(found)], tokens, "stop")
        return Written(self.tokenizer.decode([token.id for token in tokens]), tokens, "length")

    def choose(self, ids: Sequence[int], choices: list[str], request: dict[str, Any]) -> Written:
        """One of some texts, drawn by the likelihood of each as a whole."""
        rows = [self.tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in choices]
        scores = self.logprobs([[*ids, *row] for row in rows])
        likelihoods = [
            sum(each[len(ids) - 1 + place, token].item() for place, token in enumerate(row))
            for row, each in zip(rows, scores, strict=True)
        ]
        text = choices[drawn(torch.tensor(likelihoods).log_softmax(-1), request)]
        return Written(text, [], "stop")


class ClassifierAnswers:
    """Answers of a sequence classifier: the letters, or the names, of its classes.

    Args:
        model: in evaluation mode; its config names the classes.
        tokenizer: the model's.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.names = [model.config.id2label[number] for number in range(model.config.num_labels)]
        self.limit = 10**9  # the text is cut to what the classifier reads

    def chat_ids(self, request: dict[str, Any]) -> Any:
        """The log-probability of each answer that the system message lists."""
        messages = request["messages"]
        listed = re.findall(r"^(?:([A-Z]): |- )(.+)$", messages[0]["content"], re.MULTILINE)
        answers: dict[str, int] = {}
        for letter, rest in listed:
            names = [name for name in self.names if rest == name or rest.startswith(f"{name} (")]
            if not names:
                raise RequestError(f"The classifier has no class {rest!r}, only {self.names}.")
            answers[letter or names[0]] = self.names.index(max(names, key=len))
        if sorted(answers.values()) != list(range(len(self.names))):
            raise RequestError(f"The system message must list each of {self.names} once, as 'A: name' or '- name'.")
        text, paragraph, _ = messages[-1]["content"].rpartition("\n\n")
        if not text.startswith("Text: ") or not paragraph:
            raise RequestError("The last message must be 'Text: <text>' and a last paragraph that asks for the answer.")
        scores = self._scores(text.removeprefix("Text: "))
        return {answer: scores[number].item() for answer, number in answers.items()}

    @torch.no_grad()
    def _scores(self, text: str) -> torch.Tensor:
        inputs = self.tokenizer(text, truncation=True, return_tensors="pt")
        return self.model(**inputs).logits[0].float().log_softmax(-1)

    def write(self, scores: dict[str, float], request: dict[str, Any], length: int, top: int) -> Written:
        """The answer that is drawn, as one token."""
        answers = sorted(scores, key=scores.__getitem__, reverse=True)
        number = drawn(torch.tensor([scores[answer] for answer in answers]), request)
        top_tokens = [(-1, answer, scores[answer]) for answer in answers[:top]]
        token = Token(-1, answers[number], scores[answers[number]], top_tokens)
        return Written(token.text, [token][:length], "stop")

    def choose(self, scores: dict[str, float], choices: list[str], request: dict[str, Any]) -> Written:
        """One of some JSON texts, each of which holds an answer."""
        held = [[score for answer, score in scores.items() if json.dumps(answer) in choice] for choice in choices]
        if any(len(each) != 1 for each in held):
            raise RequestError(f"Each choice of the schema must be one of {[*scores]}.", param="response_format")
        number = drawn(torch.tensor([each[0] for each in held]).log_softmax(-1), request)
        return Written(choices[number], [], "stop")


def drawn(scores: torch.Tensor, request: dict[str, Any]) -> int:
    """One of some classes by their log-probabilities (classes,), at the request's temperature."""
    temperature = 1.0 if request.get("temperature") is None else float(request["temperature"])
    if temperature == 0:
        return int(scores.argmax())
    probabilities = (scores / temperature).softmax(-1)
    return int(torch.multinomial(probabilities, 1, generator=request.get("generator")))


def schema_choices(response_format: dict[str, Any] | None) -> list[str] | None:
    """The JSON texts that a schema admits; None where any text may be written.

    Raises:
        RequestError: a schema of anything but one choice.
    """
    kind = (response_format or {"type": "text"}).get("type")
    if kind == "text":
        return None
    schema = ((response_format or {}).get("json_schema") or {}).get("schema") or {}
    properties = schema.get("properties") or {}
    if kind == "json_schema" and schema.get("type") == "object" and len(properties) == 1:
        ((name, value),) = properties.items()
        if "enum" in value:
            return [json.dumps({name: choice}) for choice in value["enum"]]
    if kind == "json_schema" and "enum" in schema:
        return [json.dumps(choice) for choice in schema["enum"]]
    raise RequestError("Only a json_schema of one choice (enum) is supported.", param="response_format")


class Server(ThreadingHTTPServer):
    """Serves one model on 127.0.0.1.

    Args:
        answers: of a `CausalAnswers` or a `ClassifierAnswers`.
        name: the model's, for requests.
        port: 0 for any that is free; `url` says which.
        max_logprobs: the most tokens whose log-probabilities a request may ask for.
        key: that requests must show; None for none.
        ignored: parameters that it takes no notice of, as servers without vLLM's `EXTENSIONS` do.
        with_logprobs: whether log-probabilities are given at all.
    """

    daemon_threads = True

    def __init__(
        self,
        answers: Any,
        name: str,
        port: int = 0,
        max_logprobs: int = 20,
        key: str | None = None,
        ignored: Sequence[str] = (),
        with_logprobs: bool = True,
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.answers, self.name, self.max_logprobs, self.key = answers, name, max_logprobs, key
        self.ignored, self.with_logprobs = ignored, with_logprobs
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []

    def models(self) -> dict[str, Any]:
        """The answer to `GET /v1/models`."""
        model = {"id": self.name, "object": "model", "owned_by": "local", "max_model_len": self.answers.limit}
        return {"object": "list", "data": [model]}

    def answer(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        if request.get("model") != self.name:
            raise RequestError(f"The model {request.get('model')!r} does not exist.", 404, "model_not_found", "model")
        request = {name: value for name, value in request.items() if name not in self.ignored}
        self._check_counts(request)
        if request.get("seed") is not None:
            request["generator"] = torch.Generator().manual_seed(int(request["seed"]))
        with self.lock:
            self.requests.append(request)
            return self._chat(request) if path == "/v1/chat/completions" else self._complete(request)

    def _check_counts(self, request: dict[str, Any]) -> None:
        for name, kind in (("logprobs", "sample"), ("top_logprobs", "sample"), ("prompt_logprobs", "prompt")):
            asked = request.get(name)
            if asked is not None and asked is not True and asked > self.max_logprobs:
                raise RequestError(
                    f"Requested {kind} logprobs of {asked}, which is greater than max allowed: {self.max_logprobs}",
                    param=name,
                )
        if not 1 <= request.get("n", 1) <= 128:
            raise RequestError(f"n must be between 1 and 128, got {request['n']}.", param="n")

    def _check_length(self, ids: Any, length: int) -> None:
        if isinstance(ids, list) and len(ids) + length > self.answers.limit:
            raise RequestError(
                f"This model's maximum context length is {self.answers.limit} tokens. However, you requested "
                f"{len(ids) + length} tokens ({len(ids)} in the prompt, {length} in the completion). Please reduce the "
                "length of the prompt or of the completion.",
                code="context_length_exceeded",
            )

    def _chat(self, request: dict[str, Any]) -> dict[str, Any]:
        ids = self.answers.chat_ids(request)
        length = request.get("max_completion_tokens") or request.get("max_tokens") or 64
        self._check_length(ids, length)
        top = request.get("top_logprobs") or 0
        choices = schema_choices(request.get("response_format"))
        made = []
        for _ in range(request.get("n", 1)):
            if choices is None:
                made.append(self.answers.write(ids, request, length, top))
            else:
                made.append(self.answers.choose(ids, choices, request))
        response = self._response("chat.completion", ids, made)
        for number, written in enumerate(made):
            choice = {
                "index": number,
                "message": {"role": "assistant", "content": written.text},
                "logprobs": None,
                "finish_reason": written.finish_reason,
            }
            if request.get("logprobs") and self.with_logprobs:
                choice["logprobs"] = {"content": [chat_logprob(token) for token in written.tokens]}
            response["choices"].append(choice)
        if request.get("prompt_logprobs") is not None and isinstance(ids, list):
            response["prompt_logprobs"] = prompt_logprobs(self.answers.prompt_tokens(ids, request["prompt_logprobs"]))
        return response

    def _complete(self, request: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(self.answers, CausalAnswers):
            raise RequestError("A classifier answers /v1/chat/completions only.", 404)
        prompts = request.get("prompt", "")
        alone = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
        rows = [
            self.answers.text_ids(each) if isinstance(each, str) else each for each in ([prompts] if alone else prompts)
        ]
        length = 16 if request.get("max_tokens") is None else request["max_tokens"]
        response = self._response("text_completion", [each for row in rows for each in row], [])
        for row in rows:
            if not row or not all(isinstance(each, int) and each >= 0 for each in row):
                raise RequestError("A prompt is a text or a list of token ids, and not empty.", param="prompt")
            self._check_length(row, length)
            for _ in range(request.get("n", 1)):
                response["choices"].append(self._completion(row, request, length, len(response["choices"])))
        response["usage"] = usage(sum(map(len, rows)), length * len(response["choices"]))
        return response

    def _completion(self, ids: list[int], request: dict[str, Any], length: int, number: int) -> dict[str, Any]:
        top = request.get("logprobs") or 0
        written = self.answers.write(ids, request, length, top) if length else Written("", [], "length")
        tokens, text = written.tokens, written.text
        if request.get("echo"):
            tokens = [*self.answers.prompt_tokens(ids, top), *tokens]
            text = self.answers.tokenizer.decode(ids) + text
        choice: dict[str, Any] = {
            "index": number,
            "text": text,
            "logprobs": None,
            "finish_reason": written.finish_reason,
        }
        if request.get("logprobs") is not None and self.with_logprobs:
            choice["logprobs"] = completion_logprobs(tokens, bool(request.get("return_tokens_as_token_ids")))
        if request.get("prompt_logprobs") is not None and self.with_logprobs:
            choice["prompt_logprobs"] = prompt_logprobs(self.answers.prompt_tokens(ids, request["prompt_logprobs"]))
        if request.get("return_token_ids"):
            choice |= {"prompt_token_ids": ids, "token_ids": [token.id for token in written.tokens]}
        return choice

    def _response(self, kind: str, ids: Any, made: list[Written]) -> dict[str, Any]:
        counted = usage(len(ids), sum(max(1, len(written.tokens)) for written in made))
        return {"id": f"{kind}-0", "object": kind, "created": int(time.time()), "model": self.name, "choices": []} | {
            "usage": counted
        }


def usage(prompt: int, completion: int) -> dict[str, int]:
    """The numbers of tokens that were read and written."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def chat_logprob(token: Token) -> dict[str, Any]:
    """A token as chat completions give it."""

    def entry(text: str, logprob: float | None) -> dict[str, Any]:
        return {"token": text, "logprob": finite(logprob), "bytes": [*text.encode()]}

    return entry(token.text, token.logprob) | {"top_logprobs": [entry(text, value) for _, text, value in token.top]}


def completion_logprobs(tokens: Iterable[Token], as_ids: bool) -> dict[str, Any]:
    """Tokens as completions give them; `as_ids` calls them `token_id:<id>`."""
    found: dict[str, Any] = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
    offset = 0
    for token in tokens:
        found["text_offset"].append(offset)
        found["tokens"].append(f"token_id:{token.id}" if as_ids else token.text)
        found["token_logprobs"].append(None if token.logprob is None else finite(token.logprob))
        top = {f"token_id:{number}" if as_ids else text: finite(value) for number, text, value in reversed(token.top)}
        if token.logprob is not None:
            top.setdefault(found["tokens"][-1], finite(token.logprob))
        found["top_logprobs"].append(None if token.logprob is None else top)
        offset += len(token.text)
    return found


def prompt_logprobs(tokens: Iterable[Token]) -> list[dict[str, Any] | None]:
    """Tokens of a prompt as vLLM gives them: the most likely ones by id, and the prompt's own."""
    found: list[dict[str, Any] | None] = []
    for token in tokens:
        if token.logprob is None:
            found.append(None)
            continue
        entries = {
            str(number): {"logprob": finite(value), "rank": rank, "decoded_token": text}
            for rank, (number, text, value) in enumerate(token.top, start=1)
        }
        own = {"logprob": finite(token.logprob), "rank": len(token.top) + 1, "decoded_token": token.text}
        entries.setdefault(str(token.id), own)
        found.append(entries)
    return found


def finite(value: float | None) -> float | None:
    """A log-probability that JSON can hold; servers write -9999 for -inf."""
    return value if value is None or math.isfinite(value) else -9999.0


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._answered(lambda: self.server.models() if self.path == "/v1/models" else self._unknown())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        known = self.path in ("/v1/chat/completions", "/v1/completions")
        self._answered(lambda: self.server.answer(self.path, read_json(body)) if known else self._unknown())

    def _unknown(self) -> Any:
        raise RequestError(f"There is no {self.path}.", 404)

    def _answered(self, make: Any) -> None:
        try:
            if self.server.key is not None:
                shown = self.headers.get("Authorization", "")
                if not hmac.compare_digest(shown.encode(), f"Bearer {self.server.key}".encode()):
                    raise RequestError("Incorrect API key provided.", 401, "invalid_api_key")
            status, content = 200, make()
        except (KeyError, IndexError, TypeError, ValueError, TemplateError) as error:
            status, content = 400, {"error": {"message": f"The request is malformed: {error!r}.", "type": KIND}}
        except RequestError as error:
            kind = KIND if error.status < 500 else "server_error"
            status = error.status
            content = {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


def read_json(body: bytes) -> dict[str, Any]:
    """The object in a request's body."""
    try:
        request = json.loads(body)
    except ValueError as error:
        raise RequestError(f"The body is not JSON: {error}.") from error
    if not isinstance(request, dict):
        raise RequestError("The body must be a JSON object.")
    return request


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a local model on 127.0.0.1 as OpenAI-compatible servers do.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="a causal language model: a Hub id or a folder")
    source.add_argument("--classifier", help="a sequence classifier: a Hub id or a folder")
    parser.add_argument("--gguf-file", help="of a folder with one, beside --model")
    parser.add_argument("--name", default="local", help="the model's name in requests; default: %(default)s")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-logprobs", type=int, default=20, help="default: %(default)s")
    arguments = parser.parse_args()
    folder = arguments.model or arguments.classifier
    extra = {} if arguments.gguf_file is None else {"gguf_file": arguments.gguf_file}
    auto_class = AutoModelForCausalLM if arguments.model else AutoModelForSequenceClassification
    model = auto_class.from_pretrained(folder, dtype=torch.float32, **extra)
    tokenizer = AutoTokenizer.from_pretrained(folder, **extra)
    answers = (CausalAnswers if arguments.model else ClassifierAnswers)(model, tokenizer)
    with Server(answers, arguments.name, arguments.port, arguments.max_logprobs) as server:
        print(f"{arguments.name} is served at {server.url}. Ctrl-C ends it.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")


if __name__ == "__main__":
    main()
