"""Teacher and student side by side in a browser: what each says of a text, how sure it is, and how long it took.

`hf-distill space` copies this file as `app.py` beside a `space.json` and the models. It is complete in itself: a Space
has gradio, torch and transformers, and no hf_distill.
"""

import inspect
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

AUTO_CLASSES: dict[str, Any] = {
    "text-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
    "translation": AutoModelForSeq2SeqLM,
    "text-generation": AutoModelForCausalLM,
}
CALLS = 7  # timed calls a click, at most
SECONDS = 1.0  # after which no further call is begun
NEW_TOKENS = 64
UNLIMITED = 10**6  # a tokenizer without a limit has an astronomic one


class Panel:
    """A model, its tokenizer, and how its answer is shown.

    Args:
        settings: `name`, `path` (a folder, or a Hub id) and `trusted` (whether it may bring its own code).
        task: a key of `AUTO_CLASSES`.
        folder: that relative paths start at.
    """

    def __init__(self, settings: dict[str, Any], task: str, folder: Path) -> None:
        self.name: str = settings["name"]
        self.task = task
        path = str(folder / settings["path"]) if (folder / settings["path"]).exists() else settings["path"]
        # Without the word of trust, transformers would ask on the terminal even for a tokenizer.
        trusted = {"trust_remote_code": settings["trusted"]}
        self.tokenizer = AutoTokenizer.from_pretrained(path, **trusted)
        self.model = AUTO_CLASSES[task].from_pretrained(path, dtype=torch.float32, **trusted).eval()
        self.arguments = set(inspect.signature(self.model.forward).parameters)
        longest = getattr(self.model.config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        shortest = min(longest, self.tokenizer.model_max_length)
        self.limit: dict[str, Any] = {"truncation": True, "max_length": shortest} if shortest < UNLIMITED else {}
        self.writes = task in ("translation", "text-generation")

    @property
    def parameters(self) -> int:
        """How many numbers the model holds."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def tokenize(self, *texts: str) -> Any:
        """One text or a pair, cut to what the model reads; to a model that chats it is what a user says."""
        if self.task == "text-generation" and self.tokenizer.chat_template:
            said = [{"role": "user", "content": texts[0]}]
            form: dict[str, Any] = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
            return self.tokenizer.apply_chat_template(said, **form, **self.limit)
        return self.tokenizer(*texts, **self.limit, return_tensors="pt")

    @torch.inference_mode()
    def run(self, encoded: Any) -> torch.Tensor:
        """Logits without the batch dimension; of a model that writes, the tokens it wrote."""
        inputs = {name: value for name, value in encoded.items() if name in self.arguments}
        if not self.writes:
            return self.model(**inputs).logits[0]
        written = self.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[0]
        return written if self.task == "translation" else written[encoded["input_ids"].shape[1] :]

    def shown(self, encoded: Any, said: torch.Tensor, *texts: str) -> Any:
        """An answer to some texts as its component takes it."""
        if self.writes:
            return self.tokenizer.decode(said, skip_special_tokens=True)
        names = self.model.config.id2label
        if self.task == "token-classification":
            return self._tags(encoded, said.softmax(dim=-1), texts[0])
        if len(said) == 1:
            return f"{said.item():.3f}"
        several = self.model.config.problem_type == "multi_label_classification"
        probabilities = said.sigmoid() if several else said.softmax(dim=-1)
        return {names[number]: value for number, value in enumerate(probabilities.tolist())}

    def _tags(self, encoded: Any, probabilities: torch.Tensor, text: str) -> list[list[Any]]:
        """(word, tag, probability) of every word as it stands in the text, read at its first piece."""
        rows, seen = [], set()
        for position, word in enumerate(encoded.word_ids(0)):
            if word is None or word in seen:
                continue
            seen.add(word)
            best = int(probabilities[position].argmax())
            span = encoded.word_to_chars(0, word)
            written = text[span.start : span.end].strip()
            rows.append([written, self.model.config.id2label[best], f"{probabilities[position, best]:.3f}"])
        return rows

    def component(self) -> Any:
        """Where its answer is shown."""
        if self.writes:
            return gr.Textbox(label=self.name, lines=3)
        if self.task == "token-classification":
            return gr.Dataframe(headers=["word", "tag", "probability"], label=self.name, interactive=False)
        return gr.Label(label=self.name, num_top_classes=5)


def timed(readers: list[Panel], encoded: list[Any]) -> tuple[list[torch.Tensor], list[float]]:
    """What the models say of a text, and the median milliseconds of each; they take turns, after a call to warm up."""
    said = [reader.run(inputs) for reader, inputs in zip(readers, encoded, strict=True)]
    milliseconds: list[list[float]] = [[] for _ in readers]
    began = time.perf_counter()
    for call in range(CALLS):
        if call and time.perf_counter() - began > SECONDS:
            break
        for reader, inputs, taken in zip(readers, encoded, milliseconds, strict=True):
            start = time.perf_counter()
            reader.run(inputs)
            taken.append((time.perf_counter() - start) * 1000)
    return said, [statistics.median(taken) for taken in milliseconds]


def verdict(answers: list[Any], milliseconds: list[float]) -> str:
    """One sentence on the two models: whether they agree, and how much faster the second is.

    >>> verdict([{"good": 0.9, "bad": 0.1}, {"good": 0.8, "bad": 0.2}], [8.0, 0.5])
    'Both say **good**. The student took 16.0 times less time.'
    """
    best = [max(answer, key=lambda name: answer[name]) for answer in answers if isinstance(answer, dict)]
    said = ""
    if len(best) == 2:
        said = f"Both say **{best[0]}**. " if best[0] == best[1] else f"They differ: **{best[0]}** and **{best[1]}**. "
    ratio = milliseconds[0] / milliseconds[1]
    if ratio < 1:
        return f"{said}The student took {1 / ratio:.1f} times as long."
    return f"{said}The student took {ratio:.1f} times less time."


def ask(readers: list[Panel], *texts: str) -> list[Any]:
    """All that changes on the page: the models' answers, a line of facts on each, and the verdict on two of them."""
    if not all(text.strip() for text in texts):
        raise gr.Error("Type a text first." if len(texts) == 1 else "Type both texts first.")
    encoded = [reader.tokenize(*texts) for reader in readers]
    said, milliseconds = timed(readers, encoded)
    answers = [reader.shown(inputs, each, *texts) for reader, inputs, each in zip(readers, encoded, said, strict=True)]
    facts = [
        f"**{taken:.2f} ms** for {inputs['input_ids'].shape[1]} tokens, {reader.parameters:,} parameters"
        for reader, inputs, taken in zip(readers, encoded, milliseconds, strict=True)
    ]
    return [*answers, *facts, verdict(answers, milliseconds) if len(readers) == 2 else ""]


def build(folder: Path) -> gr.Blocks:
    """The app of the Space in a folder, its models loaded."""
    settings = json.loads((folder / "space.json").read_text(encoding="utf-8"))
    readers = [Panel(model, settings["task"], folder) for model in settings["models"]]
    with gr.Blocks(title=settings["title"]) as app:
        gr.Markdown(f"# {settings['title']}\n\n{settings['summary']}")
        boxes = [gr.Textbox(label=name, lines=2, placeholder="Type a text") for name in settings["inputs"]]
        button = gr.Button("Ask" if len(readers) == 1 else "Ask both", variant="primary")
        if settings["examples"]:
            gr.Examples(settings["examples"], boxes)
        answers, facts = [], []
        with gr.Row():
            for reader in readers:
                with gr.Column():
                    answers.append(reader.component())
                    facts.append(gr.Markdown())
        closing = gr.Markdown()
        gr.Markdown(
            f"Time is the model's alone on the machine that runs this page: the median of up to {CALLS} calls after "
            "one to warm up, models in turns, without the tokenizer."
        )
        gr.on(
            [button.click, *(box.submit for box in boxes)],
            partial(ask, readers),
            boxes,
            [*answers, *facts, closing],
            api_name="ask",
        )
    return app


if __name__ == "__main__":
    build(Path(__file__).parent).launch()
