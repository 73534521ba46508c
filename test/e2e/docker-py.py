"""What the swarm part of docker-py does with a manager: one JSON line for each check, `why` when it failed.

Usage: docker-py.py SOCKET IMAGE
"""

import json
import sys
import time
import traceback

import docker
from docker.types import (
    ConfigReference,
    EndpointSpec,
    Healthcheck,
    Resources,
    RestartPolicy,
    SecretReference,
    ServiceMode,
    UpdateConfig,
)

socket, image = sys.argv[1:3]
client = docker.DockerClient(base_url=f"unix://{socket}", version="auto")
idle = ["sh", "-c", 'trap "exit 0" TERM; echo "started $A"; sleep 1000000 & wait']
wait_limit_s = 30


def wait(what, holds):
    """Asks until it holds; the limit is far above what it takes."""
    end = time.monotonic() + wait_limit_s
    while True:
        seen = holds()
        if seen:
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"still not: {what}")
        time.sleep(0.1)


def fails(kind, status, text, call, *args, **options):
    """The call raises this class, with this status and a message that contains the text."""
    try:
        call(*args, **options)
    except docker.errors.APIError as error:
        assert type(error) is kind, f"{type(error)} instead of {kind}: {error}"
        assert error.status_code == status, f"{error.status_code}: {error}"
        assert text in error.explanation, error.explanation
        return
    raise AssertionError(f"no error; expected {status} {text}")


def running(service, count):
    def holds():
        tasks = service.tasks(filters={"desired-state": "running"})
        return len(tasks) == count and all(t["Status"]["State"] == "running" for t in tasks) and tasks

    return wait(f"{count} running tasks of {service.name}", holds)


def settled(service):
    """An update has ended; the object is fresh."""

    def holds():
        service.reload()
        return service.attrs.get("UpdateStatus", {}).get("State") == "completed"

    return wait(f"update of {service.name} completed", holds)


def check_connection():
    assert client.ping() is True
    assert client.version()["ApiVersion"] == "1.50"
    swarm = client.info()["Swarm"]
    assert swarm["LocalNodeState"] == "active" and swarm["ControlAvailable"] is True, swarm


def check_swarm():
    client.swarm.reload()
    before = client.swarm.attrs
    assert client.swarm.id == before["ID"]
    tokens = before["JoinTokens"]
    assert tokens["Worker"].startswith("SWMTKN-1-") and tokens["Manager"].startswith("SWMTKN-1-")
    client.swarm.update(rotate_worker_token=True, task_history_retention_limit=4)
    client.swarm.reload()
    after = client.swarm.attrs
    assert after["JoinTokens"]["Worker"] != tokens["Worker"]
    assert after["JoinTokens"]["Manager"] == tokens["Manager"]
    assert after["Spec"]["Orchestration"]["TaskHistoryRetentionLimit"] == 4
    assert client.swarm.version > before["Version"]["Index"]
    assert client.swarm.get_unlock_key() == {"UnlockKey": ""}
    error = docker.errors.APIError
    fails(error, 409, "swarm is not locked", client.swarm.unlock, "SWMKEY-1-x")
    fails(error, 503, "This node is already part of a swarm", client.swarm.init)
    fails(error, 503, "This node is already part of a swarm", client.swarm.join, ["10.0.0.1"], "token")
    fails(error, 500, "update out of sequence", client.api.update_swarm, version=1, swarm_spec={"Name": "default"})


def check_payloads():
    for kind, resolve in ((client.secrets, "secret"), (client.configs, "config")):
        made = kind.create(name="py-a", data=b"hello", labels={"k": "v"})
        made.reload()
        assert made.name == "py-a" and made.attrs["Spec"]["Labels"] == {"k": "v"}
        assert ("Data" in made.attrs["Spec"]) == (resolve == "config")
        assert [each.id for each in kind.list(filters={"name": "py-a"})] == [made.id]
        assert [each.id for each in kind.list(filters={"label": ["k=v"]})] == [made.id]
        assert kind.list(filters={"label": ["k=w"]}) == []
        assert kind.get("py-a").id == made.id
        fails(docker.errors.APIError, 409, f"{resolve} py-a already exists", kind.create, name="py-a", data=b"x")
        fails(docker.errors.APIError, 400, "invalid name, only 64", kind.create, name="a b", data=b"x")
        fails(docker.errors.APIError, 400, "data must be larger than 0", kind.create, name="py-b", data=b"")
        fails(docker.errors.APIError, 400, "invalid filter 'colour'", kind.list, filters={"colour": "red"})
        fails(docker.errors.NotFound, 404, f"{resolve} none not found", kind.get, "none")
        made.remove()
        fails(docker.errors.NotFound, 404, "not found", made.reload)


