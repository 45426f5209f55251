// Ask one question over NATS and print the answer while it is decoded.
//   npx tsx ask.ts "What is the capital of France?"      (the broker is $NATS_URL)
import { connect, headers, nkeyAuthenticator } from "@nats-io/transport-node";
import { randomUUID } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";

interface Token { text: string; kind: "content" | "reasoning" }
interface Failed { code: string; message: string }
interface Answer { text: string }

/** The text without what would steer the terminal. */
const printable = (text: string) => text.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, "");

const question = process.argv.slice(2).join(" ") || "What is the capital of France?";

// The broker of 'kiki up' knows you by a file of the data directory.
const share = process.platform === "darwin" ? `${homedir()}/Library/Application Support` : `${homedir()}/.local/share`;
const data = process.env.KIKI_DATA_DIR ?? `${process.env.XDG_DATA_HOME ?? share}/micro-kiki`;
const nkey = process.env.NATS_NKEY ?? `${data}/nats/users/owner.nk`;
const nc = await connect({
  servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222",
  authenticator: existsSync(nkey) ? nkeyAuthenticator(readFileSync(nkey)) : undefined,
});

// The turn id is the last token of every subject of the turn, so one subscription is the whole story.
const turn = randomUUID().replaceAll("-", "");
const story = nc.subscribe(`kiki.*.*.${turn}`);

const now = Date.now() / 1000;
const asked = {
  envelope: {
    event_id: `${turn}:query.received`, turn_id: turn, session_id: turn, tenant: "default",
    created_at: now, deadline: now + 120, schema_version: 5,
  },
  query: {
    model: "micro-kiki-fast", messages: [{ role: "user", content: question }],
    sampling: { seed: Math.floor(Math.random() * 2 ** 31) }, stream: true,
  },
};
const h = headers();
h.set("Nats-Msg-Id", `${turn}:query.received`);
// A request on a stream's subject is answered with the stream's receipt: the question is stored.
const receipt = (await nc.request(`kiki.query.received.${turn}`, JSON.stringify(asked), { headers: h, timeout: 5000 })).json<{ error?: { description: string } }>();
if (receipt.error) throw new Error(receipt.error.description);

let shown = "";
for await (const message of story) {
  const stage = message.subject.split(".").slice(-3, -1).join(".");
  if (stage === "infer.token") {
    const token = message.json<Token>();
    if (token.kind === "content") {
      shown += token.text;
      process.stdout.write(printable(token.text));
    }
  } else if (stage === "answer.ready") {
    const { text } = message.json<Answer>();
    if (shown.trim() === "") process.stdout.write(printable(text)); // the model id asked for judgement before text
    process.stdout.write("\n");
    break;
  } else if (stage === "turn.failed") {
    const { code, message: why } = message.json<Failed>();
    console.error(`${code}: ${why}`);
    process.exitCode = 1;
    break;
  }
}
await nc.close();
