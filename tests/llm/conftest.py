import pytest

from tests.llm import tiny


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tiny.build(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", tiny.rows(12))
