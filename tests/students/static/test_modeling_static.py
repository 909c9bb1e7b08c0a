"""Static students against plain loops, under every kind of padding, through save, Hub code, bf16 and compilation."""

import json
import os
import subprocess
import sys

import datasets
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
)

from hf_distill import (
    DistillationArguments,
    DistillationTrainer,
    StaticStudentForSequenceClassification,
    StaticStudentForTokenClassification,
    StaticStudentModel,
)
from tests.conftest import collate, tiny_bert, tiny_rows
from tests.students.lstm.test_modeling_lstm import padded, sentences, tiny_tokenizer
from tests.students.static.cases import UNPOOLED, VOCAB, built

HEADS = {
    AutoModel: StaticStudentModel,
    AutoModelForSequenceClassification: StaticStudentForSequenceClassification,
    AutoModelForTokenClassification: StaticStudentForTokenClassification,
}
SHAPES = [{}, {"ngram_buckets": 0}, {"ngram_size": 2}]
SIDES = ["right", "left", "holes"]
PRIME = 2**31 - 1


def reference_states(model, row):
    """The state of each token of a row, from Python's own integers."""
    base, config = model.base_model, model.config
    states = []
    for place, token in enumerate(row.tolist()):
        state = base.embeddings.weight[token] * base.embeddings.token_weights[token]
        for size in range(2, config.ngram_size + 1) if config.ngram_buckets else ():
            if place + 1 >= size:
                value = token
                for before in range(1, size):
                    value = (value * 1_103_515_245 + int(row[place - before]) + 1) % PRIME
                state = state + base.ngrams.weight[value % config.ngram_buckets]
        states.append(state)
    return torch.stack(states)


def reference_mean(model, row):
    left_out = torch.isin(row, torch.tensor(UNPOOLED))
    words = model.base_model.embeddings
    total = reference_states(model, row).sum(0)
    total = total - (words.weight[row] * words.token_weights[row, None])[left_out].sum(0)
    return total / max(1, int((~left_out).sum()))


class TestExactness:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("side", SIDES)
    def test_states_and_means_equal_plain_loops(self, side, shape):
        model = built(StaticStudentModel, **shape)
        rows = [torch.cat([row, torch.tensor(UNPOOLED)]) for row in sentences([7, 1, 9, 2])]
        for extra in (0, 6):
            ids, mask = padded(rows, side, extra)
            outputs = model(ids, attention_mask=mask, output_hidden_states=True)
            assert len(outputs.hidden_states) == 1
            assert not outputs.last_hidden_state[mask == 0].any()
            for i, row in enumerate(rows):
                states = outputs.last_hidden_state[i][mask[i] == 1]
                torch.testing.assert_close(states, reference_states(model, row))
                torch.testing.assert_close(outputs.pooler_output[i], reference_mean(model, row))

    @pytest.mark.parametrize("side", SIDES)
    @pytest.mark.parametrize("head", [StaticStudentForSequenceClassification, StaticStudentForTokenClassification])
    def test_padding_changes_nothing(self, head, side):
        model = built(head, num_labels=3)
        rows = sentences([7, 1, 9, 4])
        per_token = head is StaticStudentForTokenClassification
        labels = [row % 3 if per_token else row[:1] % 3 for row in rows]
        alone = [
            model(row[None], labels=label.view(1, -1) if per_token else label)
            for row, label in zip(rows, labels, strict=True)
        ]
        items = torch.tensor([len(label) for label in labels])
        (sum(output.loss * number for output, number in zip(alone, items, strict=True)) / items.sum()).backward()
        expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        for extra in (0, 6):
            ids, mask = padded(rows, side, extra)
            places = torch.full_like(ids, -100)
            places[mask == 1] = torch.cat(labels) if per_token else 0
            model.zero_grad()
            outputs = model(ids, attention_mask=mask, labels=places if per_token else torch.cat(labels))
            outputs.loss.backward()
            for i, single in enumerate(alone):
                mine = outputs.logits[i][mask[i] == 1] if per_token else outputs.logits[i]
                torch.testing.assert_close(mine, single.logits[0], atol=1e-6, rtol=1e-5)
            for name, parameter in model.named_parameters():
                torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4)

    def test_padding_on_the_right_changes_no_bit_of_a_class(self):
        model = built(StaticStudentForSequenceClassification)
        rows = sentences([7, 3])
        ids, mask = padded(rows, "right")
        longer, longer_mask = padded(rows, "right", extra=9)
        assert torch.equal(model(ids, attention_mask=mask).logits, model(longer, attention_mask=longer_mask).logits)

    @pytest.mark.parametrize("head", HEADS.values())
    def test_rows_without_tokens(self, head):
        model = built(head)
        ids, mask = padded(sentences([5, 6]))
        mask[0] = 0
        output = model(ids, attention_mask=mask)[0]
        output.sum().backward()
        assert output.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
        torch.testing.assert_close(output[1:], model(ids[1:], attention_mask=mask[1:])[0])
        other = ids.clone()
        other[0] = 3
        torch.testing.assert_close(model(other, attention_mask=mask)[0], output)

    def test_a_text_of_unpooled_tokens_alone_has_the_mean_zero(self):
        model = built(StaticStudentModel, ngram_buckets=0)
        assert not model(torch.tensor([UNPOOLED])).pooler_output.any()

    def test_neither_words_nor_pairs_commute_in_an_ngram(self):
        model = built(StaticStudentModel)
        ids = torch.tensor([[5, 6, 7], [7, 6, 5]])
        assert not torch.allclose(*model(ids).pooler_output)
        torch.testing.assert_close(*built(StaticStudentModel, ngram_buckets=0)(ids).pooler_output)

    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
    @pytest.mark.parametrize("head", [StaticStudentForSequenceClassification, StaticStudentForTokenClassification])
    def test_traced_graph_holds_for_other_masks_and_shapes(self, head):
        model = built(head).requires_grad_(False)
        ids = torch.stack(sentences([6, 6]))
        traced = torch.jit.trace(
            lambda ids, mask: model(ids, attention_mask=mask).logits, (ids, torch.ones_like(ids)), check_trace=False
        )
        for side in SIDES:
            ids, mask = padded(sentences([6, 3, 9]), side)
            torch.testing.assert_close(traced(ids, mask), model(ids, attention_mask=mask).logits)


