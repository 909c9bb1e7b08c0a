"""LSTM students against packed nn.LSTM, under every kind of padding, through save, Hub code, bf16 and compilation."""

import json
import os
import subprocess
import sys

import accelerate
import pytest
import torch
from packaging import version
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from hf_distill import (
    LSTMStudentForCausalLM,
    LSTMStudentForSeq2SeqLM,
    LSTMStudentForSequenceClassification,
    LSTMStudentForTokenClassification,
    LSTMStudentModel,
)
from tests.students.lstm.cases import TOKENS, VOCAB, config


def built(model_class, seed=0, **changes):
    torch.manual_seed(seed)
    return model_class(config(**changes)).eval()


def sentences(lengths, seed=1):
    """A list of random token rows of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, VOCAB, (length,), generator=generator) for length in lengths]


def padded(rows, side="right", extra=0, seed=2):
    """Ids and mask of the rows; masked places hold random tokens, so that a leak shows."""
    generator = torch.Generator().manual_seed(seed)
    width = max(len(row) for row in rows) + extra
    ids = torch.randint(0, VOCAB, (len(rows), width), generator=generator)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        if side == "right":
            places = torch.arange(len(row))
        elif side == "left":
            places = torch.arange(width - len(row), width)
        else:
            places = torch.randperm(width, generator=generator)[: len(row)].sort().values
        ids[i, places], mask[i, places] = row, 1
    return ids, mask


def packed_lstm(model):
    """An nn.LSTM with the weights of a student, whose padding is handled by packing."""
    c = model.config
    reference = nn.LSTM(c.embedding_size, c.hidden_size, c.num_layers, batch_first=True, bidirectional=c.bidirectional)
    for index, layer in enumerate(model.layers):
        for suffix, lstm in (("", layer.forward_lstm), ("_reverse", layer.backward_lstm)):
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if lstm is not None else ():
                getattr(reference, f"{kind}_l{index}{suffix}").data.copy_(getattr(lstm, f"{kind}_l0"))
    return reference


class TestExactness:
    @pytest.mark.parametrize("num_layers", [1, 2, 3])
    @pytest.mark.parametrize("bidirectional", [True, False])
    def test_equals_packed_lstm_states_and_gradients(self, num_layers, bidirectional):
        model = built(LSTMStudentModel, num_layers=num_layers, bidirectional=bidirectional)
        reference = packed_lstm(model)
        lengths = [5, 11, 1, 8, 11]  # unsorted
        ids, mask = padded(sentences(lengths))
        embedded = model.embeddings(ids).detach().requires_grad_()
        packed = pack_padded_sequence(embedded, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        expected = pad_packed_sequence(reference(packed)[0], batch_first=True)[0]
        weights = torch.randn_like(expected)
        (expected * weights).sum().backward()

        ours = embedded.detach().clone().requires_grad_()
        states = model(inputs_embeds=ours, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)
        (states * weights).sum().backward()
        torch.testing.assert_close(ours.grad, embedded.grad, atol=1e-5, rtol=1e-5)
        for index, layer in enumerate(model.layers):
            for suffix, lstm in (("", layer.forward_lstm), ("_reverse", layer.backward_lstm)):
                if lstm is not None:
                    for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                        expected_grad = getattr(reference, f"{kind}_l{index}{suffix}").grad
                        torch.testing.assert_close(
                            getattr(lstm, f"{kind}_l0").grad, expected_grad, atol=1e-5, rtol=1e-5
                        )

    @pytest.mark.parametrize("pooling", [("last",), ("max",), ("mean",), ("mean", "last", "max")])
    @pytest.mark.parametrize("side", ["right", "left", "holes"])
    def test_padding_changes_nothing(self, side, pooling):
        model = built(LSTMStudentForSequenceClassification, pooling=pooling)
        rows = sentences([7, 1, 9, 4])
        labels = torch.tensor([0, 1, 1, 0])
        alone = [model(row[None], output_hidden_states=True) for row in rows]
        torch.stack(
            [model(row[None], labels=label).loss for row, label in zip(rows, labels, strict=True)]
        ).mean().backward()
        expected_grads = {name: p.grad.clone() for name, p in model.named_parameters()}
        for extra in (0, 6):
            ids, mask = padded(rows, side, extra)
            model.zero_grad()
            outputs = model(ids, attention_mask=mask, labels=labels, output_hidden_states=True)
            outputs.loss.backward()
            torch.testing.assert_close(outputs.logits, torch.cat([o.logits for o in alone]), atol=1e-6, rtol=1e-5)
            for name, parameter in model.named_parameters():
                torch.testing.assert_close(parameter.grad, expected_grads[name], atol=1e-6, rtol=1e-4)
            assert len(outputs.hidden_states) == 3
            for layer, states in enumerate(outputs.hidden_states):
                assert not states[mask == 0].any()
                for row, single in enumerate(alone):
                    expected = single.hidden_states[layer][0]
                    torch.testing.assert_close(states[row][mask[row] == 1], expected, atol=1e-6, rtol=1e-5)

    def test_rows_masked_throughout(self):
        model = built(LSTMStudentForSequenceClassification, pooling=("last", "max", "mean"))
        ids, mask = padded(sentences([5, 6]))
        mask[0] = 0
        outputs = model(ids, attention_mask=mask, output_hidden_states=True)
        outputs.logits.sum().backward()
        assert outputs.logits.isfinite().all()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        assert not outputs.hidden_states[-1][0].any()
        torch.testing.assert_close(outputs.logits[1:], model(ids[1:], attention_mask=mask[1:]).logits)
        other_ids = ids.clone()
        other_ids[0] = 3
        torch.testing.assert_close(model(other_ids, attention_mask=mask).logits, outputs.logits)

    def test_needless_mask_is_no_mask(self):
        model = built(LSTMStudentForSequenceClassification)
        ids = torch.stack(sentences([6, 6]))
        expected = model(ids).logits
        for mask in (torch.ones_like(ids), torch.ones(2, 6), torch.ones(2, 6, dtype=torch.bool)):
            torch.testing.assert_close(model(ids, attention_mask=mask).logits, expected)

    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # nn.LSTM compares sizes
    @pytest.mark.parametrize("side", ["right", "left", "holes"])
    def test_traced_graph_holds_for_other_masks_and_shapes(self, side):
        model = built(LSTMStudentForSequenceClassification, pooling=("last", "max", "mean")).requires_grad_(False)
        ids = torch.stack(sentences([6, 6]))
        traced = torch.jit.trace(
            lambda ids, mask: model(ids, attention_mask=mask).logits, (ids, torch.ones_like(ids)), check_trace=False
        )
        ids, mask = padded(sentences([6, 3, 9]), side)
        torch.testing.assert_close(traced(ids, mask), model(ids, attention_mask=mask).logits)


class TestModel:
    def test_inputs_embeds_and_tuple(self):
        model = built(LSTMStudentModel)
        ids, mask = padded(sentences([3, 5]), "left")
        expected = model(ids, mask, output_hidden_states=True)
        embedded = model(inputs_embeds=model.embeddings(ids), attention_mask=mask)
        torch.testing.assert_close(embedded.last_hidden_state, expected.last_hidden_state)
        assert embedded.hidden_states is None
        states, pooled, hidden_states = model(ids, mask, output_hidden_states=True, return_dict=False)
        torch.testing.assert_close(pooled[:, :10], states[:, -1, :10])  # left to right ends at the last token
        torch.testing.assert_close(pooled[:, 10:], torch.stack([states[0, 2, 10:], states[1, 0, 10:]]))
        assert states.shape == (2, 5, 20)
        assert [tuple(h.shape) for h in hidden_states] == [(2, 5, 12), (2, 5, 20), (2, 5, 20)]
        assert states is hidden_states[-1]

    def test_settings_of_the_config(self):
        model = built(LSTMStudentForSequenceClassification, output_hidden_states=True, return_dict=False)
        loss, logits, hidden_states = model(torch.stack(sentences([4])), labels=torch.tensor([1]))
        assert loss.ndim == 0 and logits.shape == (1, 2) and len(hidden_states) == 3

    @pytest.mark.parametrize(
        "inputs", [{}, {"input_ids": torch.ones(1, 2).long(), "inputs_embeds": torch.ones(1, 2, 12)}]
    )
    def test_needs_one_kind_of_input(self, inputs):
        with pytest.raises(ValueError, match="input_ids or inputs_embeds, and not both"):
            built(LSTMStudentModel)(**inputs)

    def test_initialization(self):
        model = built(LSTMStudentModel, hidden_size=6)
        lstm = model.layers[1].backward_lstm
        assert lstm.bias_ih_l0.tolist() == [0.0] * 6 + [1.0] * 6 + [0.0] * 12
        assert not lstm.bias_hh_l0.any()
        assert not model.embeddings.weight[0].any()
        assert model.embeddings.weight[1:].std().item() == pytest.approx(model.config.initializer_range, rel=0.15)

    def test_dropout_only_in_training(self):
        model = built(LSTMStudentForSequenceClassification, dropout=0.5)
        ids = torch.stack(sentences([6]))
        assert torch.equal(model(ids).logits, model(ids).logits)
        model.train()
        assert not torch.equal(model(ids).logits, model(ids).logits)

    def test_resize_token_embeddings(self):
        model = built(LSTMStudentForSequenceClassification)
        ids = torch.stack(sentences([6]))
        expected = model(ids).logits
        model.resize_token_embeddings(VOCAB + 3, mean_resizing=False)
        assert model.config.vocab_size == VOCAB + 3
        torch.testing.assert_close(model(ids).logits, expected)
        assert model(torch.tensor([[VOCAB + 2]])).logits.isfinite().all()

    def test_gradient_checkpointing_is_refused(self):
        with pytest.raises(ValueError, match="does not support activation checkpointing"):
            built(LSTMStudentModel).activation_checkpointing_enable()

    @pytest.mark.parametrize("train", [False, True])
    def test_bfloat16(self, train):
        model = built(LSTMStudentForSequenceClassification, dropout=0.0)
        ids, mask = padded(sentences([3, 7, 5]))
        expected = model(ids, attention_mask=mask).logits
        outputs = model.to(torch.bfloat16).train(train)(ids, attention_mask=mask, labels=torch.tensor([0, 1, 0]))
        assert outputs.logits.dtype == torch.bfloat16 and outputs.loss.dtype == torch.float32
        torch.testing.assert_close(outputs.logits.float(), expected, atol=0.02, rtol=0.05)
        outputs.loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())

    # torch.compile looks at every tensor's .grad where it leaves an nn.LSTM uncompiled.
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
    def test_compiled(self):
        model = built(LSTMStudentForSequenceClassification)
        compiled = torch.compile(model, backend="eager")
        for side in ("right", "left"):
            ids, mask = padded(sentences([3, 7, 5]), side)
            torch.testing.assert_close(
                compiled(ids, attention_mask=mask).logits, model(ids, attention_mask=mask).logits
            )


class TestSequenceClassificationLoss:
    def test_single_label(self):
        model = built(LSTMStudentForSequenceClassification, num_labels=3)
        ids, mask = padded(sentences([3, 7, 5]))
        outputs = model(ids, attention_mask=mask, labels=torch.tensor([2, -100, 0]))
        expected = nn.functional.cross_entropy(outputs.logits[[0, 2]], torch.tensor([2, 0]))
        torch.testing.assert_close(outputs.loss, expected)
        assert model.config.problem_type == "single_label_classification"
        nothing = model(ids, attention_mask=mask, labels=torch.full((3,), -100)).loss
        assert nothing.item() == 0 and nothing.requires_grad

    def test_multi_label(self):
        model = built(LSTMStudentForSequenceClassification, num_labels=3)
        labels = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
        outputs = model(torch.stack(sentences([4, 4])), labels=labels)
        torch.testing.assert_close(outputs.loss, nn.functional.binary_cross_entropy_with_logits(outputs.logits, labels))
        assert model.config.problem_type == "multi_label_classification"

    @pytest.mark.parametrize("num_labels, shape", [(1, (2,)), (1, (2, 1)), (3, (2, 3))])
    def test_regression(self, num_labels, shape):
        problem_type = None if num_labels == 1 else "regression"
        model = built(LSTMStudentForSequenceClassification, num_labels=num_labels, problem_type=problem_type)
        labels = torch.randn(shape)
        outputs = model(torch.stack(sentences([4, 4])), labels=labels)
        torch.testing.assert_close(outputs.loss, ((outputs.logits - labels.view(2, num_labels)) ** 2).mean())
        assert model.config.problem_type == "regression"


class TestTokenClassification:
    def test_padding_and_loss(self):
        model = built(LSTMStudentForTokenClassification, num_labels=5)
        rows = sentences([3, 7, 5])
        for side in ("right", "left", "holes"):
            ids, mask = padded(rows, side, extra=2)
            labels = torch.randint(0, 5, ids.shape).masked_fill(mask == 0, -100)
            outputs = model(ids, attention_mask=mask, labels=labels, output_hidden_states=True)
            for i, row in enumerate(rows):
                torch.testing.assert_close(outputs.logits[i][mask[i] == 1], model(row[None]).logits[0])
            expected = nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())
            torch.testing.assert_close(outputs.loss, expected)
            assert len(outputs.hidden_states) == 3
            halved = model(ids, attention_mask=mask, labels=labels, num_items_in_batch=2 * int(mask.sum())).loss
            torch.testing.assert_close(halved, expected / 2)


def reference_decoder(model, ids, initial):
    """The states of a left-to-right stack, token by token."""
    states, (hidden, cell) = [], initial
    layers = model.decoder if model.config.is_encoder_decoder else model.lstm.layers
    for token in ids:
        inputs = model.lstm.embeddings(token)[None]
        for index, layer in enumerate(layers):
            lstm = layer.forward_lstm
            gates = (
                inputs @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + hidden[index] @ lstm.weight_hh_l0.T + lstm.bias_hh_l0
            )
            i, f, g, o = gates.chunk(4, dim=-1)
            cell[index] = f.sigmoid() * cell[index] + i.sigmoid() * g.tanh()
            inputs = hidden[index] = o.sigmoid() * cell[index].tanh()
        states.append(inputs)
    return torch.cat(states)


GENERATION = {
    "greedy": {},
    "beam": {"num_beams": 4},
    "beam of two": {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
    "sampled": {"do_sample": True, "top_k": 10, "num_return_sequences": 3},
}


def generated(model, ids, mask, **settings):
    torch.manual_seed(5)
    return model.generate(ids, attention_mask=mask, max_new_tokens=12, **settings)


def without_padding(row):
    """The generated tokens up to and with the end token."""
    row = row.tolist()
    return row[: row.index(TOKENS["eos_token_id"]) + 1] if TOKENS["eos_token_id"] in row else row


class TestGeneration:
    """Both heads that write: state, beams, batches and padding."""

    @pytest.fixture(params=[LSTMStudentForCausalLM, LSTMStudentForSeq2SeqLM])
    def model(self, request):
        # Large weights, so that texts are varied and of different lengths rather than one token repeated.
        model = built(request.param, initializer_range=1.0, seed=1)
        with torch.no_grad():
            model.lm_head.weight[TOKENS["eos_token_id"]] *= 3
        return model

    @pytest.mark.parametrize("settings", GENERATION.values(), ids=GENERATION.keys())
    def test_cached_equals_uncached(self, model, settings):
        ids, mask = padded(sentences([3, 7, 5]), "left")
        cached = generated(model, ids, mask, **settings)
        assert torch.equal(cached, generated(model, ids, mask, use_cache=False, **settings))
        assert len(cached.unique(dim=0)) > 1

    @pytest.mark.parametrize("name", ["greedy", "beam", "beam of two"])
    @pytest.mark.parametrize("extra", [0, 4])
    def test_batched_equals_single(self, model, name, extra):
        rows = sentences([3, 7, 5, 7])
        ids, mask = padded(rows, "left", extra)
        start = 0 if model.config.is_encoder_decoder else ids.shape[1]
        together = generated(model, ids, mask, **GENERATION[name])[:, start:]
        each = len(together) // len(rows)
        lengths = set()
        for i, row in enumerate(rows):
            alone = generated(model, row[None], torch.ones(1, len(row)), **GENERATION[name])
            alone = alone[:, 0 if model.config.is_encoder_decoder else len(row) :]
            for j in range(each):
                expected = without_padding(alone[j])
                assert without_padding(together[i * each + j]) == expected
                lengths.add(len(expected))
        assert len(lengths) > 1

    def test_state_is_used(self, model):
        ids, mask = padded(sentences([3, 7, 5, 7]), "left")
        seen = []
        layers = model.decoder if model.config.is_encoder_decoder else model.lstm.layers
        handle = layers.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
        outputs = generated(model, ids, mask, return_dict_in_generate=True, output_scores=True)
        handle.remove()
        assert set(seen[1:]) == {1}
        assert len(outputs.scores) == len(seen)

    def test_hidden_states_and_attentions_of_generate(self, model):
        ids, mask = padded(sentences([3, 7, 5, 7]), "left")
        extras = {"output_attentions": True} if model.config.is_encoder_decoder else {}
        outputs = generated(model, ids, mask, return_dict_in_generate=True, output_hidden_states=True, **extras)
        if model.config.is_encoder_decoder:
            assert outputs.cross_attentions[0][0].shape == (4, 1, 1, 7)
            assert len(outputs.encoder_hidden_states) == 3
            assert outputs.decoder_hidden_states[1][-1].shape == (4, 1, 10)
        else:
            assert outputs.hidden_states[1][-1].shape == (4, 1, 10)

    def test_assisted_decoding_is_refused(self, model):
        ids, mask = padded(sentences([3]))
        with pytest.raises(ValueError, match="not supported with stateful models"):
            generated(model, ids, mask, assistant_model=model)

    @pytest.mark.parametrize("tie", [True, False])
    def test_tied_embeddings(self, tie, tmp_path, model):
        model = built(type(model), tie_word_embeddings=tie)
        assert (model.lm_head.weight is model.lstm.embeddings.weight) == tie
        model.save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path)
        assert (again.lm_head.weight is again.lstm.embeddings.weight) == tie
        ids, mask = padded(sentences([3, 7]), "left")
        assert torch.equal(generated(again, ids, mask), generated(model, ids, mask))
        again.resize_token_embeddings(VOCAB + 2, mean_resizing=False)
        assert again.lm_head.weight.shape == again.lstm.embeddings.weight.shape == (VOCAB + 2, 12)
        assert (again.lm_head.weight is again.lstm.embeddings.weight) == tie

    def test_one_configuration_serves_several_heads(self, model):
        shared = config()
        type(model)(shared)
        assert shared.bidirectional and not shared.is_encoder_decoder
        assert model.config.is_encoder_decoder == isinstance(model, LSTMStudentForSeq2SeqLM)

    def test_bfloat16(self, model):
        ids, mask = padded(sentences([3, 7]), "left")
        assert generated(model.to(torch.bfloat16), ids, mask, num_beams=2).shape[0] == 2


class TestCausalLM:
    def test_equals_token_by_token(self):
        model = built(LSTMStudentForCausalLM)
        (ids,) = sentences([8])
        zeros = [torch.zeros(1, 10) for _ in range(2)]
        states = reference_decoder(model, ids, ([*zeros], [*zeros]))
        outputs = model(ids[None], labels=ids[None], output_hidden_states=True)
        torch.testing.assert_close(outputs.hidden_states[-1][0], states)
        assert len(outputs.hidden_states) == 3 and outputs.cache_params is None
        torch.testing.assert_close(outputs.logits[0], model.lm_head(model.projection(states)))
        torch.testing.assert_close(outputs.loss, nn.functional.cross_entropy(outputs.logits[0, :-1], ids[1:]))
        torch.testing.assert_close(model(ids[None], logits_to_keep=2).logits, outputs.logits[:, -2:])

    @pytest.mark.parametrize("side", ["right", "left", "holes"])
    def test_reads_on_from_a_state_under_any_padding(self, side):
        model = built(LSTMStudentForCausalLM)
        rows = sentences([3, 7, 5])
        (ids, mask), (more_ids, more_mask) = padded(rows, side), padded(sentences([2, 4, 1], seed=9), side)
        first = model(ids, attention_mask=mask, use_cache=True)
        again = model(
            more_ids,
            attention_mask=torch.cat([mask, more_mask], 1),
            cache_params=first.cache_params,
            use_cache=True,
            output_hidden_states=True,
        )
        whole = model(torch.cat([ids, more_ids], 1), attention_mask=torch.cat([mask, more_mask], 1), use_cache=True)
        shown = more_mask == 1
        torch.testing.assert_close(again.logits[shown], whole.logits[:, ids.shape[1] :][shown], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(again.cache_params.hidden, whole.cache_params.hidden, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(again.cache_params.cell, whole.cache_params.cell, atol=1e-6, rtol=1e-5)
        assert not again.hidden_states[-1][~shown].any()
        # A row with nothing new keeps its state.
        more_mask[1] = 0
        kept = model(more_ids, attention_mask=more_mask, cache_params=first.cache_params, use_cache=True).cache_params
        assert torch.equal(kept.cell[1], first.cache_params.cell[1])
        assert torch.equal(kept.hidden[1], first.cache_params.hidden[1])


class TestSeq2SeqLM:
    def test_equals_token_by_token(self):
        model = built(LSTMStudentForSeq2SeqLM)
        source, target = sentences([6, 5])
        encoded = model.lstm(source[None])
        hidden, cell = model.bridge(encoded.pooler_output).tanh().view(2, 2, 1, 10)
        read = model.prepare_decoder_input_ids_from_labels(target[None])
        states = reference_decoder(model, read[0], ([*hidden], [*cell]))
        outputs = model(source[None], labels=target[None], output_hidden_states=True, output_attentions=True)
        torch.testing.assert_close(outputs.decoder_hidden_states[-1][0], states)
        memory = encoded.last_hidden_state[0]
        weights = (states @ model.query.weight.T @ memory.T / 20**0.5).softmax(-1)
        torch.testing.assert_close(outputs.cross_attentions[0][0, 0], weights)
        attended = model.projection(torch.cat([states, weights @ memory], -1)).tanh()
        torch.testing.assert_close(outputs.logits[0], model.lm_head(attended))
        torch.testing.assert_close(outputs.loss, nn.functional.cross_entropy(outputs.logits[0], target))
        torch.testing.assert_close(outputs.encoder_hidden_states[-1], encoded.last_hidden_state)

    @pytest.mark.parametrize("side", ["right", "left", "holes"])
    def test_padding_changes_nothing(self, side):
        model = built(LSTMStudentForSeq2SeqLM)
        sources, targets = sentences([3, 7, 5]), sentences([4, 2, 6], seed=7)
        ids, mask = padded(sources, side, extra=2)
        target_ids, target_mask = padded(targets, side, extra=1)
        outputs = model(ids, mask, decoder_input_ids=target_ids, decoder_attention_mask=target_mask, use_cache=True)
        for i in range(3):
            alone = model(sources[i][None], decoder_input_ids=targets[i][None], use_cache=True)
            torch.testing.assert_close(outputs.logits[i][target_mask[i] == 1], alone.logits[0], atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(outputs.cache_params.cell[i], alone.cache_params.cell[0])

    def test_labels_become_decoder_inputs(self):
        model = built(LSTMStudentForSeq2SeqLM)
        labels = torch.tensor([[7, 8, 2, -100], [9, 2, -100, -100]])
        made = model.prepare_decoder_input_ids_from_labels(labels)
        assert made.tolist() == [[3, 7, 8, 2], [3, 9, 2, 0]]
        features = [{"input_ids": [5, 6], "labels": [7, 8, 2]}, {"input_ids": [5], "labels": [9, 2]}]
        batch = DataCollatorForSeq2Seq(tiny_tokenizer(), model=model)(features)
        assert torch.equal(batch["labels"], labels[:, :3]) and torch.equal(batch["decoder_input_ids"], made[:, :3])
        with_labels = model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"])
        torch.testing.assert_close(model(**batch).loss, with_labels.loss)

    def test_source_masked_throughout(self):
        model = built(LSTMStudentForSeq2SeqLM)
        ids, mask = padded(sentences([3, 7]))
        mask[0] = 0
        outputs = model(ids, mask, labels=torch.tensor([[5, 2], [6, 2]]))
        outputs.loss.backward()
        assert outputs.logits.isfinite().all()
        assert all(p.grad.isfinite().all() for p in model.parameters())

    def test_one_directional_encoder(self):
        model = built(LSTMStudentForSeq2SeqLM, bidirectional=False)
        ids, mask = padded(sentences([3, 7]), "left")
        assert torch.equal(generated(model, ids, mask), generated(model, ids, mask, use_cache=False))

    @pytest.mark.parametrize("name", ["pad_token_id", "eos_token_id", "decoder_start_token_id"])
    def test_needs_token_ids(self, name):
        with pytest.raises(ValueError, match=f"needs {name} in its configuration"):
            built(LSTMStudentForSeq2SeqLM, **{name: None})

    @pytest.mark.parametrize("side", ["right", "left", "holes"])
    def test_decoder_inputs_embeds(self, side):
        model = built(LSTMStudentForSeq2SeqLM)
        source = torch.stack(sentences([4, 4, 4]))
        ids, mask = padded(sentences([4, 2, 6], seed=7), side, extra=1)
        expected = model(source, decoder_input_ids=ids, decoder_attention_mask=mask, use_cache=True)
        embedded = model(
            source,
            decoder_inputs_embeds=model.get_input_embeddings()(ids),
            decoder_attention_mask=mask,
            labels=ids,
            use_cache=True,
        )
        torch.testing.assert_close(embedded.logits, expected.logits)
        # Read on: the mask is of all target tokens, the embeddings of the new ones only.
        longer = torch.cat([mask, mask.new_ones(3, 1)], dim=1)
        new = torch.tensor([[5], [6], [7]])
        embedded_on, expected_on = (
            model(source, decoder_attention_mask=longer, cache_params=outputs.cache_params, **inputs)
            for outputs, inputs in (
                (embedded, {"decoder_inputs_embeds": model.get_input_embeddings()(new)}),
                (expected, {"decoder_input_ids": new}),
            )
        )
        torch.testing.assert_close(embedded_on.logits, expected_on.logits)

    def test_needs_a_target(self):
        with pytest.raises(ValueError, match="Give decoder_input_ids or labels"):
            built(LSTMStudentForSeq2SeqLM)(torch.stack(sentences([3])))


@pytest.mark.parametrize("head", [LSTMStudentForTokenClassification, LSTMStudentForCausalLM, LSTMStudentForSeq2SeqLM])
def test_accumulation_changes_nothing_in_plain_trainer(head, tmp_path):
    """`Trainer` hands these heads the count of the whole step, so uneven micro-batches weigh what they should."""
    rows = sentences([3, 9, 4, 7])
    data = [
        {"input_ids": row, "labels": row.masked_fill(row % 2 == 0, -100) % 2 if i else row % 2}
        for i, row in enumerate(rows)
    ]

    def collate(features):
        ids, mask = padded([f["input_ids"] for f in features])
        labels = torch.full_like(ids, -100)
        for i, feature in enumerate(features):
            labels[i, : len(feature["labels"])] = feature["labels"]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    trained = []
    for batch, accumulation in ((4, 1), (1, 4)):
        model = built(head, dropout=0.0)
        arguments = TrainingArguments(
            tmp_path,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            learning_rate=1.0,
            optim="sgd",
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
        )
        Trainer(model, arguments, train_dataset=data, data_collator=collate).train()
        trained.append(model)
    for (name, one), (_, four) in zip(*(model.named_parameters() for model in trained), strict=True):
        torch.testing.assert_close(one, four, atol=1e-6, rtol=1e-5, msg=name)


# What a released student meets: transformers without hf_distill. It answers with the outputs of every folder.
WITHOUT_PACKAGE = """
import json, sys
sys.modules["hf_distill"] = None  # any import of it fails, even where it is installed
import torch, transformers
folders, inputs, mask, text = json.loads(sys.argv[1])
logits, texts = {}, {}
for auto_class, folder in folders.items():
    model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True).eval()
    inputs, mask = torch.tensor(inputs), torch.tensor(mask)
    extra = {"decoder_input_ids": inputs} if model.config.is_encoder_decoder else {}
    logits[auto_class] = model(inputs, attention_mask=mask, **extra)[0].tolist()
    if model.can_generate():
        texts[auto_class] = model.generate(inputs, attention_mask=mask, max_new_tokens=8, num_beams=3).tolist()
    if auto_class == "AutoModelForSequenceClassification":
        model.save_pretrained(folder + "_again")
        pipe = transformers.pipeline("text-classification", folder, trust_remote_code=True)
        answer = pipe(text, padding=True, batch_size=2)
