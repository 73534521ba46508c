/** Files of containers, what is made of them, and builds. */
import { packTar, type TarEntry } from "../../lab/tar.ts";
import type { Call } from "./call.ts";
import { repository } from "./images.ts";

const file = (path: string, text: string): TarEntry => ({ kind: "file", path, data: Buffer.from(text) });
const context = (dockerfile: string): Buffer => packTar([file("Dockerfile", dockerfile), file("a", "a\n")]);
/** It may lose its name while a container is made of it. */
const named: Call = `POST /images/${repository}:1/tag?repo=bb`;
const noContext = packTar([file("a", "a\n")]);

const fileCalls: readonly Call[] = [
  [
    "POST /containers/create?name=f1",
    {
      Image: "bb",
      StopTimeout: 0,
      Cmd: ["sh", "-c", "mkdir /new; echo x > /new/file; ln -s /new /link; rm /bin/vi; exec sleep 600"],
    },
  ],
  "GET /containers/f1/archive?path=/etc/group",
  "POST /containers/f1/start",
  "$ for i in $(seq 50); do docker exec f1 test -e /link -a ! -e /bin/vi && break; done",
  "GET /containers/f1/changes",
  "HEAD /containers/f1/archive?path=/etc/group",
  "HEAD /containers/f1/archive?path=/link",
  "HEAD /containers/f1/archive?path=/new",
  "HEAD /containers/f1/archive?path=/tmp",
  "HEAD /containers/f1/archive?path=/nosuch",
  "HEAD /containers/f1/archive",
  "HEAD /containers/nosuch/archive?path=/",
  "GET /containers/f1/archive?path=/new",
  "GET /containers/f1/archive?path=/link",
  "GET /containers/f1/archive?path=new/file",
  "GET /containers/f1/archive?path=/new/.",
  "GET /containers/f1/archive?path=/nosuch",
  "GET /containers/f1/archive",
  "GET /containers/nosuch/archive?path=/",
  [
    "PUT /containers/f1/archive?path=/tmp",
    packTar([file("put", "put\n"), { kind: "directory", path: "dir" }, file("dir/x", "x")]),
  ],
  ["PUT /containers/f1/archive?path=/nosuch", noContext],
  ["PUT /containers/f1/archive?path=/etc/group", noContext],
  ["PUT /containers/f1/archive", noContext],
  ["PUT /containers/nosuch/archive?path=/", noContext],
  ["PUT /containers/f1/archive?path=/tmp", Buffer.from("no archive")],
  ["PUT /containers/f1/archive?path=/tmp&noOverwriteDirNonDir=1", packTar([file("dir", "no directory")])],
  "GET /containers/f1/archive?path=/tmp",
  "$ docker cp f1:/new out && ls -R out && docker cp out f1:/in && docker exec f1 ls -R /in",
  "$ docker cp f1:/nosuch .",
  "$ docker cp nosuch:/x .",
  "$ docker cp nosuch f1:/x",
  "$ docker cp - f1:/tmp < /dev/null",
  "$ docker cp f1:/new/file - | tar -t",
  "$ docker diff f1 | sort",
  "$ docker diff nosuch",
  "$ docker export f1 | tar -t | grep -E '^(new|link|in)'",
  "$ docker export nosuch",
  "POST /commit?container=f1&repo=made&tag=1&comment=why&author=me",
  [
    "POST /commit?container=f1&repo=made&tag=2&changes=CMD%20x&changes=ENV%20A=1&pause=0",
    { Cmd: ["y"], Labels: { l: "1" } },
  ],
  "POST /commit?container=f1&changes=RUN%20x",
  "POST /commit?container=f1&repo=Upper",
  "POST /commit?container=nosuch",
  "POST /commit",
  "GET /images/made:1/json",
  "GET /images/made:2/json",
  "GET /images/made:1/history",
  "DELETE /images/bb:latest",
  named,
  "DELETE /images/made:1",
  "$ docker commit -m why -a me f1 made:3 | cut -c1-7",
  "$ docker rmi made:2 made:3 | sed 's/[0-9a-f]\\{64\\}/<id>/' | sort -u",
  "$ docker rmi bb",
  named,
  "DELETE /containers/f1?force=1",
];

const buildCalls: readonly Call[] = [
  [
    "POST /build?t=built:1",
    context('FROM bb\nLABEL a=b\nENV X=1\nCOPY a /a\nRUN cat /a\nCMD ["cat", "/a"]\n'),
  ],
  [
    "POST /build?t=built:1",
    context('FROM bb\nLABEL a=b\nENV X=1\nCOPY a /a\nRUN cat /a\nCMD ["cat", "/a"]\n'),
  ],
  ["POST /build?q=1", context("FROM bb\nLABEL a=b\nENV X=1\nCOPY a /a\n")],
  "GET /images/built:1/json",
  "GET /images/built:1/history",
  "$ docker run --rm built:1",
  ["POST /build?x=1", context("FROM bb\nRUN echo out; echo err >&2; exit 5\n")],
  ["POST /build?x=2", context("FROM bb\nCOPY nosuch /x\n")],
  ["POST /build?x=3", context("FORM bb\n")],
  ["POST /build?x=4", context("")],
  ["POST /build?x=5", context("RUN x\n")],
  ["POST /build?x=6", context("FROM nosuch:1\n".replace("nosuch", "127.0.0.1:5000/golden/nosuch"))],
  ["POST /build?x=7", noContext],
  ["POST /build?dockerfile=nosuch", noContext],
  ["POST /build?dockerfile=../x", noContext],
  ["POST /build?x=8", Buffer.from("this is no archive")],
  ["POST /build?t=Upper", context("FROM bb\n")],
  ["POST /build?target=nosuch", context("FROM bb\n")],
  ["POST /build?buildargs=nojson", context("FROM bb\n")],
  [
    'POST /build?buildargs={"V":"7","NOSUCH":"1"}&labels={"l":"1"}',
    context("ARG V=1\nFROM bb\nARG V\nRUN echo v=$V\n"),
  ],
  ["POST /build?networkmode=none&nocache=1", context("FROM bb\nRUN ls /sys/class/net\n")],
  ["POST /build?squash=1", context("FROM bb\n")],
  ["POST /build?x=9", context("FROM bb AS one\nRUN echo 1 > /one\nFROM bb\nCOPY --from=one /one /two\n")],
  ["POST /build?x=10", context("FROM bb\nUSER\n")],
  ["POST /build?x=11", context("FROM bb\nEXPOSE x\n")],
  ["POST /build?x=12", context("FROM bb\nADD a\n")],
  ["POST /build?x=13", context("FROM bb\nENV a\n")],
  ["POST /build?x=14", context("FROM bb\nCMD one\nCMD two\nENTRYPOINT three\nSTOPSIGNAL nosuch\n")],
  "$ mkdir ctx && printf 'FROM bb\\nRUN echo hi\\n' > ctx/Dockerfile && DOCKER_BUILDKIT=0 docker build -q -t built:2 ctx | cut -c1-7",
  "$ DOCKER_BUILDKIT=0 docker build -t built:3 --target nosuch ctx",
  "$ DOCKER_BUILDKIT=0 docker build nosuch",
  "$ docker container prune -f > /dev/null; docker rmi built:1 built:2 | grep -c Untagged",
  "POST /build/prune",
  "POST /build/cancel?id=x",
  "$ docker builder prune -f | cut -d: -f1",
];

export const filesCalls: readonly Call[] = [...fileCalls, ...buildCalls];
