"use strict";

const LARGEST_PICTURE = 500000;
const MOST_ENTRIES = 300;
const TRIPS = 30;
const FIRST_ROOM = "lobby";

const byId = (id) => document.getElementById(id);

// Everything that people write goes through here, as text nodes: none of it is ever HTML.
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const query = new URLSearchParams(location.search);
const rooms = new Map(); // the rooms that we are in: name -> {entries, unread}
const wanted = new Set((query.get("room") || FIRST_ROOM).split(",").filter(Boolean));
const early = new Map(); // what was said in a room before the answer that lets us in
const trips = [];
const waves = new Map(); // sid -> what came of waving
let joining = 0;
let current = null;
let me = { id: null, name: "", node: "" };
let people = [];
let nodes = [];
let myName = query.get("name")?.slice(0, 24) || sessionStorage.getItem("name")
  || `Guest ${Math.floor(100 + Math.random() * 900)}`;

const socket = io({ auth: (send) => send({ name: myName }) });

// A node's colour: the place of its name among all of them.
const names = new Set(["one", "two"]);
function tone(node) {
  names.add(node);
  return `tone-${Math.min([...names].indexOf(node), 2)}`;
}

function initials(name) {
  const words = name.trim().split(/\s+/);
  const letters = words.length > 1 ? [words[0], words[words.length - 1]] : [words[0]];
  return letters.map((word) => word.match(/[\p{L}\p{N}]/u)?.[0] || "").join("").toUpperCase();
}

function avatar(person) {
  return element("span", { className: `avatar ${tone(person.node)}`, ariaHidden: "true" },
    initials(person.name));
}

function complain(text) {
  byId("banner").textContent = text;
  byId("banner").hidden = !text;
}

// Asking the server. Its answer is an object, with "error" where it refuses.
async function ask(event, ...values) {
  try {
    const answer = await socket.timeout(10000).emitWithAck(event, ...values);
    complain(answer.error || "");
    return answer.error ? null : answer;
  } catch {
    if (socket.connected) complain("The server did not answer in time.");
    return null;
  }
}

// Rooms

async function join(name) {
  joining += 1;
  const answer = await ask("join", name);
  joining -= 1;
  if (answer) {
    wanted.add(answer.room);
    if (!rooms.has(answer.room)) {
      rooms.set(answer.room, { entries: early.get(answer.room) || [], unread: false });
    }
    show(answer.room);
  }
  if (!joining) early.clear();
}

async function leave(name) {
  if (!await ask("leave", name)) return;
  wanted.delete(name);
  for (const entry of rooms.get(name)?.entries || []) if (entry.url) URL.revokeObjectURL(entry.url);
  rooms.delete(name);
  show(rooms.has(current) ? current : [...rooms.keys()][0] ?? null);
}

function show(name) {
  current = name;
  if (rooms.has(name)) rooms.get(name).unread = false;
  drawRooms();
  drawMembers();
  drawLog();
}

function drawRooms() {
  const counts = new Map();
  for (const person of people) {
    for (const room of person.rooms) counts.set(room, (counts.get(room) || 0) + 1);
  }
  const buttons = [];
  for (const [name, room] of rooms) {
    buttons.push(element("button",
      { type: "button", ariaCurrent: String(name === current), onclick: () => show(name) },
      name,
      room.unread
        ? element("span", { className: "unread", title: "New messages" })
        : element("span", { className: "count" }, String(counts.get(name) || 1))));
  }
  for (const [name, count] of [...counts].sort()) {
    if (!rooms.has(name)) {
      buttons.push(element("button",
        { type: "button", className: "open", title: "Join this room", onclick: () => join(name) },
        name, element("span", { className: "count" }, String(count))));
    }
  }
  const bar = byId("rooms");
  const form = bar.querySelector("form") || joinForm();
  for (const old of bar.querySelectorAll("button")) old.remove();
  bar.prepend(...buttons);
  if (!form.isConnected) bar.append(form);
}

function joinForm() {
  const field = element("input", { placeholder: "Join a room", ariaLabel: "Join a room",
    maxLength: 24, autocomplete: "off", enterKeyHint: "go" });
  return element("form", {
    onsubmit: (event) => {
      event.preventDefault();
      if (field.value.trim()) join(field.value);
      field.value = "";
    },
  }, field);
}

function drawMembers() {
  const place = byId("members");
  byId("leave").hidden = !current;
  byId("leave").textContent = `Leave ${current}`;
  for (const id of ["text", "picture"]) byId(id).disabled = !current || !socket.connected;
  byId("say").querySelector("button").disabled = !current || !socket.connected;
  const byNode = group(people.filter((person) => person.rooms.includes(current)));
  place.replaceChildren();
  for (const [node, members] of [...byNode].sort()) {
    if (place.hasChildNodes()) place.append(" \u00b7 ");
    place.append(element("b", { className: tone(node) }, `on ${node}: `),
      members.map((person) => person.name).join(", "));
  }
}

