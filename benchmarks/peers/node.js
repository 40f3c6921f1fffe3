// One Node process of a benchmark: a Socket.IO server with clients but no network.
//
// The counterpart of ../node.py, with the same commands: it is started with what it is to be as JSON
// in its argument, takes one JSON object a line, answers each with a line, and ends with its input.
"use strict";

// before the packages are loaded, which look at it
process.env.NODE_ENV ??= "production";

const { EventEmitter, once } = require("node:events");
const net = require("node:net");
const readline = require("node:readline");
const { setTimeout: sleep } = require("node:timers/promises");
const { Server } = require("socket.io");

// Emits between two turns of the event loop. `io.emit` cannot be awaited, and nothing is written to
// the server's socket before the turn ends. Of 1, 5, 10, 20, 50, 100, 200, 500, 2,000 and all at
// once these were the fastest, and those with the least CPU time for each event: PostgreSQL's pool
// has ten connections, and what is beyond waits in a queue; Redis gets a turn's emits in one write.
const AT_ONCE = { "node-postgres": 10, "node-redis": 50, "node-memory": 50 };

const MICROSECONDS = 1e6;

// Milliseconds between two looks whether something still comes.
const LOOK = 100;

const EVENT = '2["event","';

// Milliseconds between two looks at what has come.
const POLL = 5;

// Digits of a time in nanoseconds.
const STAMP = 19;

// Each as its README says, with the default options.
const adapters = {
  async "node-postgres"(address) {
    const pg = require("pg");
    const { createAdapter } = require("@socket.io/postgres-adapter");
    const pool = new pg.Pool({ connectionString: address });
    pool.on("error", fail);
    await pool.query(`
      CREATE TABLE IF NOT EXISTS socket_io_attachments (
          id          bigserial UNIQUE,
          created_at  timestamptz DEFAULT NOW(),
          payload     bytea
      );
    `);
    const io = new Server();
    // without it the adapter tells nobody of what it could not send
    io.adapter(createAdapter(pool, { errorHandler: fail }));
    return io;
  },

  async "node-redis"(address) {
    const { createClient } = require("redis");
    const { createAdapter } = require("@socket.io/redis-adapter");
    const pubClient = createClient({ url: address });
    const subClient = pubClient.duplicate();
    // an "error" that nobody listens to would end the process: a connection that Redis has closed,
    // because its buffer is full, is to be seen as lost events
    for (const client of [pubClient, subClient]) {
      client.on("error", (error) => console.error("Redis:", error.message));
    }
    await Promise.all([pubClient.connect(), subClient.connect()]);
    return new Server({ adapter: createAdapter(pubClient, subClient) });
  },

  async "node-memory"() {
    return new Server();
  },
};

function fail(error) {
  console.error(error);
  process.exit(1);
}

// What socket.io takes for an Engine.IO socket, and writes what its client is to get into.
class Connection extends EventEmitter {
  protocol = 4;
  readyState = "open";
  transport = { name: "websocket", writable: true };
  remoteAddress = "127.0.0.1";
  request = { headers: {}, connection: {}, url: "/socket.io/", _query: {} };
  write = ignore;

  constructor(id) {
    super();
    this.id = id;
  }

  close() {
    this.readyState = "closed";
  }
}

function ignore() {}

function now() {
  // CLOCK_MONOTONIC, the same as Python's time.monotonic_ns(); JSON has no integers of 64 bits
  return Number(process.hrtime.bigint());
}

class Peer {
  constructor(io, atOnce) {
    this.io = io;
    this.atOnce = atOnce;
    this.connections = [];
  }

  async connect(clients) {
    for (let number = 0; number < clients; number++) {
      const connection = new Connection(`client${number}`);
      await new Promise((resolve) => {
        // the first packet says that it is connected
        connection.write = resolve;
        this.io.onconnection(connection);
        connection.emit("data", "0");
      });
      connection.write = ignore;
      this.connections.push(connection);
    }
  }

  // Sends events to everyone, one after the other.
  async emit({ name, events, bytes, binary = false }) {
    const payload = binary ? Buffer.alloc(bytes, "x") : "x".repeat(bytes);
    const { io, atOnce } = this;
    const first = now();
    for (let sent = 0; sent < events; ) {
      const until = Math.min(events, sent + atOnce);
      for (; sent < until; sent++) {
        io.emit(name, payload);
      }
      await turn();
    }
    return { first, accepted: now() };
  }

