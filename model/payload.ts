import type { ConfigId, SecretId } from "./ids.ts";
import type { Meta } from "./meta.ts";
import type { Annotations } from "./service.ts";

/** Largest payloads, exclusive, as the Engine API has them. */
export const secretLimitBytes = 512_000;
export const configLimitBytes = 1_024_000;

export interface PayloadSpec extends Annotations {
  /** Standard base64, so that it stays plain data. */
  readonly data: string;
  readonly templating?: { readonly name: string; readonly options: Readonly<Record<string, string>> };
}

export interface Secret {
  readonly id: SecretId;
  readonly meta: Meta;
  readonly spec: PayloadSpec;
}

export interface Config {
  readonly id: ConfigId;
  readonly meta: Meta;
  readonly spec: PayloadSpec;
}