print(json.dumps({"logits": logits, "texts": texts, "answer": answer}))
"""
HEADS = {
    AutoModel: LSTMStudentModel,
    AutoModelForSequenceClassification: LSTMStudentForSequenceClassification,
    AutoModelForTokenClassification: LSTMStudentForTokenClassification,
    AutoModelForSeq2SeqLM: LSTMStudentForSeq2SeqLM,
    AutoModelForCausalLM: LSTMStudentForCausalLM,
}


def first_output(model, ids, mask):
    extra = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    return model(ids, attention_mask=mask, **extra)[0]


def tiny_tokenizer():
    words = ["[PAD]", "[UNK]", "good", "bad", "film", *(f"word{i}" for i in range(VOCAB - 5))]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


@pytest.mark.parametrize("head", [head for auto_class, head in HEADS.items() if auto_class is not AutoModel])
def test_trains_under_bfloat16_autocast(head):
    model = built(head, dropout=0.0).train()
    ids, mask = padded(sentences([3, 7, 5]), "left")
    labels = torch.tensor([0, 1, 0]) if head is LSTMStudentForSequenceClassification else ids % 2
    expected = model(ids, attention_mask=mask, labels=labels).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, atol=0.01, rtol=0.01)
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:.*TensorFloat32 tensor cores")
@pytest.mark.parametrize("compiled", [False, True])
def test_small_gradients_on_a_gpu_under_autocast(compiled):
    """torch alone would compute in float16, which rounds them to zero; and its compiler could not differentiate it."""
    model = built(LSTMStudentForSequenceClassification, num_labels=3, dropout=0.0).cuda().train()
    ids, mask = (each.cuda() for each in padded(sentences([9, 4, 6])))

    def gradients(scale, bf16):
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            logits = (torch.compile(model) if compiled else model)(input_ids=ids, attention_mask=mask).logits
        (logits.float().square().sum() * scale).backward()
        return torch.cat([weight.grad.flatten() / scale for weight in model.parameters()])

    exact, coarse = gradients(1.0, False), gradients(1e-8, True)
    assert (coarse - exact).norm() <= 0.05 * exact.norm()


class TestSaveAndLoad:
    @pytest.mark.parametrize("auto_class", HEADS)
    def test_round_trip(self, auto_class, tmp_path):
        model = built(HEADS[auto_class])
        ids, mask = padded(sentences([3, 7, 5]))
        model.save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)
        again = auto_class.from_pretrained(tmp_path)
        assert type(again) is HEADS[auto_class]
        assert {k for k in again.state_dict()} == {k for k in model.state_dict()}
        for name, parameter in again.named_parameters():
            assert torch.equal(parameter, model.get_parameter(name))
        assert torch.equal(first_output(again, ids, mask), first_output(model, ids, mask))
        assert len(AutoTokenizer.from_pretrained(tmp_path)) == VOCAB
        assert (tmp_path / "modeling_lstm.py").exists() and (tmp_path / "configuration_lstm.py").exists()

    @pytest.mark.parametrize("auto_class", HEADS)
    @pytest.mark.skipif(
        version.parse(accelerate.__version__) < version.parse("1.14"), reason="accelerate keeps a part in memory"
    )
    def test_weights_on_disk(self, auto_class, tmp_path):
        model = built(HEADS[auto_class])
        ids, mask = padded(sentences([3, 7, 5]), "left")
        model.save_pretrained(tmp_path)
        offloaded = auto_class.from_pretrained(tmp_path, device_map={"": "disk"}, offload_folder=tmp_path / "offload")
        assert all(parameter.is_meta for parameter in offloaded.parameters())
        assert torch.equal(first_output(offloaded, ids, mask), first_output(model, ids, mask))
        if model.can_generate():
            assert torch.equal(generated(offloaded, ids, mask), generated(model, ids, mask))

    def test_encoder_goes_into_a_head(self, tmp_path):
        encoder = built(LSTMStudentModel)
        encoder.save_pretrained(tmp_path)
        classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
        assert torch.equal(
            classifier.lstm.layers[1].forward_lstm.weight_hh_l0, encoder.layers[1].forward_lstm.weight_hh_l0
        )
        assert classifier.classifier.out_features == 5

    @pytest.mark.long
    def test_loads_where_the_package_is_missing(self, tmp_path):
        ids, mask = padded(sentences([3, 7, 5]), "left")
        text = ["good film", "bad word3 film film"]
        folders, expected, texts = {}, {}, {}
        for auto_class, head in HEADS.items():
            folders[auto_class.__name__] = str(tmp_path / auto_class.__name__)
            model = built(head)
            model.save_pretrained(folders[auto_class.__name__])
            expected[auto_class.__name__] = first_output(model, ids, mask)
            if model.can_generate():
                output = model.generate(ids, attention_mask=mask, max_new_tokens=8, num_beams=3)
                texts[auto_class.__name__] = output.tolist()
            tokenizer = tiny_tokenizer()
            tokenizer.save_pretrained(folders[auto_class.__name__])
        run = subprocess.run(
            [sys.executable, "-I", "-c", WITHOUT_PACKAGE, json.dumps([folders, ids.tolist(), mask.tolist(), text])],
            cwd=tmp_path,
            env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        answers = json.loads(run.stdout.splitlines()[-1])
        for name, logits in answers["logits"].items():
            torch.testing.assert_close(torch.tensor(logits), expected[name], atol=1e-6, rtol=1e-6)
        assert answers["texts"] == texts
        classifier = built(LSTMStudentForSequenceClassification)
        scores = classifier(**tokenizer(text, padding=True, return_tensors="pt")).logits.softmax(-1).max(-1)
        assert [a["label"] for a in answers["answer"]] == [f"LABEL_{i}" for i in scores.indices.tolist()]
        torch.testing.assert_close(torch.tensor([a["score"] for a in answers["answer"]]), scores.values)
        # A copy saved by someone who never had the package is as complete.
        copy = tmp_path / "AutoModelForSequenceClassification_again"
        assert {"modeling_lstm.py", "configuration_lstm.py", "config.json"} <= {p.name for p in copy.iterdir()}
