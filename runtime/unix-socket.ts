import { connect } from "node:net";

/** A local listener accepts at once, or never. */
const answerTimeoutMs = 1_000;

/** Whether some process listens on a Unix socket; a file that a killed one left does not count. */
export function socketAnswers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const end = (isAnswered: boolean): void => {
      socket.destroy();
      resolve(isAnswered);
    };
    socket.once("connect", () => end(true));
    socket.once("error", () => end(false));
    socket.setTimeout(answerTimeoutMs, () => end(false));
  });
}
