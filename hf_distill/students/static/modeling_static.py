"""Static students. This file is uploaded with every student, so it imports only torch, transformers and its config.

A static student reads a text as a bag of tokens and n-grams: its embeddings do not depend on their neighbours. All that
is computed for each token are gathers and sums; of a classifier, matrix products are computed once a text.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput, TokenClassifierOutput
from transformers.utils import can_return_tuple

from .configuration_static import StaticStudentConfig

# An n-gram's hash is a polynomial of its token ids modulo a prime. Every intermediate value fits into 64 bits, so that
# torch, onnxruntime and any other runtime compute the same integers.
MODULUS = 2**31 - 1
MULTIPLIER = 1_103_515_245
IGNORE_INDEX = -100


class Neighbours:
    """The neighbours of each token among the unmasked tokens of its row, under any mask (padding, holes).

    Args:
        mask: (batch, seq) bool, True where a token counts.
    """

    def __init__(self, mask: Tensor):
        counted = mask.long().cumsum(1)  # ONNX sums no bools
        self.positions = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
        self.mask, self.lengths = mask, counted[:, -1:]
        # The unmasked tokens are numbered first, in order; then the masked ones.
        self.numbers = torch.where(mask, counted - 1, self.lengths + self.positions - counted)
        self.numbered = torch.zeros_like(self.numbers).scatter(1, self.numbers, self.positions)

    def at(self, offset: int) -> tuple[Tensor, Tensor]:
        """The unmasked token that is `offset` unmasked tokens later.

        Returns:
            (batch, seq) its position, any position where there is none; and (batch, seq) bool, where there is one.
        """
        numbers = self.numbers + offset
        there = self.mask & (numbers >= 0) & (numbers < self.lengths)
        return self.numbered.gather(1, numbers.clamp(0, self.numbers.shape[1] - 1)), there


def hashed_ngrams(input_ids: Tensor, neighbours: Neighbours, size: int, buckets: int) -> tuple[Tensor, Tensor]:
    """The buckets of all n-grams of 2 to `size` unmasked tokens.

    Args:
        input_ids: (batch, seq) int64.
        neighbours: of the batch.
        size: tokens of the longest n-gram.
        buckets: number of buckets.
    Returns:
        (batch, (size - 1) * seq) buckets, those of the pairs first, each n-gram at the position of its last token; and
        (batch, (size - 1) * seq) bool, where there is an n-gram.
    """
    value, found = input_ids, []
    for before in range(1, size):
        position, there = neighbours.at(-before)
        value = (value * MULTIPLIER + input_ids.gather(1, position) + 1) % MODULUS
        found.append((value % buckets, there))
    grams, theres = zip(*found, strict=True)
    return torch.cat(grams, dim=1), torch.cat(theres, dim=1)


class StaticTable(nn.Embedding):
    """A table whose rows are scaled and, on request, summed over a text.

    Args:
        rows: of the table.
        size: width.
        padding_idx: a row that stays zero.
        weighted: whether each row has a learned weight. The others are the rows of n-grams, and start at zero: an
            n-gram that was never seen in training has no effect.
    """

    def __init__(self, rows: int, size: int, padding_idx: int | None = None, weighted: bool = False):
        super().__init__(rows, size, padding_idx=padding_idx)
        self.token_weights = nn.Parameter(torch.ones(rows)) if weighted else None

    def forward(self, ids: Tensor, there: Tensor, summed: bool = False) -> Tensor:  # type: ignore[override]
        """Look up rows, times their weights; zero where nothing is.

        Args:
            ids: (batch, seq).
            there: (batch, seq) bool, True where an id counts.
            summed: whether to sum over seq.
        Returns:
            (batch, seq, size), or (batch, size) if summed.
        """
        scales = there.to(self.weight.dtype)
        if self.token_weights is not None:
            scales = scales * F.embedding(ids, self.token_weights.unsqueeze(1)).squeeze(-1)
        if summed and not torch.jit.is_tracing():
            # One kernel gathers and sums. The ONNX exporter would write a loop over the texts instead.
            return F.embedding_bag(
                ids, self.weight, mode="sum", per_sample_weights=scales, padding_idx=self.padding_idx
            )
        rows = super().forward(ids) * scales.unsqueeze(-1)
        return rows.sum(dim=1) if summed else rows


class StaticStudentPreTrainedModel(PreTrainedModel):
    """Base class: loading, saving and initialisation of every static student."""

    config_class = StaticStudentConfig
    base_model_prefix = "static"
    supports_gradient_checkpointing = False  # there are no layers

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, StaticTable):
            if module.token_weights is None:
                init.zeros_(module.weight)
            else:
                init.ones_(module.token_weights)

    def get_input_embeddings(self) -> nn.Module:
        return cast(nn.Module, self.base_model.embeddings)

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.base_model.embeddings = value

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As in every model of transformers; new tokens have the weight 1."""
        table = cast(StaticTable, super().resize_token_embeddings(*args, **kwargs))
        old = cast(Tensor, table.token_weights)
        new = old.new_ones(table.num_embeddings)
        kept = min(len(old), len(new))
        new[:kept] = old.detach()[:kept]
        table.token_weights = nn.Parameter(new, requires_grad=old.requires_grad)
        return table


