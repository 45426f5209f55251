// Ask one question over NATS and print the answer while it is decoded.
//   npx tsx ask.ts "What is the capital of France?"      (the broker is $NATS_URL)
import { connect, headers } from "@nats-io/transport-node";
import { randomUUID } from "node:crypto";

interface Token { text: string; kind: "content" | "reasoning" }
interface Failed { code: string; message: string }
interface Answer { text: string }

const question = process.argv.slice(2).join(" ") || "What is the capital of France?";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });

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
      process.stdout.write(token.text);
    }
  } else if (stage === "answer.ready") {
    const { text } = message.json<Answer>();
    if (shown.trim() === "") process.stdout.write(text); // the model id asked for judgement before text
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
