"""What puts the service into production: read as Docker, Compose and a process manager read it."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path
from typing import Any

import obstore.store
import pytest
import redis
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pixcrawler_worker import settings
from pixcrawler_worker.embedded.services import Services
from pixcrawler_worker.settings import Settings, file_variable

ROOT = Path(__file__).parents[1]
KUBERNETES = sorted(path.name for path in (ROOT / "deploy/kubernetes").glob("*.yaml"))
PASSWORDS = {"POSTGRES_PASSWORD": "pg-secret", "REDIS_PASSWORD": "redis-secret", "FLOWER_PASSWORD": "flower-secret"}

Json = dict[str, Any]


@pytest.fixture(scope="module")
def compose() -> Json:
    read: Json = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return read


@pytest.fixture(scope="module")
def docker_services(compose: Json) -> dict[str, Json]:
    services: dict[str, Json] = compose["services"]
    assert set(services) == {"postgres", "redis", "migrate", "worker", "flower", "metrics", "s3", "bucket"}
    return services


def procfile() -> dict[str, str]:
    lines = (ROOT / "Procfile").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines)


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of the Dockerfile by stage, with continued lines joined."""
    text = re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text())
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    made: list[list[tuple[str, str]]] = [[]]
    for instruction, rest in lines:
        if instruction == "FROM":
            made.append([])
        made[-1].append((instruction, rest))
    return made[1:]


def test_every_container_is_hardened(docker_services: dict[str, Json]) -> None:
    for name, service in docker_services.items():
        hardening = {key: service.get(key) for key in ("read_only", "cap_drop", "security_opt", "privileged")}
        assert hardening == {
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "privileged": None,
        }, name
        assert not any("docker.sock" in volume for volume in service.get("volumes", []))


def test_no_container_runs_as_root(docker_services: dict[str, Json]) -> None:
    ours = {name for name, service in docker_services.items() if service.get("build")}
    assert ours == {"migrate", "worker", "flower", "metrics", "bucket"}
    assert {name: service["user"] for name, service in docker_services.items() if name not in ours} == {
        "postgres": "postgres",
        "redis": "redis",
        "s3": "10001:10001",
    }
    (*_, last) = stages()
    users = [rest for instruction, rest in last if instruction == "USER"]
    assert [int(part) > 0 for part in users[-1].split(":")] == [True, True]


def test_only_pages_can_be_reached_and_only_from_this_machine(compose: Json, docker_services: dict[str, Json]) -> None:
    assert {name: service["ports"] for name, service in docker_services.items() if "ports" in service} == {
        "flower": ["127.0.0.1:5555:5555"],
        "metrics": ["127.0.0.1:9401:9401"],
    }
    assert compose["networks"]["data"] == {"internal": True}
    assert docker_services["postgres"]["networks"] == docker_services["redis"]["networks"] == ["data"]


def test_each_service_gets_only_the_secrets_that_it_needs(compose: Json, docker_services: dict[str, Json]) -> None:
    expected = {
        "postgres": {"postgres_password"},
        "redis": {"redis_password"},
        "migrate": {"database_url"},
        "worker": {"database_url", "broker_url"},
        "flower": {"broker_url", "flower_password"},
        "metrics": {"database_url", "broker_url"},
        "s3": set(),
        "bucket": set(),
    }
    assert {name: set(service.get("secrets", [])) for name, service in docker_services.items()} == expected
    # Each is read, and none is in a variable.
    used = {name: re.findall(r"/run/secrets/(\w+)", json.dumps(service)) for name, service in docker_services.items()}
    assert {name: set(found) for name, found in used.items()} == expected
    assert "PASSWORD:" not in (ROOT / "docker-compose.yml").read_text()
    assert compose["secrets"] == {name: {"file": f"secrets/{name}"} for name in set().union(*expected.values())}
    ours = {"database_url": "PIXCRAWLER_DATABASE_URL", "broker_url": "PIXCRAWLER_BROKER_URL"}
    for name in ("migrate", "worker", "flower", "metrics"):
        for secret in expected[name] & ours.keys():
            variable = file_variable(ours[secret])
            assert docker_services[name]["environment"][variable] == f"/run/secrets/{secret}"


