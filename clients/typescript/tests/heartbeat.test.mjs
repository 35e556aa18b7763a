import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";

import { Heartbeat, Stop } from "../dist/index.js";
import { accepted, lines, rollcall, scripted, until } from "./system.mjs";

const KEY = "000102030405060708090a0b0c0d0e0f1011121314151617";
const HTML = { status: 401, body: "<html><h1>401 Authorization Required</h1></html>" };
const wait = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** Stops in its n-th pause; the pauses are written down and take no time, its random numbers are all the same. */
class Recorded extends Heartbeat {
  delays = [];
  constructor(url, pauses, options = {}) {
    super(url, { key: KEY, log: lines().log, ...options });
    this.pauses = pauses;
  }
  chance() {
    return 1;
  }
  async pause(seconds) {
    this.delays.push(Math.round(seconds * 1000) / 1000);
    await this.between?.(this.delays.length);
    if (this.delays.length >= this.pauses) this.stop();
  }
  async all() {
    this.start();
    await until(() => !this.alive);
    return this.delays;
  }
}

// ---- Against the real system ----

const system = await rollcall(after);

test("an agent is alive while its work goes on, and offline after it", async () => {
  const agent = await system.agent();
  const { lines: said, log } = lines();
  const done = await new Heartbeat(`${system.url}/`, { key: agent.key, log }).run(async (heartbeat) => {
    heartbeat.status = "degraded";
    await until(async () => (await system.read(agent.id)).status === "degraded");
    assert.equal(heartbeat.alive, true);
    return 5;
  });
  assert.equal(done, 5);
  const { status, detail } = await system.read(agent.id);
  assert.deepEqual([status, detail.health, said], ["offline", "offline", ["heartbeats are accepted"]]);
});

test("work that fails says error and no good-bye", async () => {
  const agent = await system.agent();
  const failing = new Heartbeat(system.url, agent.key).run(async () => {
    await until(async () => (await system.read(agent.id)).status === "healthy");
    throw new RangeError("no");
  });
  await assert.rejects(failing, RangeError);
  assert.equal((await system.read(agent.id)).status, "error");
});

test("a name and an enrollment token create the agent, once", async () => {
  const { token } = await system.operator("POST", "tokens", { kind: "enrollment", all_boards: true });
  for (const isFirst of [true, false]) {
    await new Heartbeat(system.url, { name: "by-name", token }).run(async (heartbeat) => {
      await until(async () => (await system.operator("GET", "agents?name=by-name")).items[0]?.status === "healthy");
      assert.equal(heartbeat.key !== undefined, isFirst);
    });
  }
  assert.equal((await system.operator("GET", "agents?name=by-name")).total, 1);
});

test("pending it goes on, and sends heartbeats as soon as it is approved", async (t) => {
  const system = await rollcall((end) => t.after(end), "--approval", "operator");
  const body = JSON.stringify({ name: "pending", heartbeatConfig: { intervalSeconds: 1 } });
  const { data } = await (await fetch(`${system.url}/api/agents/register`, { method: "POST", body })).json();
  const { lines: said, log } = lines();
  const heartbeat = new Recorded(system.url, 4, { key: data.apiKey, log });
  heartbeat.between = async (pauses) => pauses === 2 && system.operator("POST", `agents/${data.agentId}/approve`);
  assert.deepEqual(await heartbeat.all(), [60, 120, 1, 1]);
  const pending = "heartbeat refused: HTTP 403: the agent is pending: an operator can approve it; next try in";
  assert.deepEqual(said, [`${pending} 60.0 s`, `${pending} 120.0 s`, "heartbeats are accepted"]);
});

test("operators see work, sleep and obedience", async () => {
  const agent = await system.agent();
  const detail = async (key) => (await system.read(agent.id)).detail[key];
  const heartbeat = new Heartbeat(system.url, agent.key);
  const heard = [];
  heartbeat.on("drain", async (directive) => heard.push(directive.action));
  await heartbeat.run(() =>
    heartbeat.working(async () => {
      await until(() => detail("stalls_at"));
      await system.operator("POST", `agents/${agent.id}/directive`, { action: "drain" });
      await until(async () => (await detail("directive"))?.acknowledged_at);
      const asleep = heartbeat.sleepUntil(Date.now() + 600_000);
      await until(() => detail("next_beat_at"));
      assert.equal(await detail("stalls_at"), undefined);
      heartbeat.stop();
      await asleep;
    }),
  );
  assert.deepEqual(heard, ["drain"]);
});