def check_service():
    network = client.networks.create("py-net", driver="overlay", labels={"n": "1"})
    secret = client.secrets.create(name="py-secret", data=b"s")
    config = client.configs.create(name="py-config", data=b"c")
    service = client.services.create(
        image,
        idle,
        name="py-web",
        env=["A=1"],
        labels={"tier": "front"},
        container_labels={"c": "1"},
        constraints=["node.role==worker"],
        preferences=[("spread", "node.labels.zone")],
        networks=[network.id],
        secrets=[SecretReference(secret.id, "py-secret")],
        configs=[ConfigReference(config.id, "py-config", filename="/etc/py-config")],
        mode=ServiceMode("replicated", replicas=2),
        endpoint_spec=EndpointSpec(mode="vip", ports={}),
        healthcheck=Healthcheck(test=["CMD", "true"], interval=1_000_000_000),
        resources=Resources(mem_limit=64 * 1024 * 1024, cpu_reservation=1_000_000),
        restart_policy=RestartPolicy(condition="any", delay=1),
        update_config=UpdateConfig(parallelism=2, order="start-first", monitor=100_000_000),
        stop_grace_period=2_000_000_000,
        hostname="h-{{.Task.Slot}}",
    )
    tasks = running(service, 2)
    spec = service.attrs["Spec"]
    assert service.name == "py-web" and spec["Mode"] == {"Replicated": {"Replicas": 2}}, spec
    assert spec["TaskTemplate"]["Networks"] == [{"Target": network.id}], spec["TaskTemplate"]["Networks"]
    assert spec["TaskTemplate"]["ContainerSpec"]["Secrets"][0]["SecretID"] == secret.id
    assert sorted(task["Slot"] for task in tasks) == [1, 2]
    task = client.api.inspect_task(tasks[0]["ID"])
    assert task["ServiceID"] == service.id and task["NetworksAttachments"][0]["Network"]["ID"] == network.id
    fails(docker.errors.NotFound, 404, "task none not found", client.api.inspect_task, "none")
    names = lambda **filters: [each.name for each in client.services.list(filters=filters)]
    assert names(name="py-w") == ["py-web"] and names(label="tier=front") == ["py-web"]
    assert names(id=service.id) == ["py-web"] and names(mode="global") == []
    assert client.api.tasks({"service": "py-web", "node": tasks[0]["NodeID"]}) != []

    error = docker.errors.APIError
    fails(error, 409, "name conflicts with an existing object: service py-web already exists", client.services.create, image, name="py-web")
    fails(error, 400, "name must be valid as a DNS name component", client.services.create, image, name="a.b")
    fails(error, 400, "secret 'py-secret' is in use by the following service: py-web", secret.remove)
    fails(error, 400, "config 'py-config' is in use by the following service: py-web", config.remove)
    fails(error, 400, "is in use by service", network.remove)
    fails(docker.errors.NotFound, 404, "service none not found", client.services.get, "none")

    # What inspect shows is sent back whole: nothing but the label may change, and no task restarts.
    ids = {task["ID"] for task in tasks}
    service.reload()
    template = service.attrs["Spec"]["TaskTemplate"]
    stale = service.version
    client.api.update_service(service.id, service.version, name="py-web", labels={"tier": "back"}, fetch_current_spec=True)
    service.reload()
    assert service.attrs["Spec"]["TaskTemplate"] == template
    assert service.attrs["Spec"]["Labels"] == {"tier": "back"}
    assert {task["ID"] for task in running(service, 2)} == ids
    fails(error, 500, "update out of sequence", client.api.update_service, service.id, stale, name="py-web", fetch_current_spec=True)
    fails(error, 501, "renaming services is not supported", client.api.update_service, service.id, service.version, name="py-other", fetch_current_spec=True)

    assert service.scale(3) == {"Warnings": None}
    running(service, 3)
    service.reload()
    assert service.force_update() == {"Warnings": None}
    settled(service)
    running(service, 3)
    service.update(env=["A=2"])
    settled(service)
    logs = lambda: b"".join(service.logs(stdout=True, stderr=True))
    wait("a line of the new tasks", lambda: b"started 2\n" in logs())
    assert b"started" in b"".join(service.logs(stdout=True, tail=1, timestamps=True))
    assert service.attrs["PreviousSpec"]["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=1"]
    assert service.remove() is True
    fails(docker.errors.NotFound, 404, f"service {service.id} not found", service.reload)
    secret.remove()
    config.remove()
    wait("tasks gone", lambda: client.api.tasks({"label": "tier=back"}) == [])
    network.remove()


