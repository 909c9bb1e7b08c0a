"""LSTM students. This file is uploaded with every student, so it imports only torch, transformers and its config."""

import copy
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    CausalLMOutput,
    Seq2SeqLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import can_return_tuple

from .configuration_lstm import LSTMStudentConfig


def take(values: Tensor, rows: Tensor) -> Tensor:
    """Rearrange the positions of a batch.

    Args:
        values: (batch, seq, ...).
        rows: (batch * seq,), row numbers of `values` with its first two dimensions flattened.
    Returns:
        (batch, seq, ...), the shape of `values`.
    """
    # Copying whole rows is 3-4 times faster than `gather` with an expanded index, forward and backward.
    return values.flatten(0, 1).index_select(0, rows).view(values.shape)


@dataclass
class PaddingLayout:
    """The positions of the unmasked tokens of a batch. With it, dense LSTM kernels give exact results under any mask.

    The tokens are *compacted*: in each row the unmasked tokens come first, in order, and the masked ones follow, so
    that no state of an unmasked token depends on a masked one. Any mask (right or left padding, holes) thus becomes
    right padding, and the right-to-left direction processes the first `lengths` tokens reversed. Packed sequences give
    the same numbers, but use a kernel that is several times slower, do not export, and need the lengths on the CPU.

    Attributes:
        mask: (batch, seq) bool, True where a token counts, in the caller's order.
        lengths: (batch,), the number of unmasked tokens.
        compacted: (batch * seq,), rows for `take` that turn the caller's order into the compact one.
        restored: (batch * seq,), its inverse.
        mirrored: (batch * seq,), rows that reverse each compacted row within its length; its own inverse.
    """

    mask: Tensor
    lengths: Tensor
    compacted: Tensor
    restored: Tensor
    mirrored: Tensor

    @classmethod
    def from_mask(cls, attention_mask: Tensor | None, may_wait: bool = False) -> "PaddingLayout | None":
        """The layout of a mask, or None if no layout is needed.

        Args:
            attention_mask: (batch, seq), nonzero where a token counts.
            may_wait: whether checking the mask may wait for the GPU.
        """
        if attention_mask is None:
            return None
        mask = attention_mask != 0
        # The mask of a single text masks nothing, yet a layout would take a fifth of that text's time. A recorded graph
        # must be valid for other masks too.
        recording = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if (may_wait or mask.device.type == "cpu") and not recording and bool(mask.all()):
            return None
        batch, seq = mask.shape
        positions = torch.arange(seq, device=mask.device)
        first_rows = torch.arange(batch, device=mask.device).unsqueeze(1) * seq
        counted = mask.long().cumsum(1)  # (batch, seq); ONNX sums no bools
        lengths = counted[:, -1]
        # A masked position t has t - counted masked positions before it; it goes behind all unmasked ones.
        destination = torch.where(mask, counted - 1, lengths.unsqueeze(1) + positions - counted)
        source = torch.empty_like(destination).scatter_(1, destination, positions.expand(batch, seq))
        return cls(
            mask=mask,
            lengths=lengths,
            compacted=(source + first_rows).flatten(),
            restored=(destination + first_rows).flatten(),
            # Modulo seq, positions past the length map to positions past the length, so this is a permutation.
            mirrored=((lengths.unsqueeze(1) - 1 - positions) % seq + first_rows).flatten(),
        )

    @property
    def empty(self) -> Tensor:
        """(batch, 1) bool, True for a fully masked row."""
        return self.lengths.unsqueeze(1) == 0

    @property
    def padding(self) -> Tensor:
        """(batch, seq, 1) bool, True past the length of each compacted row."""
        positions = torch.arange(self.mask.shape[1], device=self.mask.device)
        return (positions >= self.lengths.unsqueeze(1)).unsqueeze(-1)


