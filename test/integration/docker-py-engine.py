"""What docker-py does with the engine of a host: one JSON line for each check, `why` when it failed.

Usage: docker-py-engine.py SOCKET IMAGE REPOSITORY
"""

import io
import json
import sys
import tarfile
import threading
import time
import traceback

import docker

socket, image, repository = sys.argv[1:4]
client = docker.DockerClient(base_url=f"unix://{socket}", version="auto", timeout=60)


def fails(kind, text, call, *args, **options):
    """The call raises this class with a message that contains the text."""
    try:
        call(*args, **options)
    except docker.errors.DockerException as error:
        assert type(error) is kind, f"{type(error)} instead of {kind}: {error}"
        assert text in str(error), str(error)
        return
    raise AssertionError(f"no error; expected {text}")


def check_run():
    assert client.containers.run(image, ["echo", "hi"], remove=True) == b"hi\n"
    fails(docker.errors.ContainerError, "exit status 3", client.containers.run, image, ["sh", "-c", "exit 3"], remove=True)
    fails(docker.errors.APIError, "executable file not found", client.containers.run, image, ["/no/such"], name="py-none")
    client.containers.get("py-none").remove()
    fails(docker.errors.NotFound, "No such container", client.containers.get, "py-none")
    fails(docker.errors.ImageNotFound, "No such image", client.images.get, "py-none")


def check_life():
    made = client.containers.run(
        image, ["sh", "-c", "echo one; echo two >&2; exec sleep 600"], detach=True, name="py1", labels={"by": "py"},
        mem_limit="64m", environment={"A": "1"}, stop_signal="SIGKILL",
    )
    assert [c.name for c in client.containers.list(filters={"label": "by=py"})] == ["py1"]
    for line in made.logs(stream=True, follow=True, stdout=False):
        assert line == b"two\n", line
        break
    assert made.logs(stderr=False) == b"one\n"
    code, out = made.exec_run(["sh", "-c", "echo $A; echo err >&2; exit 4"], demux=True)
    assert (code, out) == (4, (b"1\n", b"err\n")), (code, out)
    assert made.exec_run("cat /proc/1/comm", tty=True).output == b"sleep\r\n"
    made.pause()
    made.reload()
    assert made.status == "paused", made.status
    made.unpause()
    made.rename("py2")
    made.update(mem_limit="32m", memswap_limit="64m")
    made.reload()
    assert made.attrs["HostConfig"]["Memory"] == 32 << 20
    assert made.stats(stream=False)["memory_stats"]["limit"] == 32 << 20
    assert any("sleep" in row[-1] for row in made.top()["Processes"])
    made.stop()
    assert made.wait()["StatusCode"] == 137
    made.restart(timeout=0)
    made.kill()
    made.remove()
    assert client.containers.prune()["SpaceReclaimed"] >= 0


def check_files():
    made = client.containers.create(image, ["cat", "/in/file"], name="py3")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        info = tarfile.TarInfo("in/file")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"hello"))
    assert made.put_archive("/", data.getvalue()) is True
    attached = made.attach(stream=True, logs=True)
    made.start()
    assert b"".join(attached) == b"hello"
    chunks, stat = made.get_archive("/in/file")
    assert stat["size"] == 5, stat
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        assert archive.extractfile("file").read() == b"hello"
    assert {"Path": "/in/file", "Kind": 1} in made.diff(), made.diff()
    committed = made.commit("py-made", "1")
    assert committed.tags == ["py-made:1"], committed.tags
    made.remove()


def check_images():
    dockerfile = f"FROM {image}\nARG V\nRUN echo $V > /v\nCMD [\"cat\", \"/v\"]\n"
    built, lines = client.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag=f"{repository}:py", buildargs={"V": "7"})
    assert any("Successfully built" in line.get("stream", "") for line in lines)
    assert client.containers.run(built, remove=True) == b"7\n"
    fails(docker.errors.BuildError, "returned a non-zero code: 5", client.images.build, fileobj=io.BytesIO(f"FROM {image}\nRUN exit 5\n".encode()))
    pushed = client.images.push(repository, "py", stream=True, decode=True)
    assert any("Digest" in line.get("aux", {}) for line in pushed)
    client.images.remove(f"{repository}:py")
    assert client.images.pull(repository, "py").id == built.id
    copy = b"".join(built.save(named=True))
    client.images.remove(f"{repository}:py")
    assert [i.id for i in client.images.load(copy)] == [built.id]
    assert 'CMD ["cat"' in built.history()[0]["CreatedBy"], built.history()[0]
    assert client.images.get_registry_data(f"{repository}:py").id.startswith("sha256:")
    client.images.remove("py-made:1")


def check_networks_and_volumes():
    network = client.networks.create("py-net", labels={"by": "py"})
    volume = client.volumes.create("py-vol", labels={"by": "py"})
    server = client.containers.run(
        image, ["sh", "-c", "while :; do cat /data/say | nc -l -p 80; done"], detach=True, name="py-server", network="py-net",
        volumes={"py-vol": {"bind": "/data", "mode": "rw"}}, stop_signal="SIGKILL",
    )
    server.exec_run(["sh", "-c", "echo hello > /data/say"])
    said = client.containers.run(image, ["sh", "-c", "until nc -w 1 py-server 80 < /dev/null | grep hello; do :; done"], network="py-net", remove=True)
    assert said == b"hello\n", said
    network.reload()
    assert [c.name for c in network.containers] == ["py-server"]
    fails(docker.errors.APIError, "volume is in use", volume.remove)
    network.disconnect(server)
    server.remove(force=True)
    network.remove()
    volume.remove()
    assert client.volumes.list(filters={"label": "by=py"}) == []


def check_events_and_streams():
    seen = []
    events = client.events(decode=True, filters={"container": "py-seen"})
    reader = threading.Thread(target=lambda: seen.extend(event["Action"] for event in events))
    reader.start()
    made = client.containers.create(image, ["cat"], name="py-seen", stdin_open=True)
    stream = made.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    made.start()
    stream._sock.sendall(b"typed\n")
    time_limit = time.monotonic() + 30
    got = b""
    while b"typed\n" not in got and time.monotonic() < time_limit:
        got += stream._sock.recv(100)
    assert b"typed\n" in got, got
    stream.close()
    made.remove(force=True)
    while "destroy" not in seen and time.monotonic() < time_limit:
        time.sleep(0.05)
    events.close()
    reader.join(10)
    assert [a for a in seen if a in ("create", "attach", "start", "die", "destroy")] == ["create", "attach", "start", "die", "destroy"], seen


checks = [check_run, check_life, check_files, check_images, check_networks_and_volumes, check_events_and_streams]
for check in checks:
    why = None
    try:
        check()
    except Exception:  # noqa: BLE001 - whatever went wrong is what is reported
        why = traceback.format_exc()
    print(json.dumps({"name": check.__name__[len("check_"):], "why": why}), flush=True)
