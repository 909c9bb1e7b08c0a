"""examples/chat.py as a person meets it: a process that reads lines, with models that learnt two conversations."""

import importlib.util
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from hf_distill import LSTMStudentConfig, LSTMStudentForCausalLM
from hf_distill.data.language_modeling import language_model_rows
from tests.data.test_language_modeling import byte_level, conversations, turns

CHAT = Path(__file__).parents[2] / "examples" / "chat.py"
WITHOUT_PACKAGE = """
import runpy, sys
sys.modules["hf_distill"] = None  # any import of it fails, even where it is installed
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ARGUMENTS = ["--temperature", "0", "--max-new-tokens", "12"]
# What answers "how?" depends on what was said before.
TALKS = [turns("Hello", "Hello there", "how?", "né 😀 thank you"), turns("how?", "I am well")]


def learnt(model, folder, system=None):
    """A folder with the model, once it knows the conversations by heart, and its tokenizer."""
    tokenizer = byte_level()
    start = [] if system is None else [{"role": "system", "content": system}]
    rows = language_model_rows(conversations(*(start + talk for talk in TALKS)), tokenizer)[0]
    batches = [{name: torch.tensor([row[name]]) for name in ("input_ids", "labels")} for row in rows]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    model.train()
    for _ in range(200):
        loss = sum(model(**batch).loss for batch in batches)
        if loss < 0.05:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


LINES = ["Hello", "", "how?", "/reset", "how?"]
ANSWERS = "> Hello there\n> > né 😀 thank you\n> (starting over)\n> I am well\n> \n"


@pytest.fixture
def chat(monkeypatch, capsys):
    """The script within this process: what it writes to lines that it is given."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    specification = importlib.util.spec_from_file_location("chat", CHAT)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)

    def run(folder, lines, *words):
        monkeypatch.setattr(sys, "argv", ["chat.py", str(folder), *ARGUMENTS, *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
        capsys.readouterr()
        script.main()
        return capsys.readouterr().out

    run.script = script
    yield run
    logging.set_verbosity(verbosity)
    if bars:
        logging.enable_progress_bar()


def llama(**changes):
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=320, eos_token_id=2, pad_token_id=0, **size | changes))


@pytest.mark.long
def test_a_student_in_a_process_without_the_package(tmp_path):
    config = LSTMStudentConfig(vocab_size=320, embedding_size=32, hidden_size=64, eos_token_id=2, dropout=0.0)
    folder = learnt(LSTMStudentForCausalLM(config), tmp_path)
    command = [sys.executable, "-c", WITHOUT_PACKAGE, CHAT, folder, *ARGUMENTS, "--trust-remote-code"]
    done = subprocess.run(command, input="\n".join(LINES), capture_output=True, text=True, timeout=800)
    assert done.stdout == ANSWERS, done.stderr


def test_a_transformer_answers_and_forgets_what_is_too_long_ago(tmp_path, chat):
    folder = learnt(llama(), tmp_path)
    assert chat(folder, LINES) == ANSWERS
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=50)  # five turns and an answer are more
    tokenizer.save_pretrained(folder)
    kept = tokenizer.apply_chat_template(
        turns("how?", "né 😀 thank you", "how?"), add_generation_prompt=True, return_tensors="pt"
    )
    written = LlamaForCausalLM.from_pretrained(folder).generate(**kept, max_new_tokens=12, do_sample=False)[0]
    last = tokenizer.decode(written[kept["input_ids"].shape[1] :], skip_special_tokens=True)
    assert chat(folder, ["Hello", "how? " * 40, "how?", "how?"]) == (
        "> Hello there\n"
        "> (too long for this model: say it in fewer words)\n"
        "> né 😀 thank you\n"
        f"> (the oldest turns are forgotten)\n{last}\n> \n"
    )


def test_an_answer_can_be_stopped(tmp_path, chat, monkeypatch):
    folder = learnt(llama(), tmp_path)
    answer = chat.script.answer
    stops = iter([True, False])

    def stopped_once(*arguments):
        if next(stops):
            raise KeyboardInterrupt
        return answer(*arguments)

    monkeypatch.setattr(chat.script, "answer", stopped_once)
    assert chat(folder, ["Hello", "how?"]) == "> \n(stopped, and forgotten)\n> I am well\n> \n"


def test_the_config_may_hold_the_limit(tmp_path, chat):
    folder = learnt(llama(max_position_embeddings=50), tmp_path)
    assert "too long for this model" in chat(folder, ["how? " * 20])


def test_an_instruction_stays_through_a_reset(tmp_path, chat):
    folder = learnt(llama(), tmp_path, system="user")
    assert (
        chat(folder, ["how?", "/reset", "how?"], "--system", "user")
        == "> I am well\n> (starting over)\n> I am well\n> \n"
    )


def test_a_tokenizer_without_a_chat_template_needs_one(tmp_path, chat, capsys):
    folder = learnt(llama(), tmp_path)
    (folder / "chat_template.jinja").rename(tmp_path / "template")
    with pytest.raises(SystemExit):
        chat(folder, [])
    assert "has no chat template: pass one with --chat-template FILE" in capsys.readouterr().err
    assert chat(folder, LINES, "--chat-template", str(tmp_path / "template")) == ANSWERS
