/**
 * The ports that every host publishes, held on this one as those of its own tasks are. What arrives by IPv6 and is not for a
 * rule goes by a relay to this host's own port, and from there on like every other client.
 */
import { ClusterError, errorText } from "../../model/errors.ts";
import { portKey, type PublishedPort } from "../../model/task.ts";
import { dnsPort } from "./dns-message.ts";
import type { PublishedPorts } from "./ports.ts";

export interface MeshPort extends PublishedPort {
  /** All of this host's IPv6 addresses as well, where it has some. */
  readonly ipv6?: true;
}

const localhost = "127.0.0.1";

export class MeshPorts {
  readonly #ports: PublishedPorts;
  readonly #warn: (text: string) => void;
  readonly #held = new Map<string, PublishedPort>();
  /** What was said of a port that another program has, so that it is said once. */
  readonly #refused = new Map<string, string>();

  constructor({ ports, warn }: { ports: PublishedPorts; warn: (text: string) => void }) {
    this.#ports = ports;
    this.#warn = warn;
  }

  /** Why those that this host does not publish are not, by `portKey`. */
  get refused(): ReadonlyMap<string, string> {
    return this.#refused;
  }

  /**
   * Lets go of all others. A port that another program has stays with that program, and is tried again each time: clients
   * reach the service by the other hosts meanwhile.
   *
   * @returns those that are held.
   */
  async hold(wanted: readonly MeshPort[]): Promise<readonly PublishedPort[]> {
    const keys = new Set(wanted.map(portKey));
    for (const [key, port] of this.#held) {
      if (keys.has(key)) continue;
      this.#ports.release([port]);
      this.#held.delete(key);
    }
    for (const key of this.#refused.keys()) if (!keys.has(key)) this.#refused.delete(key);
    for (const port of wanted) {
      if (!this.#held.has(portKey(port))) await this.#holdOne(port);
    }
    return [...this.#held.values()];
  }

  async #holdOne(port: MeshPort): Promise<void> {
    const key = portKey(port);
    try {
      if (port.publishedPort === dnsPort) {
        throw new ClusterError("conflict", "it is the one on which tasks ask this host for names");
      }
      // There is nothing in Node.js that could hold one of SCTP.
      if (port.protocol !== "sctp") {
        await this.#ports.hold({ ...port, targetPort: port.publishedPort }, () => localhost);
      }
      this.#held.set(key, port);
      this.#refused.delete(key);
    } catch (reason) {
      const text = `port ${key} of the mesh is not published on this host: ${errorText(reason)}`;
      if (this.#refused.get(key) !== text) this.#warn(text);
      this.#refused.set(key, text);
    }
  }
}
