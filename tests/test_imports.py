"""Who may import whom, read from the source."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("app", "model", "training")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imports_in(source: str) -> set[str]:
    """The modules that a source imports, wherever in it; of ``from a import b`` both ``a`` and ``a.b``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


IMPORTS = {name: imports_in(path.read_text()) for name, path in MODULES.items()}


def own(name: str) -> set[str]:
    """The modules of this project that ``name`` imports; a package stands for itself where a module is named."""
    found = IMPORTS[name] & set(MODULES)
    return {one for one in found if not any(other.startswith(f"{one}.") for other in found)}


def external(name: str) -> set[str]:
    """The top-level packages that ``name`` imports and that are neither its own nor Python's."""
    return {one.partition(".")[0] for one in IMPORTS[name]} - set(PACKAGES) - sys.stdlib_module_names


def within(*prefixes: str) -> list[str]:
    return [name for name in MODULES if any(name == one or name.startswith(f"{one}.") for one in prefixes)]


def importers_of(module: str) -> set[str]:
    return {name for name in MODULES if module in IMPORTS[name]}


APP_LAYERS = (  # each may import only what stands below it
    ("app.__main__",),
    ("app.cli",),
    ("app.main", "app.server"),
    ("app.routes",),
    ("app.routes.*",),
    ("app.dependencies",),
    ("app.classifier",),
    ("app.batcher", "app.middleware", "app.protocol"),
    ("app.telemetry", "app.errors", "app.settings"),
    ("app.schemas",),
    ("app",),
)


def layer(name: str) -> int:
    family = "app.routes.*" if name.startswith("app.routes.") else name
    return next(place for place, names in enumerate(APP_LAYERS) if family in names)


@pytest.mark.parametrize("name", within("app"))
def test_the_service_imports_downwards(name):
    for imported in own(name) & set(within("app")):
        assert layer(imported) > layer(name), f"{name} imports {imported}"


def test_nothing_imports_in_a_circle():
    TopologicalSorter({name: own(name) for name in MODULES}).prepare()


@pytest.mark.parametrize("name", within("model"))
def test_the_network_knows_no_service(name):
    assert not own(name) & set(within("app", "training"))
    assert not external(name) & {"fastapi", "starlette", "uvicorn", "pydantic", "pydantic_settings", "anyio"}
    assert "asyncio" not in IMPORTS[name]


@pytest.mark.parametrize("name", within("app"))
def test_the_service_knows_no_tensors_and_no_training(name):
    assert not external(name) & {"torch", "torchvision", "safetensors", "PIL"}
    assert not own(name) & set(within("training"))


@pytest.mark.parametrize("name", within("training"))
def test_the_training_knows_no_service(name):
    assert not own(name) & set(within("app"))


def test_routes_never_import_the_model():
    assert not [name for name in within("app.routes") if own(name) & set(within("model"))]


def test_the_model_is_built_by_main_used_by_the_classifier_and_read_by_the_command():
    assert {name for name in within("app") if own(name) & set(within("model"))} == {
        "app.main",
        "app.cli",
        "app.classifier",
        "app.settings",
    }
    assert own("app.settings") == {"model.weights"}


def test_the_batcher_knows_neither_torch_nor_http():
    assert own("app.batcher") == {"app.errors"}
    assert external("app.batcher") == set()


def test_settings_are_read_by_main_and_the_command_alone():
    assert importers_of("app.settings") == {"app.main", "app.cli"}


def test_the_server_is_run_by_the_command_alone():
    assert importers_of("app.server") == {"app.cli"}


def test_errors_and_the_plain_parts_of_the_model_stand_at_the_bottom():
    assert own("model.errors") == set()
    assert own("model.convnext") <= {"model.errors"}
    assert own("model.preprocess") == {"model.errors"}
    assert own("model.fold") <= {"model.convnext", "model.preprocess", "model.errors"}


def test_the_engine_stands_on_top_of_the_model():
    assert importers_of("model.engine") & set(within("app", "model")) <= {"app.main", "app.classifier", "app.cli"}


def test_imports_are_found_wherever_they_stand():
    source = "import a.b\ndef f():\n    from c import d\n    if 1:\n        import e as g\n"
    assert imports_in(source) == {"a.b", "c", "c.d", "e"}
    with pytest.raises(AssertionError, match="absolute"):
        imports_in("from . import errors")


def test_the_modules_are_found():
    assert {"app", "app.main", "app.routes", "app.routes.predict", "model", "model.engine"} <= set(MODULES)
    assert {"model.engine", "app.settings"} <= own("app.main")
