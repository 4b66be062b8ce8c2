"""The Dockerfile, read and not built: who runs, what is copied, and that it agrees with the files beside it."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from app.settings import PREFIX, Settings
from model.checkpoints.registry import DEFAULT_MODEL

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

Instruction = tuple[str, str]


def read_stages() -> list[list[Instruction]]:
    """The instructions of each stage, as (name, arguments); the first list is what stands before any FROM."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    stages: list[list[Instruction]] = [[]]
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if not line.strip():
            continue
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, arguments.strip()))
    return stages


STAGES = read_stages()
FINAL = STAGES[-1]


def values(name: str, stage: list[Instruction] = FINAL) -> list[str]:
    return [arguments for instruction, arguments in stage if instruction == name]


def argument(name: str) -> str:
    defaults = [arguments.partition("=") for stage in STAGES for arguments in values("ARG", stage)]
    return next(default for found, _, default in defaults if found == name)


def test_every_stage_starts_from_the_same_slim_python() -> None:
    bases = [values("FROM", stage)[0].split()[0] for stage in STAGES[1:]]
    assert len(bases) > 1
    assert set(bases) == {"docker.io/library/python:${PYTHON_VERSION}-slim-bookworm"}


def test_the_default_python_is_one_that_the_project_supports() -> None:
    least = tuple(map(int, PROJECT["requires-python"].removeprefix(">=").split(".")))
    assert tuple(map(int, argument("PYTHON_VERSION").split("."))) >= least


def test_it_does_not_run_as_root() -> None:
    user, _, group = values("USER")[-1].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    added = next(arguments for arguments in values("RUN") if "useradd" in arguments)
    assert f"useradd --uid {user}" in added
    assert f"groupadd --gid {group}" in added


def test_the_final_stage_installs_no_compiler() -> None:
    assert not [
        arguments for arguments in values("RUN") if re.search(r"\b(apt|apt-get|apk|gcc|g\+\+|make)\b", arguments)
    ]


def test_it_starts_the_service_directly_so_that_signals_reach_it() -> None:
    assert json.loads(values("ENTRYPOINT")[-1]) == ["convnext-serve"]
    assert "convnext-serve" in PROJECT["scripts"]
    assert json.loads(values("CMD")[-1]) == ["serve"]
    assert values("STOPSIGNAL") == ["SIGTERM"]


def test_it_has_a_health_check_without_a_shell() -> None:
    options, _, command = values("HEALTHCHECK")[-1].partition(" CMD ")
    assert "--start-period=" in options
    script = json.loads(command)[-1]
    assert f"docker/{Path(script).name} {script}" in values("COPY")


def test_what_it_sets_are_settings() -> None:
    names = re.findall(rf"\b({PREFIX}\w+)=", " ".join(values("ENV")))
    assert f"{PREFIX}HOST" in names
    assert {name.removeprefix(PREFIX).lower() for name in names} <= set(Settings.model_fields)


def test_the_cache_is_a_volume_of_the_user_that_runs() -> None:
    cache_dir = re.findall(rf"{PREFIX}CACHE_DIR=(\S+)", values("ENV")[-1])[0]
    assert values("VOLUME") == [cache_dir]
    made = next(arguments for arguments in values("RUN") if "useradd" in arguments)
    assert re.search(rf"install --directory --owner=convnext --group=convnext {cache_dir}\b", made)


def test_the_port_is_the_settings_default() -> None:
    assert values("EXPOSE") == [str(Settings.model_fields["port"].default)]


def test_the_build_checks_that_the_embedded_model_is_there() -> None:
    assert values("RUN")[-1].endswith(f"convnext-serve weights verify {DEFAULT_MODEL}")


def test_versions_agree_with_the_other_files() -> None:
    assert f"UV := uv=={argument('UV_VERSION')}\n" in (ROOT / "Makefile").read_text()
    assert f'image.version="{PROJECT["version"]}"' in values("LABEL")[-1]
    assert f'image.licenses="{PROJECT["license"]}"' in values("LABEL")[-1]


@pytest.mark.parametrize("name", ["PYTHON_VERSION", "TORCH_BACKEND", "REVISION"])
def test_the_arguments_it_offers_have_defaults(name: str) -> None:
    assert isinstance(argument(name), str)


def test_the_layers_that_code_changes_come_after_those_that_it_does_not() -> None:
    lines = [f"{name} {arguments}" for name, arguments in FINAL]
    assert lines.index("COPY --from=build /opt/venv /opt/venv") < lines.index("COPY --from=build /package /opt/venv")


def test_an_empty_backend_leaves_torch_to_the_package_index() -> None:
    assert argument("TORCH_BACKEND") == ""
    (install,) = [arguments for arguments in values("RUN", STAGES[1]) if "--requirements" in arguments]
    assert '${TORCH_BACKEND:+--torch-backend "$TORCH_BACKEND"}' in install


def test_everything_that_is_copied_exists_and_is_sent_to_the_builder() -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [source for stage in STAGES[1:] for line in values("COPY", stage) for source in sources(line)]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(source == one or source.startswith(f"{one}/") for one in sent), source
    assert set(sent) == set(copied)


def sources(copy: str) -> list[str]:
    words = [word for word in copy.split() if not word.startswith("--")]
    return [] if "--from=" in copy else words[:-1]


def test_dependencies_are_installed_before_the_code_is_copied() -> None:
    lines = [f"{name} {arguments}" for name, arguments in STAGES[1]]
    install = next(number for number, line in enumerate(lines) if "--requirements" in line)
    code = next(number for number, line in enumerate(lines) if line.startswith("COPY app"))
    assert install < code


@pytest.mark.parametrize("path", ["Dockerfile", "docker-compose.yml", "docker/compose.gpu.yml", "docker/left-out.txt"])
def test_no_package_index_is_named(path: str) -> None:
    text = (ROOT / path).read_text()
    assert not re.search(r"(https?://(?!127\.0\.0\.1)|index-url|find-links)", text)
