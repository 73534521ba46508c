/** IPv4 blocks in CIDR form: reading, containment, overlap. */

export interface Subnet {
  readonly first: number;
  readonly last: number;
}

/** Undefined when the text is no IPv4 CIDR. */
export function parseSubnet(text: string): Subnet | undefined {
  const [address = "", bits = ""] = text.split("/");
  const at = parseAddress(address);
  if (at === undefined || !/^\d{1,2}$/.test(bits) || Number(bits) > 32) return undefined;
  const size = 2 ** (32 - Number(bits));
  const first = Math.floor(at / size) * size;
  return { first, last: first + size - 1 };
}

export function parseAddress(text: string): number | undefined {
  const parts = text.split(".");
  if (parts.length !== 4 || !parts.every((each) => /^\d{1,3}$/.test(each) && Number(each) <= 255))
    return undefined;
  return parts.reduce((sum, each) => sum * 256 + Number(each), 0);
}

export function overlaps(a: Subnet, b: Subnet): boolean {
  return a.first <= b.last && b.first <= a.last;
}

export function contains(outer: Subnet, inner: Subnet): boolean {
  return outer.first <= inner.first && inner.last <= outer.last;
}
