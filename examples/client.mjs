// A client in one file: no package, only a WebSocket.
//
//     cargo run --release
//     node examples/client.mjs ws://127.0.0.1:8080
//
// It defines a bucket and a query, watches the query, writes, commits a transaction and cleans up behind itself.
// It ends with status 0 when all went as it should. Node 20 and later; what is not Node's own is at the bottom.

import { createHash, randomBytes } from "node:crypto";
import { connect } from "node:net";

const url = process.argv[2] ?? "ws://127.0.0.1:8080";
const PATIENCE_MS = 10_000;

/** One connection: requests find their answers by id, pushes their subscription. */
class Client {
  #socket;
  #lastId = 0;
  #waiting = new Map();
  #watchers = new Map();
  #welcome;

  constructor(socket) {
    this.#socket = socket;
    this.welcome = new Promise((resolve) => (this.#welcome = resolve));
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = ({ code }) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`the connection was closed with ${code}`));
    };
  }

  #receive(message) {
    if (message.type === "welcome") this.#welcome(message);
    else if (message.type === "ping") this.#socket.send(JSON.stringify({ type: "pong", timestamp: message.timestamp }));
    else if (message.type === "push") this.#watchers.get(message.subscriptionId)?.(message.data);
    else if (message.type === "system") console.log("system:", message.event);
    else {
      const { resolve, reject } = this.#waiting.get(message.id);
      this.#waiting.delete(message.id);
      if (message.type === "result") resolve(message.data);
      else reject(new Error(`${message.code}: ${message.message}`));
    }
  }

  /** Sends a request; the promise holds the data of its result, or rejects with its error. */
  call(type, fields = {}) {
    const id = ++this.#lastId;
    const answer = new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    this.#socket.send(JSON.stringify({ id, type, ...fields }));
    return answer;
  }

  /** Watches a query: calls back with the result of the moment, and again with every newer one. */
  async watch(query, params, callback) {
    const { subscriptionId, data } = await this.call("store.subscribe", { query, params });
    this.#watchers.set(subscriptionId, callback);
    callback(data);
    return subscriptionId;
  }

  close() {
    this.#socket.close();
  }
}

async function main() {
  const client = new Client(await open(url));
  const welcome = await client.welcome;
  console.log(`connected to ${url}, protocol ${welcome.version}`);

  // Names of their own, so that the script can run against any server, twice at once too.
  const run = randomBytes(4).toString("hex");
  const [rooms, messages, latest] = [`rooms-${run}`, `messages-${run}`, `latest-${run}`];
  await client.call("store.defineBucket", {
    name: rooms,
    config: { key: "name", schema: { name: { type: "string" }, count: { type: "number", default: 0 } } },
  });
  await client.call("store.defineBucket", {
    name: messages,
    config: {
      key: "id",
      schema: {
        id: { type: "string", generated: "uuid" },
        room: { type: "string", required: true, ref: rooms, onDelete: "cascade" },
        text: { type: "string", required: true, minLength: 1 },
      },
      indexes: ["room"],
    },
  });
  await client.call("store.defineQuery", {
    name: latest,
    config: { bucket: messages, filter: { room: "{{ params.room }}" }, fields: ["text"] },
  });

  await client.call("store.insert", { bucket: rooms, data: { name: "lobby" } });
  let shown = [];
  let changed = () => {};
  const subscriptionId = await client.watch(latest, { room: "lobby" }, (data) => {
    shown = data.map(({ text }) => text);
    console.log("the lobby now:", shown);
    changed();
  });

  await client.call("store.insert", { bucket: messages, data: { room: "lobby", text: "Is anybody here?" } });
  // Two buckets in one step: either both change or neither.
  const { results } = await client.call("store.transaction", {
    operations: [
      { op: "insert", bucket: messages, data: { room: "lobby", text: "I am." } },
      { op: "update", bucket: rooms, key: "lobby", data: { count: 2 } },
      { op: "get", bucket: rooms, key: "lobby" },
    ],
  });
  console.log("the transaction saw its own write:", results[2].data.count);
  if (results[2].data.count !== 2) throw new Error("a transaction must see its own writes");

  await until(() => shown.length === 2, (notify) => (changed = notify));

  try {
    await client.call("store.insert", { bucket: messages, data: { room: "attic", text: "Boo!" } });
    throw new Error("a message in a room that does not exist was taken");
  } catch (error) {
    if (!error.message.startsWith("CONFLICT")) throw error;
    console.log("refused, as it should be:", error.message);
  }

  await client.call("store.unsubscribe", { subscriptionId });
  await client.call("store.undefineQuery", { name: latest });
  await client.call("store.dropBucket", { name: messages });
  await client.call("store.dropBucket", { name: rooms });
  client.close();
}

