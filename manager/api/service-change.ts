/** What a user's update does to a service, as one step inside a transaction. */
import { ClusterError } from "../../model/errors.ts";
import type { RegistryAuth, Service, ServiceSpec } from "../../model/service.ts";
import type { Transaction } from "../store/transaction.ts";

/**
 * Puts a new spec in force. The old one is kept for a rollback, and the last update's status goes, so
 * that no client takes it for the status of this one.
 *
 * @param version - The service's version as the client knows it; becomes the spec's version.
 * @param registryAuth - Absent: what was in force stays.
 * @throws {ClusterError} `version-conflict` when the service has changed since.
 */
export function replaceSpec(
  tx: Transaction,
  service: Service,
  spec: ServiceSpec,
  version: number,
  registryAuth?: RegistryAuth,
): Service {
  const { updateStatus: _, registryAuth: auth, previousRegistryAuth: __, ...rest } = service;
  const nextAuth = registryAuth ?? auth;
  return tx.services.update({
    ...rest,
    meta: { ...service.meta, version },
    spec,
    specVersion: version,
    previous: { spec: service.spec, specVersion: service.specVersion },
    ...(nextAuth === undefined ? {} : { registryAuth: nextAuth }),
    ...(auth === undefined ? {} : { previousRegistryAuth: auth }),
  });
}

/**
 * Swaps the spec with the one before it; a second rollback returns to the newer one.
 *
 * @throws {ClusterError} `failed-precondition` when there is none before it, `version-conflict`.
 */
export function rollbackService(tx: Transaction, service: Service, nowMs: number): Service {
  if (service.previous === undefined) {
    throw new ClusterError("failed-precondition", `service ${service.id} does not have a previous spec`);
  }
  const { registryAuth, previousRegistryAuth, ...rest } = service;
  return tx.services.update({
    ...rest,
    spec: service.previous.spec,
    specVersion: service.previous.specVersion,
    previous: { spec: service.spec, specVersion: service.specVersion },
    updateStatus: { state: "rollback_started", startedAtMs: nowMs, message: "manually requested rollback" },
    ...(previousRegistryAuth === undefined ? {} : { registryAuth: previousRegistryAuth }),
    ...(registryAuth === undefined ? {} : { previousRegistryAuth: registryAuth }),
  });
}