def check_modes():
    everywhere = client.services.create(image, idle, name="py-global", mode="global", stop_grace_period=2_000_000_000)
    nodes = client.nodes.list()
    tasks = running(everywhere, len(nodes))
    assert all("Slot" not in task for task in tasks)
    assert [each.name for each in client.services.list(filters={"mode": "global"})] == ["py-global"]
    job = client.services.create(
        image,
        ["true"],
        name="py-job",
        mode={"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 3}},
        restart_policy=RestartPolicy(condition="on-failure"),
    )
    sweep = client.services.create(
        image,
        ["true"],
        name="py-sweep",
        mode={"GlobalJob": {}},
        restart_policy=RestartPolicy(condition="none"),
    )
    complete = lambda service: [t for t in service.tasks() if t["Status"]["State"] == "complete"]
    wait("three completions", lambda: len(complete(job)) == 3)
    wait("one completion on each node", lambda: len(complete(sweep)) == len(nodes))
    assert job.attrs["Spec"]["Mode"]["ReplicatedJob"] == {"MaxConcurrent": 2, "TotalCompletions": 3}
    job.reload()
    assert "JobStatus" in job.attrs
    for service in (everywhere, job, sweep):
        service.remove()


def check_nodes():
    managers = client.nodes.list(filters={"role": "manager"})
    workers = client.nodes.list(filters={"role": "worker"})
    assert len(managers) == 1 and len(workers) == 1
    assert managers[0].attrs["ManagerStatus"]["Leader"] is True
    assert "ManagerStatus" not in workers[0].attrs
    worker = client.nodes.get(workers[0].id)
    spec = {**worker.attrs["Spec"], "Availability": "pause", "Labels": {"zone": "a"}}
    assert worker.update(spec) is True
    worker.reload()
    assert worker.attrs["Spec"]["Availability"] == "pause"
    assert [n.id for n in client.nodes.list(filters={"node.label": "zone=a"})] == [worker.id]
    assert worker.update({**spec, "Availability": "active"}) is True
    error = docker.errors.APIError
    fails(error, 500, "update out of sequence", worker.update, spec)
    fails(error, 400, 'invalid Availability: "asleep"', client.api.update_node, worker.id, 1, {"Role": "worker", "Availability": "asleep"})
    fails(error, 400, "is not down and can't be removed", client.api.remove_node, worker.id)
    fails(docker.errors.NotFound, 404, "node none not found", client.nodes.get, "none")
    manager = managers[0]
    demoted = {**manager.attrs["Spec"], "Role": "worker"}
    fails(error, 400, "attempting to demote the last manager of the swarm", manager.update, demoted)


def check_events():
    since = int(time.time()) - 1
    service = client.services.create(image, idle, name="py-seen", stop_grace_period=2_000_000_000)
    service.scale(0)
    service.remove()
    seen = list(client.events(since=since, until=int(time.time()) + 1, decode=True, filters={"type": "service"}))
    actions = [e["Action"] for e in seen if e["Actor"]["Attributes"]["name"] == "py-seen"]
    assert actions[0] == "create" and "update" in actions and actions[-1] == "remove", actions
    assert all(e["scope"] == "swarm" for e in seen)


for name, check in [(name, each) for name, each in list(globals().items()) if name.startswith("check_")]:
    started = time.monotonic()
    try:
        check()
        why = None
    except Exception:
        why = traceback.format_exc()
    line = {"name": name.removeprefix("check_"), "why": why, "ms": int((time.monotonic() - started) * 1000)}
    print(json.dumps(line), flush=True)