class StaticStudentModel(StaticStudentPreTrainedModel):
    """Embeddings of tokens and of hashed n-grams, and their weighted mean; exact under any padding."""

    _auto_class = "AutoModel"

    def __init__(self, config: StaticStudentConfig):
        super().__init__(config)
        self.embeddings = StaticTable(config.vocab_size, config.embedding_size, config.pad_token_id, weighted=True)
        self.ngrams = StaticTable(config.ngram_buckets, config.embedding_size) if config.ngram_buckets else None
        self.post_init()

    def pool(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The weighted mean of each text, without a tensor of all its embeddings.

        Args:
            input_ids: (batch, seq).
            attention_mask: (batch, seq), nonzero where a token counts. None: all count.
        Returns:
            (batch, embedding_size): the sum of the tokens' embeddings, each times its weight, and of the n-grams'
            embeddings, over the number of tokens; without the tokens of `config.unpooled_token_ids`. Zeros for a text
            without tokens.
        """
        ids, mask = input_ids.long(), counted(input_ids, attention_mask)
        pooled = mask
        for index in self.config.unpooled_token_ids or ():
            pooled = pooled & (ids != index)
        total = self.embeddings(ids, pooled, summed=True)
        if self.ngrams is not None:
            total = total + self.ngrams(*self.hash(ids, Neighbours(mask)), summed=True)
        return total / pooled.long().sum(dim=1, keepdim=True).clamp(min=1).to(total.dtype)

    def states(self, input_ids: Tensor, neighbours: Neighbours) -> Tensor:
        """The embedding of each token, times its weight, plus those of the n-grams that end with it.

        Args:
            input_ids: (batch, seq).
            neighbours: of the batch.
        Returns:
            (batch, seq, embedding_size), zero at masked positions.
        """
        ids = input_ids.long()
        states = self.embeddings(ids, neighbours.mask)
        if self.ngrams is not None:
            grams = self.ngrams(*self.hash(ids, neighbours))
            states = states + grams.unflatten(1, (self.config.ngram_size - 1, -1)).sum(dim=1)
        return states

    def hash(self, input_ids: Tensor, neighbours: Neighbours) -> tuple[Tensor, Tensor]:
        """`hashed_ngrams` with the sizes of the config."""
        return hashed_ngrams(input_ids, neighbours, self.config.ngram_size, self.config.ngram_buckets)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Embed a batch. Masked tokens have no effect at any position.

        Args:
            input_ids: (batch, seq).
            attention_mask: (batch, seq), nonzero where a token counts. None: all count.
            token_type_ids: ignored, since a bag of tokens has no segments; BERT tokenizers return them by default.
            output_hidden_states: whether to return the states as the only layer, too.
        Returns:
            last_hidden_state (batch, seq, embedding_size), see `states`; pooler_output (batch, embedding_size), see
            `pool`.
        """
        states = self.states(input_ids, Neighbours(counted(input_ids, attention_mask)))
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return BaseModelOutputWithPooling(
            last_hidden_state=states,
            pooler_output=self.pool(input_ids, attention_mask),
            hidden_states=(states,) if output_hidden_states else None,
        )


class StaticStudentForSequenceClassification(StaticStudentPreTrainedModel):
    """A weighted mean of embeddings, a dense layer and a classifier (after Joulin et al. 2017, arXiv:1607.01759)."""

    _auto_class = "AutoModelForSequenceClassification"

    def __init__(self, config: StaticStudentConfig):
        super().__init__(config)
        self.static = StaticStudentModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.dense = nn.Linear(config.embedding_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, cast(int, config.num_labels))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> SequenceClassifierOutput:
        """Classify each row of a batch.

        Args:
            labels: (batch,) classes, -100 for rows that do not count; (batch, num_labels) floats for multi-label
                problems; (batch,) or (batch, num_labels) numbers for regression. `config.problem_type` decides. If it
                is None, it is set as in transformers: one label is a regression, integers are classes.

        The other arguments and the hidden states are those of `StaticStudentModel`.
        """
        pooled = self.dropout(self.static.pool(input_ids, attention_mask))
        logits = self.classifier(self.dropout(F.relu(self.dense(pooled))))
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        states = None
        if output_hidden_states:
            states = (self.static.states(input_ids, Neighbours(counted(input_ids, attention_mask))),)
        return SequenceClassifierOutput(
            loss=None if labels is None else self.label_loss(logits, labels), logits=logits, hidden_states=states
        )

    def label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over the labels, in float32, as `config.problem_type` requires; zero if all are -100."""
        number = (labels != IGNORE_INDEX).sum().clamp(min=1)
        if self.config.num_labels == 1 or self.config.problem_type == "regression":
            labels = labels.float().view(logits.shape)
        return self.loss_function(
            labels=labels, pooled_logits=logits.float(), config=self.config, num_items_in_batch=number
        )


class StaticStudentForTokenClassification(StaticStudentPreTrainedModel):
    """A classifier of each token with its neighbours: their embeddings side by side, a dense layer, a linear one."""

    _auto_class = "AutoModelForTokenClassification"

    accepts_loss_kwargs = True

    def __init__(self, config: StaticStudentConfig):
        super().__init__(config)
        self.static = StaticStudentModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.dense = nn.Linear((2 * config.window + 1) * config.embedding_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, cast(int, config.num_labels))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> TokenClassifierOutput:
        """Classify each token of a batch.

        Args:
            labels: (batch, seq) classes, -100 for tokens that do not count.
            num_items_in_batch: the divisor of the summed loss. None: the number of labels that count. `Trainer` passes
                the count over all micro-batches of a step.

        The other arguments and the hidden states are those of `StaticStudentModel`.
        """
        neighbours = Neighbours(counted(input_ids, attention_mask))
        states = self.static.states(input_ids, neighbours)
        hidden = F.relu(self.dense(self.dropout(self.side_by_side(states, neighbours))))
        logits = self.classifier(self.dropout(hidden))
        loss = None
        if labels is not None:
            number = (labels != IGNORE_INDEX).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
            loss = self.loss_function(logits.float(), labels, self.config, num_items_in_batch=number)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=(states,) if output_hidden_states else None
        )

    def side_by_side(self, states: Tensor, neighbours: Neighbours) -> Tensor:
        """The states of each token and its neighbours, from the first to the last; zeros beyond the ends of a text.

        Args:
            states: (batch, seq, size).
            neighbours: of the batch.
        Returns:
            (batch, seq, (2 * window + 1) * size)
        """
        rows = states.flatten(0, 1)
        # Not len(states), which an exported graph would keep as a constant.
        first_rows = torch.arange(states.shape[0], device=states.device).unsqueeze(1) * states.shape[1]
        read = []
        for offset in range(-self.config.window, self.config.window + 1):
            position, there = neighbours.at(offset)
            # Copying whole rows is faster than `gather` with an expanded index.
            neighbour = rows.index_select(0, (position + first_rows).flatten()).view(states.shape)
            read.append(neighbour * there.unsqueeze(-1).to(states.dtype))
        return torch.cat(read, dim=-1)


def counted(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """(batch, seq) bool, True where a token counts."""
    return torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask != 0
