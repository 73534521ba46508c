/** What a task's /etc/hosts, /etc/resolv.conf and /etc/hostname say, out of its record and the host's own. */
import { hostsText, resolvConfText, sharedHostsText } from "./files.ts";
import type { FileTexts, TaskRecord } from "./journal.ts";
import type { Upstream } from "./upstream.ts";
import { addressesOf } from "./network.ts";

interface Deps {
  readonly settings: { readonly resolvConf: string; readonly hosts: string };
  readonly readText: (path: string) => Promise<string>;
  readonly upstream: Upstream;
  /** Of the host, on its own bridge. */
  readonly gateway: string;
}

export class TaskTexts {
  readonly #deps: Deps;

  constructor(deps: Deps) {
    this.#deps = deps;
  }

  async of({ request, attached }: TaskRecord): Promise<FileTexts> {
    const { settings, readText, upstream, gateway } = this.#deps;
    if (attached.kind === "host") {
      const shared = request.dns === undefined;
      return {
        hosts: sharedHostsText(await readText(settings.hosts), request, gateway),
        resolvConf: shared
          ? await readText(settings.resolvConf)
          : resolvConfText(request, await upstream.conf(), undefined),
        hostname: `${request.hostname}\n`,
      };
    }
    const addresses = attached.addresses.flatMap(addressesOf);
    return {
      hosts: hostsText(request, addresses, gateway),
      resolvConf: resolvConfText(request, await upstream.conf(), attached.addresses[0]?.gateway),
      hostname: `${request.hostname}\n`,
    };
  }
}
