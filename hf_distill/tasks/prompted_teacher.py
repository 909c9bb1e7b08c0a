"""The teacher behind a prompt that a recipe describes, and its answers to all texts of a run."""

import datasets
import torch

from hf_distill.environment import has_fast_bf16
from hf_distill.soft_targets.prompted import cache_prompted_outputs
from hf_distill.tasks.models import Models
from hf_distill.tasks.prompt_settings import Prompt
from hf_distill.tasks.settings import Settings
from hf_distill.teachers.class_targets import ClassTargets
from hf_distill.teachers.prompted import PromptedTeacher, Questions
from hf_distill.teachers.served import ServedTeacher

LEDGER = "answers.jsonl"


class RecipeTeacher:
    """A teacher behind a prompt.

    Args:
        settings: of the run.
        models: of the run.
    """

    def __init__(self, settings: Settings, models: Models) -> None:
        self.settings, self.models = settings, models
        self.ledger = settings.teacher.ledger or models.work / LEDGER

    @property
    def is_served(self) -> bool:
        """Whether it is on a server."""
        return self.settings.teacher.server is not None

    def loaded(self) -> PromptedTeacher:
        """The teacher, ready to be asked.

        Raises:
            ValueError: no key in the environment, a model that writes nothing, or options that do not go together.
            ImportError: the client of a server is not installed.
        """
        prompt = self._prompt
        if self.is_served:
            served = self.served()
            try:
                return PromptedTeacher(served, prompt=prompt.question, method=prompt.method, samples=prompt.samples)
            except ValueError as error:
                raise ValueError(f"teacher.server.extra: {error}") from error
        settings = self.settings.teacher
        dtype = torch.bfloat16 if settings.bf16 and has_fast_bf16() else torch.float32
        model, tokenizer = self.models.load_language_model(dtype)
        return PromptedTeacher(model, tokenizer, prompt.question, method=prompt.method, batch_size=prompt.batch_size)

    def served(self) -> ServedTeacher:
        """The model on its server; nothing is sent.

        Raises:
            ValueError: no key in the environment, or options that are refused.
            ImportError: the client is not installed.
        """
        server = self.settings.teacher.server
        if server is None:
            raise ValueError("teacher.server: the teacher of this recipe is a local model.")
        try:
            return ServedTeacher(
                server.model,
                base_url=server.url,
                api_key=server.api_key or "none",  # else openai would read a key from the environment
                requests_in_flight=server.concurrency,
                max_retries=server.retries,
                timeout=server.timeout,
                **server.extra,
            )
        except TypeError as error:
            raise ValueError(f"teacher.server.extra: {error}. It holds arguments of each request.") from error

    def described(self, texts: list[str]) -> Questions:
        """The prompt of the first text and the number of questions. Nothing is sent, and no weights are loaded."""
        prompt = self._prompt
        if self.is_served:
            return self.loaded().describe(texts, ledger=self.ledger)
        method = prompt.method or "answers"
        source = str(self.models.language_model)
        tokenizer = self.models.tokenizer(source)
        causal = not self.models.config(source).is_encoder_decoder
        question, by_letter = prompt.question, method == "letters"
        question.answers(by_letter)  # refuses more classes than letters
        shown = question.rendered(texts[0], by_letter, tokenizer)[0] if causal else question.plain(texts[0], by_letter)
        return Questions(shown, len(texts), len(set(texts)), 0, 0, method)

    def answers(self, texts: list[str], folder: str) -> ClassTargets:
        """The teacher's log-probabilities of the classes of all texts: from the cache, the ledger, or asked for now.

        Args:
            texts: to ask about.
            folder: of the cache.
        Raises:
            ValueError: see `PromptedTeacher`.
            ConnectionError: a server that fails at every attempt.
        """
        rows = datasets.Dataset.from_dict({"text": texts})
        prior = self._prompt.prior
        _, targets = cache_prompted_outputs(rows, self.loaded(), output_dir=folder, ledger=self.ledger, prior=prior)
        return targets

    @property
    def _prompt(self) -> Prompt:
        prompt = self.settings.teacher.prompt
        if prompt is None:
            raise ValueError("teacher.prompt: the teacher of this recipe answers to no prompt.")
        return prompt