def test_a_classifier_multiplies_no_matrix_for_a_token():
    model, counts = built(StaticStudentForSequenceClassification), []
    for length in (3, 30):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.stack(sentences([length] * 2)))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * 2 * (12 * 10 + 10 * 2)


class TestTagger:
    @pytest.mark.parametrize("window", [0, 1, 3])
    def test_the_head_reads_the_window(self, window):
        model = built(StaticStudentForTokenClassification, window=window, num_labels=4)
        (row,) = sentences([6])
        states = reference_states(model, row)
        around = nn.functional.pad(states, (0, 0, window, window))
        read = torch.stack([around[place : place + 2 * window + 1].flatten() for place in range(len(row))])
        expected = model.classifier(nn.functional.relu(model.dense(read)))
        torch.testing.assert_close(model(row[None]).logits[0], expected)

    def test_loss_counts_what_the_trainer_counts(self):
        model = built(StaticStudentForTokenClassification, num_labels=4)
        ids, mask = padded(sentences([3, 7]))
        labels = (ids % 4).masked_fill(mask == 0, -100)
        outputs = model(ids, attention_mask=mask, labels=labels)
        torch.testing.assert_close(
            outputs.loss, nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())
        )
        halved = model(ids, attention_mask=mask, labels=labels, num_items_in_batch=2 * int(mask.sum())).loss
        torch.testing.assert_close(halved, outputs.loss / 2)
        assert model(ids, labels=torch.full_like(ids, -100)).loss.item() == 0


class TestLossOfAClassifier:
    def test_single_label(self):
        model = built(StaticStudentForSequenceClassification, num_labels=3)
        ids, mask = padded(sentences([3, 7, 5]))
        outputs = model(ids, attention_mask=mask, labels=torch.tensor([2, -100, 0]))
        expected = nn.functional.cross_entropy(outputs.logits[[0, 2]], torch.tensor([2, 0]))
        torch.testing.assert_close(outputs.loss, expected)
        assert model.config.problem_type == "single_label_classification"
        nothing = model(ids, attention_mask=mask, labels=torch.full((3,), -100)).loss
        assert nothing.item() == 0 and nothing.requires_grad

    def test_multi_label(self):
        model = built(StaticStudentForSequenceClassification, num_labels=3)
        labels = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
        outputs = model(torch.stack(sentences([4, 4])), labels=labels)
        torch.testing.assert_close(outputs.loss, nn.functional.binary_cross_entropy_with_logits(outputs.logits, labels))
        assert model.config.problem_type == "multi_label_classification"

    @pytest.mark.parametrize(
        ("num_labels", "labels"),
        [(1, torch.tensor([3, 1])), (1, torch.tensor([[0.5], [2]])), (3, torch.tensor([[1, 2, 3], [4, 5, 6]]))],
    )
    def test_regression(self, num_labels, labels):
        problem_type = None if num_labels == 1 else "regression"
        model = built(StaticStudentForSequenceClassification, num_labels=num_labels, problem_type=problem_type)
        outputs = model(torch.stack(sentences([4, 4])), labels=labels)
        torch.testing.assert_close(outputs.loss, ((outputs.logits - labels.view(2, num_labels)) ** 2).mean())
        outputs.loss.backward()
        assert model.config.problem_type == "regression"


