"""What holds for every matching: padding, cutting, counting, words, gradients and errors."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from hf_distill.matching.adversarial import AdversarialMatching
from hf_distill.matching.attention import AttentionMatching
from hf_distill.matching.base import States
from hf_distill.matching.hidden_states import HiddenStateMatching
from hf_distill.matching.relations import RelationMatching
from hf_distill.matching.variational import VariationalMatching
from tests.conftest import tiny_bert
from tests.matching.cases import KINDS, LAYERS, LENGTHS, WIDTH, WORDS, built, case, models, padded, states


def rows_of(made, rows):
    return States(
        hidden=tuple(state[rows] for state in made.hidden),
        mask=made.mask[rows],
        attentions=None if made.attentions is None else tuple(each[rows] for each in made.attentions),
        word_starts=None if made.word_starts is None else made.word_starts[rows],
        logits=None if made.logits is None else made.logits[rows],
    )


CASES = [(kind, granularity) for kind, make in KINDS.items() for granularity in make().granularities]


@pytest.mark.parametrize(("kind", "granularity"), CASES)
def test_padding_changes_nothing(kind, granularity):
    matching, student, teacher = case(kind, granularity)
    expected = matching(student, teacher, 0.5)
    for side in ("right", "left"):
        wider = padded(student, 3, side), padded(teacher, 3 if granularity == "token" else 1, side)
        leaf = wider[0].hidden[1].clone().requires_grad_()
        wider = replace(wider[0], hidden=(wider[0].hidden[0], leaf, wider[0].hidden[2])), wider[1]
        found = matching(*wider, 0.5)
        torch.testing.assert_close(found.values, expected.values, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(found.rows, expected.rows)
        if kind != "attention":
            found.values.sum().backward()
            assert leaf.grad.isfinite().all()
            assert leaf.grad[~wider[0].mask].abs().max() == 0


@pytest.mark.parametrize(("kind", "granularity"), CASES)
def test_cutting_a_batch_changes_nothing(kind, granularity):
    matching, student, teacher = case(kind, granularity)
    whole = matching(student, teacher, 0.5)
    parts = [matching(rows_of(student, [row]), rows_of(teacher, [row]), 0.5) for row in range(4)]
    torch.testing.assert_close(torch.cat([part.values for part in parts]), whole.values, rtol=1e-12, atol=1e-13)
    for name, logged in whole.logged.items():
        torch.testing.assert_close(torch.cat([part.logged[name] for part in parts]), logged)


@pytest.mark.parametrize(("kind", "granularity"), CASES)
def test_counted_is_what_comes(kind, granularity):
    matching, student, teacher = case(kind, granularity)
    counts = matching.counted(student.mask, student.word_starts, teacher.mask, teacher.word_starts)
    assert counts.tolist() == {"token": [5, 3, 0, 6], "word": [2, 1, 0, 2], "sequence": [1, 1, 0, 1]}[granularity]
    items = matching(student, teacher, 0.5)
    assert items.rows.bincount(minlength=4).tolist() == counts.tolist()
    assert items.values.shape == items.rows.shape
    assert all(logged.shape == items.rows.shape for logged in items.logged.values())


@pytest.mark.parametrize(("kind", "granularity"), CASES)
def test_a_batch_of_nothing(kind, granularity):
    """No items, and still a graph to all parameters, which data parallelism waits for."""
    matching, student, teacher = case(kind, granularity)
    empty = replace(student, mask=student.mask & False), replace(teacher, mask=teacher.mask & False)
    items = matching(*empty, 0.5)
    assert items.values.shape == items.rows.shape == (0,)
    if list(matching.parameters()):
        items.values.sum().backward()
        assert all(parameter.grad.abs().max() == 0 for parameter in matching.parameters())


@pytest.mark.parametrize(("kind", "granularity"), CASES)
def test_the_teacher_gets_no_gradient(kind, granularity):
    matching, student, teacher = case(kind, granularity)

    def leaves(tensors):
        return None if tensors is None else tuple(tensor.clone().requires_grad_() for tensor in tensors)

    teacher = replace(
        teacher,
        hidden=leaves(teacher.hidden),
        attentions=leaves(teacher.attentions),
        logits=teacher.logits.clone().requires_grad_(),
    )
    student = replace(student, hidden=leaves(student.hidden), attentions=leaves(student.attentions))
    matching(student, teacher, 0.5).values.sum().backward()
    given = [*teacher.hidden, *(teacher.attentions or ()), teacher.logits]
    assert all(tensor.grad is None for tensor in given)
    inputs = student.attentions if kind == "attention" else student.hidden[1:]
    assert all(tensor.grad.abs().max() > 0 for tensor in inputs)


@pytest.mark.parametrize(
    ("kind", "granularity"), [each for each in CASES if each[0] in ("mse", "cosine", "attention", "relation")]
)
def test_nothing_separates_a_model_from_itself(kind, granularity):
    made = states([WIDTH] * 4, LENGTHS, WORDS["student"] if granularity == "word" else None, heads=2)
    matching = KINDS[kind](granularity=granularity)
    matching.layers = {1: 1, -1: 3}
    matching = built(matching, made, made)
    assert matching(made, made, 0.5).values.abs().max() < 1e-12
    assert not list(matching.parameters())


@pytest.mark.parametrize(
    ("kind", "granularity"), [each for each in CASES if each[0] not in ("attention", "adversarial")]
)
def test_gradients(kind, granularity):
    matching, student, teacher = case(kind, granularity)

    def values(hidden, *parameters):
        return matching(replace(student, hidden=(student.hidden[0], hidden, student.hidden[2])), teacher, 0.5).values

    leaf = student.hidden[1].clone().requires_grad_()
    assert torch.autograd.gradcheck(values, [leaf, *matching.parameters()], fast_mode=True)


@pytest.mark.parametrize(("kind", "granularity"), CASES)
def test_low_precision_is_computed_in_float32(kind, granularity):
    matching, student, teacher = case(kind, granularity, dtype=torch.bfloat16)
    assert all(parameter.dtype == torch.float32 for parameter in matching.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = matching(student, teacher, 0.5).values
        again = built(KINDS[kind](granularity=granularity), student, teacher)
    assert found.dtype == torch.float32

    def up(made):
        return States(
            tuple(state.double() for state in made.hidden),
            made.mask,
            None if made.attentions is None else tuple(each.double() for each in made.attentions),
            made.word_starts,
            None if made.logits is None else made.logits.double(),
        )

    exact = copy.deepcopy(matching).double()(up(student), up(teacher), 0.5).values
    torch.testing.assert_close(found.double(), exact, rtol=2e-4, atol=2e-5)
    if kind == "variational":
        torch.testing.assert_close(list(again.spreads), list(matching.spreads))
    # Trainer casts the whole model for bf16_full_eval.
    assert matching.to(torch.bfloat16)(student, teacher, 0.5).values.isfinite().all()


@pytest.mark.parametrize(("kind", "granularity"), CASES)
def test_building_is_repeatable(kind, granularity):
    matching, student, teacher = case(kind, granularity)
    kept = copy.deepcopy(matching.state_dict())
    built(matching, student, teacher)  # the same models again: nothing is drawn anew
    torch.testing.assert_close(matching.state_dict(), kept, rtol=0, atol=0)
    other, _, _ = case(kind, granularity)
    torch.testing.assert_close(other.state_dict(), kept, rtol=0, atol=0)
    found = [each(student, teacher, 0.5).values for each in (matching, other)]
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_word_pooling_by_hand():
    """[CLS] un ##der stand [SEP] against [CLS] under st ##and ##ing [SEP] and a word that the student cut off."""
    ours = torch.tensor([[[9.0, 9.0], [1.0, 2.0], [3.0, 6.0], [5.0, 0.0], [7.0, 7.0]]])
    theirs = torch.tensor([[[8.0, 8.0], [2.0, 4.0], [6.0, 0.0], [3.0, 0.0], [6.0, 0.0], [1.0, 7.0], [7.0, 7.0]]])
    student = States((ours,), torch.ones(1, 5).bool(), word_starts=torch.tensor([[-100, 1, 0, 1, -100]]))
    teacher = States((theirs,), torch.ones(1, 7).bool(), word_starts=torch.tensor([[-100, 1, 1, 0, 0, 1, -100]]))
    matching = built(HiddenStateMatching({0: 0}, granularity="word"), student, teacher)
    alignment, views = matching._align(student, teacher, 0.0)
    pooled, teacher_pooled = next(views)
    assert pooled[alignment.keep].tolist() == teacher_pooled[alignment.keep].tolist() == [[2.0, 4.0], [5.0, 0.0]]
    assert matching(student, teacher, 0.0).values.tolist() == [0.0, 0.0]
    assert matching.counted(student.mask, student.word_starts, teacher.mask, teacher.word_starts).tolist() == [2]