def make_secrets(folder: Path, dotenv: str = "") -> dict[str, str]:
    """Run deploy/secrets.sh in a folder, and return the files that it makes."""
    (folder / "deploy").mkdir(exist_ok=True)
    shutil.copy(ROOT / "deploy/secrets.sh", folder / "deploy")
    if dotenv:
        (folder / ".env").write_text(dotenv)
    done = subprocess.run(["sh", folder / "deploy/secrets.sh"], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
    return {path.name: path.read_text() for path in (folder / "secrets").iterdir()}


def test_secrets_are_made_once_and_containers_can_read_them(compose: Json, tmp_path: Path) -> None:
    made = make_secrets(tmp_path)
    assert set(made) == set(compose["secrets"])
    passwords = {made[f"{name}_password"] for name in ("postgres", "redis", "flower")}
    assert len(passwords) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", password) for password in passwords)
    assert settings.load(database_url=made["database_url"], broker_url=made["broker_url"]).require_broker()
    assert made["database_url"] == f"postgresql://pixcrawler:{made['postgres_password']}@postgres/pixcrawler"
    assert made["broker_url"] == f"redis://:{made['redis_password']}@redis:6379/0"
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()} == {0o644}
    assert make_secrets(tmp_path) == made
    assert make_secrets(tmp_path, "POSTGRES_PASSWORD=other\n") == made


def test_secrets_of_an_earlier_version_are_taken_over(tmp_path: Path) -> None:
    made = make_secrets(tmp_path, "A=b\n" + "".join(f"{name}={value}\n" for name, value in PASSWORDS.items()))
    assert {name: made[name.lower()] for name in PASSWORDS} == PASSWORDS
    assert made["database_url"] == "postgresql://pixcrawler:pg-secret@postgres/pixcrawler"


def test_flower_gets_its_password_from_a_file_or_does_not_start(
    docker_services: dict[str, Json], tmp_path: Path
) -> None:
    *shell, script = docker_services["flower"]["command"]
    script = script.replace("$$", "$").replace("exec celery -A pixcrawler_worker flower", "echo $FLOWER_BASIC_AUTH")
    script = script.replace("/run/secrets", str(tmp_path))
    missing = subprocess.run([*shell, script], capture_output=True, text=True, check=False)
    assert (missing.returncode, missing.stdout) == (1, "")
    (tmp_path / "flower_password").write_text("secret")
    done = subprocess.run([*shell, script], capture_output=True, text=True, check=True)
    assert done.stdout == "pixcrawler:secret --address=0.0.0.0\n"


def test_keys_of_the_storage_are_for_workers_and_the_storage_alone_and_in_no_repository(
    docker_services: dict[str, Json],
) -> None:
    files = {name: service["env_file"] for name, service in docker_services.items() if "env_file" in service}
    assert files == {name: [{"path": "storage.env", "required": False}] for name in ("worker", "s3")}
    assert {".env", "storage.env", "/secrets/"} <= set((ROOT / ".gitignore").read_text().split())


def test_the_image_can_write_every_layout() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    needed = {re.split(r"[<>=~\[]", one)[0] for name in ("parquet", "tfrecord") for one in extras[name]}
    held = {line.split("==")[0] for line in (ROOT / "requirements/deploy.txt").read_text().splitlines() if "==" in line}
    assert needed
    assert needed <= held


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.stem)
def test_a_requirement_with_extras_is_pinned_with_them(path: Path) -> None:
    """pip before 24 takes `coverage[toml]` for one that is not pinned, as soon as there is a newer coverage."""
    lines = [line.removesuffix("\\").strip() for line in path.read_text().splitlines() if "==" in line[:100]]
    pinned = {canonicalize_name(one.name): one for one in map(Requirement, lines)}
    installed = {canonicalize_name(one.name): one for one in metadata.distributions()}
    needed = [
        needs
        for name, one in pinned.items()
        if name in installed
        for needs in map(Requirement, installed[name].requires or ())
        if needs.extras
        and any(not needs.marker or needs.marker.evaluate({"extra": extra}) for extra in ("", *one.extras))
    ]
    assert bool(needed) == (path.stem != "build")
    assert [str(needs) for needs in needed if not needs.extras <= pinned[canonicalize_name(needs.name)].extras] == []