def restore(all_states: list[Tensor], layout: PaddingLayout | None) -> tuple[Tensor, ...]:
    """Compact (batch, seq, size) states in the caller's order, zero at masked positions."""
    if layout is None:
        return tuple(all_states)
    masked = ~layout.mask.unsqueeze(-1)
    return tuple(take(states, layout.restored).masked_fill(masked, 0) for states in all_states)


def cross_entropy(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Cross-entropy in float32 over the labels that are not -100; zero, not NaN, if all are.

    Args:
        logits: (..., classes).
        labels: (...), -100 for items that do not count.
        num_items_in_batch: the divisor of the sum. None: the number of items counted here. `Trainer` passes the count
            over all micro-batches of a step, so that the loss does not depend on gradient accumulation.
    """
    total = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), reduction="sum")
    return total / ((labels != -100).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)


def ends(states: Tensor, layout: PaddingLayout | None, hidden_size: int) -> Tensor:
    """The final state of each direction: left to right at the last token, right to left at the first token.

    Args:
        states: (batch, seq, size), compact; the first hidden_size units are those of the left-to-right direction.
        layout: of the batch.
        hidden_size: units per direction.
    Returns:
        (batch, size), zero for a fully masked row.
    """
    if layout is None:
        return torch.cat([states[:, -1, :hidden_size], states[:, 0, hidden_size:]], dim=-1)
    # Not len(states), which an exported graph would keep as a constant.
    last = states[torch.arange(states.shape[0], device=states.device), (layout.lengths - 1).clamp(min=0)]
    return torch.cat([last[:, :hidden_size], states[:, 0, hidden_size:]], dim=-1).masked_fill(layout.empty, 0)


@dataclass
class LSTMState:
    """The recurrent state of a left-to-right LSTM, which `generate` passes from step to step.

    Attributes:
        hidden, cell: (batch, layers, hidden_size). The batch comes first because beam search repeats and reorders it.
    """

    hidden: Tensor
    cell: Tensor
    is_croppable: ClassVar[bool] = False  # `generate` reads this attribute on Apple GPUs

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Select the rows that beam search continues; beam_idx: (batch,) row numbers."""
        self.hidden, self.cell = self.hidden.index_select(0, beam_idx), self.cell.index_select(0, beam_idx)


def run(lstm: nn.LSTM, inputs: Tensor, initial: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `lstm(inputs, initial)` without its argument checks, which take noticeable time for one short text.

    Returns:
        (batch, seq, hidden size) states, and the last hidden and cell, (1, batch, hidden size).
    """
    if initial is None:
        zeros = inputs.new_zeros(1, inputs.shape[0], lstm.hidden_size)
        initial = (zeros, zeros)
    if hasattr(lstm, "_hf_hook"):
        # accelerate loads offloaded weights only when the module itself is called.
        states, final = lstm(inputs, initial)
        return states, *final
    weights = cast(list[Tensor], [lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0])
    if inputs.is_cuda:
        return computed_by_cudnn(inputs, initial, weights, lstm.training)
    # Arguments: with biases, one layer, no dropout between layers, one direction, batch first.
    return torch.lstm(inputs, initial, weights, True, 1, 0.0, lstm.training, False, True)


@torch.compiler.disable  # which would write out each step, and compile for minutes
def computed_by_cudnn(
    inputs: Tensor, initial: tuple[Tensor, Tensor], weights: list[Tensor], training: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute an LSTM on a GPU; under autocast to bfloat16 in the type of the weights.

    There torch would compute in float16, whose small gradients are rounded to zero, and cuDNN is not faster in bfloat16
    than in float32.
    """
    half = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.float16
    kind = weights[0].dtype
    with torch.autocast("cuda", enabled=half):
        initial = (initial[0].to(kind), initial[1].to(kind))
        return torch.lstm(inputs.to(kind), initial, weights, True, 1, 0.0, training, False, True)


class LSTMStudentLayer(nn.Module):
    """One LSTM layer over a compacted batch, left to right and optionally right to left too."""

    def __init__(self, input_size: int, hidden_size: int, bidirectional: bool):
        super().__init__()
        self.forward_lstm = nn.LSTM(input_size, hidden_size, batch_first=True)
        self.backward_lstm = nn.LSTM(input_size, hidden_size, batch_first=True) if bidirectional else None

    def forward(
        self,
        inputs: Tensor,
        layout: PaddingLayout | None = None,
        initial: tuple[Tensor, Tensor] | None = None,
        keep_final: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Compute the states of a batch.

        Args:
            inputs: (batch, seq, input size), compact.
            layout: of the batch.
            initial: initial hidden and cell of the left-to-right direction, (1, batch, hidden size). None: zeros.
            keep_final: whether hidden and cell after the last unmasked token are needed.
        Returns:
            (batch, seq, hidden size times directions) states, left to right first; and the final hidden and cell,
            (1, batch, hidden size), undefined unless kept.
        """
        if keep_final and layout is not None:
            # The dense kernel returns only the final cell, which would be the one after the padding.
            lengths = layout.lengths.clamp(min=1).cpu()
            packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
            packed_states, final = self.forward_lstm(packed, initial)
            states, _ = pad_packed_sequence(packed_states, batch_first=True, total_length=inputs.shape[1])
        else:
            states, *final = run(self.forward_lstm, inputs, initial)
        if self.backward_lstm is None:
            return states, (final[0], final[1])
        if layout is None:
            backward_states = run(self.backward_lstm, inputs.flip(1))[0].flip(1)
        else:
            backward_states = take(run(self.backward_lstm, take(inputs, layout.mirrored))[0], layout.mirrored)
        return torch.cat([states, backward_states], dim=-1), (final[0], final[1])


class LSTMStudentLayers(nn.ModuleList):
    """A stack of LSTM layers, with dropout on the input of each."""

    def __init__(self, config: LSTMStudentConfig, bidirectional: bool):
        width = config.hidden_size * (2 if bidirectional else 1)
        super().__init__(
            LSTMStudentLayer(width if index else config.embedding_size, config.hidden_size, bidirectional)
            for index in range(config.num_layers)
        )
        self.dropout = config.dropout

    def forward(
        self,
        inputs: Tensor,
        layout: PaddingLayout | None = None,
        state: LSTMState | None = None,
        keep_state: bool = False,
    ) -> tuple[list[Tensor], LSTMState | None]:
        """Compute the states of all layers.

        Args:
            inputs: (batch, seq, embedding_size), compact.
            layout: of the batch.
            state: the state to continue from. None: zeros.
            keep_state: whether to return the state after the batch.
        Returns:
            The inputs and the (batch, seq, size) states of every layer; and, if kept, the state to continue from.
        """
        all_states, finals = [inputs], []
        for index, layer in enumerate(self):
            initial = None
            if state is not None:
                initial = (state.hidden[None, :, index].contiguous(), state.cell[None, :, index].contiguous())
            dropped = F.dropout(all_states[-1], self.dropout) if self.training else all_states[-1]
            states, final = layer(dropped, layout, initial, keep_state)
            all_states.append(states)
            finals.append(final)
        if not keep_state:
            return all_states, None
        hidden, cell = (torch.cat(tensors).transpose(0, 1) for tensors in zip(*finals, strict=True))
        if layout is not None:
            # A fully masked row was packed as one token, since packing does not allow empty rows. It keeps its state.
            empty = layout.empty.unsqueeze(-1)
            before = LSTMState(torch.zeros_like(hidden), torch.zeros_like(cell)) if state is None else state
            hidden, cell = torch.where(empty, before.hidden, hidden), torch.where(empty, before.cell, cell)
        return all_states, LSTMState(hidden, cell)


class LSTMStudentPreTrainedModel(PreTrainedModel):
    """Base class: loading, saving and initialisation of every LSTM student."""

    config_class = LSTMStudentConfig
    base_model_prefix = "lstm"
    # All steps of an LSTM run inside one kernel: there are no intermediate results to recompute.
    supports_gradient_checkpointing = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.LSTM):
            for name, bias in module.named_parameters():
                # A slice loses transformers' flag for values loaded from a checkpoint, so the flag is checked here.
                if name.startswith("bias_ih") and not getattr(bias, "_is_hf_initialized", False):
                    # A forget-gate bias of 1 keeps gradients from vanishing at the start (Jozefowicz et al. 2015).
                    init.ones_(bias[module.hidden_size : 2 * module.hidden_size])

    def get_input_embeddings(self) -> nn.Module:
        return cast(nn.Module, self.base_model.embeddings)

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.base_model.embeddings = value


class LSTMStudentModel(LSTMStudentPreTrainedModel):
    """Token embeddings and a stack of (bidirectional) LSTM layers, exact under any padding."""

    _auto_class = "AutoModel"

    def __init__(self, config: LSTMStudentConfig):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.layers = LSTMStudentLayers(config, config.bidirectional)
        self.post_init()

    def encode(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, inputs_embeds: Tensor | None
    ) -> tuple[list[Tensor], PaddingLayout | None]:
        """The states of every layer in compact order (see `PaddingLayout`), embeddings first, and the layout.

        Without a layout, the order is the caller's.
        """
        layout = PaddingLayout.from_mask(attention_mask)
        all_states, _ = self.layers(self.embed(input_ids, inputs_embeds, layout), layout)
        return all_states, layout

    def embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, layout: PaddingLayout | None) -> Tensor:
        """(batch, seq, embedding_size) embeddings in compact order, from token ids or from given embeddings."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds, and not both.")
        if inputs_embeds is not None:
            return inputs_embeds if layout is None else take(inputs_embeds, layout.compacted)
        ids = cast(Tensor, input_ids)
        return self.embeddings(ids if layout is None else take(ids, layout.compacted))

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Encode a batch. Masked tokens have no effect at any position.

        Args:
            input_ids: (batch, seq).
            attention_mask: (batch, seq), nonzero where a token counts. None: all count.
            token_type_ids: ignored, since an LSTM has no segments; BERT tokenizers return them by default.
            inputs_embeds: (batch, seq, embedding_size), in place of input_ids.
            output_hidden_states: whether to return the embeddings and every layer's states too.
            output_attentions: ignored; `generate` passes it to every encoder.
        Returns:
            States of size config.encoder_size, aligned with the input and zero at masked positions; pooler_output
            (batch, config.encoder_size) is the final state of each direction.
        """
        all_states, layout = self.encode(input_ids, attention_mask, inputs_embeds)
        pooled = ends(all_states[-1], layout, self.config.hidden_size)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states = restore(all_states if output_hidden_states else all_states[-1:], layout)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states[-1],
            pooler_output=pooled,
            hidden_states=hidden_states if output_hidden_states else None,
        )


class LSTMStudentForSequenceClassification(LSTMStudentPreTrainedModel):
    """Pooled LSTM states, a dense layer and a classifier (after Tang et al. 2019, arXiv:1903.12136)."""

    _auto_class = "AutoModelForSequenceClassification"

    def __init__(self, config: LSTMStudentConfig):
        super().__init__(config)
        self.lstm = LSTMStudentModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.dense = nn.Linear(len(config.pooling) * config.encoder_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, cast(int, config.num_labels))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> SequenceClassifierOutput:
        """Classify each row of a batch.

        Args:
            labels: (batch,) classes, -100 for rows that do not count; (batch, num_labels) floats for multi-label
                problems; (batch,) or (batch, num_labels) numbers for regression. `config.problem_type` decides. If it
                is None, it is set as in transformers: one label is a regression, integers are classes.

        The other arguments and the hidden states are those of `LSTMStudentModel`.
        """
        all_states, layout = self.lstm.encode(input_ids, attention_mask, inputs_embeds)
        pooled = self.dropout(self.pool(all_states[-1], layout))
        logits = self.classifier(self.dropout(F.relu(self.dense(pooled))))
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return SequenceClassifierOutput(
            loss=None if labels is None else self.label_loss(logits, labels),
            logits=logits,
            hidden_states=restore(all_states, layout) if output_hidden_states else None,
        )

    def pool(self, states: Tensor, layout: PaddingLayout | None) -> Tensor:
        """(batch, seq, size) compact states to (batch, poolings * size); zeros for a fully masked row."""
        pooled = []
        for pooling in self.config.pooling:
            if pooling == "last":
                pooled.append(ends(states, layout, self.config.hidden_size))
            elif pooling == "max":
                # The gradient of `max` goes to one maximum; `amax` divides it among equal maxima, which is slower.
                if layout is None:
                    pooled.append(states.max(dim=1).values)
                else:
                    lowest = torch.finfo(states.dtype).min
                    highest = states.masked_fill(layout.padding, lowest).max(dim=1).values
                    pooled.append(highest.masked_fill(layout.empty, 0))
            elif layout is None:
                pooled.append(states.mean(dim=1))
            else:
                total = states.masked_fill(layout.padding, 0).sum(dim=1)
                pooled.append(total / layout.lengths.clamp(min=1).unsqueeze(1).to(total.dtype))
        return torch.cat(pooled, dim=-1)

    def label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over the labels, in float32, as `config.problem_type` requires."""
        if self.config.problem_type is None:
            if self.config.num_labels == 1:
                self.config.problem_type = "regression"
            elif labels.is_floating_point():
                self.config.problem_type = "multi_label_classification"
            else:
                self.config.problem_type = "single_label_classification"
        if self.config.problem_type == "single_label_classification":
            return cross_entropy(logits, labels)
        logits, labels = logits.float(), labels.float().view(logits.shape)
        if self.config.problem_type == "regression":
            return F.mse_loss(logits, labels)
        return F.binary_cross_entropy_with_logits(logits, labels)


class LSTMStudentForTokenClassification(LSTMStudentPreTrainedModel):
    """A linear classifier on the state of every token."""

    _auto_class = "AutoModelForTokenClassification"

    accepts_loss_kwargs = True

    def __init__(self, config: LSTMStudentConfig):
        super().__init__(config)
        self.lstm = LSTMStudentModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.encoder_size, cast(int, config.num_labels))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> TokenClassifierOutput:
        """Classify each token of a batch.

        Args:
            labels: (batch, seq) classes, -100 for tokens that do not count.
            num_items_in_batch: see `cross_entropy`.

        The other arguments and the hidden states are those of `LSTMStudentModel`.
        """
        encoded = self.lstm(
            input_ids,
            attention_mask,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(encoded.last_hidden_state))
        return TokenClassifierOutput(
            loss=None if labels is None else cross_entropy(logits, labels, num_items_in_batch),
            logits=logits,
            hidden_states=encoded.hidden_states,
        )


class LSTMStudentLanguageModel(LSTMStudentPreTrainedModel, GenerationMixin):
    """Base class of the two heads that generate text: settings for `generate` and `Trainer`, and the output weights.

    States are projected to the width of the embeddings before the output layer, so that the output weights can be tied
    to the embeddings at any hidden_size.
    """

    accepts_loss_kwargs = True
    _is_stateful = True
    _tied_weights_keys = {"lm_head.weight": "lstm.embeddings.weight"}  # noqa: RUF012 - declared by PreTrainedModel

    def __init__(self, config: LSTMStudentConfig, **settings: bool):
        # A copy, so that one configuration can be used for several heads.
        config = copy.deepcopy(config)
        for name, value in settings.items():
            setattr(config, name, value)
        super().__init__(config)
        self.lstm = LSTMStudentModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.lm_head = nn.Linear(config.embedding_size, config.vocab_size, bias=False)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # Otherwise `generate` in transformers 5.23 passes an attention cache to every class outside its own list.
        return False

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings


@dataclass
class LSTMStudentCausalLMOutput(CausalLMOutput):
    """transformers' CausalLMOutput, with the state to continue from."""

    cache_params: LSTMState | None = None


class LSTMStudentForCausalLM(LSTMStudentLanguageModel):
    """A left-to-right language model; `config.bidirectional` is set to False."""

    _auto_class = "AutoModelForCausalLM"

    def __init__(self, config: LSTMStudentConfig):
        super().__init__(config, bidirectional=False, is_encoder_decoder=False)
        self.projection = nn.Linear(config.hidden_size, config.embedding_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache_params: LSTMState | None = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int = 0,
        num_items_in_batch: Tensor | int | None = None,
    ) -> LSTMStudentCausalLMOutput:
        """Predict the next token at each position.

        Args:
            attention_mask: (batch, seq), or longer if a state is given: its last seq columns belong to the new tokens.
            cache_params: the state to continue from; the tokens before it are not passed again.
            use_cache: whether to return the state after this batch.
            labels: (batch, seq), the input tokens themselves, shifted here; -100 for tokens that do not count.
            logits_to_keep: number of last positions to compute logits for; 0: all.
            num_items_in_batch: see `cross_entropy`.

        The other arguments and the hidden states are those of `LSTMStudentModel`.
        """
        if attention_mask is not None and cache_params is not None:
            new_tokens = input_ids if inputs_embeds is None else inputs_embeds
            attention_mask = attention_mask[:, -cast(Tensor, new_tokens).shape[1] :]
        keep_state = bool(use_cache)
        layout = PaddingLayout.from_mask(attention_mask, may_wait=keep_state)
        embedded = self.lstm.embed(input_ids, inputs_embeds, layout)
        all_states, state = self.lstm.layers(embedded, layout, cache_params, keep_state)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states = restore(all_states if output_hidden_states else all_states[-1:], layout)
        last = self.dropout(hidden_states[-1][:, -logits_to_keep:])
        logits = self.lm_head(self.projection(last))
        loss = None
        if labels is not None:
            # The target of each position is the next token; the last position has none.
            loss = cross_entropy(logits, F.pad(labels[:, 1:], (0, 1), value=-100), num_items_in_batch)
        return LSTMStudentCausalLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=hidden_states if output_hidden_states else None,
            cache_params=state,
        )


