"""The files under deploy/ and the Dockerfile, as far as they can be checked without a cluster."""

import fnmatch
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
KUSTOMIZATIONS = sorted(p.parent.relative_to(KUBERNETES).as_posix()
                        for p in KUBERNETES.rglob("kustomization.yaml"))
# The oldest version the validator still knows that has everything the manifests use, and a new one.
KUBERNETES_VERSIONS = ["1.27", "1.33"]
# What a schema of Kubernetes itself cannot know.
CUSTOM_KINDS = {"ServiceMonitor"}


def tool(name):
    """The path of a program that scripts/setup --test installs."""
    own = ROOT / ".venv/bin" / name
    found = str(own) if own.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed (scripts/setup --test installs it)")
    return found


def render(kustomization):
    result = subprocess.run([tool("kubectl"), "kustomize", str(KUBERNETES / kustomization)],
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def one(documents, kind):
    found = [d for d in documents if d["kind"] == kind]
    assert len(found) == 1, f"{len(found)} of kind {kind}"
    return found[0]


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_kustomizations_render_to_valid_objects(kustomization, version):
    validate = pytest.importorskip("kubernetes_validate")
    documents = render(kustomization)
    kinds = {d["kind"] for d in documents}
    assert {"Deployment", "Service", "PodDisruptionBudget"} <= kinds
    for document in documents:
        if document["kind"] not in CUSTOM_KINDS:
            validate.validate(document, version, strict=True)


def test_the_validator_finds_mistakes():
    validate = pytest.importorskip("kubernetes_validate")
    deployment = one(render("base"), "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(validate.ValidationError):
        validate.validate(deployment, KUBERNETES_VERSIONS[-1], strict=True)


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_manifests_fit_together(kustomization):
    documents = render(kustomization)
    deployment = one(documents, "Deployment")
    pod = deployment["spec"]["template"]
    container = pod["spec"]["containers"][0]
    labels = pod["metadata"]["labels"].items()

    service = one(documents, "Service")
    assert service["spec"]["selector"].items() <= labels
    assert one(documents, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert ports == {"http": 8000, "grpc": 50051}
    assert {p["targetPort"] for p in service["spec"]["ports"]} == set(ports)

    for probe, path in [("startupProbe", "/health/ready"), ("livenessProbe", "/health/live"),
                        ("readinessProbe", "/health/ready")]:
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}
    # Draining and three flushes of 5 s (server/serve_command.cc) end before the kill.
    drain = next(float(a.split("=")[1]) for a in container["args"]
                 if a.startswith("--drain-timeout-seconds="))
    assert pod["spec"]["terminationGracePeriodSeconds"] >= drain + 15
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    memory = container["resources"]["limits"]["memory"]
    if "--device=cuda" in container["args"]:
        # One process, one GPU; the cache lies in its memory.
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert not any(a.startswith("--kv-cache-mib=") for a in container["args"])
        return
    # The cache is part of the memory that is asked for.
    cache_mib = next(int(a.split("=")[1]) for a in container["args"]
                     if a.startswith("--kv-cache-mib="))
    assert memory.endswith("Gi") and int(memory[:-2]) * 1024 > cache_mib + 512


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_the_server_knows_the_flags_of_the_manifests(kustomization, binary):
    container = one(render(kustomization), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    helped = subprocess.run([binary, "serve", "--help"], capture_output=True, text=True, check=True)
    for argument in container["args"] + compose["services"]["sterna"]["command"]:
        flag = argument.split("=")[0]
        assert re.search(rf"{flag}\b", helped.stdout + helped.stderr), f"{flag} is no flag"


# Names


def metric_table():
    """Name to type, from the page that is generated from the server's table."""
    rows = re.findall(r"^\| `(sterna_\w+)` \| (counter|gauge|histogram) \|",
                      (ROOT / "docs/metrics.md").read_text(), re.M)
    assert len(rows) > 20
    return dict(rows)


def exported_names():
    names = set()
    for name, kind in metric_table().items():
        names |= {name} if kind != "histogram" else {f"{name}_{s}" for s in ("bucket", "sum", "count")}
    return names


def used_names(text):
    # Recorded names (job:sterna_...:rate5m) are the rules' own.
    return set(re.findall(r"(?<![\w:])sterna_[a-z0-9_]+", text))


def dashboard():
    return json.loads((DEPLOY / "grafana/dashboards/sterna.json").read_text())


def test_dashboard_asks_for_metrics_that_exist():
    panels = [p for p in dashboard()["panels"] if p["type"] != "row"]
    used = set()
    for panel in panels:
        assert panel["description"], panel["title"]
        for target in panel["targets"]:
            names = used_names(target["expr"])
            assert names, target["expr"]
            assert names <= exported_names(), names - exported_names()
            used |= names
    for wanted in ["time_to_first_token_seconds_bucket", "inter_token_latency_seconds_bucket",
                   "generation_tokens_total", "requests_waiting", "kv_cache_usage_ratio",
                   "energy_joules_total"]:
        assert f"sterna_{wanted}" in used
    assert len({p["id"] for p in panels}) == len(panels)
    for a in panels:  # no panel lies on another
        for b in panels:
            g, h = a["gridPos"], b["gridPos"]
            apart = (g["x"] + g["w"] <= h["x"] or h["x"] + h["w"] <= g["x"] or
                     g["y"] + g["h"] <= h["y"] or h["y"] + h["h"] <= g["y"])
            assert a is b or apart, (a["title"], b["title"])


def test_dashboard_expressions_parse(tmp_path):
    rules = []
    for panel in dashboard()["panels"]:
        for i, target in enumerate(panel.get("targets", [])):
            expression = target["expr"].replace("$__rate_interval", "5m")
            rules.append({"record": f"panel:{panel['id']}:{i}", "expr": expression})
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "d", "rules": rules}]}))
    result = subprocess.run([tool("promtool"), "check", "rules", str(tmp_path / "rules.yml")],
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", ["deploy/prometheus/rules.yml", "docs/operations.md",
                                  "docs/energy.md", "loadtest/report.cc", "loadtest/run.cc",
                                  "deploy/kubernetes/overlays/production/horizontalpodautoscaler.yaml"])