test("a pause holds the work, and a stop ends it", async () => {
  const agent = await system.agent();
  const direct = (action) => system.operator("POST", `agents/${agent.id}/directive`, { action });
  await direct("pause");
  const heartbeat = new Heartbeat(system.url, agent.key);
  const working = heartbeat.run(async () => {
    await until(() => heartbeat.directive);
    let passed = false;
    const held = heartbeat.check().then(() => (passed = true));
    await until(async () => (await system.read(agent.id)).detail.directive.acknowledged_at);
    assert.equal(passed, false);
    await direct("run");
    await held;
    await direct("stop");
    for (;;) {
      await heartbeat.check();
      await wait(0.05);
    }
  });
  await assert.rejects(working, Stop);
  assert.equal((await system.read(agent.id)).status, "offline");
});

test("run() keeps a program that has nothing else to do", async (t) => {
  const agent = await system.agent();
  const module = new URL("../dist/index.js", import.meta.url);
  const program = `
    const { Heartbeat } = await import(${JSON.stringify(module)});
    const work = (heartbeat) => new Promise((done) => heartbeat.on("drain", () => void setTimeout(done, 10).unref()));
    await new Heartbeat(${JSON.stringify(system.url)}, ${JSON.stringify(agent.key)}).run(work);
  `;
  const running = spawn(process.execPath, ["--input-type=module", "--eval", program], { stdio: "inherit" });
  t.after(() => running.kill());
  const ended = once(running, "exit");
  await until(async () => (await system.read(agent.id)).status === "healthy");
  await system.operator("POST", `agents/${agent.id}/directive`, { action: "drain" });
  assert.deepEqual(await ended, [0, null]);
  assert.equal((await system.read(agent.id)).status, "offline");
});

// ---- Against servers that answer by a script ----

test("lost heartbeats are tried again within the interval, and Retry-After is honoured", async (t) => {
  const lost = [{ status: 500 }, (response) => response.destroy(), { body: "<html>" }, { status: 404 }];
  const server = await scripted(t, accepted(10), ...lost, { status: 429, headers: { "retry-after": "17" } }, accepted(10));
  assert.deepEqual(await new Recorded(server.url, 7).all(), [10, 2, 4, 8, 10, 27, 10]);
});

test("a handler may throw anything, and the program goes on", async (t) => {
  const directed = (version) => ({ body: JSON.stringify({ ...JSON.parse(accepted(1).body), directive: { version, action: "drain" } }) });
  const server = await scripted(t, directed(1), directed(2), directed(1e30));
  const { lines: said, log } = lines();
  const heartbeat = new Recorded(server.url, 3, { key: KEY, log });
  const thrown = [Symbol("x"), Object.create(null)];
  heartbeat.on("drain", () => {
    throw thrown.shift();
  });
  await heartbeat.all();
  const failed = said.filter((line) => line.includes("not acknowledged")).map((line) => line.split(": ").at(-1));
  assert.deepEqual(failed, ["Symbol(x)", "something without a text"]);
  assert.equal(heartbeat.directive, null);
});

test("a refusal slows it down, also a proxy's", async (t) => {
  const server = await scripted(t, HTML, HTML, HTML, HTML, HTML, accepted(30));
  const { lines: said, log } = lines();
  assert.deepEqual(await new Recorded(server.url, 6, { log }).all(), [60, 120, 240, 480, 600, 30]);
  assert.equal(said[0], "heartbeat refused: HTTP 401, and not from Rollcall; next try in 60.0 s");
});

