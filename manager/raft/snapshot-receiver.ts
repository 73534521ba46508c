import type { ServerDuplexStream } from "@grpc/grpc-js";
import type { MemberId, SnapshotMessage } from "raft-ts";
import { ClusterError } from "../../model/errors.ts";
import type { RaftHello, SnapshotPart, SnapshotReceipt } from "../../proto/gen/shoal/raft.ts";
import type { WireStatus } from "../../proto/status.ts";
import type { Log } from "../../runtime/log.ts";
import { messageFromWire } from "./codec.ts";
import type { SnapshotIdentity } from "./snapshot-file.ts";
import type { SnapshotIntake } from "./snapshot-inbox.ts";

interface ReceiverDeps {
  /** Who speaks. @throws {ClusterError} when it is nobody to be listened to. */
  readonly greet: (hello: RaftHello | undefined) => MemberId;
  readonly offer: (message: SnapshotMessage, identity: SnapshotIdentity) => Promise<SnapshotIntake>;
  readonly refusal: (error: unknown) => WireStatus;
  readonly log: Log;
}

/** `RaftPeer.SendSnapshot`: one part at a time, each answered once it is written. */
export function receiveSnapshot(
  { greet, offer, refusal, log }: ReceiverDeps,
  call: ServerDuplexStream<SnapshotPart, SnapshotReceipt>,
): void {
  let intake: SnapshotIntake | undefined;
  let heldBytes = 0;
  let state: "open" | "over" = "open";
  let last: Promise<void> = Promise.resolve();
  const inTurn = (step: () => Promise<void>): void => {
    last = last.then(async () => {
      if (state === "over") return;
      try {
        await step();
      } catch (error) {
        state = "over";
        call.emit("error", refusal(error)); // How grpc-js is told a stream's status.
      }
    });
  };
  call.on("data", (part: SnapshotPart) => {
    call.pause(); // Nothing gathers in memory while this one is being written.
    inTurn(async () => {
      if (intake === undefined) {
        const { message, identity } = offered(greet(part.hello), part);
        intake = await offer(message, identity);
        heldBytes = intake.offset;
      } else {
        await intake.add({ offset: part.offset, data: part.data });
        heldBytes = part.offset + part.data.byteLength;
      }
      call.write({ heldBytes, done: false });
      call.resume();
    });
  });
  call.on("end", () => {
    inTurn(async () => {
      if (intake === undefined)
        throw new ClusterError("invalid-argument", "a snapshot stream without a part");
      await intake.finish();
      state = "over";
      call.write({ heldBytes, done: true });
      call.end();
    });
  });
  call.on("cancelled", () => (state = "over"));
  call.on("error", (error: Error) => log.debug({ error: error.message }, "raft snapshot failed"));
}

function offered(
  from: MemberId,
  { message: wire }: SnapshotPart,
): { message: SnapshotMessage; identity: SnapshotIdentity } {
  if (wire?.from !== from) throw new ClusterError("permission-denied", `member ${from} spoke for another`);
  const message = messageFromWire(wire);
  if (message.type !== "snapshot") throw new ClusterError("invalid-argument", "not a snapshot");
  const { index, term } = message.snapshot;
  const { dataBytes = 0, digest = Buffer.alloc(0) } = wire.snapshot ?? {};
  return { message, identity: { index, term, dataBytes, digest: Buffer.from(digest).toString("hex") } };
}
