# /// script
# requires-python = ">=3.11"
# dependencies = ["torch", "transformers>=5.23,<6", "jinja2", "gguf"]
# ///
"""Talk to a language model in a terminal, teacher or student: it answers word by word and remembers what was said.

    python examples/chat.py outputs/dialogue/student --trust-remote-code   # a student that brings its own code
    python examples/chat.py HuggingFaceTB/SmolLM2-135M-Instruct
    python examples/chat.py folder/with/gguf --gguf-file SmolLM2-135M-Instruct.Q4_1.gguf

/reset starts over, Ctrl-C stops an answer, Ctrl-D ends. Any causal language model with a chat template will do, from a
folder or the Hub; hf_distill need not be installed.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer, set_seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder or Hub id")
    parser.add_argument("--gguf-file", help="name of a GGUF file in there")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the code that comes with the model")
    parser.add_argument("--chat-template", type=Path, help="Jinja file, for a tokenizer that has none")
    parser.add_argument("--system", help="an instruction to begin with")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="length of an answer")
    parser.add_argument("--temperature", type=float, default=0.7, help="0: always the likeliest word")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    set_seed(options.seed)

    loading: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    if options.gguf_file:
        loading["gguf_file"] = options.gguf_file
    tokenizer = AutoTokenizer.from_pretrained(options.model, **loading)
    if options.chat_template:
        tokenizer.chat_template = options.chat_template.read_text()
    if tokenizer.chat_template is None:
        parser.error(f"the tokenizer of {options.model} has no chat template: pass one with --chat-template FILE")
    model = AutoModelForCausalLM.from_pretrained(options.model, **loading).eval()
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    talk(model, tokenizer, options)


def talk(model: Any, tokenizer: Any, options: argparse.Namespace) -> None:
    """Read lines and answer them until the input ends."""
    start = [{"role": "system", "content": options.system}] if options.system else []
    said = list(start)
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line == "/reset":
            said = list(start)
            print("(starting over)")
        elif line:
            asked = [*said, {"role": "user", "content": line}]
            kept, prompt = fitting(asked, len(start), model, tokenizer, options.max_new_tokens)
            if prompt is None:
                print("(too long for this model: say it in fewer words)")
                continue
            if len(kept) < len(asked):
                print("(the oldest turns are forgotten)")
            try:
                said = [*kept, {"role": "assistant", "content": answer(prompt, model, tokenizer, options)}]
            except KeyboardInterrupt:
                print("\n(stopped, and forgotten)")


def fitting(
    asked: list[dict[str, str]], always: int, model: Any, tokenizer: Any, room: int
) -> tuple[list[dict[str, str]], Any]:
    """The conversation without its oldest turns where it grew too long for the model.

    Args:
        asked: messages, the last one of the user.
        always: how many at the beginning stay.
        model: its config knows how many positions there are.
        tokenizer: with a chat template.
        room: tokens to leave for the answer.
    Returns:
        The messages, and what `generate` reads; None where not even the last message fits.
    """
    limit = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or float("inf"))
    for first in range(always, len(asked), 2):
        kept = asked[:always] + asked[first:]
        prompt = tokenizer.apply_chat_template(kept, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        if prompt["input_ids"].shape[1] + room <= limit:
            return kept, prompt.to(model.device)
    return asked, None


def answer(prompt: Any, model: Any, tokenizer: Any, options: argparse.Namespace) -> str:
    """What the model says, printed while it says it."""
    stops = model.generation_config.eos_token_id
    stops = {tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])} - {None}
    sampling = {"do_sample": True, "temperature": options.temperature} if options.temperature else {"do_sample": False}
    written = model.generate(
        # A stateful model reads no token_type_ids, which some tokenizers add.
        input_ids=prompt["input_ids"],
        attention_mask=prompt["attention_mask"],
        streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
        max_new_tokens=options.max_new_tokens,
        eos_token_id=sorted(stops) or None,
        pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        **sampling,
    )
    return tokenizer.decode(written[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()


if __name__ == "__main__":
    main()
