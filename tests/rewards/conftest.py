import pytest

from tests.rewards import tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Where the tiny checkpoints are written, each once."""
    return tmp_path_factory.mktemp("rewards")


@pytest.fixture(scope="session")
def rewards(tiny_folder):
    """(name, options) -> the tiny reward, loaded once."""
    loaded = {}

    def reward(name, **options):
        key = (name, *map(str, options.items()))
        if key not in loaded:
            loaded[key] = tiny.load(name, tiny_folder, **options)
        return loaded[key]

    return reward