def test_metric_names_exist(path):
    used = used_names((ROOT / path).read_text())
    assert used
    unknown = used - exported_names() - set(metric_table())
    assert not unknown


# Prometheus


@pytest.mark.parametrize("command", [
    ["check", "config", "prometheus.yml"],
    ["check", "rules", "rules.yml"],
    ["test", "rules", "rules_test.yml"],
])
def test_promtool_accepts(command):
    result = subprocess.run([tool("promtool"), *command], cwd=DEPLOY / "prometheus",
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_is_tested_and_described():
    rules = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())
    tests = yaml.safe_load((DEPLOY / "prometheus/rules_test.yml").read_text())
    firing = {t["alertname"] for case in tests["tests"] for t in case["alert_rule_test"]
              if t.get("exp_alerts")}
    alerts = {r["alert"]: r for group in rules["groups"] for r in group["rules"] if "alert" in r}
    assert firing == set(alerts)
    operations = (ROOT / "docs/operations.md").read_text()
    for name, rule in alerts.items():
        assert {"summary", "description"} <= set(rule["annotations"])
        assert name in operations, f"docs/operations.md does not say what to do about {name}"


# The image


def dockerfile():
    """Instructions, continuation lines joined and comments dropped."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines()
             if not line.lstrip().startswith("#")]
    return re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()


def stages():
    """Name to (name of the stage it goes on from, instructions), in the file's order."""
    found, name = {}, None
    for line in dockerfile():
        if line.startswith("FROM "):
            _, base, _, name = line.split()
            found[name] = (base, [])
        elif name:
            found[name][1].append(line)
    return found


def runtime_stage(name="cpu"):
    """Instructions of a final stage and of those it is made from."""
    lines, all_stages = [], stages()
    while name in all_stages:
        name, own = all_stages[name]
        lines = own + lines
    return lines


