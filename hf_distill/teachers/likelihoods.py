"""How likely a local language model finds each of a few answers to a text, as a whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.models import evaluating, forward_arguments, padded, position_ids
from hf_distill.teachers.prompts import ClassPrompt
from hf_distill.teachers.text import logger, quoted

AGREEMENT = {torch.float32: 1e-3, torch.float64: 1e-6}  # of log-probabilities; half precision rounds more
HALF_AGREEMENT = 0.1


@dataclass(frozen=True)
class Question:
    """A text's question as token ids.

    Attributes:
        prefix: what all answers follow.
        answers: of all classes, one after the other, each with its end.
    """

    prefix: list[int]
    answers: list[list[int]]

    @property
    def longest(self) -> int:
        """The tokens of the longest question with its answer."""
        return len(self.prefix) + max(map(len, self.answers))


class AnswerLikelihoods:
    """log P(answer | question) of every class's answers, those of one class summed.

    A decoder reads a question once, and every answer goes on from its keys and values; a sequence-to-sequence model
    encodes it once. Whether that equals reading each answer with its question is tested on the first batch; models for
    which it does not (a recurrent state, positions that cannot be given) read them whole.

    An answer ends with the tokenizer's end token in a chat and in sequence-to-sequence models, and with a line break
    after a plain prompt: an answer that another one begins with is not counted twice.

    Args:
        model: causal or sequence-to-sequence; it stays on its device and in its precision.
        tokenizer: the model's.
        prompt: what is asked.
        by_letter: whether classes are answered by letters.
        batch_size: answers a forward.
    Raises:
        ValueError: no end token, or more classes than letters.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: ClassPrompt,
        by_letter: bool,
        batch_size: int,
    ) -> None:
        self.model, self.tokenizer, self.prompt, self.by_letter = model, tokenizer, prompt, by_letter
        self.batch_size = batch_size
        answers = prompt.answers(by_letter)
        self.texts = [answer for of_class in answers for answer in of_class]
        self.class_of = torch.tensor([number for number, of_class in enumerate(answers) for _ in of_class])
        self.is_causal = not model.config.is_encoder_decoder
        if tokenizer.eos_token is None and (tokenizer.chat_template or not self.is_causal):
            raise ValueError("The tokenizer has no end token, and an answer needs an end. Set tokenizer.eos_token.")
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.limit = min(positions or tokenizer.model_max_length, tokenizer.model_max_length)
        self.shares: bool | None = None  # whether a question is read once; found out on the first batch

    def question(self, text: str) -> Question:
        """A text's question as token ids; the answers are what differs from the question alone."""
        tokenizer: Any = self.tokenizer
        if not self.is_causal:
            ids = tokenizer(self.prompt.plain(text, self.by_letter), verbose=False)["input_ids"]
            targets = [tokenizer(text_target=answer)["input_ids"] for answer in self.texts]
            end = tokenizer.eos_token_id
            return Question(ids, [row if row[-1] == end else [*row, end] for row in targets])
        rendered, space = self.prompt.rendered(text, self.by_letter, tokenizer)
        chat = bool(tokenizer.chat_template)
        end = tokenizer.eos_token if chat else "\n"
        # Tokenized together, since a tokenizer may join the last characters of a question with an answer.
        wholes = [rendered + space + answer + end for answer in self.texts]
        rows = tokenizer([rendered, *wholes], add_special_tokens=not chat, verbose=False)["input_ids"]
        rows = [_without_end(row, tokenizer) for row in rows] if not chat else rows
        common = shared_length(rows)
        if common == 0 or any(len(row) == common for row in rows[1:]):
            raise ValueError(
                f"The tokenizer reads an answer to {quoted(text)} as nothing, or as the question's first token: "
                f"expected each of {self.texts} to add tokens to it. Give other spellings."
            )
        return Question(rows[1][:common], [row[common:] for row in rows[1:]])

    def questions(self, texts: Sequence[str]) -> list[Question]:
        """The questions of texts.

        Raises:
            ValueError: one is longer than the model reads.
        """
        made = [self.question(text) for text in texts]
        long = [number for number, question in enumerate(made) if self._length(question) > self.limit]
        if long:
            raise ValueError(
                f"{len(long)} of {len(texts)} prompts are longer than the {self.limit} tokens that "
                f"{type(self.model).__name__} and its tokenizer read. The first, of {self._length(made[long[0]])} "
                f"tokens, is of {quoted(texts[long[0]])}. Shorten the text or the prompt, or leave the text out."
            )
        return made

    def _length(self, question: Question) -> int:
        return question.longest if self.is_causal else len(question.prefix)

    def __call__(self, questions: Sequence[Question]) -> Iterator[tuple[list[int], Tensor]]:
        """Numbers of questions and their log-likelihoods (questions, classes) float64, batch by batch.

        The longest come first: too little memory shows at once.
        """
        order = sorted(range(len(questions)), key=lambda number: -len(questions[number].prefix))
        size = max(1, self.batch_size // len(self.texts))
        for start in range(0, len(order), size):
            numbers = order[start : start + size]
            batch = [questions[number] for number in numbers]
            with evaluating(self.model), torch.no_grad():
                likelihoods = self._likelihoods(batch)
            summed = torch.full((len(batch), len(self.prompt.names)), -torch.inf, dtype=torch.float64)
            for column, number in enumerate(self.class_of.tolist()):
                summed[:, number] = torch.logaddexp(summed[:, number], likelihoods[:, column])
            yield numbers, summed

    def _likelihoods(self, batch: list[Question]) -> Tensor:
        """(questions, answers) float64."""
        if not self.is_causal:
            return self._of_decoder(batch)
        if self.shares is None:
            self.shares = self._may_share() and self._agrees(batch)
        return self._shared(batch) if self.shares else self._whole(batch)

    def _may_share(self) -> bool:
        return "past_key_values" in forward_arguments(self.model) and not getattr(self.model, "_is_stateful", False)

    def _agrees(self, batch: list[Question]) -> bool:
        """Whether reading the questions once gives what reading them with each answer gives."""
        # A shorter question beside the first, so that one of them is padded.
        short = Question(batch[-1].prefix[-max(1, len(batch[-1].prefix) // 2) :], batch[-1].answers)
        trial = [batch[0], short]
        try:
            shared = self._shared(trial)
        except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
            logger.info(f"{type(self.model).__name__} reads questions with each answer: {error}")
            return False
        difference = (shared - self._whole(trial)).abs().max().item()
        agrees = difference <= AGREEMENT.get(self.model.dtype, HALF_AGREEMENT)
        if not agrees:
            logger.info(
                f"{type(self.model).__name__} reads questions with each answer: sharing is off by {difference}."
            )
        return agrees

    def _shared(self, batch: list[Question]) -> Tensor:
        """The questions read once, the answers from their keys and values."""
        answers = [answer for question in batch for answer in question.answers]
        per_question = len(self.texts)
        ids, mask = self._padded([question.prefix for question in batch], "left")
        last: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in forward_arguments(self.model) else {}
        output = self._forward(ids, mask, use_cache=True, **last)
        first = output.logits[:, -1].float().log_softmax(-1).repeat_interleave(per_question, dim=0)
        starts = torch.tensor([answer[0] for answer in answers], device=first.device)
        total = first.gather(-1, starts.unsqueeze(-1)).squeeze(-1).double()
        if max(map(len, answers)) > 1:
            cache = output.past_key_values
            cache.batch_repeat_interleave(per_question)
            rest, present = self._padded([answer[:-1] for answer in answers], "right")
            whole = torch.cat([mask.repeat_interleave(per_question, dim=0), present], dim=1)
            scores = self._forward(rest, whole, past_key_values=cache, use_cache=True).logits
            targets, _ = self._padded([answer[1:] for answer in answers], "right")
            total = total + _sums(scores, targets, present)
        return total.view(len(batch), per_question).cpu()

    def _whole(self, batch: list[Question]) -> Tensor:
        """Each answer read with its question."""
        rows = [(question.prefix, answer) for question in batch for answer in question.answers]
        totals = []
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            ids, mask = self._padded([prefix + answer for prefix, answer in part], "right")
            scores = self._forward(ids, mask, use_cache=False).logits[:, :-1]
            lengths = torch.tensor([len(prefix) for prefix, _ in part], device=ids.device).unsqueeze(-1)
            counted = mask[:, 1:].bool() & (torch.arange(1, ids.shape[1], device=ids.device) >= lengths)
            totals.append(_sums(scores, ids[:, 1:], counted))
        return torch.cat(totals).view(len(batch), len(self.texts)).cpu()

    def _of_decoder(self, batch: list[Question]) -> Tensor:
        """Of a sequence-to-sequence model, whose encoder reads the question once."""
        model: Any = self.model
        ids, mask = self._padded([question.prefix for question in batch], "right")
        encoded = model.get_encoder()(input_ids=ids, attention_mask=mask, return_dict=True)
        repeated = type(encoded)(
            **{
                name: value.repeat_interleave(len(self.texts), dim=0)
                for name, value in encoded.items()
                if isinstance(value, Tensor)
            }
        )
        targets, present = self._padded([answer for question in batch for answer in question.answers], "right")
        output = model(
            attention_mask=mask.repeat_interleave(len(self.texts), dim=0),
            encoder_outputs=repeated,
            labels=targets.masked_fill(present == 0, -100),
        )
        return _sums(output.logits, targets, present).view(len(batch), len(self.texts)).cpu()

    def _forward(self, ids: Tensor, mask: Tensor, **options: Any) -> Any:
        """The model's output for `ids`, the last positions of `mask`; without what its forward does not take."""
        places = position_ids(self.model, mask)
        if places is not None:
            options["position_ids"] = places[:, -ids.shape[1] :]
        elif "past_key_values" in options and "position_ids" in forward_arguments(self.model):
            options["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        taken = forward_arguments(self.model)
        known = {name: value for name, value in options.items() if name in taken or name == "past_key_values"}
        model: Any = self.model
        return model(input_ids=ids, attention_mask=mask, **known)

    def _padded(self, rows: list[list[int]], side: str) -> tuple[Tensor, Tensor]:
        """Token ids and their mask, (rows, longest) each."""
        pad = self.tokenizer.pad_token_id or 0
        values = [torch.tensor(row, dtype=torch.long) for row in rows]
        ids, mask = padded(values, pad, side), padded([torch.ones_like(value) for value in values], 0, side)
        return ids.to(self.model.device), mask.to(self.model.device)


def shared_length(rows: Sequence[Sequence[Any]]) -> int:
    """How many entries all rows begin with.

    >>> shared_length([[1, 2, 3], [1, 2, 4], [1, 2]])
    2
    """
    shortest = min(map(len, rows))
    return next((place for place in range(shortest) if len({row[place] for row in rows}) > 1), shortest)


def _sums(logits: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """(rows,) float64, the summed log-probabilities of the targets (rows, length) where they are `counted`."""
    scores = logits.float().log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1).double()
    return (scores * counted.bool()).sum(-1)


def _without_end(row: list[int], tokenizer: Any) -> list[int]:
    """A row of token ids without an end token that the tokenizer adds to every text."""
    return row[:-1] if len(row) > 1 and row[-1] == tokenizer.eos_token_id else row