function group(members) {
  const found = new Map();
  for (const person of members) {
    if (!found.has(person.node)) found.set(person.node, []);
    found.get(person.node).push(person);
  }
  return found;
}

// Messages

function drawLog() {
  const log = byId("log");
  const entries = rooms.get(current)?.entries || [];
  log.replaceChildren(...entries.map(drawEntry));
  if (!entries.length) {
    log.append(element("li", { className: "empty" }, current
      ? "Nothing has been said here yet. Open the other node's page and write from both."
      : "You are in no room. Join one above."));
  }
  atEnd = true;
  keepAtEnd();
}

// The newest message stays in sight, unless somebody has scrolled away from it.
let atEnd = true;
function keepAtEnd() {
  if (atEnd) byId("log").scrollTop = byId("log").scrollHeight;
}

function drawEntry(entry) {
  if (entry.kind === "note") return element("li", { className: "note" }, entry.text);
  const own = entry.from.id === me.id;
  const time = new Date(entry.at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const body = element("div", { className: "body" });
  if (entry.url) {
    body.classList.add("picture-body");
    body.append(element("img",
      { src: entry.url, alt: `A picture from ${entry.from.name}`, onload: keepAtEnd }));
  } else {
    body.append(entry.text);
  }
  const by = element("div", { className: "by" });
  if (!own) by.append(element("b", {}, entry.from.name));
  by.append(element("span", { className: `from ${tone(entry.from.node)}` },
    own ? "you" : `node ${entry.from.node}`), element("time", {}, time));
  return element("li", { className: `message ${own ? "own" : ""} ${tone(entry.from.node)}` },
    avatar(entry.from), element("div", { className: "words" }, by, body));
}

function add(name, entry) {
  const room = rooms.get(name);
  if (!room) {
    if (joining && entry.kind !== "note") early.set(name, [...early.get(name) || [], entry]);
    return;
  }
  room.entries.push(entry);
  if (room.entries.length > MOST_ENTRIES) {
    const [old] = room.entries.splice(0, 1);
    if (old.url) URL.revokeObjectURL(old.url);
  }
  if (name !== current) {
    room.unread = room.unread || entry.kind !== "note";
    drawRooms();
    return;
  }
  const log = byId("log");
  if (room.entries.length === 1) log.replaceChildren();
  while (log.children.length >= MOST_ENTRIES) log.firstChild.remove();
  log.append(drawEntry(entry));
  atEnd ||= entry.from?.id === me.id;
  keepAtEnd();
}

socket.on("message", (m) => add(m.room, { kind: "text", ...m }));
socket.on("picture", (m) => add(m.room, {
  kind: "picture", ...m, data: null, url: URL.createObjectURL(new Blob([m.data], { type: m.type })),
}));
socket.on("note", (m) => add(m.room, {
  kind: "note", text: `${m.from.name} on node ${m.from.node} ${m.what} the room`,
}));

// Who is where

async function wave(person) {
  waves.set(person.id, "\u2026");
  drawNodes();
  const answer = await ask("wave", person.id);
  waves.set(person.id, answer ? `waved back, ${answer.ms.toFixed(1)} ms` : "no answer");
  drawNodes();
  setTimeout(() => { waves.delete(person.id); drawNodes(); }, 4000);
}

socket.on("wave", (data, answer) => {
  answer({ "waved back": me.name });
  if (current) {
    add(current, { kind: "note", text: `${data.from.name} on node ${data.from.node} waves at you` });
  }
});

function drawPerson(person) {
  const row = element("li", {}, avatar(person), element("div", { className: "who" },
    element("span", {}, person.id === me.id ? `${person.name} (you)` : person.name),
    element("span", { className: "in" },
      person.rooms.length ? `in ${person.rooms.join(", ")}` : "in no room")));
  if (waves.has(person.id)) row.append(element("span", { className: "answer" }, waves.get(person.id)));
  else if (person.id !== me.id) {
    row.append(element("button",
      { type: "button", title: "Ask for an acknowledgement", onclick: () => wave(person) }, "Wave"));
  }
  return row;
}

let drawn = "";
function drawNodes() {
  // only what has changed: whoever is about to press a button keeps it
  const state = JSON.stringify([me.id, people, nodes, [...waves]]);
  if (state === drawn) return;
  drawn = state;
  const byNode = group(people);
  const known = new Map(nodes.map((node) => [node.name, node]));
  const all = [...new Set([...known.keys(), ...byNode.keys()])].sort();
  byId("nodes").replaceChildren(...all.map((name) => {
    const node = known.get(name);
    const head = element("div", { className: "node-head" }, element("h3", {}, `Node ${name}`));
    if (name === me.node) head.append(element("span", { className: "fine" }, "this page"));
    else if (node) {
      const address = `${location.protocol}//${location.hostname}:${Number(node.port)}/`;
      head.append(element("a", { href: address, target: "_blank", rel: "noopener" }, "Open its page"));
    }
    head.append(element("span", { className: "fine runs" },
      node ? `${node.runs_on}, process ${node.pid}` : "does not answer"));
    const members = byNode.get(name) || [];
    return element("section", { className: tone(name) }, head,
      element("ul", { className: "people" }, ...members.map(drawPerson),
        ...(members.length ? [] : [element("li", { className: "nobody" }, "Nobody is here.")])));
  }));
}

function takePeople(list) {
  people = list;
  drawRooms();
  drawMembers();
  drawNodes();
}

socket.on("people", takePeople);

// The round trip

function takePulse(pulse) {
  if (!("ms" in pulse)) return;
  nodes = pulse.nodes;
  byId("ms").textContent = pulse.ms === null ? "–" : pulse.ms.toFixed(pulse.ms < 10 ? 2 : 1);
  byId("trip-note").textContent = pulse.ms === null
    ? `PostgreSQL does not answer; this node is ${pulse.status}.`
    : "One NOTIFY of this node, out and back, every two seconds.";
  for (const name of ["sent", "received", "lost"]) {
    byId(name).textContent = pulse[name].toLocaleString();
  }
  if (pulse.ms !== null) trips.push(pulse.ms);
  if (trips.length > TRIPS) trips.shift();
  const highest = Math.max(...trips, 1);
  const step = 120 / (TRIPS - 1);
  const start = 120 - (trips.length - 1) * step;
  byId("spark").firstElementChild.setAttribute("points",
    trips.map((ms, i) => `${(start + i * step).toFixed(1)},${(34 - (ms / highest) * 31).toFixed(1)}`)
      .join(" "));
  drawNodes();
}

socket.on("pulse", takePulse);

// The connection

socket.on("connect", async () => {
  complain("");
  const hello = await ask("hello");
  if (!hello) return;
  me = hello;
  myName = hello.name;
  if (document.activeElement !== byId("name")) byId("name").value = hello.name;
  byId("node").textContent = `Node ${hello.node}`;
  byId("node").className = tone(hello.node);
  byId("spark").setAttribute("class", tone(hello.node));
  document.title = `Node ${hello.node} \u00b7 anyio_sio_pg demo`;
  takePeople(hello.people);
  takePulse(hello.pulse);
  const back = current;
  for (const room of [...wanted]) await join(room);
  if (rooms.has(back)) show(back);
});

socket.on("disconnect", (reason) => {
  complain("This node is gone; trying to reach it again.");
  drawMembers();
  // a node that says goodbye is not called again by itself
  if (reason === "io server disconnect") socket.connect();
});

socket.on("connect_error", (error) => {
  complain(socket.active ? "This node cannot be reached; trying again." : error.message);
});

// What the person does

async function rename() {
  const name = byId("name").value;
  if (name === me.name) return;
  if (!socket.active) {
    // this page was refused, for its name
    myName = name;
    socket.connect();
    return;
  }
  const answer = await ask("rename", name);
  if (!answer) return;
  myName = me.name = answer.name;
  byId("name").value = myName;
  sessionStorage.setItem("name", myName);
}

byId("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  byId("name").blur();
});
byId("name").addEventListener("change", rename);
byId("leave").addEventListener("click", () => leave(current));

byId("say").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = byId("text");
  const text = field.value;
  if (!text.trim() || !current) return;
  field.value = "";
  if (!await ask("say", { room: current, text }) && !field.value) field.value = text;
});

byId("picture").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  const room = current;
  event.target.value = "";
  if (!file || !room) return;
  if (file.size > LARGEST_PICTURE) {
    complain(`A picture may have ${LARGEST_PICTURE.toLocaleString()} bytes at most.`);
    return;
  }
  await ask("share", { room, type: file.type, data: await file.arrayBuffer() });
});

byId("log").addEventListener("scroll", (event) => {
  const { scrollHeight, scrollTop, clientHeight } = event.target;
  atEnd = scrollHeight - scrollTop - clientHeight < 80;
});
new ResizeObserver(keepAtEnd).observe(byId("log"));
byId("name").value = myName;
drawRooms();
drawMembers();
drawLog();
