from tests.models.conftest import folders  # noqa: F401 - the fixture: kind -> the folder of that tiny pipeline
