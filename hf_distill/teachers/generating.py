"""A model that generates its answers."""

import json
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.models import evaluating
from hf_distill.teachers.identity import tokenizer_hash, weights_hash
from hf_distill.teachers.live import LiveTeacher
from hf_distill.teachers.text import Answers, TextTeacher, chat_messages, check_options, logger, quoted


class GeneratingTeacher(TextTeacher):
    """A model that writes: sequence-to-sequence from the text, causal as a reply to it through its chat template.

    Texts are sorted by length, the longest first, so that little padding is computed and too little memory shows at
    once. The model stays on its device and in its precision; neither it nor the state of random numbers is changed.

    Args:
        model: with `generate`.
        tokenizer: of the model. A causal model's needs a chat template.
        system: the system message of a chat.
        max_new_tokens: the longest answer, in tokens. Answers as long as that may be cut; they are counted and told.
        batch_size: texts generated at a time.
        seed: of sampled answers; the same texts in the same batches are answered the same way.
        options: of `generate`, `num_beams=4` or `do_sample=False` for instance, before the model's generation config.
    Raises:
        ValueError: no chat template, no room for `max_new_tokens`, or options that are not plain values; when asked,
            texts longer than the model reads.
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
        self.writes_after_reading = not model.config.is_encoder_decoder
        if self.writes_after_reading and not tokenizer.chat_template:
            raise ValueError(
                f"{type(model).__name__} is causal and answers through its tokenizer's chat template, which this "
                "tokenizer does not have. Set tokenizer.chat_template; to continue the bare texts, to "
                '"{% for message in messages %}{{ message.content }}{% endfor %}".'
            )
        if not self.writes_after_reading and system is not None:
            raise ValueError(f"system is for chats, but {type(model).__name__} reads bare texts.")
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.limit = min(positions or tokenizer.model_max_length, tokenizer.model_max_length)
        if not 0 < max_new_tokens < self.limit:
            raise ValueError(
                f"max_new_tokens must be at least 1 and below the {self.limit} tokens that {type(model).__name__} and "
                f"its tokenizer have room for; got {max_new_tokens}."
            )

    @property
    def name(self) -> str:
        """Its class, hashes of its weights and its tokenizer, and the options in force."""
        generation = {**self.model.generation_config.to_diff_dict(), **self.options}
        about_the_file = {"_from_model_config", "transformers_version"}
        return json.dumps(
            {
                "model": type(self.model).__name__,
                "weights": weights_hash(LiveTeacher(self.model, self.model.device)),
                "tokenizer": [tokenizer_hash(self.tokenizer), self.tokenizer.chat_template],
                "system": self.system,
                "max_new_tokens": self.max_new_tokens,
                "seed": self.seed if generation.get("do_sample") else None,
                "generation": {key: generation[key] for key in generation.keys() - about_the_file},
            },
            sort_keys=True,
        )

    def answers(self, texts: list[str]) -> Answers:
        """Pairs of a text's number and its answer, a batch at a time."""
        rows = self._tokenized(texts)
        order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
        full = 0
        for start in range(0, len(order), self.batch_size):
            numbers = order[start : start + self.batch_size]
            with evaluating(self.model), torch.random.fork_rng(self._devices()):
                torch.manual_seed(self.seed + start)
                written = self._generated([rows[number] for number in numbers])
            full += self._full(written)
            yield from zip(numbers, self.tokenizer.batch_decode(written, skip_special_tokens=True), strict=True)
        if full:
            logger.warning(
                f"{full} of {len(texts)} answers are max_new_tokens={self.max_new_tokens} tokens long and may be cut."
            )

    def _tokenized(self, texts: list[str]) -> list[list[int]]:
        read: Any = self.tokenizer
        if self.writes_after_reading:
            rows = [as_prompt(text, read, self.system) for text in texts]
        else:
            rows = read(texts)["input_ids"] if texts else []
        room = self.limit - self.max_new_tokens if self.writes_after_reading else self.limit
        long = [number for number, row in enumerate(rows) if len(row) > room]
        if long:
            raise ValueError(
                f"{len(long)} of {len(texts)} texts are longer than the {room} tokens that {type(self.model).__name__} "
                f"and its tokenizer have room for{' before an answer' if self.writes_after_reading else ''}. The "
                f"first, of {len(rows[long[0]])} tokens: {quoted(texts[long[0]])}. Shorten them or leave them out: an "
                "answer to half a text would teach that half."
            )
        return rows

    def _devices(self) -> list[int]:
        return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []

    def _generated(self, rows: list[list[int]]) -> torch.Tensor:
        """New tokens alone: (batch, new tokens)."""
        config = self.model.generation_config
        choices = (self.tokenizer.pad_token_id, config.pad_token_id, self.tokenizer.eos_token_id)
        pad = next((token for token in choices if token is not None), 0)
        # What is written continues what was read, so a causal model is padded on the left.
        side = "left" if self.writes_after_reading else "right"

        def padded(values: list[torch.Tensor], fill: int) -> torch.Tensor:
            return torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill, padding_side=side).to(
                self.model.device
            )

        ids = padded([torch.tensor(row) for row in rows], pad)
        mask = padded([torch.ones(len(row), dtype=torch.long) for row in rows], 0)
        options = {"pad_token_id": pad, "max_length": None, **self.options, "max_new_tokens": self.max_new_tokens}
        generate: Any = self.model.generate
        written = generate(input_ids=ids, attention_mask=mask, **options)
        # A sequence-to-sequence model's answer starts with decoder_start_token_id, which is not its own.
        return written[:, ids.shape[1] if self.writes_after_reading else 1 :].cpu()

    def _full(self, written: torch.Tensor) -> int:
        ends = self.options.get("eos_token_id", self.model.generation_config.eos_token_id)
        if written.shape[1] < self.max_new_tokens:
            return 0
        before_last = torch.isin(written[:, : self.max_new_tokens - 1], torch.tensor(-1 if ends is None else ends))
        return int((~before_last.any(dim=1)).sum())


def as_prompt(text: str, tokenizer: Any, system: str | None = None) -> list[int]:
    """What a causal model reads before it replies to a text.

    Args:
        text: a user's message.
        tokenizer: with a chat template.
        system: the system message.
    """
    chat = chat_messages(text, system)
    ids: list[int] = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    return ids