def test_pieces_before_the_first_word_belong_to_none():
    """A row cut on the left may begin within a word."""
    hidden = torch.randn(1, 4, WIDTH)
    starts = torch.tensor([[0, 0, 1, 0]])
    made = States((hidden,), torch.ones(1, 4).bool(), word_starts=starts)
    matching = built(HiddenStateMatching({0: 0}, granularity="word"), made, made)
    alignment, views = matching._align(made, made, 0.0)
    torch.testing.assert_close(next(views)[0][alignment.keep], hidden[:, 2:].mean(1))


@pytest.mark.parametrize("granularity", ["word", "sequence"])
@pytest.mark.parametrize("empty", ["student", "teacher"])
def test_an_example_empty_on_one_side_is_no_item(granularity, empty):
    met = dict(zip(("student", "teacher"), models(granularity), strict=True))
    kept = torch.tensor([True, False, True, True])[:, None]
    met[empty] = replace(met[empty], mask=met[empty].mask & kept)
    matching = built(HiddenStateMatching(LAYERS, granularity=granularity), **met)
    assert matching(**met, progress=0.5).rows.unique().tolist() == [0, 3]
    starts = {name: made.word_starts for name, made in met.items()}
    counts = matching.counted(met["student"].mask, starts["student"], met["teacher"].mask, starts["teacher"])
    assert counts.tolist() == ([2, 0, 0, 2] if granularity == "word" else [1, 0, 0, 1])


