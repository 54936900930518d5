"""The production stack's file against the rules of the compose specification that matter to it."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from starlette.datastructures import Headers

from api.origins import check_host
from models.settings import Settings

ROOT = Path(__file__).parent.parent
STACK: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
KNOWN = {
    "build", "command", "depends_on", "deploy", "env_file", "environment", "healthcheck", "image",
    "init", "ports", "profiles", "restart", "stop_grace_period", "volumes",
}  # fmt: skip
LONG_RUNNING = sorted(set(SERVICES) - {"migrate"})


def test_the_stack_has_every_part() -> None:
    assert set(SERVICES) == {
        "postgres", "redis", "migrate", "api", "reaper", "worker", "worker-gpu",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_uses_known_keys_and_declared_volumes(name: str) -> None:
    service = SERVICES[name]
    assert set(service) <= KNOWN
    for mount in service.get("volumes", []):
        source, target = mount.split(":")[:2]
        assert source in STACK["volumes"]
        assert target.startswith("/")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_dependencies_exist_and_their_conditions_can_come_true(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        if how["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        else:
            assert how["condition"] == "service_completed_successfully"
            assert SERVICES[other]["restart"] == "no"


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_what_runs_long_restarts_and_is_watched(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert check["retries"] >= 1
    assert re.fullmatch(r"\d+s", check["interval"])
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_the_health_check_asks_the_api_by_a_name_that_it_answers_to() -> None:
    (url,) = re.findall(r"https?://[^']+", " ".join(SERVICES["api"]["healthcheck"]["test"]))
    check_host(Headers({"host": urlsplit(url).netloc}), Settings().host_names)


def test_nothing_starts_before_the_migrations() -> None:
    for name in ("api", "reaper", "worker", "worker-gpu"):
        condition = SERVICES[name]["depends_on"]["migrate"]["condition"]
        assert condition == "service_completed_successfully"


def test_only_the_gpu_profile_asks_for_an_accelerator() -> None:
    asking = {name for name, service in SERVICES.items() if "deploy" in service}
    profiled = {name for name, service in SERVICES.items() if "profiles" in service}
    assert asking == profiled == {"worker-gpu"}
    devices = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]


def test_images_are_built_from_stages_of_the_dockerfile() -> None:
    stages = re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for service in SERVICES.values():
        if "build" in service:
            assert service["build"]["target"] in stages
        elif service["image"].startswith("espalier-"):
            built = [s["image"] for s in SERVICES.values() if "build" in s]
            assert service["image"] in built


def test_copied_folders_exist_and_the_api_image_has_no_torch() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    api = text.split("AS api")[1].split("FROM base")[0]
    assert not re.search(r"\btorch\b(?!,|\.)", api.split("RUN")[1])


def imported(file: Path) -> set[str]:
    """Modules that a file imports, also within functions; names from a package among them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def with_dependencies(names: set[str]) -> set[str]:
    """Distributions, and what they need without any extra of theirs."""
    found: set[str] = set()
    while names:
        found |= names
        lines = {line for name in names for line in requires(name) or () if "extra ==" not in line}
        names = {plain(re.split(r"[^\w.-]", line)[0]) for line in lines} - found
        names = {name for name in names if name in INSTALLED}
    return found


def plain(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


DISTRIBUTIONS = packages_distributions()
INSTALLED = {plain(name) for names in DISTRIBUTIONS.values() for name in names}


def test_the_api_image_has_every_package_that_the_api_imports() -> None:
    """All but torch and runtimes: what imports them loads or times networks, as no API does."""
    text = (ROOT / "Dockerfile").read_text().split("AS api")[1].split("\nCOPY")[0]
    words = text.split("pip install -c constraints.txt")[1].replace("\\\n", " ").split()
    listed = with_dependencies({plain(word.strip('"').split("[")[0]) for word in words})

    waiting = [
        file
        for folder in ("api", "models", "migrations", "espalier")
        for file in (ROOT / folder).rglob("*.py")
    ]
    seen: set[Path] = set()
    missing: dict[str, str] = {}
    while waiting:
        file = waiting.pop()
        seen.add(file)
        for module in imported(file):
            top, path = module.partition(".")[0], ROOT / module.replace(".", "/")
            if (ROOT / top).is_dir():
                files = {path.with_suffix(".py"), path / "__init__.py"} - seen
                waiting += [other for other in files if other.exists()]
            elif top not in sys.stdlib_module_names | {"torch", "onnxruntime", "openvino"}:
                names = {plain(name) for name in DISTRIBUTIONS[top]}
                if not names & listed:
                    missing[top] = str(file.relative_to(ROOT))
    assert ROOT / "search/cost/model.py" in seen
    assert not missing


@pytest.mark.parametrize("name", ["migrate", "api", "reaper", "worker", "worker-gpu"])
def test_commands_name_modules_that_exist(name: str) -> None:
    words = shlex.split(SERVICES[name]["command"])
    assert words[:2] == ["python", "-m"]
    ours = [w.split(":")[0] for w in words if re.match(r"^(api|worker|migrations)\.", w)]
    for module in ours:
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module


@pytest.mark.parametrize("name", ["migrate", "api", "reaper", "worker", "worker-gpu"])
def test_our_services_write_to_the_volume_alone_and_take_further_settings(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image's own folders belong to root."""
    service = SERVICES[name]
    (volume,) = (mount.split(":")[1] for mount in service["volumes"])
    for setting, value in service["environment"].items():
        monkeypatch.setenv(setting, re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value))
    assert Settings().blob_url == f"file://{volume}/blobs"
    monkeypatch.setenv("ESPALIER_BLOBS", "s3://bucket/prefix")
    for folder in (Settings().home, Settings().cache_folder):
        assert folder.is_relative_to(volume)
    assert service["env_file"] == [{"path": ".env", "required": False}]


def test_databases_have_passwords_and_none_by_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD"):
        uses = re.findall(rf"\$\{{{name}(.*?)\}}", text)
        assert len(uses) > 1, f"a server and its clients take {name}"
        assert all(use.startswith(":?") for use in uses), f"{name} must be set, not empty"
    environment = SERVICES["api"]["environment"]
    for url, server in (("DATABASE", "postgres"), ("REDIS", "redis")):
        assert re.search(
            rf"://\w*:\$\{{\w+_PASSWORD:\?[^}}]+\}}@{server}:", environment[f"ESPALIER_{url}_URL"]
        )
    assert "--requirepass ${REDIS_PASSWORD:?" in SERVICES["redis"]["command"]
    guide = (ROOT / "docs/guide.md").read_text()
    assert "POSTGRES_PASSWORD=%s\\nREDIS_PASSWORD=%s" in guide


def test_settings_in_the_environment_are_settings_of_the_service() -> None:
    for service in SERVICES.values():
        for name in service.get("environment", {}):
            if name.startswith("ESPALIER_"):
                assert name.removeprefix("ESPALIER_").lower() in Settings.model_fields, name
