// What is asked of the API, by the token that the user brought.

import { learnTime } from "./dom.js";

const KEY = "rollcall.token";
const absentRoutes = new Set();
let labels = null;

/** What the token may do. */
export let me = {};
export const mayChange = () => me.role !== "viewer";

/** The token lives in this tab alone: no other tab, no cookie, no address has it. */
export const session = {
	get token() {
		return sessionStorage.getItem(KEY);
	},
	/** Takes a token that has the form of one. */
	begin(token) {
		const good = /^rco_[0-9a-f]{48}$/.test(token);
		if (good) sessionStorage.setItem(KEY, token);
		return good;
	},
	end() {
		sessionStorage.removeItem(KEY);
		me = {};
		absentRoutes.clear();
		labels = null;
	},
};

/** A refusal; status 0 is no connection. */
class Problem extends Error {
	constructor(status, message, retryAfter) {
		super(message);
		Object.assign(this, { status, retryAfter });
	}
}

function reason(status, answer) {
	const { detail } = answer ?? {};
	if (Array.isArray(detail)) return detail.map(({ loc, msg }) => `${loc.slice(1).join(".")} ${msg}`).join("; ");
	return detail ?? (status === 429 ? "too many requests at once" : answer?.message ?? `the API answered ${status}`);
}

async function send(method, path, body) {
	const headers = { authorization: `Bearer ${session.token}`, ...(body && { "content-type": "application/json" }) };
	let response;
	try {
		response = await fetch(`api/v1/${path}`, { method, headers, body: body && JSON.stringify(body), cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(15_000) });
	} catch {
		throw new Problem(0, "Rollcall cannot be reached");
	}
	learnTime(response.headers.get("date"));
	const answer = await response.json().catch(() => null);
	if (response.ok && answer) return answer;
	throw new Problem(response.status, reason(response.status, answer), Number(response.headers.get("retry-after")));
}

/** Asks; parameters that are empty are left out. */
export function get(path, parameters = {}) {
	const query = new URLSearchParams(Object.entries(parameters).filter(([name, value]) => value || (name === "cursor" && value === "")));
	return send("GET", query.size ? `${path}?${query}` : path);
}
export const post = (path, body) => send("POST", path, body ?? {});
export const patch = (path, body) => send("PATCH", path, body);
export const remove = (path) => send("DELETE", path);

/** As `get`, and null where this deployment has no such route. */
export async function getIfServed(path, parameters) {
	if (absentRoutes.has(path)) return null;
	try {
		return await get(path, parameters);
	} catch (problem) {
		if (problem.status !== 404) throw problem;
		absentRoutes.add(path);
		return null;
	}
}

/** Asks what the token may do; one that is refused is refused here. */
export async function introduce() {
	me = await get("tokens/self");
}

/** Who an event's `actor` is: tokens by their labels. */
export async function actors() {
	labels ??= get("tokens").then(({ items }) => new Map(items.map((token) => [token.id, token.label])), () => new Map());
	const known = await labels;
	return (actor) => {
		const [kind, id] = actor.split(":");
		return !id ? actor : known.get(id) ? `${known.get(id)} (${kind})` : `${kind} ${id.slice(0, 8)}`;
	};
}

/** The tokens changed. */
export const forgetLabels = () => { labels = null; };