def test_what_runs_on_is_checked_and_starts_in_order(docker_services: dict[str, Json]) -> None:
    lasting = {name: service for name, service in docker_services.items() if service["restart"] == "unless-stopped"}
    assert set(docker_services) - set(lasting) == {"migrate", "bucket"}
    assert all(service["healthcheck"]["test"] for service in lasting.values())
    assert docker_services["worker"]["depends_on"] == {
        "migrate": {"condition": "service_completed_successfully"},
        "redis": {"condition": "service_healthy"},
    }
    assert docker_services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_redis_never_evicts_and_keeps_its_password_from_lists_of_processes(
    docker_services: dict[str, Json], services: Services, tmp_path: Path
) -> None:
    *shell, script = docker_services["redis"]["command"]
    (tmp_path / "redis_password").write_text(PASSWORDS["REDIS_PASSWORD"])
    here = {
        "$$": "$",
        "/run/secrets": str(tmp_path),
        "--dir /data": f"--dir {tmp_path} --port 0 --unixsocket {tmp_path}/redis",
    }
    for there, instead in here.items():
        assert there in script
        script = script.replace(there, instead)
    path = f"{Path(services.redis_server).parent}:{os.environ['PATH']}"
    env = {"PATH": path}
    process = subprocess.Popen([*shell, script], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert any("eady to accept connections" in line for line in process.stdout)
        with redis.Redis(unix_socket_path=f"{tmp_path}/redis") as client, pytest.raises(redis.AuthenticationError):
            client.ping()
        with redis.Redis(unix_socket_path=f"{tmp_path}/redis", password=PASSWORDS["REDIS_PASSWORD"]) as ours:
            about: Json = ours.info()
            assert about["maxmemory_policy"] == "noeviction"
        listed = subprocess.run(
            ["ps", "-o", "args=", "-p", str(process.pid)], capture_output=True, text=True, check=True
        )
        assert "redis-server" in listed.stdout
        assert PASSWORDS["REDIS_PASSWORD"] not in listed.stdout
    finally:
        # What Docker sends reaches the server itself: it writes everything down and ends.
        process.terminate()
        process.communicate(timeout=10)
    assert process.returncode == 0


def test_the_same_commands_run_everywhere(docker_services: dict[str, Json]) -> None:
    (*_, last) = stages()
    (image,) = (json.loads(rest) for instruction, rest in last if instruction == "CMD")
    commands = {name: shlex.split(line) for name, line in procfile().items()}
    assert set(commands) == {"release", "worker", "flower"}
    assert commands["release"] == docker_services["migrate"]["command"]
    assert commands["worker"] == image
    assert "command" not in docker_services["worker"]
    # Inside a container everything is published by name alone, so Flower listens on all of it.
    exec_, *flower = shlex.split(docker_services["flower"]["command"][-1].splitlines()[-1])
    assert exec_ == "exec"
    assert commands["flower"][:-1] == flower[:-1]
    assert commands["flower"][-1] == "--address=127.0.0.1"


def test_what_is_not_needed_for_jobs_is_in_a_profile(docker_services: dict[str, Json]) -> None:
    profiles = {name: service["profiles"] for name, service in docker_services.items() if "profiles" in service}
    assert profiles == {"flower": ["flower"], "metrics": ["metrics"], "s3": ["s3"], "bucket": ["s3"]}
    assert all(
        name not in service.get("depends_on", {})
        for name in profiles
        for service in docker_services.values()
        if "profiles" not in service
    )


def test_several_workers_can_run_at_once(docker_services: dict[str, Json]) -> None:
    # `--scale worker=4`: what one container alone may have.
    assert not {"container_name", "ports", "hostname"} & set(docker_services["worker"])


def test_the_object_store_of_the_profile_lets_no_one_in_without_its_keys(
    docker_services: dict[str, Json], tmp_path: Path
) -> None:
    *shell, script = docker_services["s3"]["entrypoint"]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    for there, instead in {"$$": "$", "--addr=:9000": f"--addr=127.0.0.1:{port}", "/objects": str(tmp_path)}.items():
        assert there in script
        script = script.replace(there, instead)
    (tmp_path / "pixcrawler").mkdir()
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    without = subprocess.run([*shell, script], env=env, capture_output=True, text=True, check=False, timeout=30)
    assert (without.returncode, without.stderr) == (1, "set AWS_SECRET_ACCESS_KEY in storage.env\n")
    keys = {"AWS_ACCESS_KEY_ID": "pixcrawler", "AWS_SECRET_ACCESS_KEY": "s3-secret"}
    process = subprocess.Popen([*shell, script], env=env | keys, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert any("Starting s3 server" in line for line in process.stderr)
        store = obstore.store.S3Store(
            "pixcrawler",
            endpoint=f"http://127.0.0.1:{port}",
            region="us-east-1",
            client_options={"allow_http": True},
            access_key_id=keys["AWS_ACCESS_KEY_ID"],
            secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        )
        store.put("images/a", b"a")
        assert (tmp_path / "pixcrawler" / "images" / "a").read_bytes() == b"a"
        with pytest.raises(urllib.error.HTTPError, match="HTTP Error 40"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/pixcrawler/images/a", timeout=10)
    finally:
        process.terminate()
        process.communicate(timeout=10)


def manifests() -> list[Json]:
    """What is in the files for Kubernetes, the optional ones too."""
    files = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
    found = [one for path in files for one in yaml.safe_load_all(path.read_text())]
    assert all(one["apiVersion"] and one["kind"] for one in found)
    return found


def of_kind(kind: str) -> dict[str, Json]:
    return {one["metadata"]["name"]: one for one in manifests() if one["kind"] == kind}


def pods() -> dict[str, Json]:
    found = of_kind("Deployment") | of_kind("Job")
    return {name: one["spec"]["template"]["spec"] for name, one in found.items()}


def test_every_pod_is_confined_and_can_be_stopped() -> None:
    assert set(pods()) == {"pixcrawler-worker", "pixcrawler-metrics", "pixcrawler-migrate"}
    for name, pod in pods().items():
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }, name
        assert (pod["enableServiceLinks"], pod["automountServiceAccountToken"]) == (False, False)
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        mounts = {one["name"]: one for one in container["volumeMounts"]}
        assert mounts["tmp"]["mountPath"] == "/tmp"
        assert mounts["secrets"]["readOnly"] is True
        assert {one["name"] for one in pod["volumes"]} == set(mounts)
        (secrets,) = (one["secret"] for one in pod["volumes"] if "secret" in one)
        # Read by the group of the pod.
        assert secrets["defaultMode"] == 0o440
    (*_, last) = stages()
    assert [rest for instruction, rest in last if instruction == "USER"] == ["10001:10001"]


def test_pods_run_the_commands_of_the_image_and_are_probed_without_celery() -> None:
    (*_, last) = stages()
    (image,) = (json.loads(rest) for instruction, rest in last if instruction == "CMD")
    (worker,) = pods()["pixcrawler-worker"]["containers"]
    # Without a number there are as many processes as the node has cores.
    assert worker["args"] == [*image, "--concurrency", "2"]
    probes = {name: worker[name]["exec"]["command"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {
        "startupProbe": ["pixcrawler", "health"],
        "livenessProbe": ["pixcrawler", "health"],
        "readinessProbe": ["pixcrawler", "health", "--ready"],
    }
    (environment,) = (rest for instruction, rest in last if instruction == "ENV")
    assert "PIXCRAWLER_HEALTH_FILE=/tmp/pixcrawler-health" in environment.split()
    assert pods()["pixcrawler-worker"]["terminationGracePeriodSeconds"] == 60
    assert pods()["pixcrawler-migrate"]["containers"][0]["args"] == ["pixcrawler", "db", "upgrade"]
    assert pods()["pixcrawler-metrics"]["containers"][0]["args"][:2] == ["pixcrawler", "metrics"]


def test_policies_autoscaler_and_kustomization_name_what_there_is() -> None:
    selected = {one["spec"]["podSelector"]["matchLabels"]["app"] for one in of_kind("NetworkPolicy").values()}
    assert selected == set(pods())
    (worker,) = (one for name, one in of_kind("NetworkPolicy").items() if name == "pixcrawler-worker")
    assert worker["spec"]["policyTypes"] == ["Ingress", "Egress"]
    (outside,) = (one for one in worker["spec"]["egress"] if one["ports"] == [{"port": 80}, {"port": 443}])
    # Addresses of the cluster, of metadata services and the like are none of the workers'.
    assert {"10.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16"} < set(outside["to"][0]["ipBlock"]["except"])
    (scaler,) = of_kind("HorizontalPodAutoscaler").values()
    assert scaler["spec"]["scaleTargetRef"]["name"] in pods()
    (metric,) = (one["external"]["metric"]["name"] for one in scaler["spec"]["metrics"])
    assert metric in (ROOT / "docs/operations.md").read_text()
    (listed,) = (one["resources"] for one in manifests() if one["kind"] == "Kustomization")
    there = {path.name for path in (ROOT / "deploy/kubernetes").glob("*.yaml")}
    assert set(listed) == there - {"kustomization.yaml", "autoscale.yaml"}


def test_kubectl_itself_understands_the_manifests() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl here")
    built = subprocess.run(
        [kubectl, "kustomize", ROOT / "deploy/kubernetes"], capture_output=True, text=True, check=True
    )
    images = {
        container["image"]
        for one in yaml.safe_load_all(built.stdout)
        if one["kind"] in {"Deployment", "Job"}
        for container in one["spec"]["template"]["spec"]["containers"]
    }
    assert images == {"registry.example.org/pixcrawler-worker:1"}


@pytest.mark.parametrize(
    "name", ["Dockerfile", "docker-compose.yml", *(f"deploy/kubernetes/{one}" for one in KUBERNETES)]
)
def test_every_variable_that_is_named_is_a_setting(name: str) -> None:
    settings = {f"PIXCRAWLER_{field.upper()}" for field in Settings.model_fields}
    known = settings | {file for one in settings if (file := file_variable(one))}
    assert set(re.findall(r"\bPIXCRAWLER_[A-Z_]+", (ROOT / name).read_text())) <= known


def test_every_instruction_of_the_image_is_a_command_of_a_shell() -> None:
    for stage in stages():
        for instruction, rest in stage:
            if instruction == "RUN":
                checked = subprocess.run(["sh", "-n", "-c", rest], capture_output=True, text=True, check=False)
                assert checked.returncode == 0, checked.stderr


def test_there_is_no_scheduler_to_run_beside_the_workers(docker_services: dict[str, Json]) -> None:
    assert "beat" not in json.dumps([procfile(), docker_services])


def test_the_image_has_hashed_dependencies_and_nothing_to_build_with() -> None:
    build, last = stages()
    installs = [rest for instruction, rest in build if instruction == "RUN" and "pip install" in rest]
    assert all("--require-hashes" in rest or "--no-deps dist/*.whl" in rest for rest in installs)
    assert any("-r requirements/deploy.txt" in rest for rest in installs)
    assert not any("pip" in rest for instruction, rest in last if instruction == "RUN")
    assert [rest for instruction, rest in last if instruction == "COPY"] == [
        "--from=build /opt/pixcrawler /opt/pixcrawler"
    ]


def test_what_the_image_is_made_of_is_let_through_and_nothing_else() -> None:
    build, _ = stages()
    copied = {
        name for instruction, rest in build if instruction == "COPY" for name in rest.split()[:-1] if name[:2] != "--"
    }
    assert all((ROOT / name).exists() for name in copied)
    first, *let_through = (ROOT / ".dockerignore").read_text().split()
    assert first == "*"
    allowed = [line.removeprefix("!") for line in let_through if line.startswith("!")]
    assert all(any(Path(name).match(pattern) for pattern in allowed) for name in copied)
    kept_out = (".env", "storage.env", "secrets", ".git", "tests")
    assert not any(Path(name).match(pattern) for name in kept_out for pattern in allowed)


def test_the_images_python_is_one_that_the_package_takes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = re.search(r"^ARG PYTHON=3\.(\d+)-", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found
    assert project["requires-python"] == ">=3.11,<3.14"
    assert int(found[1]) in range(11, 14)


def test_compose_itself_understands_it(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker client with compose here")
    command = [docker, "compose", "--file", str(ROOT / "docker-compose.yml"), "config", "--format", "json"]
    read = subprocess.run(command, env={}, cwd=tmp_path, capture_output=True, text=True, check=True)
    worker = json.loads(read.stdout)["services"]["worker"]
    assert worker["environment"]["PIXCRAWLER_DATABASE_URL_FILE"] == "/run/secrets/database_url"
    assert {secret["source"] for secret in worker["secrets"]} == {"database_url", "broker_url"}
