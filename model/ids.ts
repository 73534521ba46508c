/**
 * Branded ids. Every id is 25 characters of base36 (see `runtime/random.ts`) and opaque; only
 * equality, and a unique prefix typed by a user, mean anything.
 */
type Brand<Name extends string> = string & { readonly __brand: Name };

export type ClusterId = Brand<"ClusterId">;
export type NodeId = Brand<"NodeId">;
export type ServiceId = Brand<"ServiceId">;
export type TaskId = Brand<"TaskId">;
export type NetworkId = Brand<"NetworkId">;
export type SecretId = Brand<"SecretId">;
export type ConfigId = Brand<"ConfigId">;
/** Made of the ids of what it joins: see `attachment.ts`. */
export type AttachmentId = Brand<"AttachmentId">;

export const idLength = 25;
const idPattern = /^[0-9a-z]{25}$/;

export function isId(text: string): boolean {
  return idPattern.test(text);
}