test("a dripping answer ends with the deadline, an endless one after 64 KiB", async (t) => {
  const dripping = (response) => {
    response.writeHead(200);
    const timer = setInterval(() => response.write("a"), 20);
    response.on("close", () => clearInterval(timer));
  };
  const endless = (response) => {
    const more = () => response.destroyed || (response.write("a".repeat(4096)), setImmediate(more));
    more();
  };
  const server = await scripted(t, dripping, endless);
  const { lines: said, log } = lines();
  const heartbeat = new Recorded(server.url, 2, { log });
  heartbeat.deadline = 0.5;
  await heartbeat.all();
  assert.equal(said[0], "heartbeat failed: no whole answer within 0.5 s; next try in 2.0 s");
  assert.equal(said[1], "heartbeat failed: RangeError: the answer is longer than 65536 bytes; next try in 4.0 s");
});

test("a redirect is not followed", async (t) => {
  const elsewhere = await scripted(t);
  const server = await scripted(t, { status: 307, headers: { location: elsewhere.url } });
  await new Recorded(server.url, 1).all();
  assert.deepEqual(elsewhere.asked, []);
});

test("a server that is away, and a URL that is none, are borne", async () => {
  for (const url of ["http://127.0.0.1:1", "nonsense", "", "file:///etc/passwd", `http://me:${KEY}@127.0.0.1`])
    assert.deepEqual(await new Recorded(url, 2).all(), [2, 4], url);
});

test("neither a key nor a control character reaches the log", async (t) => {
  const server = await scripted(t, { status: 401, body: JSON.stringify({ detail: `\x1b[2J no ${KEY}\n` }) });
  const { lines: said, log } = lines();
  await new Recorded(server.url, 1, { log }).all();
  await new Recorded(server.url, 1, { log, key: "a secret\nof two lines" }).all();
  assert.equal(said[0], "heartbeat refused: HTTP 401:  [2J no (the key) ; next try in 60.0 s");
  assert.equal(said.filter((line) => /secret|\x1b/.test(line) || line.includes(KEY)).length, 0);
});

test("usage is reported until it is accepted, and then anew", async (t) => {
  const server = await scripted(t, { status: 503 }, accepted(1), accepted(1), accepted(1), accepted(1), accepted(1));
  const heartbeat = new Recorded(server.url, 5, {});
  heartbeat.usage({ tokens: 100, costUsd: 0.1 });
  heartbeat.between = async (pauses) => {
    if (pauses === 1) heartbeat.usage({ tokens: 20, costUsd: 0.2 });
    if (pauses > 2) heartbeat.usage({ costUsd: 0.0000007 });
  };
  heartbeat.usage({ tokens: -1 });
  heartbeat.usage({ costUsd: Number.NaN });
  await heartbeat.all();
  const both = { tokens: 120, cost_usd: 0.3 };
  const first = { tokens: 100, cost_usd: 0.1 };
  const millionth = { tokens: 0, cost_usd: 0.000001 };
  const used = server.asked.map(({ report }) => report.usage);
  assert.deepEqual(used, [first, both, undefined, millionth, undefined, millionth]);
});

test("a budget's pause is obeyed and not acknowledged, nor is what a handler fails at", async (t) => {
  const budget = { directive: { version: 0, action: "pause" } };
  const drain = { directive: { version: 5, action: "drain" } };
  const server = await scripted(t, accepted(1, budget), accepted(1, drain), accepted(1, drain), accepted(1, drain));
  const heartbeat = new Recorded(server.url, 3);
  let passed = 0;
  heartbeat.on("drain", () => {
    throw new Error("no");
  });
  heartbeat.between = async (pauses) => {
    if (pauses > 1) return;
    heartbeat.check().then(() => (passed += 1));
    await wait(0.05);
    assert.equal(passed, 0);
  };
  await heartbeat.all();
  await until(() => passed === 1);
  assert.deepEqual(server.asked.map(({ report }) => report.ack_directive), Array(4).fill(undefined));
});

