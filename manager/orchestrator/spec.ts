import { ClusterError } from "../../model/errors.ts";
import {
  isJob,
  type RegistryAuth,
  type Service,
  type ServiceRevision,
  type ServiceSpec,
} from "../../model/service.ts";
import { dropUnusedRevision } from "../store/revisions.ts";
import { requireSeen, type StoreView, type Transaction } from "../store/transaction.ts";

/** The iteration that begins with a spec; services that are no jobs have none. */
export function jobOf(
  spec: ServiceSpec,
  before: Service["job"],
  nowMs: number,
): { readonly job?: NonNullable<Service["job"]> } {
  if (!isJob(spec.mode)) return {};
  return { job: { iteration: before === undefined ? 0 : before.iteration + 1, lastExecutionMs: nowMs } };
}

/**
 * Gives a service a new spec on behalf of a user: keeps the old one as `previous`, forgets the status of
 * the last update, and raises the job iteration of jobs.
 *
 * @param version - The service's version as the client knows it; it becomes the new spec version.
 * @param registryAuth - Credentials for the new spec's image; absent keeps those there are, an empty object removes them.
 * @throws {ClusterError} `version-conflict` when the spec has changed since.
 */
export function replaceSpec(
  tx: Transaction,
  service: Service,
  spec: ServiceSpec,
  version: number,
  registryAuth?: RegistryAuth,
): Service {
  requireSeen(service, version);
  const { updateStatus: _, previousRegistryAuth: __, registryAuth: before, ...rest } = service;
  const replaced = tx.services.update({
    ...rest,
    spec,
    specVersion: version,
    previous: { spec: service.spec, specVersion: service.specVersion },
    ...(before === undefined ? {} : { previousRegistryAuth: before }),
    ...givenAuth(registryAuth ?? before),
    ...jobOf(spec, service.job, tx.nowMs),
  });
  dropUnusedRevision(tx, service.id, service.specVersion);
  return replaced;
}

/** The field of a service; none for credentials without anything in them. */
export function givenAuth(registryAuth: RegistryAuth | undefined): Pick<Service, "registryAuth"> {
  return registryAuth === undefined || Object.keys(registryAuth).length === 0 ? {} : { registryAuth };
}

/** Names of secrets, configs and networks that the spec refers to and that are gone; empty when it can be carried out. */
export function missingReferences(view: StoreView, { task: { container, networks } }: ServiceSpec): string[] {
  return [
    ...container.secrets
      .filter(({ secretId, secretName }) => view.secrets.get(secretId)?.spec.name !== secretName)
      .map(({ secretName }) => `secret ${secretName}`),
    ...container.configs
      .filter(({ configId, configName }) => view.configs.get(configId)?.spec.name !== configName)
      .map(({ configName }) => `config ${configName}`),
    ...networks
      .filter(({ networkId }) => !view.networks.has(networkId))
      .map(({ networkId }) => `network ${networkId}`),
  ];
}

/**
 * A user's rollback: spec and previous spec change places, so that a second one returns to the newer.
 * @throws {ClusterError} `failed-precondition` without a previous spec, or when what that refers to is gone.
 */
export function rollbackService(tx: Transaction, service: Service): Service {
  if (service.previous === undefined) {
    throw new ClusterError("failed-precondition", `service ${service.id} does not have a previous spec`);
  }
  const missing = missingReferences(tx, service.previous.spec);
  if (missing.length > 0)
    throw new ClusterError("failed-precondition", `cannot roll back: ${notFoundText(missing)}`);
  return rollBackTo(tx, service, service.previous, {
    message: "manually requested rollback",
    keepReplaced: true,
  });
}

/** Why a rollback cannot be, from {@link missingReferences}. */
export function notFoundText(missing: readonly string[]): string {
  return `${missing.join(", ")} not found, to which the previous spec refers`;
}

/** Puts `target` in place and marks the rollback as begun; a job merely runs again. */
export function rollBackTo(
  tx: Transaction,
  service: Service,
  target: ServiceRevision,
  how: { readonly message: string; readonly keepReplaced: boolean },
): Service {
  const { previous: _, updateStatus: __, registryAuth, previousRegistryAuth, ...rest } = service;
  const replaced: ServiceRevision = { spec: service.spec, specVersion: service.specVersion };
  const updated = tx.services.update({
    ...rest,
    spec: target.spec,
    specVersion: target.specVersion,
    ...(how.keepReplaced ? { previous: replaced } : {}),
    ...(previousRegistryAuth === undefined ? {} : { registryAuth: previousRegistryAuth }),
    ...(registryAuth === undefined || !how.keepReplaced ? {} : { previousRegistryAuth: registryAuth }),
    ...jobOf(target.spec, service.job, tx.nowMs),
    ...(isJob(target.spec.mode)
      ? {}
      : {
          updateStatus: {
            state: "rollback_started" as const,
            message: how.message,
            startedAtMs: tx.nowMs,
            startedVersion: tx.version,
          },
        }),
  });
  dropUnusedRevision(tx, service.id, service.specVersion);
  return updated;
}
