"""Recipes: YAML files -> a checked, frozen ``Recipe``.

path = find("quickstart", registry)
document = compose(path, ["train.epochs=2"], environ=os.environ)
recipe = validate(document, registry)
"""

from runner.recipe.catalog import find
from runner.recipe.compose import compose
from runner.recipe.document import Document
from runner.recipe.editor import json_schema
from runner.recipe.environment import UnsetVariable
from runner.recipe.listing import RecipeListing, list_recipes
from runner.recipe.resolve import as_yaml, dump, origins, resolved
from runner.recipe.schema import Recipe
from runner.recipe.source import Origin
from runner.recipe.validate import validate

__all__ = [
    "Document",
    "Origin",
    "Recipe",
    "RecipeListing",
    "UnsetVariable",
    "as_yaml",
    "compose",
    "dump",
    "find",
    "json_schema",
    "list_recipes",
    "origins",
    "resolved",
    "validate",
]
