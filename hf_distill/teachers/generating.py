"""A teacher that generates its answers with a local model."""

import json
from contextlib import AbstractContextManager
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.environment import accelerator
from hf_distill.models import evaluating, padded
from hf_distill.teachers.identity import tokenizer_hash, weights_hash
from hf_distill.teachers.live import LiveTeacher
from hf_distill.teachers.text import Answers, TextTeacher, chat_messages, check_options, logger, quoted


class GeneratingTeacher(TextTeacher):
    """A generative model. The text is the input of a sequence-to-sequence model, or a user's message to a causal one.

    Texts are sorted by length, the longest first: this needs little padding, and too little memory fails at once. The
    model stays on its device and in its precision. Neither the model nor the global random state is changed.

    Args:
        model: a model with `generate`.
        tokenizer: the model's. A causal model needs one with a chat template.
        system: the system message of a chat.
        max_new_tokens: maximum length of an answer, in tokens. A warning gives the number of answers of this length,
            which may be truncated.
        batch_size: texts per call of `generate`.
        seed: of sampled answers. The same texts in the same batches get the same answers.
        options: arguments of `generate`, for example `num_beams=4` or `do_sample=False`; they override the model's
            generation config.
    Raises:
        ValueError: no chat template, `max_new_tokens` beyond the model's limit, or options that are not plain values.
            On use: texts longer than the model's limit.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        system: str | None = None,
        max_new_tokens: int = 256,
        batch_size: int = 32,
        seed: int = 0,
        **options: Any,
    ) -> None:
        check_options(options, refused={"num_return_sequences", "return_dict_in_generate"})
        self.model, self.tokenizer, self.system = model, tokenizer, system
        self.max_new_tokens, self.batch_size, self.seed, self.options = max_new_tokens, batch_size, seed, options
        self.is_causal = not model.config.is_encoder_decoder
        if self.is_causal and not tokenizer.chat_template:
            raise ValueError(
                f"{type(model).__name__} is causal and needs a tokenizer with a chat template; this one has none. Set "
                "tokenizer.chat_template. A template that continues the bare texts is "
                '"{% for message in messages %}{{ message.content }}{% endfor %}".'
            )
        if not self.is_causal and system is not None:
            raise ValueError(f"system is for chats, but {type(model).__name__} reads bare texts. Leave system out.")
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.limit = min(positions or tokenizer.model_max_length, tokenizer.model_max_length)
        if not 0 < max_new_tokens < self.limit:
            raise ValueError(
                f"max_new_tokens must be at least 1 and below the {self.limit} tokens that {type(model).__name__} and "
                f"its tokenizer support; got {max_new_tokens}."
            )

    @property
    def name(self) -> str:
        """The model's class, hashes of its weights and tokenizer, and the generation options."""
        generation = {**self.model.generation_config.to_diff_dict(), **self.options}
        ignored = {"_from_model_config", "transformers_version"}
        return json.dumps(
            {
                "model": type(self.model).__name__,
                "weights": weights_hash(LiveTeacher(self.model, self.model.device)),
                "tokenizer": [tokenizer_hash(self.tokenizer), self.tokenizer.chat_template],
                "system": self.system,
                "max_new_tokens": self.max_new_tokens,
                "seed": self.seed if generation.get("do_sample") else None,
                "generation": {key: generation[key] for key in generation.keys() - ignored},
            },
            sort_keys=True,
        )

    def answers(self, texts: list[str]) -> Answers:
        """Pairs of a text's number and its answer, batch by batch."""
        rows = self._tokenized(texts)
        order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
        longest = 0
        for start in range(0, len(order), self.batch_size):
            numbers = order[start : start + self.batch_size]
            with evaluating(self.model), _forked_random_numbers():
                torch.manual_seed(self.seed + start)
                written = self._generated([rows[number] for number in numbers])
            longest += self._count_longest(written)
            yield from zip(numbers, self.tokenizer.batch_decode(written, skip_special_tokens=True), strict=True)
        if longest:
            logger.warning(
                f"{longest} of {len(texts)} answers are max_new_tokens={self.max_new_tokens} tokens long and may be "
                "truncated. Increase max_new_tokens, or leave them out."
            )

    def _tokenized(self, texts: list[str]) -> list[list[int]]:
        tokenizer: Any = self.tokenizer
        if self.is_causal:
            rows = [as_prompt(text, tokenizer, self.system) for text in texts]
        else:
            rows = tokenizer(texts)["input_ids"] if texts else []
        limit = self.limit - self.max_new_tokens if self.is_causal else self.limit
        long = [number for number, row in enumerate(rows) if len(row) > limit]
        if long:
            answer = f" with max_new_tokens={self.max_new_tokens}" if self.is_causal else ""
            raise ValueError(
                f"{len(long)} of {len(texts)} texts are longer than the {limit} tokens that "
                f"{type(self.model).__name__} and its tokenizer support{answer}. "
                f"The first, of {len(rows[long[0]])} tokens: {quoted(texts[long[0]])}. Shorten them or leave them out: "
                "truncated texts would get wrong answers."
            )
        return rows

    def _generated(self, rows: list[list[int]]) -> torch.Tensor:
        """(batch, new tokens), without the prompt."""
        config = self.model.generation_config
        choices = (self.tokenizer.pad_token_id, config.pad_token_id, self.tokenizer.eos_token_id)
        pad = next((token for token in choices if token is not None), 0)
        # A causal model continues its input, so the padding must be on the left.
        side = "left" if self.is_causal else "right"
        values = [torch.tensor(row) for row in rows]
        ids = padded(values, pad, side).to(self.model.device)
        mask = padded([torch.ones_like(value) for value in values], 0, side).to(self.model.device)
        options = {"pad_token_id": pad, "max_length": None, **self.options, "max_new_tokens": self.max_new_tokens}
        generate: Any = self.model.generate
        written = generate(input_ids=ids, attention_mask=mask, **options)
        # The output of a sequence-to-sequence model starts with decoder_start_token_id, which was not generated.
        return written[:, ids.shape[1] if self.is_causal else 1 :].cpu()

    def _count_longest(self, written: torch.Tensor) -> int:
        """The number of answers without an end token before the last position."""
        ends = self.options.get("eos_token_id", self.model.generation_config.eos_token_id)
        if written.shape[1] < self.max_new_tokens:
            return 0
        before_last = torch.isin(written[:, : self.max_new_tokens - 1], torch.tensor(-1 if ends is None else ends))
        return int((~before_last.any(dim=1)).sum())


def as_prompt(text: str, tokenizer: Any, system: str | None = None) -> list[int]:
    """The prompt of a causal model: token ids of a chat with one user message, up to the start of the reply.

    Args:
        text: the user's message.
        tokenizer: a tokenizer with a chat template.
        system: the system message. None: without one.
    """
    chat = chat_messages(text, system)
    ids: list[int] = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    return ids


def _forked_random_numbers() -> AbstractContextManager[None]:
    """Random numbers of the processor and of all accelerators that leave no trace."""
    device = accelerator()
    if device is None:
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(range(torch.accelerator.device_count()), device_type=device.type)
