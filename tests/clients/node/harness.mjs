// What the programs for Node share: where the runtime is, and the report of their checks on standard output.
// `node PROGRAM.mjs NAME ...` runs only the checks of those names.

export const HOST = process.env.RUNTIME_URL;
export const URL_V1 = `${HOST}/v1`;
export const KEY = process.env.RUNTIME_KEY;
export const DEFAULT = "micro-kiki";
export const FAST = "micro-kiki-fast";
export const BASE = "micro-kiki-base";
export const EMBEDDER = "all-mpnet-base-v2";
export const QUESTION = "What is the capital of France?";
export const STORY = "Write a long story about a village by a river.";
export const TOO_LONG = "north south east west ".repeat(2500);

const report = {};

/** Run the function and note under the name what went wrong, or null. */
export async function check(name, run) {
  const wanted = process.argv.slice(2);
  if (wanted.length && !wanted.includes(name)) return;
  const started = performance.now();
  try {
    await run();
    report[name] = null;
  } catch (error) {
    const where = (error?.stack ?? "").split("\n").find((line) => line.includes(process.argv[1])) ?? "";
    report[name] = `${error?.name}: ${String(error?.message).slice(0, 700)} ${where.trim()}`;
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(2);
  console.error(`${seconds.padStart(6)} s  ${name}: ${report[name] ?? "held"}`);
}

/** Print the report and end. */
export function finish() {
  process.stdout.write(`${JSON.stringify(report)}\n`, () => process.exit(0));
}

/** The error of that class with which the promise is rejected. */
export async function expect(kind, promise) {
  let outcome;
  try {
    outcome = await promise;
  } catch (error) {
    if (error instanceof kind) return error;
    throw error;
  }
  throw new Error(`no ${kind.name}: ${JSON.stringify(outcome)}`);
}

/** Read a stream to its end. */
export async function collect(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

/** Have the newest turn cancelled: its stream ends in an error. */
export async function cancelTurn() {
  await fetch(process.env.CANCEL_URL, { method: "POST" });
}

/** Wait until no turn is in flight, at most five seconds. */
export async function idle() {
  let running = 0;
  for (let tries = 0; tries < 50; tries++) {
    running = (await (await fetch(`${HOST}/health`)).json()).turns_in_flight;
    if (running === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`${running} turns still run`);
}