def test_layers_count_from_both_ends():
    student, teacher = models(heads=2, teacher_heads=2)
    matching = built(HiddenStateMatching({0: -4, -1: 3, -2: 0}), student, teacher)
    assert matching.pairs == [(0, 0), (2, 3), (1, 0)]
    # There is no attention of the embeddings: layer 1 is the first.
    assert built(AttentionMatching({1: -3, -1: -1}), student, teacher).pairs == [(1, 1), (2, 3)]


def test_names():
    names = [make().name for make in KINDS.values()]
    assert names == [*["hidden_state"] * 2, "attention", "relation", *["variational"] * 2, "adversarial"]
    assert HiddenStateMatching({0: 0}, name="pooled").name == "pooled"


def test_a_transformer_in_training_mode_teaches_an_lstm():
    """Real models: only the widths matter, and attention dropout leaves the attentions comparable."""
    ids = torch.randint(3, 50, (3, 7))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 2 + [0] * 5])
    asked = {"output_hidden_states": True, "output_attentions": True}

    def said(model):
        output = model(input_ids=ids, attention_mask=mask, **asked)
        return States(output.hidden_states, mask.bool(), output.attentions, logits=output.logits)

    bert = tiny_bert(dropout=0.1, num_labels=3, attn_implementation="eager")
    teacher = said(bert)
    lstm = nn.LSTM(6, 9, bidirectional=True, batch_first=True)
    embedded = nn.Embedding(50, 6)(ids)
    student = States((embedded, lstm(embedded)[0]), mask.bool())
    for matching in (
        HiddenStateMatching({0: 0, -1: -1}),
        RelationMatching({1: -1}, heads=2),
        VariationalMatching({1: -1}, latent_size=2),
        AdversarialMatching({1: -1}),
    ):
        values = built(matching, student, teacher)(student, teacher, 0.5).values
        assert values.shape == (13,)
        assert values.isfinite().all()

    alike = built(AttentionMatching({1: 1, 2: 2}), teacher, teacher)
    dropped = alike(said(bert.train()), teacher, 0.5).values
    assert dropped.isfinite().all()
    assert dropped.max() < 1, "keys that dropout removed would cost some 30 nats each"