def in_build_context(path):
    """Whether .dockerignore, which names what is let in, lets this in."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines()
               if line.startswith("!")]
    return any(path == a or path.startswith(a + "/") for a in allowed)


def test_dockerfile_copies_what_exists():
    copies = [line.split()[1:] for line in dockerfile() if line.startswith("COPY ")]
    assert copies
    for words in copies:
        if words[0].startswith("--from="):
            continue
        for source in words[:-1]:
            assert (ROOT / source).exists(), source
            assert source == "." or in_build_context(source), f".dockerignore keeps {source} out"


def test_build_context_has_what_the_build_reads():
    for path in ["CMakeLists.txt", "CMakePresets.json"]:
        assert in_build_context(path)
    text = (ROOT / "CMakeLists.txt").read_text()
    always = text.split("if(STERNA_BUILD_TESTS)")[0]
    for folder in re.findall(r"^add_subdirectory\((\w+)\)", always, re.M):
        assert in_build_context(folder), folder
    assert in_build_context("models/stories")
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines()
               if line.startswith("!")]
    for path in allowed:
        assert (ROOT / path).exists() or path == "models", path


def test_the_image_without_a_target_is_the_cpu_one():
    assert list(stages())[-1] == "cpu"


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_image_runs_as_nobody_special_and_answers_its_ports(name):
    stage = "\n".join(runtime_stage(name))
    assert re.search(r"^COPY --from=build-" + name + " /opt/sterna /opt/sterna$", stage, re.M)
    assert re.search(r"^USER 10001:10001$", stage, re.M)
    assert re.search(r"^EXPOSE 8000 50051$", stage, re.M)
    assert re.search(r"^HEALTHCHECK ", stage, re.M)
    assert re.search(r'^ENTRYPOINT \["sterna", "serve", "--host", "0\.0\.0\.0"\]$', stage, re.M)


def test_the_health_check_tells_ready_from_not(server):
    line = next(line for line in runtime_stage() if line.startswith("HEALTHCHECK"))
    command = json.loads(line[line.index("CMD ") + 4:])
    assert command[:2] == ["bash", "-c"]
    ready = command[2].replace("/8000", f"/{server.http_port}")
    assert subprocess.run(["bash", "-c", ready]).returncode == 0
    missing = ready.replace("/health/ready", "/health/nothing")
    assert subprocess.run(["bash", "-c", missing]).returncode != 0
    nobody = command[2].replace("/8000", "/1")
    assert subprocess.run(["bash", "-c", nobody], stderr=subprocess.DEVNULL).returncode != 0


def package_closure(packages):
    """These packages and all they depend on, as dpkg knows them."""
    closure, left = set(), list(packages)
    while left:
        package = left.pop()
        if package in closure:
            continue
        query = subprocess.run(["dpkg-query", "-W", "-f", "${Pre-Depends},${Depends}", package],
                               capture_output=True, text=True)
        if query.returncode != 0:
            continue
        closure.add(package)
        left += [re.split(r"[ (:]", alternative.strip())[0]
                 for depends in query.stdout.split(",") for alternative in depends.split("|")
                 if alternative.strip()]
    return closure


def test_runtime_stage_installs_the_libraries_the_programs_need(binary):
    if not shutil.which("dpkg-query"):
        pytest.skip("dpkg-query is not installed: this is no Debian system")
    install = next(line for line in runtime_stage() if "apt-get install" in line)
    packages = install.split("--no-install-recommends")[1].split("&&")[0].split()
    for package in packages:
        status = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package],
                                capture_output=True, text=True)
        assert status.stdout == "installed", f"{package} is no package that building installed"
    closure = package_closure(packages)
    programs = [binary, binary.parent.parent / "loadtest/sterna-loadtest"]
    needed = set()
    for program in programs:
        listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        assert "not found" not in listing
        if "libasan" in listing or "libtsan" in listing:
            pytest.skip("the programs are built with a sanitizer, whose library is not in the image")
        for path in re.findall(r"=> (/\S+)", listing):
            # dpkg knows libraries by the path without the /usr that merging put before it.
            for name in (path, str(Path(path).resolve()), "/usr" + path):
                owner = subprocess.run(["dpkg", "-S", name], capture_output=True, text=True)
                if owner.returncode == 0:
                    needed.add(owner.stdout.split(":")[0])
                    break
            else:
                raise AssertionError(f"no package owns {path}")
    assert needed
    assert not needed - closure, f"the image lacks {needed - closure}"


def test_compose_mounts_what_exists():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).exists(), source
        for port in service["ports"]:
            assert fnmatch.fnmatch(port, "127.0.0.1:*:*"), f"{port} is open to the network"