  // Counts from here on the events of a name that come to the first client.
  async expect({ name, events }) {
    const [connection] = this.connections;
    const text = `2["${name}",`;
    const binary = `51-["${name}",`;
    const expected = { count: 0, last: now(), all: false, done: ignore };
    let attached = false;
    connection.write = (packet) => {
      if (typeof packet !== "string") {
        if (!attached) return;
        attached = false;
      } else if (packet.startsWith(binary)) {
        attached = true;
        return;
      } else if (!packet.startsWith(text)) {
        return;
      }
      if (++expected.count === events) {
        expected.last = now();
        expected.all = true;
        expected.done();
      }
    };
    this.expected = expected;
    return {};
  }

  // Returns when as many have come as expected, or none any more for some seconds.
  async receive({ quiet }) {
    const { expected } = this;
    if (!expected.all) {
      await new Promise((resolve) => {
        let seen = expected.count;
        expected.last = now();
        const timer = setInterval(() => {
          if (expected.all) return;
          if (expected.count > seen) {
            seen = expected.count;
            expected.last = now();
          } else if (now() - expected.last > quiet * 1e9) {
            expected.done();
          }
        }, LOOK);
        expected.done = () => {
          clearInterval(timer);
          resolve();
        };
      });
    }
    this.connections[0].write = ignore;
    return { events: expected.count, last: expected.last };
  }

  // Sends an event every `gap` ns, each with the time in it at which it was due. The socket `ticks`
  // first says when to start, and then becomes readable at these times.
  async paced({ events, gap, bytes, ticks }) {
    const { io } = this;
    const { cpu } = await this.cpu();
    const ticker = net.connect(ticks);
    let start;
    let sent = 0;
    ticker.on("data", (data) => {
      start ??= Number(data.subarray(0, STAMP));
      const due = Math.min(events, Math.max(0, Math.floor((now() - start) / gap) + 1));
      for (; sent < due; sent++) {
        io.emit("event", `${start + sent * gap}`.padStart(STAMP, "0").padEnd(bytes, "x"));
      }
      if (sent === events) ticker.destroy();
    });
    ticker.on("error", fail);
    await once(ticker, "close");
    return { cpu: (await this.cpu()).cpu - cpu, start };
  }

  // Takes the time of each event of `paced` that is written to the first client.
  async watch() {
    const [connection] = this.connections;
    const watched = { ms: [], last: 0, cpu: (await this.cpu()).cpu };
    connection.write = (packet) => {
      const at = now();
      if (!packet.startsWith(EVENT)) return;
      watched.last = at;
      watched.ms.push((at - Number(packet.slice(EVENT.length, EVENT.length + STAMP))) / 1e6);
    };
    this.watched = watched;
    return {};
  }

  // How late the events came, once all are there or none have come for a while.
  async latencies({ events, quiet }) {
    const { watched } = this;
    let seen = -1;
    let until = now() + quiet * 1e9;
    while (watched.ms.length < events && now() <= until) {
      if (watched.ms.length > seen) {
        seen = watched.ms.length;
        until = now() + quiet * 1e9;
      }
      await sleep(POLL);
    }
    this.connections[0].write = ignore;
    return { ...watched, cpu: (await this.cpu()).cpu - watched.cpu };
  }

  // Lets the first clients enter a room.
  async join({ room, clients }) {
    const sids = [];
    for (const { id } of this.connections.slice(0, clients)) {
      const socket = [...this.io.of("/").sockets.values()].find(({ conn }) => conn.id === id);
      await socket.join(room);
      sids.push(socket.id);
    }
    return { sids };
  }

  // Asks the cluster again and again.
  async request({ call, times, pause, argument = null }) {
    if (call !== "fetch_sockets") throw new Error(`no such call: ${call}`);
    const ms = [];
    let found = [];
    for (let number = 0; number < times; number++) {
      const started = now();
      found = await (argument === null ? this.io : this.io.in(argument)).fetchSockets();
      ms.push((now() - started) / 1e6);
      await sleep(pause * 1000);
    }
    return { ms, found: found.length };
  }

  // The CPU time of this process so far, in seconds.
  async cpu() {
    const { user, system } = process.cpuUsage();
    return { cpu: (user + system) / MICROSECONDS };
  }
}

function turn() {
  return new Promise((resolve) => setImmediate(resolve));
}

async function main() {
  const spec = JSON.parse(process.argv[2]);
  const peer = new Peer(await adapters[spec.manager](spec.address), AT_ONCE[spec.manager]);
  await peer.connect(spec.clients);
  const answer = (value) => process.stdout.write(JSON.stringify(value) + "\n");
  answer({});
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { do: command, ...options } = JSON.parse(line);
    answer(await peer[command](options));
  }
  // the adapters keep connections and timers
  process.exit(0);
}

main().catch(fail);
