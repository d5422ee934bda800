"""Which cards the processes of a machine see."""

from __future__ import annotations

import pytest

from runner.contracts import Availability
from runner.distributed.launching import cards
from runner.entries import DeviceEntry
from runner.errors import DeviceError, UsageError


def entry(variable: str | None = "ACME_VISIBLE") -> DeviceEntry:
    return DeviceEntry(
        name="acme",
        summary="A card",
        framework="fake",
        probe=lambda: Availability(available=True),
        open=lambda _options: pytest.fail("nothing is opened"),
        visible_devices=variable,
        card_environment={"ACME_ORDER": "BUS"} if variable else {},
    )


def test_chosen_cards_are_made_visible_in_their_order():
    assert cards.environment(entry(), [5, 0], {}) == {"ACME_VISIBLE": "5,0", "ACME_ORDER": "BUS"}
    assert cards.environment(entry(), [], {}) == {}


def test_cards_are_chosen_among_those_that_the_user_shows():
    shown = {"ACME_VISIBLE": "4, 5,6"}
    assert cards.environment(entry(), [6, 4], shown)["ACME_VISIBLE"] == "6,4"
    with pytest.raises(UsageError, match=r"asks for 0, and ACME_VISIBLE is '4, 5,6': choose among"):
        cards.environment(entry(), [4, 0], shown)
    with pytest.raises(UsageError, match=r"asks for 0,1, and ACME_VISIBLE is ''"):
        cards.environment(entry(), [0, 1], {"ACME_VISIBLE": ""})


def test_what_cannot_be_chosen_is_refused():
    with pytest.raises(DeviceError, match=r"acme has no cards .* 0,1; .* --devices 2"):
        cards.environment(entry(None), [0, 1], {})
    with pytest.raises(UsageError, match=r"names 1 more than once: 0,1,1"):
        cards.environment(entry(), [0, 1, 1], {})
    with pytest.raises(UsageError, match=r"names 3 cards .* \(0,2,5\), and 2 devices are to be"):
        cards.check_count([0, 2, 5], 2)
    cards.check_count([0, 2, 5], 3)
    cards.check_count([], 2)


def test_cards_of_lost_processes_are_hidden():
    assert cards.without(entry(), [], {1}, 4, {})["ACME_VISIBLE"] == "0,2,3"
    assert cards.without(entry(), [0, 2, 5], {0, 2}, 3, {})["ACME_VISIBLE"] == "2"
    # the second time, the variable says what is left; a card that was not used stays
    assert cards.without(entry(), [0, 2, 5], {1}, 2, {"ACME_VISIBLE": "0,5"}) == {
        "ACME_VISIBLE": "0",
        "ACME_ORDER": "BUS",
    }
    assert cards.without(entry(), [], {0}, 2, {"ACME_VISIBLE": "4,5,6"})["ACME_VISIBLE"] == "5,6"
    assert cards.without(entry(None), [], {0}, 2, {}) == {}


def test_a_process_alone_chooses_its_card(project, monkeypatch):
    monkeypatch.setenv("RUNNER_FAKE_CARDS", "1")
    recipe = project.write_recipe()
    done = project.runner("run", recipe, "--device", "fake_card", "--devices", "1,", "--json")
    assert done.code == 0, done.err
    done = project.runner("run", recipe, "--device", "fake_card", "--devices", "0,", "--json")
    assert done.code == 2
    assert "device.cards asks for 0, and RUNNER_FAKE_CARDS is '1'" in done.err
    done = project.runner("run", recipe, "--devices", "1,", "--json")
    assert done.code == 4
    assert "device fake_cpu has no cards to choose among" in done.err


def test_a_run_takes_the_cards_that_are_named(project):
    recipe = project.write_recipe()
    done = project.runner("explain", recipe, "--device", "fake_card", "--devices", "1,3")
    assert "RUNNER_FAKE_CARDS=1,3 " in done.out
    done = project.runner(
        "explain", recipe, "--device", "fake_card", "--set", "device.cards=[1, 3]"
    )
    assert "REFUSED" not in done.out, "one device of two cards is a matter of the run"
    done = project.runner(
        *("explain", recipe, "--device", "fake_card", "--devices", "1,3"),
        *("--set", "device.count=4"),
    )
    assert "device.cards names 2 cards of each machine (1,3), and 4 devices are to be" in done.out
