// Ask Baton over NATS from Node, with the `nats` client and plain MessagePack.
//
// usage: npm install && node generate.mjs [nats://127.0.0.1:4222]

import { decode, encode } from "@msgpack/msgpack";
import { connect, createInbox } from "nats";

const connection = await connect({ servers: process.argv[2] ?? "nats://127.0.0.1:4222" });

// The answer is a series of messages on an inbox of our own. While there is nothing to say the gateway sends
// "waiting" events, so that five silent seconds mean it is gone: the subscription's timeout then throws.
const inbox = connection.subscribe(createInbox(), { timeout: 5000 });
const request = {
  v: 1,
  messages: [{ role: "user", content: "Name three colours." }],
  max_tokens: 32,
  temperature: 0,
};
connection.publish("baton.v1.generate", encode(request), { reply: inbox.getSubject() });

for await (const message of inbox) {
  const event = message.headers?.get("Baton-Event");
  if (!event) {
    throw new Error("no gateway is connected to this NATS server");
  }
  const body = decode(message.data);
  if (event === "delta") {
    process.stdout.write(body.text);
  } else if (event === "finished") {
    console.log(`\n[${body.finish_reason}, ${body.usage.completion_tokens} tokens]`);
    break; // leaving the loop unsubscribes; to leave it earlier would have cancelled the generation
  } else if (event === "error") {
    throw new Error(`${message.headers.get("Baton-Error")}: ${body.message}`);
  }
}
await connection.close();
