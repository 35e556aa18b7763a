// The real local system, and servers that answer by a script.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const executable =
  process.env.ROLLCALL_LOCAL ?? fileURLToPath(new URL("../../../target/debug/rollcall-local", import.meta.url));

/** Starts the local system; `after` ends it. */
export async function rollcall(after, ...flags) {
  const system = spawn(executable, ["--memory", "--port", "0", ...flags], { stdio: ["ignore", "pipe", "inherit"] });
  await once(system, "spawn");
  after(() => system.kill("SIGKILL"));
  const said = {};
  for await (const line of createInterface({ input: system.stdout })) {
    const [, what, value] = /^(Rollcall listens on|  operator token) +(\S+)/.exec(line) ?? [];
    if (what) said[what.trim()] = value;
    if (line === "Ctrl-C stops it.") break;
  }
  system.stdout.resume();
  const url = said["Rollcall listens on"];
  const operator = async (method, path, body) => {
    const headers = { authorization: `Bearer ${said["operator token"]}` };
    const answer = await fetch(`${url}/api/v1/${path}`, { method, headers, body: body && JSON.stringify(body) });
    return answer.json();
  };
  /** An agent that is to send a heartbeat a second. */
  const agent = async () => {
    const config = { interval_seconds: 1, missing_tolerance: 120 };
    const made = await operator("POST", "agents", { name: "in-typescript", heartbeat_config: config });
    return { id: made.id, key: made.agent_token };
  };
  const read = (id) => operator("GET", `agents/${id}?detail=true`);
  return { url, operator, agent, read };
}

/** A server that answers what its script says, then 500, and keeps what it was asked. */
export async function scripted(test, ...script) {
  const asked = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    asked.push({ path: request.url, key: request.headers["x-agent-token"], ...JSON.parse(body) });
    const next = script.shift() ?? { status: 500 };
    if (typeof next === "function") return next(response);
    response.writeHead(next.status ?? 200, next.headers).end(next.body ?? "");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  test.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return { url: `http://127.0.0.1:${server.address().port}`, asked, script };
}

export function accepted(interval, more = {}) {
  return { body: JSON.stringify({ heartbeat_config: { interval_seconds: interval }, ...more }) };
}

export async function until(isSo) {
  for (let tries = 0; tries < 600; tries += 1) {
    if (await isSo()) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error("waited in vain");
}

/** A log that is kept. */
export function lines() {
  const lines = [];
  const add = (line) => lines.push(line);
  return { lines, log: { info: add, warn: add, error: add } };
}
