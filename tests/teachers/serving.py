"""`examples/serve.py` over small models, in a thread."""

import importlib.util
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.conftest import tiny_bert
from tests.teachers.models import tiny_llama

SERVE = Path(__file__).parents[2] / "examples" / "serve.py"
SPECIAL = ["[PAD]", "[END]"]
CHAT = (
    "{% for message in messages %}{{ message.role[0] }}|{{ message.content }}{% if message.role == 'assistant' %}[END]"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}a|{% endif %}"
)


def load_serve():
    spec = importlib.util.spec_from_file_location("serve", SERVE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["serve"] = module  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    return module


serve = load_serve()


def characters(chat=True, special=SPECIAL, reverse=False):
    """A tokenizer of one token a byte, with a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=reverse)
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", eos_token="[END]", model_max_length=10_000
    )
    tokenizer.chat_template = CHAT if chat else None
    return tokenizer


TOKENS = len(characters())


def language_model(model=tiny_llama, **config):
    """A random causal model of `characters`, whose letters are likely enough to be among its first twenty tokens."""
    made = model(vocab_size=TOKENS, **{"max_position_embeddings": 700, **config})
    made.generation_config.eos_token_id = made.config.eos_token_id = 1
    return made


def fond_of(model, tokenizer, text, by=4.0):
    """The model with a bias towards the characters of a text."""
    ids = tokenizer(text)["input_ids"]
    head = torch.nn.Linear(model.config.hidden_size, TOKENS)
    head.weight.data = model.get_output_embeddings().weight.data.clone()
    head.bias.data.zero_()
    head.bias.data[ids] = by
    model.set_output_embeddings(head)
    return model.eval()


def classifier(names=("negative", "positive", "neutral"), seed=0):
    """A random classifier over the words of `word_ids`, and its tokenizer."""
    model = tiny_bert(seed=seed, num_labels=len(names), id2label=dict(enumerate(names)))
    words = {"[PAD]": 0, "[UNK]": 1, **{f"w{number}": number + 2 for number in range(48)}}
    made = Tokenizer(models.WordLevel(words, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return model, PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", model_max_length=40
    )


@contextmanager
def serving(answers, name="tiny", **options):
    """A running server."""
    with serve.Server(answers, name, **options) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
