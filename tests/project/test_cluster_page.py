"""docs/cluster.md says of the code what the code does: options, ports, minutes."""

import re
from itertools import chain

import pytest

from mistral_lib.instance.cluster import placement
from mistral_lib.on_machine.cluster import head, worker
from mistral_lib.on_machine.cluster.ray_commands import Ports
from mistral_lib.run import paths
from tests.project.test_instance_page import ACTIONS

PAGE = (paths.project() / "docs" / "cluster.md").read_text()
WORDS = 700


def test_its_length_is_limited_and_the_other_page_links_it() -> None:
    assert len(PAGE.split()) <= WORDS
    assert "](cluster.md)" in (paths.project() / "docs" / "instance.md").read_text()


def test_every_option_that_it_names_exists() -> None:
    known = set(chain.from_iterable(action.option_strings for command in ACTIONS.values() for action in command._actions))
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) - {"--target"} <= known
    assert set(re.findall(r"-m mistral_lib instance (\w+)", PAGE)) <= set(ACTIONS)


@pytest.mark.parametrize(
    ("sentence", "values"),
    [
        (r"TCP from port (\d+) on", [placement.FIRST_PORT]),
        (r"fixed: (\d+) to (\d+), tasks (\d+) to (\d+)", [Ports().head, Ports().metrics, Ports().first_worker, Ports().last_worker]),
        (r"up to (\d+) minutes for its workers", [head.WAIT_SECONDS / 60]),
        (r"after (\d+) minutes without an answer", [worker.LOST_MINUTES]),
    ],
)
def test_its_numbers_are_those_of_the_code(sentence: str, values: list[float]) -> None:
    found = re.search(sentence, PAGE)
    assert found and [float(number) for number in found.groups()] == values
