"""A web app that shows the predictions, the probabilities and the latency of teacher and student side by side.

`hf-distill space` copies this file as `app.py` beside a `space.json` and the models. It does not import hf_distill: a
Space has gradio, torch and transformers only.
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
CALLS = 7  # maximum number of timed calls per click
SECONDS = 1.0  # no further call is started after this time
NEW_TOKENS = 64
UNLIMITED = 10**6  # tokenizers without a limit have a very large model_max_length


class Panel:
    """One column of the app: a model, its tokenizer, and the display of its output.

    Args:
        settings: `name`, `path` (a folder or a Hub id) and `trusted` (whether custom code of the model may run).
        task: a key of `AUTO_CLASSES`.
        folder: the base of relative paths.
    """

    def __init__(self, settings: dict[str, Any], task: str, folder: Path) -> None:
        self.name: str = settings["name"]
        self.task = task
        path = str(folder / settings["path"]) if (folder / settings["path"]).exists() else settings["path"]
        # Without trust_remote_code, transformers would prompt on the terminal even for a tokenizer.
        trusted = {"trust_remote_code": settings["trusted"]}
        self.tokenizer = AutoTokenizer.from_pretrained(path, **trusted)
        self.model = AUTO_CLASSES[task].from_pretrained(path, dtype=torch.float32, **trusted).eval()
        self.arguments = set(inspect.signature(self.model.forward).parameters)
        longest = getattr(self.model.config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        shortest = min(longest, self.tokenizer.model_max_length)
        self.limit: dict[str, Any] = {"truncation": True, "max_length": shortest} if shortest < UNLIMITED else {}
        self.generates = task in ("translation", "text-generation")

    @property
    def threshold(self) -> float | None:
        """Below which confidence a text goes to the teacher; None without a cascade."""
        of_classes = self.task == "text-classification" and self.model.config.problem_type != "regression"
        return getattr(self.model.config, "cascade_threshold", None) if of_classes else None

    def confidence(self, output: torch.Tensor) -> float:
        """The probability of the answer at the cascade's temperature; of several labels that of the least certain."""
        logits = output.double() / (getattr(self.model.config, "cascade_temperature", None) or 1.0)
        if self.model.config.problem_type == "multi_label_classification":
            return float(logits.abs().sigmoid().min())
        return float(logits.softmax(dim=-1).max())

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def tokenize(self, *texts: str) -> Any:
        """A text or a pair, truncated to the model's limit; as the user's message if there is a chat template."""
        if self.task == "text-generation" and self.tokenizer.chat_template:
            messages = [{"role": "user", "content": texts[0]}]
            options: dict[str, Any] = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
            return self.tokenizer.apply_chat_template(messages, **options, **self.limit)
        return self.tokenizer(*texts, **self.limit, return_tensors="pt")

    @torch.inference_mode()
    def run(self, encoded: Any) -> torch.Tensor:
        """The logits without the batch dimension; for generative models the generated tokens."""
        inputs = {name: value for name, value in encoded.items() if name in self.arguments}
        if not self.generates:
            return self.model(**inputs).logits[0]
        written = self.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[0]
        return written if self.task == "translation" else written[encoded["input_ids"].shape[1] :]

    def shown(self, encoded: Any, output: torch.Tensor, *texts: str) -> Any:
        """The model's output in the form that its component displays."""
        if self.generates:
            return self.tokenizer.decode(output, skip_special_tokens=True)
        names = self.model.config.id2label
        if self.task == "token-classification":
            return self._tags(encoded, output.softmax(dim=-1), texts[0])
        if len(output) == 1:
            return f"{output.item():.3f}"
        multi_label = self.model.config.problem_type == "multi_label_classification"
        probabilities = output.sigmoid() if multi_label else output.softmax(dim=-1)
        return {names[number]: value for number, value in enumerate(probabilities.tolist())}

    def _tags(self, encoded: Any, probabilities: torch.Tensor, text: str) -> list[list[Any]]:
        """(word, tag, probability) of every word as written in the text; the tag is that of its first piece."""
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
        """The gradio component that displays the output."""
        if self.generates:
            return gr.Textbox(label=self.name, lines=3)
        if self.task == "token-classification":
            return gr.Dataframe(headers=["word", "tag", "probability"], label=self.name, interactive=False)
        return gr.Label(label=self.name, num_top_classes=5)


def plain(name: str) -> str:
    """A name in Markdown, with nothing in it that could be more than a name.

    >>> plain("very good"), plain("<b>*")
    ('very good', '&#60;b&#62;&#42;')
    """
    return "".join(sign if sign.isalnum() or sign in " .,-" else f"&#{ord(sign)};" for sign in name)


