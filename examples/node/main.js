// An example for a service that sends interaction requests: it reads one request from standard input, sends it, and reads
// the results of its source with a durable consumer until the final answer to its own message has come. Answers to that
// message go to standard output; what it reads before them is named on standard error. With arguments it asks a worker where a
// request is, or to take it back, and prints the answer.
//
//     npm ci
//     export NATS_URL=nats://127.0.0.1:4222
//     node main.js < request.json
//     node main.js status crm-42-callback
//     node main.js cancel crm-42-callback "the customer called"
//
// A service of yours keeps what it has sent, and what it has read, in its own database: see the comments of book.
// docs/sending.md tells the rest.
import { readFileSync } from "node:fs";
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, headers, nanos } from "@nats-io/transport-node";

// source is the sending service: the end of the subjects of its requests and results, and the name of its consumer.
const source = "crm";

// send publishes a request and waits until the stream has it. Until then nothing is sent: an error means that it may be there
// or not, and to send the same again under the same request_id is safe.
async function send(js, body) {
  const h = headers();
  h.set("Content-Type", "application/json");
  const ack = await js.publish(`interactions.requests.${source}`, body, { headers: h });
  if (ack.duplicate) { // only with a Nats-Msg-Id header: the stream has dropped this message, and nobody will answer it
    throw new Error(`dropped by the stream as a repeat of message ${ack.seq}`);
  }
  console.error(`sent: message ${ack.seq} of ${ack.stream}`);
  return { stream: ack.stream, sequence: ack.seq };
}

// ended says whether the request has come to its end.
const ended = (result) => ["created", "rejected", "abandoned", "expired", "cancelled"].includes(result.outcome);

// answered says whether no other answer to the same message follows by itself. Other words may follow an outcome, or come
// with a later version: they are passed over.
const answered = (result) => ended(result) || ["conflict", "malformed"].includes(result.outcome); // which say nothing about a request

// replaces says whether result stands, of two results of one request. Results may come twice, and in any order.
const replaces = (result, known) =>
  result.revision > known.revision || (result.revision === known.revision && ended(result) && !ended(known));

// read keeps every result of the source, until the final answer to the sent message is among them.
async function read(consumer, sent) {
  const book = new Map(); // by request id; a table of yours
  for await (const m of await consumer.consume()) {
    const result = m.json(); // digits of numbers beyond 2^53 are lost: where metadata has such numbers, send them as strings
    if (ended(result) || result.outcome === "uncertain") {
      const known = book.get(result.request_id);
      if (known === undefined || replaces(result, known)) {
        book.set(result.request_id, result); // yours: in one transaction with what the service does about it
      }
    }
    // After the commit. What is not acknowledged, as after a crash here, comes again after ack_wait.
    if (!(await m.ackAck().catch(() => false))) {
      console.error("comes again: the acknowledgement was not confirmed");
    }
    if (result.stream !== sent.stream || result.sequence !== sent.sequence) { // the answer to another message, such as one of an earlier run
      console.error(`kept: ${result.outcome}, the answer to message ${result.sequence}`);
      continue;
    }
    console.log(m.string());
    if (answered(result)) {
      return;
    }
  }
}

const url = new URL(process.env.NATS_URL ?? "nats://127.0.0.1:4222");
const connection = await connect({
  servers: url.host,
  ...(url.username && { user: decodeURIComponent(url.username), pass: decodeURIComponent(url.password) }), // the client does not read them from a URL
  name: source,
  inboxPrefix: `_INBOX.${source}`, // what comes to others cannot be read under it
  maxReconnectAttempts: -1, // otherwise the client gives up
});
const [question, requestID, why] = process.argv.slice(2);
try {
  if (question === undefined) {
    await sendAndRead();
  } else if (question === "status" && process.argv.length === 4) {
    await ask(question, { request_id: requestID });
  } else if (question === "cancel" && process.argv.length === 5) {
    await ask(question, { request_id: requestID, why });
  } else {
    throw new Error("the arguments are: none, with a request on standard input; or status ID; or cancel ID WHY");
  }
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await connection.drain();
}

async function sendAndRead() {
  // A new consumer begins with the oldest result that the stream has; afterwards the server knows how far the service has read.
  // Each pod of the service opens the same one, and each result goes to one of them.
  const js = jetstream(connection);
  const manager = await jetstreamManager(connection, { checkAPI: false }); // the check needs one more permission
  const info = await manager.consumers.add("INTERACTION_RESULTS", {
    durable_name: source,
    filter_subject: `interactions.results.*.${source}`,
    ack_policy: AckPolicy.Explicit,
    ack_wait: nanos(30_000), // longer than the service takes to commit
  });
  const consumer = js.consumers.getConsumerFromInfo(info);
  await read(consumer, await send(js, readFileSync(0)));
}

// ask puts a question to any worker, and prints its answer. A message that no worker has read yet is not known (404), also when
// its PubAck has come: so ask asks again, for half a minute. What is not known then has another id, or another source, or no
// worker runs. To cancel again is safe: the answer is the same.
async function ask(question, body) {
  const over = Date.now() + 30_000;
  let said;
  for (;;) {
    let problem;
    try {
      const m = await connection.request(`interactions.${question}.${source}`, JSON.stringify(body), { timeout: 5_000 });
      const code = m.headers?.get("Nats-Service-Error-Code");
      if (!code) {
        console.log(m.string());
        return;
      }
      problem = new Error(`${code}: ${m.headers.get("Nats-Service-Error")}`);
      if (code !== "404" && code !== "503") {
        throw Object.assign(problem, { final: true }); // the question itself is wrong
      }
    } catch (error) {
      if (error.final) {
        throw error;
      }
      problem = error; // no worker runs, or the answer was lost
    }
    if (Date.now() >= over) {
      throw problem;
    }
    if (problem.message !== said) {
      console.error(`asking again: ${(said = problem.message)}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}