/** Waits until a condition holds, looking again whenever something changed. */
function until(holds, onChange) {
  return new Promise((resolve) => {
    const look = () => holds() && resolve();
    onChange(look);
    look();
  });
}

function open(address) {
  const socket = globalThis.WebSocket ? new WebSocket(address) : new PlainSocket(address);
  return new Promise((resolve, reject) => {
    socket.onopen = () => resolve(socket);
    socket.onerror = (event) => reject(event.error ?? new Error(`no connection to ${address}`));
  });
}

/** As much of a WebSocket as this script needs, for a Node that has none built in (RFC 6455). */
class PlainSocket {
  #stream;
  #buffer = Buffer.alloc(0);
  #opened = false;
  #pieces = [];

  constructor(address) {
    const { hostname, port, pathname, search } = new URL(address);
    const key = randomBytes(16).toString("base64");
    this.#stream = connect(Number(port) || 80, hostname, () => {
      const head = [`GET ${pathname}${search} HTTP/1.1`, `Host: ${hostname}:${port}`, "Connection: Upgrade"];
      head.push("Upgrade: websocket", "Sec-WebSocket-Version: 13", `Sec-WebSocket-Key: ${key}`, "", "");
      this.#stream.write(head.join("\r\n"));
    });
    this.#stream.on("error", (error) => this.onerror?.({ error }));
    this.#stream.on("close", () => this.onclose?.({ code: 1006 }));
    this.#stream.on("data", (bytes) => {
      this.#buffer = Buffer.concat([this.#buffer, bytes]);
      if (!this.#opened && !this.#readHead(key)) return;
      while (this.#readFrame());
    });
  }

  #readHead(key) {
    const end = this.#buffer.indexOf("\r\n\r\n");
    if (end < 0) return false;
    const head = this.#buffer.subarray(0, end).toString();
    const accept = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
    if (!head.startsWith("HTTP/1.1 101") || !head.includes(accept)) {
      this.#stream.destroy(new Error(`the server refused: ${head.split("\r\n")[0]}`));
      return false;
    }
    this.#buffer = this.#buffer.subarray(end + 4);
    this.#opened = true;
    this.onopen?.({});
    return true;
  }

  #readFrame() {
    const buffer = this.#buffer;
    if (buffer.length < 2) return false;
    const short = buffer[1] & 0x7f;
    const headLength = short === 127 ? 10 : short === 126 ? 4 : 2;
    if (buffer.length < headLength) return false;
    const length = short === 127 ? Number(buffer.readBigUInt64BE(2)) : short === 126 ? buffer.readUInt16BE(2) : short;
    if (buffer.length < headLength + length) return false;
    const payload = buffer.subarray(headLength, headLength + length);
    this.#buffer = buffer.subarray(headLength + length);
    this.#handleFrame(buffer[0] & 0x0f, (buffer[0] & 0x80) !== 0, payload);
    return true;
  }

  #handleFrame(opcode, isLast, payload) {
    if (opcode === 8) {
      this.#write(8, payload);
      this.#stream.end();
    } else if (opcode === 9) {
      this.#write(10, payload);
    } else if (opcode === 0 || opcode === 1) {
      this.#pieces.push(payload);
      if (!isLast) return;
      const data = Buffer.concat(this.#pieces).toString();
      this.#pieces = [];
      // As the built-in one does: a handler set by whoever awaited the opening hears the first message too.
      setImmediate(() => this.onmessage?.({ data }));
    }
  }

  #write(opcode, payload) {
    const mask = randomBytes(4);
    const length = payload.length;
    const head = Buffer.alloc(length < 126 ? 2 : length < 65_536 ? 4 : 10);
    head[0] = 0x80 | opcode;
    head[1] = 0x80 | (length < 126 ? length : length < 65_536 ? 126 : 127);
    if (head.length === 4) head.writeUInt16BE(length, 2);
    if (head.length === 10) head.writeBigUInt64BE(BigInt(length), 2);
    this.#stream.write(Buffer.concat([head, mask, payload.map((byte, place) => byte ^ mask[place % 4])]));
  }

  send(text) {
    this.#write(1, Buffer.from(text));
  }

  close() {
    this.#write(8, Buffer.from([0x03, 0xe8]));
    this.#stream.end();
  }
}

const deadline = setTimeout(() => fail(new Error(`not done after ${PATIENCE_MS} ms`)), PATIENCE_MS);

function fail(error) {
  console.error(`failed: ${error.message}`);
  process.exit(1);
}

main().then(() => clearTimeout(deadline), fail);