def timed(panels: list[Panel], encoded: list[Any]) -> tuple[list[torch.Tensor], list[float]]:
    """The models' outputs, and the median milliseconds of each. Timed calls alternate, after one warm-up call."""
    outputs = [panel.run(inputs) for panel, inputs in zip(panels, encoded, strict=True)]
    milliseconds: list[list[float]] = [[] for _ in panels]
    began = time.perf_counter()
    for call in range(CALLS):
        if call and time.perf_counter() - began > SECONDS:
            break
        for panel, inputs, taken in zip(panels, encoded, milliseconds, strict=True):
            start = time.perf_counter()
            panel.run(inputs)
            taken.append((time.perf_counter() - start) * 1000)
    return outputs, [statistics.median(taken) for taken in milliseconds]


def summarize(answers: list[Any], milliseconds: list[float]) -> str:
    """Whether the two models agree, and how much faster the second is.

    >>> summarize([{"good": 0.9, "bad": 0.1}, {"good": 0.8, "bad": 0.2}], [8.0, 0.5])
    'Both predict **good**. The student is 16.0 times as fast.'
    """
    best = [max(answer, key=lambda name: answer[name]) for answer in answers if isinstance(answer, dict)]
    agreement = ""
    if len(best) == 2 and best[0] == best[1]:
        agreement = f"Both predict **{plain(best[0])}**. "
    elif len(best) == 2:
        agreement = f"They differ: **{plain(best[0])}** and **{plain(best[1])}**. "
    ratio = milliseconds[0] / milliseconds[1]
    if ratio < 1:
        return f"{agreement}The student took {1 / ratio:.1f} times as long."
    return f"{agreement}The student is {ratio:.1f} times as fast."


def handed_over(confidence: float, threshold: float) -> str:
    """Who answers a text in a cascade.

    >>> handed_over(0.71, 0.9)
    'The student is 0.710 sure, below 0.900: **the teacher answers**.'
    """
    if confidence < threshold:
        return f"The student is {confidence:.3f} sure, below {threshold:.3f}: **the teacher answers**."
    return f"The student is {confidence:.3f} sure, at least {threshold:.3f}: **the student answers**."


def ask(panels: list[Panel], *given: Any) -> list[Any]:
    """The values of all outputs on the page: the answers, a line on the cost of each, and a summary of both.

    Args:
        panels: the student's last.
        given: the texts; where the student has a cascade, then the threshold.
    """
    cascaded = panels[-1].threshold is not None
    texts: tuple[str, ...] = given[:-1] if cascaded else given
    if not all(text.strip() for text in texts):
        raise gr.Error("Type a text first." if len(texts) == 1 else "Type both texts first.")
    encoded = [panel.tokenize(*texts) for panel in panels]
    outputs, milliseconds = timed(panels, encoded)
    answers = [
        panel.shown(inputs, output, *texts) for panel, inputs, output in zip(panels, encoded, outputs, strict=True)
    ]
    facts = [
        f"**{taken:.2f} ms** for {inputs['input_ids'].shape[1]} tokens, {panel.parameters:,} parameters"
        for panel, inputs, taken in zip(panels, encoded, milliseconds, strict=True)
    ]
    closing = [summarize(answers, milliseconds)] if len(panels) == 2 else []
    closing += [handed_over(panels[-1].confidence(outputs[-1]), given[-1])] if cascaded else []
    return [*answers, *facts, " ".join(closing)]


def build(folder: Path) -> gr.Blocks:
    """Load the models of a Space's folder and build its app."""
    settings = json.loads((folder / "space.json").read_text(encoding="utf-8"))
    panels = [Panel(model, settings["task"], folder) for model in settings["models"]]
    with gr.Blocks(title=settings["title"]) as app:
        gr.Markdown(f"# {plain(settings['title'])}\n\n{settings['summary']}")
        boxes = [gr.Textbox(label=name, lines=2, placeholder="Type a text") for name in settings["inputs"]]
        threshold = panels[-1].threshold
        asked: list[Any] = [*boxes]
        if threshold is not None:
            label = "Cascade: below this confidence of the student, the teacher answers"
            asked.append(gr.Slider(0, 1, value=threshold, step=0.001, label=label))
        button = gr.Button("Run" if len(panels) == 1 else "Run both", variant="primary")
        if settings["examples"]:
            gr.Examples(settings["examples"], boxes)
        answers, facts = [], []
        with gr.Row():
            for panel in panels:
                with gr.Column():
                    answers.append(panel.component())
                    facts.append(gr.Markdown())
        closing = gr.Markdown()
        gr.Markdown(
            f"Times are those of the model without the tokenizer, on the machine that runs this page: the median of up "
            f"to {CALLS} calls, alternating between the models, after one warm-up call."
        )
        gr.on(
            [button.click, *(box.submit for box in boxes)],
            partial(ask, panels),
            asked,
            [*answers, *facts, closing],
            api_name="ask",
        )
    return app


if __name__ == "__main__":
    build(Path(__file__).parent).launch()  # on 127.0.0.1 unless GRADIO_SERVER_NAME says otherwise, as a Space does
