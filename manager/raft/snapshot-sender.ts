import type { ClientDuplexStream, ServiceError } from "@grpc/grpc-js";
import type { RaftHello, RaftMessage, SnapshotPart, SnapshotReceipt } from "../../proto/gen/shoal/raft.ts";
import type { Clock } from "../../runtime/clock.ts";
import { type SnapshotFile, snapshotPartBytes } from "./snapshot-file.ts";

/** Sent and not yet on the receiver's disk: a slow receiver costs no more memory than this. */
const windowBytes = 8 * snapshotPartBytes;
/** A receiver that takes in nothing for this long is given up; what it holds stays, for the next attempt. */
const stallBoundMs = 20_000;

export interface SnapshotSending {
  readonly hello: RaftHello;
  /** Of type snapshot, with size and digest. */
  readonly message: RaftMessage;
  readonly file: SnapshotFile;
  readonly onProgress: (heldBytes: number) => void;
}

/** Settles when the receiver's core has seen it. @throws {Error} when the stream breaks, stalls or is refused. */
export async function sendSnapshot(
  { clock }: { clock: Clock },
  call: ClientDuplexStream<SnapshotPart, SnapshotReceipt>,
  { hello, message, file, onProgress }: SnapshotSending,
): Promise<void> {
  const { dataBytes } = file.identity;
  const state: { heldBytes: number | undefined; isDone: boolean; failure: Error | undefined } = {
    heldBytes: undefined,
    isDone: false,
    failure: undefined,
  };
  let wake = (): void => {};
  let cancelStall = (): void => {};
  const fail = (error: Error): void => {
    if (state.isDone) return; // The stream ends with the last receipt, and may do so before anybody was woken by that.
    state.failure ??= error;
    wake();
  };
  const stillAlive = (): void => {
    cancelStall();
    cancelStall = clock.after(stallBoundMs, () => {
      fail(new Error(`the receiver took in nothing for ${stallBoundMs} ms`));
    });
  };
  const until = async (isSo: () => boolean): Promise<void> => {
    while (state.failure === undefined && !isSo()) await new Promise<void>((resolve) => (wake = resolve));
    if (state.failure !== undefined) throw state.failure;
  };
  call.on("data", ({ heldBytes, done }: SnapshotReceipt) => {
    stillAlive();
    state.heldBytes = heldBytes;
    state.isDone ||= done;
    onProgress(heldBytes);
    wake();
  });
  call.on("error", (error: ServiceError) => fail(error));
  call.on("end", () => fail(new Error("the receiver ended the stream")));
  try {
    stillAlive();
    call.write({ hello, message, data: Buffer.alloc(0), offset: 0 });
    await until(() => state.heldBytes !== undefined);
    const from = state.heldBytes ?? 0;
    if (from > dataBytes) throw new Error(`the receiver asks for offset ${from} of ${dataBytes}`);
    for await (const { offset, data } of file.parts(from)) {
      await until(() => offset + data.byteLength - (state.heldBytes ?? 0) <= windowBytes);
      const view = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
      call.write({ hello: undefined, message: undefined, data: view, offset });
    }
    call.end();
    await until(() => state.isDone);
  } finally {
    cancelStall();
    if (!state.isDone) call.cancel();
  }
}
