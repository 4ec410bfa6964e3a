import pytest

from tests import tiny


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """kind -> the folder of that tiny pipeline, built when first asked for."""
    root, built = tmp_path_factory.mktemp("pipelines"), {}

    def folder(kind: str, **options) -> str:
        key = kind + "".join(f"-{name}-{value}" for name, value in options.items())
        if key not in built:
            built[key] = str(tiny.build(kind, root / key, **options))
        return built[key]

    return folder
