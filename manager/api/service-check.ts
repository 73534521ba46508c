/** What a new or changed service needs from the rest of the cluster; runs inside the transaction. */
import { isDeepStrictEqual } from "node:util";
import { ClusterError } from "../../model/errors.ts";
import type { NetworkId } from "../../model/ids.ts";
import { isPredefined, type Network } from "../../model/network.ts";
import type { Service, ServiceSpec } from "../../model/service.ts";
import { serviceProblems } from "../../model/validate.ts";
import { noIngressText, publishesOnIngress } from "../allocator/endpoint.ts";
import { takenPortText } from "../orchestrator/ports.ts";
import type { StoreView } from "../store/transaction.ts";
import { byExactName } from "./resolve.ts";

/**
 * Network names become ids, and every rule is checked.
 *
 * @param own - The service that is changed; absent for a new one.
 * @returns The spec to store.
 * @throws {ClusterError} with the first problem, in the API's words.
 */
export function checkService(view: StoreView, given: ServiceSpec, own?: Service): ServiceSpec {
  const problem = serviceProblems(given)[0];
  if (problem !== undefined) throw new ClusterError("invalid-argument", problem);
  const spec = resolveNetworks(view, given);
  checkReferences(view, spec);
  // What was taken in already may stay as it is: whoever else has it is to blame.
  if (!isDeepStrictEqual(own?.spec.endpoint, spec.endpoint)) refuseTakenPorts(view, spec, own);
  return spec;
}

/**
 * @throws {ClusterError} `invalid-argument` for ports that the managers or another service have, `failed-precondition` when
 *   there is no network to publish them on.
 * @param own - The service that is changed; absent for a new one.
 */
export function refuseTakenPorts(view: StoreView, { endpoint }: ServiceSpec, own: Service | undefined): void {
  if (publishesOnIngress({ endpoint }) && view.networks.ingress() === undefined) {
    throw new ClusterError("failed-precondition", noIngressText);
  }
  const taken = takenPortText(view, { endpoint }, own);
  if (taken !== undefined) throw new ClusterError("invalid-argument", taken);
}

function resolveNetworks(view: StoreView, spec: ServiceSpec): ServiceSpec {
  const networks = spec.task.networks.map((reference) => ({
    ...reference,
    networkId: attachable(view, reference.networkId).id,
  }));
  return { ...spec, task: { ...spec.task, networks } };
}

function attachable(view: StoreView, wanted: string): Network {
  const network = view.networks.get(wanted as NetworkId) ?? byExactName(wanted, view.networks);
  if (network === undefined) throw new ClusterError("not-found", `network ${wanted} not found`);
  if (network.spec.ingress) {
    throw new ClusterError(
      "invalid-argument",
      `Service cannot be explicitly attached to the ingress network "${network.spec.name}"`,
    );
  }
  if (network.spec.driver !== "overlay" && !isPredefined(network)) {
    throw new ClusterError(
      "permission-denied",
      `The network ${wanted} cannot be used with services. Only networks scoped to the swarm can be used, such as those created with the overlay driver.`,
    );
  }
  return network;
}

function checkReferences(view: StoreView, { task: { container } }: ServiceSpec): void {
  // Both must fit: a name that belongs to another secret is a mistake that would show only in the container.
  const secrets = container.secrets.filter(
    ({ secretId, secretName }) => view.secrets.get(secretId)?.spec.name !== secretName,
  );
  refuseMissing(
    "secret",
    secrets.map((each) => each.secretName),
  );
  const configs = container.configs.filter(
    ({ configId, configName }) => view.configs.get(configId)?.spec.name !== configName,
  );
  refuseMissing(
    "config",
    configs.map((each) => each.configName),
  );
}

function refuseMissing(kind: "secret" | "config", names: readonly string[]): void {
  if (names.length === 0) return;
  throw new ClusterError(
    "invalid-argument",
    `${kind}${names.length > 1 ? "s" : ""} not found: ${names.join(", ")}`,
  );
}