@dataclass
class LSTMStudentSeq2SeqLMOutput(Seq2SeqLMOutput):
    """transformers' Seq2SeqLMOutput, with the decoder's state to continue from."""

    cache_params: LSTMState | None = None


class LSTMStudentForSeq2SeqLM(LSTMStudentLanguageModel):
    """A (bidirectional) LSTM encoder and an LSTM decoder that attends to its states (after Luong et al. 2015).

    Attention is computed after the decoder's LSTM and is not fed back into it. Training therefore processes all target
    tokens at once, and `generate` passes only the LSTM's state from step to step.

    Raises:
        ValueError: a token id that decoding needs is not in the configuration.
    """

    _auto_class = "AutoModelForSeq2SeqLM"

    def __init__(self, config: LSTMStudentConfig):
        for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
            if getattr(config, name) is None:
                raise ValueError(
                    f"A sequence-to-sequence student needs {name} in its configuration: the decoder starts from "
                    "decoder_start_token_id, stops at eos_token_id and pads with pad_token_id. Take them from the "
                    "student's tokenizer; decoder_start_token_id may be the same as pad_token_id."
                )
        super().__init__(config, is_encoder_decoder=True)
        self.decoder = LSTMStudentLayers(config, bidirectional=False)
        self.bridge = nn.Linear(config.encoder_size, 2 * config.num_layers * config.hidden_size)
        self.query = nn.Linear(config.hidden_size, config.encoder_size, bias=False)
        self.projection = nn.Linear(config.encoder_size + config.hidden_size, config.embedding_size)
        self.post_init()

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.lstm

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """(batch, target) labels shifted right by one after the start token, -100 replaced by padding."""
        start = labels.new_full((len(labels), 1), self.config.decoder_start_token_id)
        shifted = torch.cat([start, labels[:, :-1]], dim=1)
        return shifted.masked_fill(shifted == -100, self.config.pad_token_id)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        encoder_outputs: BaseModelOutputWithPooling | None = None,
        cache_params: LSTMState | None = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> LSTMStudentSeq2SeqLMOutput:
        """Predict each target token from the source and the target tokens before it.

        Args:
            decoder_input_ids: (batch, target). None: made from the labels.
            decoder_attention_mask: (batch, target), or longer if a state is given. Needed only for left padding.
            decoder_inputs_embeds: (batch, target, embedding_size), in place of decoder_input_ids.
            encoder_outputs: the outputs of `get_encoder()` for this source, in place of input_ids.
            cache_params: the decoder's state to continue from; the target tokens before it are not passed again.
            use_cache: whether to return the decoder's state after this batch.
            labels: (batch, target) tokens, -100 for tokens that do not count.
            output_attentions: whether to return cross_attentions, one tensor (batch, 1, target, source).
            num_items_in_batch: see `cross_entropy`.

        The other arguments are those of `LSTMStudentModel`.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if labels is None:
                raise ValueError(
                    "Give decoder_input_ids or labels: the decoder has no input. To translate, call `generate`."
                )
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if encoder_outputs is None:
            encoder_outputs = self.lstm(
                input_ids,
                attention_mask,
                inputs_embeds=inputs_embeds,
                output_hidden_states=output_hidden_states,
                return_dict=True,
            )
        if cache_params is None:
            hidden, cell = (
                self.bridge(encoder_outputs.pooler_output)
                .tanh()
                .unflatten(-1, (2, self.config.num_layers, self.config.hidden_size))
                .unbind(1)
            )
            cache_params = LSTMState(hidden, cell)
        elif decoder_attention_mask is not None:
            new_tokens = decoder_input_ids if decoder_inputs_embeds is None else decoder_inputs_embeds
            decoder_attention_mask = decoder_attention_mask[:, -cast(Tensor, new_tokens).shape[1] :]
        keep_state = bool(use_cache)
        layout = PaddingLayout.from_mask(decoder_attention_mask, may_wait=keep_state)
        embedded = self.lstm.embed(decoder_input_ids, decoder_inputs_embeds, layout)
        all_states, state = self.decoder(embedded, layout, cache_params, keep_state)
        hidden_states = restore(all_states if output_hidden_states else all_states[-1:], layout)
        states = self.dropout(hidden_states[-1])
        source = cast(Tensor, encoder_outputs.last_hidden_state)
        context, attentions = self.attend(states, source, attention_mask)
        logits = self.lm_head(self.projection(torch.cat([states, context], dim=-1)).tanh())
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        return LSTMStudentSeq2SeqLMOutput(
            loss=None if labels is None else cross_entropy(logits, labels, num_items_in_batch),
            logits=logits,
            decoder_hidden_states=hidden_states if output_hidden_states else None,
            cross_attentions=(attentions.unsqueeze(1),) if output_attentions else None,
            encoder_last_hidden_state=source,
            encoder_hidden_states=encoder_outputs.hidden_states,
            cache_params=state,
        )

    def attend(self, states: Tensor, source: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attention of decoder states over encoder states.

        Args:
            states: (batch, target, hidden_size) of the decoder.
            source: (batch, source, size) of the encoder.
            attention_mask: (batch, source), nonzero where a source token counts. None: all count.
        Returns:
            (batch, target, size), a weighted mean of the unmasked source states; and its weights, (batch, target,
            source).
        """
        scores = self.query(states) @ source.transpose(1, 2) / source.shape[-1] ** 0.5  # (batch, target, source)
        scores = scores.float()
        if attention_mask is not None:
            # The lowest finite number, not -inf: a fully masked source must not give NaN.
            scores = scores.masked_fill(attention_mask.unsqueeze(1) == 0, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1).to(source.dtype)
        return weights @ source, weights
