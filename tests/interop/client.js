// Clients in a process of their own: commands come on stdin, answers and reports go to stdout,
// one JSON object a line. The process ends with its stdin.

import readline from "node:readline";
import { io } from "socket.io-client";
import msgpack from "socket.io-msgpack-parser";
import { makeAgent } from "./agent.js";

const write = (message) => process.stdout.write(JSON.stringify(message) + "\n");
const agent = makeAgent(io, write, { msgpack });

readline.createInterface({ input: process.stdin }).on("line", async (line) => {
  const command = JSON.parse(line);
  try {
    write({ answer: command.id, value: await agent(command) });
  } catch (error) {
    write({ answer: command.id, error: String(error?.stack ?? error) });
  }
}).on("close", () => process.exit());