@pytest.mark.parametrize("kind", ["mse", "relation", "variational", "latent", "adversarial"])
def test_a_student_learns(kind):
    """Descending the loss brings held-out states nearer to the teacher's: the signs are right."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 4, 6)
    teacher_net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8)).requires_grad_(False)
    student_net = nn.Linear(6, 8)
    mask = torch.ones(64, 4).bool()
    make = {
        "mse": HiddenStateMatching({0: 0}),
        "relation": RelationMatching({0: 0}, heads=2),
        "variational": VariationalMatching({0: 0}),
        "latent": VariationalMatching({0: 0}, latent_size=4),
        "adversarial": AdversarialMatching({0: 0}, hidden_size=32),
    }

    def said(net, part):
        return States((net(inputs[part]),), mask[part])

    train, held_out = slice(0, 48), slice(48, 64)
    matching = built(make[kind], said(student_net, train), said(teacher_net, train))
    optimizer = torch.optim.Adam([*student_net.parameters(), *matching.parameters()], lr=1e-2)

    def measure():
        with torch.no_grad():
            items = matching(said(student_net, held_out), said(teacher_net, held_out), 1.0)
        return (items.logged["mse"] if kind == "adversarial" else items.values).mean().item()

    before = measure()
    for step in range(120):
        optimizer.zero_grad()
        matching(said(student_net, train), said(teacher_net, train), step / 120).values.mean().backward()
        optimizer.step()
    after = measure()
    assert after < (before - 0.3 if kind in ("variational", "latent") else 0.5 * before), (before, after)


@pytest.mark.parametrize("layers", [{}, [1, 2], {1: "2"}, {True: 1}, {1.0: 1}, None])
def test_layers_must_be_a_map(layers):
    with pytest.raises(ValueError, match="layers must map student layers to teacher layers"):
        HiddenStateMatching(layers)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HiddenStateMatching({0: 0}, weight=-1.0), "weight must be a finite number >= 0.*got -1.0"),
        (lambda: HiddenStateMatching({0: 0}, weight=math.nan), "weight must be a finite number"),
        (lambda: HiddenStateMatching({0: 0}, granularity="piece"), "one of 'token', 'word', 'sequence'; got 'piece'"),
        (lambda: HiddenStateMatching({0: 0}, loss="mae"), "loss must be 'mse' or 'cosine', got 'mae'"),
        (lambda: AttentionMatching({1: 1}, granularity="word"), "must be \"token\", got 'word'.*use RelationMatching"),
        (lambda: RelationMatching({0: 0}, granularity="sequence"), "a single vector; its only relation"),
        (lambda: RelationMatching({0: 0}, heads=0), "heads must be at least 1, got 0"),
        (lambda: VariationalMatching({0: 0}, latent_size=0), "latent_size must be at least 1, or None.*got 0"),
        (lambda: AdversarialMatching({0: 0}, hidden_size=0), "hidden_size must be at least 1"),
        (lambda: AdversarialMatching({0: 0}, learning_rate=0.0), "learning_rate above 0"),
        (lambda: AdversarialMatching({0: 0}, mse_weight=-1.0), "mse_weight and gradient_penalty must not be negative"),
        (lambda: AdversarialMatching({0: 0}, gradient_penalty=-1.0), "must not be negative"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({3: 0}, r"the student has no layer 3. It has 3 states, 0 \(the embeddings\) to 2, or -3 to -1"),
        ({-4: 0}, "the student has no layer -4"),
        ({0: 4}, "the teacher has no layer 4. It has 4 states"),
        ({0: -5}, "the teacher has no layer -5"),
    ],
)
def test_layers_that_are_not_there(layers, message):
    student, teacher = models()
    with pytest.raises(ValueError, match=message):
        built(HiddenStateMatching(layers, name="inner"), student, teacher)


@pytest.mark.parametrize("kind", ["mse", "attention", "relation"])
def test_token_granularity_needs_the_same_tokens(kind):
    matching, student, teacher = case(kind, "token")
    remedy = {
        "mse": 'Use granularity="word" or granularity="sequence"',
        "attention": "Use one tokenizer for both, or a matching of hidden states",
        "relation": 'Use granularity="word", and pad',
    }[kind]
    message = (
        'granularity="token" compares position by position, but student and teacher have different tokens.*' + remedy
    )
    shorter = replace(teacher, mask=teacher.mask & (torch.arange(6) < 4))
    for other in (padded(teacher, 2), shorter):
        with pytest.raises(ValueError, match=message):
            matching(student, other, 0.5)
        with pytest.raises(ValueError, match=message):
            matching.counted(student.mask, None, other.mask, None)
        with pytest.raises(ValueError, match=message):
            built(KINDS[kind](), student, other)
    # Cut to one length on both sides: only the words tell.
    starts = torch.tensor([[1, 1, 0, 1]]), torch.tensor([[1, 0, 1, 1]])
    full = torch.ones(1, 4).bool()
    with pytest.raises(ValueError, match="words that start elsewhere"):
        matching.counted(full, starts[0], full, starts[1])
    assert matching.counted(full, starts[0], full, starts[0]).tolist() == [4]


def test_word_granularity_needs_words():
    student, teacher = models("word")
    matching = HiddenStateMatching(LAYERS, granularity="word")
    with pytest.raises(ValueError, match=r'there is no word_starts. Add.*or use granularity="sequence"'):
        built(matching, replace(student, word_starts=None), teacher)
    with pytest.raises(ValueError, match="there is no teacher_word_starts"):
        built(matching, student, replace(teacher, word_starts=None))
    with pytest.raises(ValueError, match="no word_starts and no teacher_word_starts"):
        matching.counted(student.mask, None, teacher.mask, None)


def test_build_comes_first():
    student, teacher = models()
    for make in KINDS.values():
        with pytest.raises(ValueError, match=r"call build\(...\).*never be trained"):
            make()(student, teacher, 0.5)


def test_other_models_need_another_matching():
    matching, student, _ = case("mse", "token")
    _, other = models(teacher_width=16)
    with pytest.raises(ValueError, match=r"built for a student of widths \(8, 8, 8\).*make a new one"):
        built(matching, student, other)
