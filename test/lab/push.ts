import { pushImage } from "./image.ts";
import { labImages } from "./images.ts";
import { waitFor } from "./shell.ts";
import { connect } from "node:net";

// A process of its own, since it has to run inside the network namespace of the lab's bridge:
// nsenter --net=/run/netns/shoal-lan node push.js 10.230.0.254:5000
const registry = process.argv[2] ?? "10.230.0.254:5000";
const images = await labImages();
await waitFor(`registry at ${registry}`, { timeoutMs: 10_000 }, () => canConnect(registry));
for (const { repository, tag, image } of images) await pushImage(registry, repository, tag, image);

function canConnect(address: string): Promise<boolean> {
  const [host = "", port = "80"] = address.split(":");
  return new Promise((resolve) => {
    const socket = connect({ host, port: Number(port) });
    const finish = (up: boolean): void => {
      socket.destroy();
      resolve(up);
    };
    socket.once("connect", () => finish(true));
    socket.once("error", () => finish(false));
  });
}
