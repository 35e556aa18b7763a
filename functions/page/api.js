// What is asked of the API, by the token that the user brought.

import { learnTime } from "./dom.js";

const KEY = "rollcall.token";
const FORM = /^rco_[0-9a-f]{48}$/;

/** The token lives in this tab alone: no other tab, no cookie, no address has it. */
export const session = {
  get token() {
    return sessionStorage.getItem(KEY);
  },
  /** Takes a token that has the form of one. */
  begin(token) {
    if (!FORM.test(token)) return false;
    sessionStorage.setItem(KEY, token);
    return true;
  },
  end() {
    sessionStorage.removeItem(KEY);
    me = {};
    absentRoutes.clear();
    labels = null;
  },
};

/** What the token may do. */
export let me = {};

/** Whether the token may change anything. */
export const mayChange = () => me.role !== "viewer";

/** An answer that is none: status 0 is no connection. */
export class Problem extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

function reason(status, body) {
  const detail = body?.detail;
  if (Array.isArray(detail)) return detail.map(({ loc, msg }) => `${loc.slice(1).join(".")} ${msg}`).join("; ");
  if (detail) return detail;
  if (status === 429) return "too many requests at once";
  return body?.error?.message ?? body?.message ?? `the API answered ${status}`;
}

async function send(method, path, body) {
  const headers = { authorization: `Bearer ${session.token}` };
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(`api/v1/${path}`, {
      method,
      headers,
      body: body && JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.timeout(15000),
    });
  } catch {
    throw new Problem(0, "Rollcall cannot be reached");
  }
  learnTime(response.headers.get("date"));
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  throw new Problem(response.status, reason(response.status, answer), Number(response.headers.get("retry-after")) || 0);
}

/** A query string without what is empty. */
export const query = (parameters) =>
  new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== ""));

export const get = (path, parameters) => send("GET", parameters ? `${path}?${query(parameters)}` : path);
export const post = (path, body) => send("POST", path, body ?? {});
export const patch = (path, body) => send("PATCH", path, body);
export const remove = (path) => send("DELETE", path);

const absentRoutes = new Set();

/** As `get`, and null where this deployment has no such route. */
export async function getIfServed(path, parameters) {
  if (absentRoutes.has(path)) return null;
  try {
    return await get(path, parameters);
  } catch (problem) {
    if (problem.status !== 404 && problem.status !== 405) throw problem;
    absentRoutes.add(path);
    return null;
  }
}

/** Asks what the token may do; one that is refused is refused here. */
export async function introduce() {
  me = (await getIfServed("tokens/self")) ?? { role: "operator" };
  if (absentRoutes.has("tokens/self")) await get("agents", { cursor: "", limit: 1 });
}

let labels = null;

/** Who an event's `actor` is: tokens by their labels. */
export async function actors() {
  labels ??= get("tokens").then(
    ({ items }) => new Map(items.map((token) => [token.id, token.label])),
    () => new Map(),
  );
  const known = await labels;
  return (actor) => {
    const [kind, id] = actor.split(":");
    if (!id) return actor === "agent" ? "the agent" : actor;
    return known.get(id) ? `${known.get(id)} (${kind})` : `${kind} ${id.slice(0, 8)}`;
  };
}

/** The tokens changed: their labels are asked for anew. */
export function forgetLabels() {
  labels = null;
}
