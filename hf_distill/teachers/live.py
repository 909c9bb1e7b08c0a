"""A teacher that is called in training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from hf_distill import columns
from hf_distill.models import (
    base_model,
    callable_model,
    decoder_inputs,
    device_of,
    evaluating,
    forward_arguments,
    input_limits,
    is_placed,
    problem_type,
)
from hf_distill.packed_rows import PackedRowsCheck
from hf_distill.remote_code import refused_with
from hf_distill.teachers.ensemble import TeacherEnsemble
from hf_distill.teachers.padding import expected_order, moved, moved_back
from hf_distill.teachers.placement import is_sharded, place, settled
from hf_distill.unmasked_padding import IS_TOKEN, UnmaskedPaddingCheck

DECODER_INPUTS = columns.PREFIX + "decoder_input_ids"
# A cache of keys and values is of no use here, and with one a decoder does not tell packed rows apart.
CACHES = frozenset({"use_cache", "use_mems"})


def load_teacher(name: str | Path, auto_class: Any, **options: Any) -> Any:
    """A teacher by its name, with all of its weights.

    Args:
        name: a Hub id or a folder.
        auto_class: an `AutoModelFor...` class of the task.
        options: of `from_pretrained`; code that the model brings along is not run unless they say so.
    Raises:
        ValueError: under ZeRO-3; the model brings code of its own; or the checkpoint lacks weights, of a head for
            instance, which would be random.
    """
    if is_deepspeed_zero3_enabled():
        raise ValueError(
            f"teacher_model={str(name)!r} would be cut into pieces by ZeRO-3, since it would be loaded "
            "after the training arguments were made. Load it yourself before making them, and pass the model."
        )
    if (str(name).startswith((".", "/", "~")) or str(name).count("/") > 1) and not Path(name).is_dir():
        raise ValueError(f"teacher_model: there is no folder {name}, and no id on the Hub has this form.")
    options = {"trust_remote_code": False, **options}
    own = "Read it; then, if you trust it, load the model with trust_remote_code=True and a revision, and pass that."
    with refused_with(own, name):
        model, found = auto_class.from_pretrained(name, output_loading_info=True, **options)
    made = sorted(set(found["missing_keys"]) & {name for name, _ in model.named_parameters()})
    if made:
        raise ValueError(
            f"{name} has no weights for {', '.join(made[:5])}{', ...' if len(made) > 5 else ''} of "
            f"{type(model).__name__}: they would be random numbers, and so would the teacher's outputs. Fine-tune it "
            "on the task first, or name a checkpoint that was trained for it."
        )
    return model


class LiveTeacher:
    """Runs a teacher on batches, without gradients and without changing it.

    It is moved to `device` unless it is quantized or was placed by a device map: such a model stays where it is and its
    outputs are moved instead.

    What its outputs must not depend on is made so: the side of padding (rows are moved to the side that the model
    expects, and outputs back), and the token id of padding (it reads its own).

    Args:
        model: a model or an ensemble.
        device: the student's.
        placement: where its weights are, see `teachers.placement`.
        tokenizer: the teacher's, if known; it knows the padding of rows without an attention mask.
    Raises:
        TypeError: something that cannot be called with the inputs of a batch.
        ValueError: a placement that cannot be had here.
    """

    def __init__(
        self,
        model: PreTrainedModel | TeacherEnsemble,
        device: torch.device,
        placement: str = "replicate",
        tokenizer: Any = None,
    ) -> None:
        self.model: Any = model if isinstance(model, TeacherEnsemble) else callable_model(model)
        self.device = device
        models = self.model.models if isinstance(self.model, TeacherEnsemble) else [self.model]
        self.is_sharded = is_sharded(self.model)
        if not self.is_sharded:
            placement = settled(placement, self.model, device)
            self.is_sharded = placement == "shard"
        placement = "shard" if self.is_sharded else placement
        self._members = [_Member(each, device, placement, tokenizer) for each in models]
        self.in_step = False  # whether processes call it different numbers of times; see `finish`
        self.members = models
        self.arguments = set.union(*(member.arguments for member in self._members))
        # Of language models: how many token ids stand for tokens, where members' tables are padded to other sizes.
        self.tokens: int | None = None

    def inputs_from(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What the teacher reads of a batch: its own inputs where it has some, else the student's, never labels."""
        inputs = self._source(batch)
        return {name: value for name, value in inputs.items() if name in self.arguments and name != "labels"}

    def _source(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        own = columns.teacher_inputs(batch)
        return own if "input_ids" in own else {**batch, **own}

    @property
    def configs(self) -> list[Any]:
        """Those of all members."""
        return [member.config for member in self.members]

    @property
    def limits(self) -> tuple[float, float]:
        """How many tokens and how many different ones all members can read; see `models.input_limits`."""
        places, words = zip(*(member.limits for member in self._members), strict=True)
        return min(places), min(words)

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Any], problem: str | None = None, /, **kwargs: Any) -> Any:
        """The model's output, or for an ensemble a mapping with `logits` alone.

        Args:
            batch: collated, on the student's device. The decoder of an encoder-decoder model reads
                `teacher_decoder_input_ids`, or by the model's own rule `teacher_labels`, or `labels`.
            problem: the kind of problem, see `models.problem_type`; None: as configs and labels tell. Ensembles alone
                look at it.
            kwargs: more arguments of the forward, `output_hidden_states` for instance.
        Raises:
            ValueError: packed rows that the teacher would mix, or padding that it cannot tell from tokens.
        """
        if self.in_step:
            self._any_calls(True)
        source, inputs = self._source(batch), self.inputs_from(batch)
        labels = _labels(batch)
        for member in self._members:
            member.check_packed_rows(source)
        outputs = [member(inputs, labels, kwargs, source.get(IS_TOKEN)) for member in self._members]
        if not isinstance(self.model, TeacherEnsemble):
            return outputs[0]
        logits = [output["logits"].to(self.device) for output in outputs]
        if logits[0].dim() > 2 and len({each.shape[-1] for each in logits}) > 1 and self.tokens is not None:
            logits = [each[..., : self.tokens] for each in logits]
        if problem is None and self.model.problem_type is None and logits[0].dim() == 2:
            problem = problem_type(self.model.config, batch.get("labels"))
        return {"logits": self.model.mixture(logits, problem)}

    def check_unmasked(self, row: Mapping[str, Any]) -> None:
        """Raise where a row that comes without an attention mask is padded already, and the teacher would read that.

        Args:
            row: tokenized, lists of numbers.
        Raises:
            ValueError: it is; see `UnmaskedPaddingCheck`.
        """
        batch = {name: torch.as_tensor(value)[None].to(self.device) for name, value in row.items()}
        inputs, labels = self.inputs_from(batch), _labels(batch)
        for member in self._members:
            member.check_unmasked(member.inputs(inputs, labels))

    def finish(self) -> None:
        """Take part in the calls of processes that still have some, where the teacher is sharded and `in_step`."""
        while self.in_step and self._any_calls(False):
            for member in self._members:
                ids = torch.ones(1, 2, dtype=torch.long, device=self.device)
                member({"input_ids": ids, "attention_mask": ids}, ids, {})

    def put_back(self) -> None:
        """Move the weights to the device that they were on before, where they were moved as a whole."""
        for member in self._members:
            if member.before is not None:
                member.model.to(member.before)
                member.device = member.before

    def _any_calls(self, here: bool) -> bool:
        flag = torch.tensor(float(here), device=self.device)
        distributed.all_reduce(flag)
        return bool(flag > 0)


