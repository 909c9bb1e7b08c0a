"""Likelihoods of whole answers: with shared prefixes, batches and padding they are those of reading each alone."""

import pytest
import torch
from transformers import LlamaForCausalLM, OPTConfig, OPTForCausalLM, T5Config, T5ForConditionalGeneration, set_seed

from hf_distill import LSTMStudentConfig, LSTMStudentForCausalLM, LSTMStudentForSeq2SeqLM
from hf_distill.teachers.likelihoods import AnswerLikelihoods
from hf_distill.teachers.prompts import ClassPrompt
from tests import cases
from tests.teachers.models import tiny_gpt2, tiny_llama
from tests.teachers.serving import TOKENS, characters

TEXTS = ["good", "a much longer text than the others", "so so", "b"]
PROMPT = ClassPrompt({"bad": None, "good": "fine"}, "How?", spellings={"bad": ["bad", "not good", "b"]})
SMALL = {"vocab_size": TOKENS, "pad_token_id": 0, "eos_token_id": 1}


def opt(seed=0, **config):
    set_seed(seed)
    size = {
        "hidden_size": 16,
        "ffn_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "word_embed_proj_dim": 16,
    }
    return OPTForCausalLM(OPTConfig(**size, max_position_embeddings=400, init_std=0.5, **config)).eval()


def t5(**config):
    set_seed(0)
    size = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(**size, initializer_factor=5.0, **config)).eval()


def lstm(model_class, **config):
    set_seed(0)
    size = {"embedding_size": 16, "hidden_size": 16, "decoder_start_token_id": 0}
    return model_class(LSTMStudentConfig(**size, **config)).eval()


def alone(model, tokenizer, text, by_letter=False, prompt=PROMPT):
    """(classes,) of one text, each answer in a forward of its own."""
    totals = []
    for answers in prompt.answers(by_letter):
        scores = []
        for answer in answers:
            with torch.no_grad():
                if model.config.is_encoder_decoder:
                    question = torch.tensor([tokenizer(prompt.plain(text, by_letter))["input_ids"]])
                    labels = torch.tensor([[*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]])
                    logits, targets, start = model(input_ids=question, labels=labels).logits[0], labels[0], 0
                else:
                    rendered, space = prompt.rendered(text, by_letter, tokenizer)
                    end = tokenizer.eos_token if tokenizer.chat_template else "\n"
                    question = tokenizer(rendered)["input_ids"]
                    whole = torch.tensor([tokenizer(rendered + space + answer + end)["input_ids"]])
                    logits, targets, start = model(input_ids=whole).logits[0, :-1], whole[0, 1:], len(question) - 1
            steps = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
            scores.append(steps[start:].sum())
        totals.append(torch.stack(scores).logsumexp(0))
    return torch.stack(totals)


MODELS = {
    "llama": (lambda: tiny_llama(vocab_size=TOKENS, max_position_embeddings=400), True),
    "gpt2": (lambda: tiny_gpt2(vocab_size=TOKENS, n_positions=400, bos_token_id=1, eos_token_id=1), True),
    "opt": (lambda: opt(**SMALL), True),
    "lstm": (lambda: lstm(LSTMStudentForCausalLM, **SMALL), False),
    "t5": (lambda: t5(**SMALL), None),
    "lstm translator": (lambda: lstm(LSTMStudentForSeq2SeqLM, **SMALL), None),
}


class Forgetful(LlamaForCausalLM):
    """Takes keys and values and does not read them."""

    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, use_cache=None, **kwargs):
        mask = None if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
        return super().forward(input_ids=input_ids, attention_mask=mask, use_cache=use_cache)


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_batches_equal_reading_each_answer_alone(name, chat):
    make, shares = MODELS[name]
    model, tokenizer = make().double(), characters(chat)
    likelihoods = AnswerLikelihoods(model, tokenizer, PROMPT, by_letter=False, batch_size=12)
    questions = likelihoods.questions(TEXTS)
    found = torch.empty(len(TEXTS), 2, dtype=torch.float64)
    for numbers, summed in likelihoods(questions):
        found[numbers] = summed
    expected = torch.stack([alone(model, tokenizer, text) for text in TEXTS])
    assert torch.allclose(found, expected, atol=1e-5), (found - expected).abs().max()
    assert likelihoods.shares is shares


def test_letters_are_one_token_each():
    model, tokenizer = tiny_llama(vocab_size=TOKENS, max_position_embeddings=400).double(), characters()
    likelihoods = AnswerLikelihoods(model, tokenizer, PROMPT, by_letter=True, batch_size=8)
    ((numbers, found),) = likelihoods(likelihoods.questions(TEXTS[:1]))
    assert numbers == [0]
    assert torch.allclose(found[0], alone(model, tokenizer, TEXTS[0], by_letter=True), atol=1e-5)


def test_a_model_that_a_shared_prefix_changes_reads_each_answer_whole():
    model = tiny_llama(vocab_size=TOKENS, max_position_embeddings=400).double()
    model.__class__ = Forgetful
    likelihoods = AnswerLikelihoods(model, characters(), PROMPT, by_letter=False, batch_size=8)
    ((_, found),) = likelihoods(likelihoods.questions(TEXTS[:1]))
    assert likelihoods.shares is False
    assert torch.allclose(found[0], alone(model, characters(), TEXTS[0]), atol=1e-5)


def test_too_long_prompts_are_told_before_any_is_read():
    model = tiny_llama(vocab_size=TOKENS, max_position_embeddings=200)
    likelihoods = AnswerLikelihoods(model, characters(), PROMPT, by_letter=False, batch_size=8)
    with pytest.raises(ValueError, match=r"1 of 2 prompts are longer than the 200 tokens .* is of 'long long"):
        likelihoods.questions(["short", "long " * 40])


def test_bad_tokenizers():
    tokenizer = characters()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="has no end token"):
        AnswerLikelihoods(tiny_llama(vocab_size=TOKENS), tokenizer, PROMPT, by_letter=False, batch_size=8)
    model = cases.models("seq2seq", "")[1]
    with pytest.raises(ValueError, match="has no end token"):
        AnswerLikelihoods(model, tokenizer, PROMPT, by_letter=False, batch_size=8)
