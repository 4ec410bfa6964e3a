import pytest

from tests.models.conftest import folders  # noqa: F401 - the fixture: kind -> the folder of that tiny pipeline
from tests.train.runs import write_pairs


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Eight pairs of 16 px, four prompts, every weight another one."""
    return str(write_pairs(tmp_path_factory.mktemp("pairs"), 8))