test("after a failure nobody hurries", async (t) => {
  const server = await scripted(t, { status: 429, headers: { "retry-after": "1000" } }, accepted(1));
  const heartbeat = new Heartbeat(server.url, { key: KEY, log: lines().log }).start();
  await until(() => server.asked.length === 1);
  const asleep = heartbeat.sleepUntil(Date.now() + 600_000);
  await wait(0.3);
  assert.equal(server.asked.length, 1);
  await heartbeat.stop();
  await asleep;
  assert.deepEqual(server.asked.map(({ status }) => status), ["healthy", "offline"]);
  assert.equal(server.asked[1].report.next_beat_in_seconds, undefined);
});

test("the end takes no longer than it may, and leaves nothing on its way", async (t) => {
  const server = await scripted(t, () => {});
  const { lines: said, log } = lines();
  const heartbeat = new Heartbeat(server.url, { key: KEY, log });
  heartbeat.deadline = 1000;
  heartbeat.start();
  await until(() => server.asked.length === 1);
  await heartbeat.stop();
  await until(() => !heartbeat.alive);
  assert.equal(server.asked.length, 1);
  assert.match(said.at(-1), /^could not say offline at the end: /);
});

test("a program has one boot id, and a deployment may choose it", async (t) => {
  const server = await scripted(t, ...Array(6).fill(accepted(1)));
  await new Recorded(server.url, 1).all();
  await new Recorded(server.url, 1).all();
  process.env.ROLLCALL_BOOT_ID = "0123456789ABCDEF";
  t.after(() => delete process.env.ROLLCALL_BOOT_ID);
  await new Recorded(server.url, 1).all();
  const ids = server.asked.map(({ report }) => report.boot_id);
  assert.match(ids[0], /^[0-9a-f]{16}$/);
  assert.deepEqual(ids, [...Array(4).fill(ids[0]), ...Array(2).fill("0123456789abcdef")]);
});

test("the environment, or its file, has what the program does not say", async (t) => {
  const server = await scripted(t, accepted(1), accepted(1), accepted(1), accepted(1));
  const folder = await mkdtemp(join(tmpdir(), "rollcall-"));
  t.after(() => rm(folder, { recursive: true }));
  await writeFile(join(folder, "token"), "rce_2\n");
  const variables = { ROLLCALL_URL: server.url, ROLLCALL_KEY: KEY, ROLLCALL_ENROLLMENT_TOKEN_FILE: join(folder, "token") };
  Object.assign(process.env, variables);
  t.after(() => Object.keys(variables).forEach((name) => delete process.env[name]));
  await new Recorded(undefined, 1, { key: undefined }).all();
  await new Recorded(undefined, 1, { key: undefined, name: "n" }).all();
  assert.deepEqual(server.asked.map(({ key }) => key), [KEY, KEY, "rce_2", "rce_2"]);
});

test("under rollcall run nothing is sent, and the wrapper reads all of it", async (t) => {
  const server = await scripted(t);
  const folder = await mkdtemp(join(tmpdir(), "rollcall-"));
  t.after(() => rm(folder, { recursive: true }));
  const state = join(folder, "state");
  await writeFile(state, JSON.stringify({ directive: { version: 5, action: "stop" } }));
  process.env.ROLLCALL_STATE = state;
  t.after(() => delete process.env.ROLLCALL_STATE);
  const word = async () => {
    const files = (await readdir(folder)).filter((name) => /^state\.[0-9a-f]{16}$/.test(name));
    return files.length === 1 && JSON.parse(await readFile(join(folder, files[0]), "utf8"));
  };
  const { log } = lines();
  const working = new Heartbeat(server.url, { key: KEY, log }).run(async (heartbeat) => {
    heartbeat.status = "degraded";
    heartbeat.usage({ tokens: 7, costUsd: 0.5 });
    await heartbeat.working(() => until(async () => (await word()).progress_age_seconds >= 0));
    await until(() => heartbeat.directive);
    await heartbeat.check();
  });
  await assert.rejects(working, Stop);
  const usage = { tokens: 7, cost_usd: 0.5 };
  const expected = { pid: process.pid, status: "offline", usage, progress_age_seconds: null, ack_directive: 5 };
  assert.deepEqual(await word(), expected);
  assert.deepEqual(server.asked, []);
});