class TestModel:
    def test_tuple_and_settings_of_the_config(self):
        model = built(StaticStudentModel)
        ids, mask = padded(sentences([3, 5]), "left")
        states, pooled, hidden_states = model(ids, mask, output_hidden_states=True, return_dict=False)
        assert states.shape == (2, 5, 12) and pooled.shape == (2, 12) and states is hidden_states[0]
        model = built(StaticStudentForSequenceClassification, output_hidden_states=True, return_dict=False)
        loss, logits, hidden_states = model(ids, mask, labels=torch.tensor([1, 0]))
        assert loss.ndim == 0 and logits.shape == (2, 2)
        assert torch.equal(hidden_states[0], model.static(ids, mask)[0])

    def test_segments_are_ignored_and_ids_may_be_short(self):
        model = built(StaticStudentForSequenceClassification)
        ids = torch.stack(sentences([4, 4]))
        expected = model(ids).logits
        assert torch.equal(model(ids, token_type_ids=torch.ones_like(ids)).logits, expected)
        assert torch.equal(model(ids.int(), attention_mask=torch.ones(2, 4)).logits, expected)

    def test_initialization(self):
        torch.manual_seed(0)
        model = StaticStudentModel(built(StaticStudentModel).config)
        assert not model.embeddings.weight[0].any() and not model.ngrams.weight.any()
        assert torch.equal(model.embeddings.token_weights, torch.ones(VOCAB))
        assert model.embeddings.weight[1:].std().item() == pytest.approx(0.1, rel=0.15)

    def test_the_padding_row_stays_zero_without_a_mask(self):
        model = built(StaticStudentForSequenceClassification)
        outputs = model(torch.tensor([[0, 5, 6]]), labels=torch.tensor([1]))
        outputs.loss.backward()
        assert not model.static.embeddings.weight.grad[0].any()

    def test_resize_token_embeddings(self):
        model = built(StaticStudentForSequenceClassification)
        ids = torch.stack(sentences([6]))
        expected = model(ids).logits
        table = model.resize_token_embeddings(VOCAB + 3, mean_resizing=False)
        assert model.config.vocab_size == VOCAB + 3 and table is model.get_input_embeddings()
        torch.testing.assert_close(model(ids).logits, expected)
        assert table.token_weights[VOCAB:].tolist() == [1, 1, 1] and table.token_weights.requires_grad
        assert model(torch.tensor([[VOCAB + 2]])).logits.isfinite().all()
        assert len(model.resize_token_embeddings(VOCAB - 1).token_weights) == VOCAB - 1

    @pytest.mark.parametrize("head", [StaticStudentForSequenceClassification, StaticStudentForTokenClassification])
    @pytest.mark.parametrize("autocast", [False, True])
    def test_bfloat16(self, head, autocast):
        model = built(head, dropout=0.0).train()
        ids, mask = padded(sentences([3, 7, 5]), "left")
        labels = ids % 2 if head is StaticStudentForTokenClassification else torch.tensor([0, 1, 0])
        expected = model(ids, attention_mask=mask, labels=labels).loss
        model = model if autocast else model.to(torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = model(ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected, atol=0.02, rtol=0.05)
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    @pytest.mark.parametrize("head", [StaticStudentForSequenceClassification, StaticStudentForTokenClassification])
    def test_compiled(self, head):
        model = built(head)
        compiled = torch.compile(model, backend="eager")
        for side in ("right", "left"):
            ids, mask = padded(sentences([3, 7, 5]), side)
            expected = model(ids, attention_mask=mask).logits
            torch.testing.assert_close(compiled(ids, attention_mask=mask).logits, expected)

    def test_gradient_checkpointing_is_refused(self):
        with pytest.raises(ValueError, match="does not support activation checkpointing"):
            built(StaticStudentModel).activation_checkpointing_enable()


@pytest.mark.parametrize("head", [StaticStudentForSequenceClassification, StaticStudentForTokenClassification])
def test_the_trainer_distils_into_it_at_any_accumulation(head, tmp_path):
    """One step of soft and hard targets, whole or in four micro-batches, gives the same weights."""
    per_token = head is StaticStudentForTokenClassification
    rows = tiny_rows(8, unlabelled=2)
    teacher = tiny_bert(num_labels=3)
    if per_token:
        teacher = built(head, vocab_size=50, num_labels=3)
        labels = [[token % 3 for token in row] for row in rows["input_ids"]]
        rows = datasets.Dataset.from_dict({**rows.to_dict(), "labels": labels})
    trained = []
    for batch, accumulation in ((8, 1), (2, 4)):
        student = built(head, vocab_size=50, num_labels=3, dropout=0.0, hidden_size=9)
        arguments = DistillationArguments(
            tmp_path,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            learning_rate=0.5,
            optim="sgd",
            max_grad_norm=0.0,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
        )
        collator = DataCollatorForTokenClassification(tiny_tokenizer()) if per_token else collate
        before = student.static.ngrams.weight.clone()
        DistillationTrainer(
            student, arguments, teacher_model=teacher, train_dataset=rows, data_collator=collator
        ).train()
        assert not torch.equal(before, student.static.ngrams.weight)
        trained.append(student)
    for (name, one), (_, four) in zip(*(model.named_parameters() for model in trained), strict=True):
        torch.testing.assert_close(one, four, atol=1e-6, rtol=1e-5, msg=name)


# What a released student meets: transformers without hf_distill. It answers with the outputs of every folder.
WITHOUT_PACKAGE = """
import json, sys
sys.modules["hf_distill"] = None  # any import of it fails, even where it is installed
import torch, transformers
folders, inputs, mask, text = json.loads(sys.argv[1])
outputs = {}
for auto_class, folder in folders.items():
    model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True).eval()
    outputs[auto_class] = model(torch.tensor(inputs), attention_mask=torch.tensor(mask))[0].tolist()
    if auto_class == "AutoModelForSequenceClassification":
        model.save_pretrained(folder + "_again")
        answer = transformers.pipeline("text-classification", folder, trust_remote_code=True)(text)
print(json.dumps({"outputs": outputs, "answer": answer}))
"""


class TestSaveAndLoad:
    @pytest.mark.parametrize("auto_class", HEADS)
    def test_round_trip(self, auto_class, tmp_path):
        model = built(HEADS[auto_class])
        ids, mask = padded(sentences([3, 7, 5]))
        model.save_pretrained(tmp_path)
        again = auto_class.from_pretrained(tmp_path)
        assert type(again) is HEADS[auto_class]
        assert again.state_dict().keys() == model.state_dict().keys()
        assert torch.equal(again(ids, mask)[0], model(ids, mask)[0])
        offloaded = auto_class.from_pretrained(tmp_path, device_map={"": "disk"}, offload_folder=tmp_path / "offload")
        assert all(parameter.is_meta for parameter in offloaded.parameters())
        assert torch.equal(offloaded(ids, mask)[0], model(ids, mask)[0])

    def test_tables_go_into_a_head(self, tmp_path):
        encoder = built(StaticStudentModel)
        encoder.save_pretrained(tmp_path)
        classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
        assert torch.equal(classifier.static.ngrams.weight, encoder.ngrams.weight)
        assert torch.equal(classifier.static.embeddings.token_weights, encoder.embeddings.token_weights)
        assert classifier.classifier.out_features == 5

    @pytest.mark.cheapest
    def test_loads_where_the_package_is_missing(self, tmp_path):
        ids, mask = padded(sentences([3, 7, 5]), "left")
        folders, expected, text = {}, {}, ["good film"]
        tokenizer = tiny_tokenizer()
        for auto_class, head in HEADS.items():
            folder = folders[auto_class.__name__] = str(tmp_path / auto_class.__name__)
            model = built(head)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            expected[auto_class.__name__] = model(ids, attention_mask=mask)[0]
        run = subprocess.run(
            [sys.executable, "-I", "-c", WITHOUT_PACKAGE, json.dumps([folders, ids.tolist(), mask.tolist(), text])],
            cwd=tmp_path,
            env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        answers = json.loads(run.stdout.splitlines()[-1])
        for name, output in answers["outputs"].items():
            torch.testing.assert_close(torch.tensor(output), expected[name], atol=1e-6, rtol=1e-6)
        classifier = built(StaticStudentForSequenceClassification)
        scores = classifier(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)
        assert answers["answer"][0]["score"] == pytest.approx(scores.max().item(), rel=1e-5)
        copy = tmp_path / "AutoModelForSequenceClassification_again"
        assert {"modeling_static.py", "configuration_static.py", "config.json"} <= {
            path.name for path in copy.iterdir()
        }
