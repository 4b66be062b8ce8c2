"""The steps of the Dockerfile, run without a build; test_image.py asks the image itself."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.constants import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

Instruction = tuple[str, str]  # name, arguments


def read_stages() -> list[list[Instruction]]:
    """The instructions of each stage; the first list is what precedes any FROM."""
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
BUILD, FINAL = STAGES[1], STAGES[-1]


def values(name: str, stage: list[Instruction] = FINAL) -> list[str]:
    return [arguments for instruction, arguments in stage if instruction == name]


def argument(name: str) -> str:
    defaults = [arguments.partition("=") for stage in STAGES for arguments in values("ARG", stage)]
    return next(default for found, _, default in defaults if found == name)


def copied_files(copy: str) -> list[str]:
    words = [word for word in copy.split() if not word.startswith("--")]
    return [] if "--from=" in copy else words[:-1]


def install_dependencies(folder: Path, backend: str, uv_exit_code: int) -> subprocess.CompletedProcess[str]:
    """Runs the build step that installs the dependencies, with a uv that prints its arguments and exits."""
    (step,) = [arguments for arguments in values("RUN", BUILD) if "--requirements" in arguments]
    script = re.sub(r"^(--mount=\S+ )+", "", step)
    uv = folder / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(f'#!/bin/sh\necho "$@"\n[ "$1" = venv ] || exit {uv_exit_code}\n')
    uv.chmod(0o755)
    (folder / "docker").mkdir()
    (folder / "docker" / "prune.sh").touch()
    shutil.copy(ROOT / "docker" / "unpin.awk", folder / "docker")
    shutil.copy(ROOT / "constraints.txt", folder)
    environment = {"PATH": f"{uv.parent}:{os.environ['PATH']}", "TORCH_BACKEND": backend}
    return subprocess.run(
        ["sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize(("backend", "installed"), [("cpu", []), ("", ["gcc"]), ("cu130", ["gcc"])])
def test_only_images_for_gpus_have_a_compiler(tmp_path: Path, backend: str, installed: list[str]) -> None:
    commands = [arguments for arguments in values("RUN") if re.search(r"\b(apt-get|apk|gcc|g\+\+|make)\b", arguments)]
    assert len(commands) == 1
    (tmp_path / "apt-get").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "apt-get").chmod(0o755)
    script = commands[0].replace("rm -rf /var/lib/apt/lists/*", "true")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TORCH_BACKEND": backend}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=30)
    assert [name for name in ("gcc", "g++", "make") if name in done.stdout.split()] == installed


def test_images_for_gpus_have_triton() -> None:
    assert "triton" not in [line.split()[0] for line in (ROOT / "docker" / "excluded.txt").read_text().splitlines()]


def test_uv_version_and_licence_match_the_other_files() -> None:
    assert f"UV := uv=={argument('UV_VERSION')}\n" in (ROOT / "Makefile").read_text()
    assert f'image.licenses="{PROJECT["license"]}"' in values("LABEL")[-1]


def test_make_image_labels_the_image_with_version_and_commit() -> None:
    make = ["make", "--dry-run", "--no-print-directory", "image"]
    printed = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True).stdout
    script = re.sub(r"\bdocker build\b", "printf '%s\\n'", printed)
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert f"convnext-serve:{PROJECT['version']}\n" in done.stdout
    assert {f"VERSION={PROJECT['version']}", f"REVISION={commit.strip()}"} <= set(done.stdout.splitlines())


def test_chosen_build_of_torch_is_installed_without_pins_of_cuda_libraries(tmp_path: Path) -> None:
    result = install_dependencies(tmp_path, "cpu", uv_exit_code=0)
    assert result.returncode == 0, result.stderr
    assert "--torch-backend cpu" in result.stdout
    before = (ROOT / "constraints.txt").read_text().replace("\\\n", "").splitlines()
    after = (tmp_path / "constraints.txt").read_text().replace("\\\n", "").splitlines()
    changed = {re.split("[ =]", line)[0]: line for line in set(before) - set(after)}
    assert {"nvidia-nccl-cu13", "triton", "torch", "torchvision"} <= set(changed)
    assert all(re.match(r"(cuda|nvidia|triton|torch|torchvision)\b", name) for name in changed)
    new = set(after) - set(before)
    assert sorted(re.split("[ =]", line)[0] for line in new) == ["torch", "torchvision"]
    assert all(changed[re.split("[ =]", line)[0]].startswith(line) for line in new)
    assert not any("--hash" in line for line in new)


def test_empty_backend_installs_the_build_of_the_default_index_with_all_pins(tmp_path: Path) -> None:
    result = install_dependencies(tmp_path, "", uv_exit_code=0)
    assert result.returncode == 0, result.stderr
    assert "--torch-backend" not in result.stdout
    assert "cuda-toolkit" in (tmp_path / "constraints.txt").read_text()


def test_failed_installation_names_the_argument_to_set(tmp_path: Path) -> None:
    result = install_dependencies(tmp_path, "cpu", uv_exit_code=2)
    assert result.returncode != 0
    assert "TORCH_BACKEND= " in result.stderr


def test_failed_installation_from_the_default_index_fails_the_build(tmp_path: Path) -> None:
    result = install_dependencies(tmp_path, "", uv_exit_code=2)
    assert result.returncode != 0
    assert "TORCH_BACKEND" not in result.stderr


def test_copied_files_exist_and_are_exactly_those_in_the_build_context() -> None:
    context = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [source for stage in STAGES[1:] for line in values("COPY", stage) for source in copied_files(line)]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
    assert set(context) == set(copied)


@pytest.mark.parametrize("path", ["Dockerfile", "docker-compose.yml", "docker/compose.gpu.yml", "docker/excluded.txt"])
def test_no_package_index_is_hard_coded(path: str) -> None:
    text = (ROOT / path).read_text()
    assert not re.search(r"(https?://(?!127\.0\.0\.1)|index-url|find-links)", text)
