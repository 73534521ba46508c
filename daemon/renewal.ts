import { X509Certificate } from "node:crypto";
import { errorText } from "../model/errors.ts";
import type { ClusterFacts, NodeIdentity } from "../proto/host.ts";
import type { Clock } from "../runtime/clock.ts";
import type { Log } from "../runtime/log.ts";
import type { Random } from "../runtime/random.ts";

const lookEveryMs = 30_000;
const firstRetryMs = 200;
const longestRetryMs = 60_000;
/** Renewal falls at a random point of this part of the validity, so that nodes spread out. */
const renewFrom = 0.5;
const renewUntil = 0.8;

export interface RenewalHooks {
  identity(): NodeIdentity | undefined;
  renewed(identity: NodeIdentity): Promise<void>;
}

/**
 * Renews the certificate when it ages, when the cluster asks for it, and until its role is the one
 * that the cluster wants. Failures are retried with a growing delay for as long as the reason stands.
 */
export function superviseRenewal(
  { clock, random, log }: { clock: Clock; random: Random; log: Log },
  hooks: RenewalHooks,
): { facts(facts: ClusterFacts): void; stop(): void } {
  const stopping = new AbortController();
  let nodeId: string | undefined;
  let facts: ClusterFacts | undefined;
  let generation: number | undefined;
  let due: { readonly certificatePem: string; readonly atMs: number } | undefined;
  let renewing = false;
  let retryMs = firstRetryMs;
  let cancelRetry: (() => void) | undefined;
  const cancelLook = clock.every(lookEveryMs, look);

  /** What an earlier cluster said means nothing in this one. */
  function current(): NodeIdentity | undefined {
    const identity = hooks.identity();
    if (identity?.nodeId !== nodeId) {
      nodeId = identity?.nodeId;
      facts = undefined;
      generation = undefined;
    }
    return identity;
  }

  function look(): void {
    const identity = current();
    if (identity === undefined || renewing || !isDue(identity)) return;
    cancelRetry?.();
    renewing = true;
    const wantedGeneration = facts?.certificateGeneration;
    void renew(identity, clock.now(), stopping.signal)
      .then((renewed) => hooks.renewed(renewed))
      .then(() => {
        generation = wantedGeneration;
        // The role may follow a moment later; then the certificate came too early and another look is due.
        scheduleLook();
      })
      .catch((error: unknown) => {
        log.warn({ error: errorText(error), retryMs }, "cannot renew this node's certificate yet");
        scheduleLook();
      })
      .finally(() => {
        renewing = false;
      });
  }

  function scheduleLook(): void {
    if (stopping.signal.aborted) return;
    cancelRetry = clock.after(retryMs, look);
    retryMs = Math.min(retryMs * 2, longestRetryMs);
  }

  function isDue(identity: NodeIdentity): boolean {
    if (facts !== undefined) {
      if (facts.desiredRole !== identity.role) return true;
      generation ??= facts.certificateGeneration;
      if (facts.certificateGeneration > generation) return true;
    }
    if (due?.certificatePem !== identity.certificatePem) {
      const { notBeforeMs, notAfterMs } = validityOf(identity.certificatePem);
      const part = renewFrom + random.next() * (renewUntil - renewFrom);
      due = {
        certificatePem: identity.certificatePem,
        atMs: notBeforeMs + part * (notAfterMs - notBeforeMs),
      };
      retryMs = firstRetryMs;
    }
    return clock.now() >= due.atMs;
  }

  return {
    facts(latest) {
      current();
      facts = latest;
      look();
    },
    stop() {
      stopping.abort();
      cancelLook();
      cancelRetry?.();
    },
  };
}

async function renew(identity: NodeIdentity, nowMs: number, signal: AbortSignal): Promise<NodeIdentity> {
  const { renewCertificate } = await import("./certificate.ts"); // See there why not before.
  return renewCertificate(identity, nowMs, signal);
}

/** Unix milliseconds between which the first certificate of a chain is valid. */
function validityOf(certificatePem: string): { readonly notBeforeMs: number; readonly notAfterMs: number } {
  const { validFrom, validTo } = new X509Certificate(certificatePem);
  return { notBeforeMs: Date.parse(validFrom), notAfterMs: Date.parse(validTo) };
}
