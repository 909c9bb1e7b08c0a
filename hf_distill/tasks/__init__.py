"""What differs between the tasks of a recipe: one file a task."""

from hf_distill.tasks.base import RecipeTask
from hf_distill.tasks.prompted_classification import PromptedClassification
from hf_distill.tasks.settings import Settings
from hf_distill.tasks.text_classification import TextClassification
from hf_distill.tasks.text_generation import TextGeneration
from hf_distill.tasks.token_classification import TokenClassification
from hf_distill.tasks.translation import Translation

__all__ = ["RECIPE_TASKS", "task_of"]

RECIPE_TASKS: dict[str, type[RecipeTask]] = {
    "text-classification": TextClassification,
    "token-classification": TokenClassification,
    "translation": Translation,
    "text-generation": TextGeneration,
}


def task_of(settings: Settings) -> type[RecipeTask]:
    """What a recipe's steps ask, by its task and its teacher."""
    return RECIPE_TASKS[settings.task] if settings.teacher.prompt is None else PromptedClassification
