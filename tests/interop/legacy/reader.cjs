// Lets socket.io-adapter-postgres 1.x read payloads, without a PostgreSQL.
//
// Each line of stdin is {namespace, rooms, sid, waiting, payloads}: the namespace that an adapter of
// its own has, rooms and a socket in it, requests that it waits for ({id: type}), and what comes.
// Each line of stdout says what it made of that.

const EventEmitter = require("node:events");
const readline = require("node:readline");
const makeAdapter = require("socket.io-adapter-postgres");

async function read({ namespace, rooms, sid, waiting, payloads }) {
  const seen = { broadcasts: [], asked: [], done: [], answers: {}, published: [] };
  const sub = Object.assign(new EventEmitter(), { query() {} });
  const pub = Object.assign(new EventEmitter(), {
    query: (text, [payload]) => seen.published.push(payload),
  });
  const socket = {
    join(room, done) {
      seen.done.push(["join", room]);
      done();
    },
    leave(room, done) {
      seen.done.push(["leave", room]);
      done();
    },
    disconnect: (close) => seen.done.push(["disconnect", close]),
  };
  const Adapter = makeAdapter({ pubClient: pub, subClient: sub });
  const adapter = new Adapter({ name: namespace, server: {}, connected: { [sid]: socket } });
  adapter.on("error", (error) => {
    throw error;
  });
  adapter.addAll(sid, [sid, ...rooms]);
  adapter.broadcast = (packet, opts) => seen.broadcasts.push([packet, opts]);
  adapter.customHook = (data, answer) => {
    seen.asked.push(data);
    answer(data);
  };
  for (const [id, type] of Object.entries(waiting)) {
    const callback = (error, answer) => (seen.answers[id] = answer ?? null);
    const request = { type, callback, numsub: 1, msgCount: 0 };
    adapter.requests[id] = Object.assign(request, { clients: {}, rooms: {}, replies: [] });
  }
  for (const payload of payloads) sub.emit("notification", { channel: "socketio", payload });
  // answers come on the next tick
  await new Promise(setImmediate);
  return seen;
}

async function main() {
  const { pack } = await import("../agent.js");
  for await (const line of readline.createInterface({ input: process.stdin })) {
    process.stdout.write(JSON.stringify(pack(await read(JSON.parse(line)))) + "\n");
  }
  // the adapter has a timer for each message that came in pieces
  process.exit();
}

main();