def _labels(batch: Mapping[str, Any]) -> Any:
    """What the inputs of a teacher's decoder are made of; None where the batch has them."""
    return None if DECODER_INPUTS in batch else batch.get(columns.TEACHER_LABELS, batch.get("labels"))


class _Member:
    """One model and how it is called."""

    def __init__(self, model: Any, device: torch.device, placement: str, tokenizer: Any = None) -> None:
        self.model = model
        self.arguments = forward_arguments(model)
        self.limits = input_limits(model)
        self.pad_id = getattr(model.config.get_text_config(), "pad_token_id", None)
        if self.pad_id is not None and not 0 <= self.pad_id < self.limits[1]:  # -1 in some old configs
            self.pad_id = None
        self.encoder_decoder = bool(model.config.is_encoder_decoder) and "decoder_input_ids" in self.arguments
        # Decoders with one output a row take it from the last token that is not padding, as they find by `pad_id`.
        self.is_classifier = type(base_model(model)).__name__.endswith("ForSequenceClassification")
        decodes = "past_key_values" in self.arguments and not self.encoder_decoder
        self.reads_last_token = self.is_classifier and decodes
        self.check_packed_rows = PackedRowsCheck(model, "teacher")
        # Processes call a sharded model together.
        self.check_unmasked = UnmaskedPaddingCheck(model, "teacher", [tokenizer], can_be_tried=placement != "shard")
        # What a device map placed stays where it is.
        self.before = device_of(model, device) if placement == "replicate" and not is_placed(model) else None
        self.device = device_of(model, device) if is_placed(model) else place(model, placement, device)

    def inputs(self, inputs: Mapping[str, Any], labels: Tensor | None) -> dict[str, Any]:
        """What this model reads, on its device."""
        here = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
            if name in self.arguments
        }
        if self.encoder_decoder and not self.is_classifier and labels is not None:
            here["decoder_input_ids"] = decoder_inputs(self.model, labels.to(self.device))
        return here

    def __call__(
        self,
        inputs: Mapping[str, Any],
        labels: Tensor | None,
        kwargs: Mapping[str, Any],
        is_token: Tensor | None = None,
    ) -> Any:
        here = self.inputs(inputs, labels)
        self._check(here)
        self.check_unmasked(here | ({} if is_token is None else {IS_TOKEN: is_token.to(self.device)}))
        here, order = self._padded_as_expected(here)
        uncached = dict.fromkeys(CACHES & self.arguments, False)
        with evaluating(self.model):
            output = self.model(**here, **{**kwargs, **uncached})
        return output if order is None else moved_back(output, order, self.encoder_decoder)

    def _check(self, inputs: Mapping[str, Any]) -> None:
        ids = inputs.get("input_ids")
        if self.reads_last_token and ids is not None and len(ids) > 1:
            self._check_padding(ids, inputs.get("attention_mask"))

    def _check_padding(self, ids: Tensor, mask: Tensor | None) -> None:
        name = type(base_model(self.model)).__name__
        if self.pad_id is None:
            raise ValueError(
                f"The teacher, a {name}, reads its classes at the last token that is not padding, and its config has "
                "no pad_token_id. Set teacher.config.pad_token_id to the id that its tokenizer pads with."
            )
        if mask is None and not (ids == self.pad_id).any():
            raise ValueError(
                f"The teacher, a {name}, reads its classes at the last token that is not padding, and this batch has "
                f"neither an attention_mask nor the teacher's pad_token_id {self.pad_id}: rows padded with another id "
                "would be read at their padding. Keep the column attention_mask."
            )

    def _padded_as_expected(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], Tensor | None]:
        """The inputs with the model's own padding token on the side it expects, and the order that `moved` them."""
        ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
        if ids is None or mask is None or mask.shape != ids.shape:
            return inputs, None
        if self.pad_id is not None:
            # Some models find their positions or the end of a row by this id instead of the mask.
            inputs = inputs | {"input_ids": torch.where(mask != 0, ids, self.pad_id)}
        order = expected_order(mask, self.model.config.model_type)
        return (inputs, None) if order is None else (moved(inputs, order), order)
