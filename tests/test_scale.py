"""Pages have the tables that benchmarks/scale.py makes of the stored measurements."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.planning.loading import load

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scale() -> Iterator[Any]:
    """Import benchmarks/scale.py, which imports what lies beside it."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks" / "scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "benchmarks"))
    del sys.modules[spec.name], sys.modules["scale_model"]


@pytest.fixture
def measured(scale: Any) -> Any:
    return json.loads(scale.MEASURED.read_text())


def test_the_pages_have_the_tables_of_the_stored_measurements(scale: Any, measured: Any) -> None:
    startup = json.loads(scale.STARTUP.read_text())
    tables = {scale.PAGE: scale.tables(measured, startup)}
    tables[scale.README] = {"index": scale.index_table(startup)}
    for page, its_tables in tables.items():
        text = page.read_text(encoding="utf-8")
        current = scale.with_tables(text, its_tables)
        assert text == current, f"{page} is not current; run: python benchmarks/scale.py --write"


def test_a_table_that_the_page_lacks_is_named(scale: Any) -> None:
    page = "<!-- table: one -->\nold\n<!-- end -->\n"
    assert "new" in scale.with_tables(page, {"one": "new"})
    with pytest.raises(ValueError, match=r"has the tables \['one'\], expected \['one', 'two'\]"):
        scale.with_tables(page, {"one": "new", "two": "x"})


def test_the_networks_are_those_of_the_recipes(scale: Any) -> None:
    for network in scale.NETWORKS:
        plan = load(network.recipe, allow_unset=True).plan
        assert plan.model_entry.parameters == network.parameters
        assert plan.train.batch_size == network.batch
        assert plan.recipe.device.count == network.cards
        assert plan.recipe.dataset.train_images == sys.modules["scale_model"].IMAGES


def test_the_model_does_its_sums(scale: Any, measured: Any) -> None:
    def case(cards: int) -> Any:
        return scale.Case(
            network=scale.NETWORKS[0], cards=cards, per_card=4096 / cards, measured=measured
        )

    few, many = case(8), case(1024)
    assert (few.steps, many.steps) == (312, 312)
    assert (few.machines, many.machines) == (1, 128)
    assert few.gradient_bytes == pytest.approx(2 * 7 / 8 * 4 * 25_557_032)
    assert many.compute_s == pytest.approx(few.compute_s / 128)
    assert many.step_s == pytest.approx(many.compute_s + many.exposed_s + many.log_s)
    assert many.binds().startswith("gradients")
    assert case(2).exchange_s == pytest.approx(measured["exchange_s"]["2"])
    ring = measured["exchange_s"]["2"] + 62 * (measured["message_s"] + 10e-6)
    assert case(64).exchange_s == pytest.approx(ring)
