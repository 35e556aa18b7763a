// One agent: why it is in its state, when it was here, what happened to it, and what can be done.

import { actors, get, getIfServed, mayChange, patch, post, remove } from "./api.js";
import {
	FOR, QUIET, REASON, ago, agentOf, ask, button, clock, count, event, h, isolated, now, ofAgent, overlap, pill, reveal, say, span, svg, sync, timeline, when, words,
} from "./dom.js";
import { STATES, rereadFleet, stateOf } from "./fleet.js";

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
const at = (text) => Date.parse(text);

/** Why the agent is in its state, in words that name what was seen. */
function why(agent, revoked) {
	const { detail, last_seen_at, created_at, heartbeat_config: { interval_seconds, missing_tolerance } } = agent;
	const [every, tolerance, seen] = [interval_seconds * 1000, missing_tolerance * 1000, at(last_seen_at)];
	const rule = `It sends a heartbeat every ${span(every)} and may be silent for ${span(tolerance)}.`;
	const since = when(detail.verified_at ?? created_at);
	switch (stateOf(agent)) {
		case "revoked":
			return `Shut out${revoked ? ` ${when(revoked.at)}${because(revoked.payload)}` : ""}. Its heartbeats are refused until it is restored.`;
		case "waiting":
			return `Registered ${when(created_at)}. Its heartbeats are refused until it is verified or approved; else it is removed after some days.`;
		case "never":
			return `Let in ${since}, and never heard. ${rule}`;
		case "fresh":
			return `Let in ${since}, and not heard yet. ${rule}`;
		case "left":
			return `It said ${when(detail.offline_since)} that it leaves, so nobody misses it. Its next heartbeat ends that.`;
		case "offline":
			if (at(detail.lease_expires_at) > now()) return `Restored, and not heard since ${when(seen)}. It is missed again from ${when(detail.lease_expires_at)} on.`;
			return `Last heard ${when(seen)}; ${count(Math.floor((now() - seen) / every), "heartbeat is", "heartbeats are")} missing. ${rule} ${
				detail.offline_since ? `It was announced ${when(detail.offline_since)}.` : "The next sweep announces it."}${detail.health ? ` Its last word was “${detail.health}”.` : ""}`;
		case "stalled":
			return `It is heard, but by its own word its work should have moved by ${when(detail.stalls_at)}.`;
		case "asleep":
			return `Its next heartbeat is due ${when(detail.next_beat_at)}. It is missed when it is not heard ${span(tolerance)} after that.`;
		case "late":
			return `Its heartbeat is ${span(now() - seen - every)} late. It counts as offline from ${clock(at(detail.lease_expires_at))} on.`;
		case "error":
		case "degraded":
			return `It is heard, and says of itself “${detail.health}”.`;
		default:
			return `Its next heartbeat is due by ${clock(seen + every)}. ${rule}`;
	}
}

// ---- When it was here ----

/** When an event happened is in its id. */
const idTime = (id) => parseInt(id.replace("-", "").slice(0, 12), 16);

const MEANING = { up: "here", silent: "silent", left: "left on purpose", out: "shut out", none: "not let in, or not there", unknown: "not known" };
const PRESENT = { offline: "silent", never: "silent", left: "left", revoked: "out", waiting: "none", fresh: "none" };

// What an event says that the agent was before it, and is after it.
const TURNS = {
	"agent.offline": ({ reason }) => ["up", reason === "reported" ? "left" : "silent"],
	"agent.online": () => ["silent", "up"],
	"agent.never_seen": () => ["none", "silent"],
	"agent.registered": ({ state }) => ["none", state === "active" ? "up" : "none"],
	"agent.verified": () => ["none", "up"],
	"agent.approved": () => ["none", "up"],
	"agent.revoked": () => ["up", "out"],
	"agent.restored": ({ after }) => ["out", after?.state === "pending" ? "none" : "up"],
	"agent.deleted": () => ["up", "none"],
};

/** What turned the agent in the last week, oldest first; since when all of it is known; and when Rollcall heard nobody. */
async function turns(path, timeline) {
	const reaches = ({ next }) => !next || idTime(next) < now() - 7 * DAY;
	const deaf = (await getIfServed("alerts", { type: "system.heard", limit: 50 }))?.items ?? [];
	let [since, events] = [0, timeline.items];
	if (!reaches(timeline)) {
		// Its own events may be many: the turns are asked for by type, five pages of each.
		events = [];
		await Promise.all(["agent.offline", "agent.online", "agent.revoked", "agent.restored"].map(async (type) => {
			let before;
			for (let pages = 0; pages < 5; pages += 1) {
				const page = await get(path, { type, limit: 200, before });
				events.push(...page.items);
				if (reaches(page)) return;
				before = page.next;
			}
			since = Math.max(since, idTime(before));
		}));
	}
	return { since, deaf, events: [...events].sort((a, b) => (a.at < b.at ? -1 : 1)) };
}

/** The pieces of time from one moment to another, each with what the agent was. */
function pieces({ since, deaf, events }, agent, from, until) {
	const present = agent ? PRESENT[stateOf(agent)] ?? "up" : "none";
	const changes = events.filter(({ type }) => TURNS[type]);
	const list = since ? [{ is: "unknown", start: 0, end: since }] : [];
	let is = changes.length ? TURNS[changes[0].type](changes[0].payload)[0] : present;
	let start = since;
	const turn = (end, next) => {
		list.push({ is, start, end: Math.max(start, end) });
		start = Math.max(start, end);
		is = next;
	};
	for (const { type, at: moment, payload } of changes) {
		const [, next] = TURNS[type](payload);
		// Silence begins with the last heartbeat, which is before its announcement.
		const heard = at(payload?.last_seen_at);
		if (next === "silent" && heard) turn(heard, next);
		else if (type === "agent.online" && is === "up" && heard > start) turn(heard, "silent");
		if (next !== is || next !== "silent") turn(at(moment), next);
	}
	// The lease is over and no sweep has said so yet; or it has not come since it was let in.
	if (present === "silent" && is === "up" && agent.last_seen_at) turn(at(agent.last_seen_at), "silent");
	if (present === "none" && is === "up") is = "none";
	turn(until, is);
	for (const { at: moment, data } of deaf) list.push({ is: "unknown", start: at(data.since), end: at(moment) });
	return list.map((piece) => ({ ...piece, start: Math.max(piece.start, from), end: Math.min(piece.end, until) })).filter(({ start, end }) => end > start);
}

/** A bar with the same in words, above it and for those who do not see it. */
const bar = (label, spoken, share, told, ends, ...drawn) => h("figure", {},
	h("figcaption", {}, label, h("b", {}, share), h("span.muted", {}, told)),
	svg("svg", { viewBox: "0 0 1000 24", preserveAspectRatio: "none", role: "img", "aria-label": `${spoken} ${share}, ${told}` }, drawn),
	h("div.ends", { "aria-hidden": "true" }, ends.map((end) => h("span", {}, end))));
const stripe = (x, width, kind, ...children) => svg("rect", { x, width, y: 0, height: 24, class: kind }, children);
const notch = (x, kind) => svg("line", { x1: x, x2: x, y1: 0, y2: 24, class: kind });

/** How much of a time the agent was here. */
function presence(label, known, agent, length, parts) {
	const until = now();
	const from = until - length;
	const list = pieces(known, agent, from, until);
	const lasted = ({ start, end }) => end - start;
	const of = (is) => list.filter((piece) => piece.is === is);
	const sum = (is) => of(is).reduce((all, piece) => all + lasted(piece), 0);
	const [up, silent] = [sum("up"), sum("silent")];
	const share = up + silent ? `${(Math.floor((up / (up + silent)) * 10_000) / 100).toLocaleString()} %` : "–";
	const longest = span(Math.max(0, ...of("silent").map(lasted)));
	const told = silent ? `${count(of("silent").length, "silence")}, the longest ${longest}` : up ? "no silence" : "nothing to tell";
	// Silence is drawn over the rest, and never narrower than it can be seen; what is not known over both.
	const order = ["silent", "unknown"];
	const drawn = list.sort((a, b) => order.indexOf(a.is) - order.indexOf(b.is)).map((piece) => {
		const width = Math.max((lasted(piece) / length) * 1000, piece.is === "silent" ? 3 : 0);
		const x = Math.min(((piece.start - from) / length) * 1000, 1000 - width);
		return stripe(x, width, `was-${piece.is}`,
			svg("title", {}, `${MEANING[piece.is]}: ${when(piece.start)} to ${piece.end >= until ? "now" : when(piece.end)} (${span(lasted(piece))})`));
	});
	const notches = Array.from({ length: parts - 1 }, (_, n) => notch(((n + 1) * 1000) / parts));
	return bar(label, `${label}: here for`, share, told, [`${label} ago`, "now"], drawn, notches);
}

// ---- What it used ----

const dollars = (amount) => amount.toLocaleString(undefined, { style: "currency", currency: "USD", maximumFractionDigits: amount < 1 ? 4 : 2 });

/** How much of the day's budget is used; the notch is at the 80 % of which the events tell. */
function spend({ tokens, cost_usd, budget: { usd_per_day, tokens_per_day }, over_budget }) {
	// Not 79 % where a division makes a little less than 0.8 of 0.24 of 0.3.
	const percent = Math.floor((usd_per_day ? cost_usd / usd_per_day : tokens / tokens_per_day) * 100 + 1e-9);
	const [cost, counted] = [dollars(cost_usd), count(tokens, "token")];
	const told = usd_per_day ? `${cost} of ${dollars(usd_per_day)}, ${counted}` : `${counted} of ${tokens_per_day.toLocaleString()}, ${cost}`;
	const [state, word] = over_budget ? ["offline", ": over budget"] : percent < 80 ? ["fresh", ""] : ["late", ": nearly used up"];
	return bar("Used today", "Used today:", `${percent.toLocaleString()} %`, told + word, ["since 0:00 UTC", "100 %"],
		stripe(0, Math.min(1000, percent * 10), `used is-${state}`), notch(800, "told"));
}

// ---- What happened ----

const because = ({ reason }) => (reason ? `: “${reason}”` : "");
const text = (value) => (value === null || value === undefined ? "nothing" : typeof value === "object" ? Object.entries(value).map(([name, one]) => `${one} ${words(name)}`).join(", ") : value);
const changes = ({ before, after }) => Object.keys(after ?? {}).map((name) => `${words(name)}: ${text(before?.[name])} → ${text(after[name])}`).join("; ");

const ASKED = { run: "work", pause: "pause", drain: "finish and leave", stop: "stop", rotate_key: "rotate its key" };

/** What the agent is asked to do, and whether it said that it does. */
function asked({ action, since, deadline, then_revoke, acknowledged_at }) {
	const by = deadline ? ` by ${clock(at(deadline))}` : "";
	const answer = acknowledged_at ? `acknowledged ${when(acknowledged_at)}` : "not acknowledged";
	return `Asked to ${ASKED[action]}${by}, since ${when(since)}: ${answer}${then_revoke ? "; shut out if it goes on" : ""}.`;
}

const processes = ({ boot_id, previous_boot_id }, between) => [h("code", {}, boot_id), between, h("code", {}, previous_boot_id)];

// Each event of the system as a sentence, and the state whose colour it has.
const TOLD = {
	"agent.registered": ["fresh", ({ state }) => (state === "active" ? "Created, active" : "Registered")],
	"agent.verified": ["live", () => "Let in by its key"],
	"agent.approved": ["live", (payload) => `Approved${because(payload)}`],
	"agent.revoked": ["revoked", (payload) => `Shut out${because(payload)}`],
	"agent.restored": ["live", (payload) => `Restored${because(payload)}`],
	"agent.updated": ["fresh", (payload) => `Changed ${changes(payload)}`],
	"agent.key_rotated": ["fresh", ({ previous_key_ends }) => `New key; the one before ends ${when(previous_key_ends)}`],
	"agent.deleted": ["revoked", () => "Deleted"],
	"agent.offline": ["offline", ({ reason, last_seen_at }) => (reason === "reported" ? "Left on purpose" : `Fell silent; last heard ${when(last_seen_at)}`)],
	"agent.online": ["live", ({ last_seen_at, cause }, moment) => `Back${last_seen_at ? ` after ${span(at(moment) - at(last_seen_at))}` : ""}${cause === "restarted" ? ", as another process" : ""}`],
	"agent.never_seen": ["offline", () => "Never came"],
	"agent.stalled": ["stalled", () => "Stalled: it is heard, and its work does not move"],
	"agent.restarted": ["fresh", (payload) => ["Restarted: process ", processes(payload, " after ")]],
	"agent.cloned": ["error", (payload) => ["Two processes with one key: ", processes(payload, " and ")]],
	"agent.budget_reached": ["waiting", ({ percent }) => `${percent} % of the budget for the day are used`],
	"agent.directed": ["fresh", (payload) => `Asked to ${ASKED[payload.action]}${because(payload)}`],
	"agent.directive_acknowledged": ["live", ({ action }) => `Acknowledged that it should ${ASKED[action]}`],
};

function told({ type, at: moment, actor, payload }, named) {
	const [state, sentence] = TOLD[type] ?? ["own", () => h("code", {}, type)];
	return event(payload?.reason === "reported" ? "left" : state, moment, sentence(payload ?? {}, moment), actor !== "agent" && h("span.muted", {}, ` by ${named(actor)}`),
		payload !== null && !TOLD[type] && h("details", {}, h("summary", {}, "what it said"), h("pre", { tabindex: 0 }, JSON.stringify(payload, null, 2))));
}

// ---- What can be done ----

const THEN = { name: "then", label: "If it goes on", options: [["", "leave it at that"], ["revoke", "shut it out"]] };

/** The actions that the agent's state allows: word, kind of button, what it does. */
function actions(agent, silences, path, changed, gone) {
	const { detail: { state, directive, rate_limit_per_minute }, id } = agent;
	const name = isolated(agent.name);
	const list = [];
	const act = (word, kind, text, run, fields = [REASON], title = `${word} “${name}”?`) =>
		list.push([word, kind, () => ask({ title, text, fields, action: word, danger: kind === "danger", run, then: () => {
			rereadFleet();
			changed();
		} })]);
	const tell = (verb, body) => ({ reason }) => post(`${path}/${verb}`, { ...body, reason });
	const next = "With its next heartbeat it is asked to";
	const advise = (word, action, text) => act(word, "", `${next} ${text}`, tell("directive", { action }));
	if (state === "pending") act("Approve", "primary", "It becomes active, and its heartbeats are taken from now on.", tell("approve"));
	if (state === "revoked") act("Restore", "primary", "Its key is good again, and it has some minutes to be heard before it is missed.", tell("restore"));
	if (state === "active") {
		if (directive && directive.action !== "run") advise("Resume", "run", "work again.");
		if (directive?.action !== "pause") advise("Pause", "pause", "start no new work, and to go on sending heartbeats.");
		if (directive?.action !== "drain") advise("Drain", "drain", "finish what it has, and to leave.");
		act("Stop", "danger", `${next} end. That is advice, unless you shut it out if it goes on.`,
			({ then, reason }) => post(`${path}/directive`, { action: "stop", then_revoke: then === "revoke", reason }), [THEN, REASON]);
	}
	act("Rotate key", "", "The new key is shown once. The key before stays good for as long as you say; any older one ends now.", async (values) => {
		const made = await post(`${path}/rotate-key`, { overlap_seconds: Number(values.overlap) });
		return () => reveal("The new key", `Put it where ${name} reads it.`, ["API key", made.agent_token]);
	}, [overlap("The key before ends in")], `A new key for “${name}”?`);
	act("Change", "", "A new tolerance moves the lease that runs.",
		({ limit, ...values }) => patch(path, { ...agentOf(values), rate_limit_per_minute: Number(limit) || null }),
		[...ofAgent(agent), { name: "limit", label: "Heartbeats a minute", type: "number", min: 1, max: 6000, value: rate_limit_per_minute, hint: "Empty: the deployment's own limit" }], `Change “${name}”`);
	if (silences) {
		act("Silence", "", QUIET, ({ length, reason }) => post("silences", { agent_id: id, for_seconds: Number(length), reason }), [FOR, REASON]);
	}
	if (state !== "revoked") act("Revoke", "danger", "From its next request on it is refused, whatever key it has, until it is restored.", tell("revoke"), [REASON], `Shut “${name}” out?`);
	act("Delete", "danger", "Its row and its key go, its events stay. An agent that comes by an enrollment token is back with its next heartbeat: to keep it out, revoke it.",
		async () => {
			await remove(path);
			return gone;
		}, []);
	return list;
}

/** The view of the agent with this id. */
export function agentView({ refresh, go }, id) {
	const path = `agents/${id}`;
	const [name, state, reason] = [h("h1", {}, "…"), h("span"), h("p.why", {})];
	const [buttons, bars, facts] = [h("div.buttons", {}), h("div"), h("dl.facts", {})];
	const readEvents = (before) => get(`${path}/events`, { limit: 100, before });
	const happened = timeline(readEvents, (one) => one.id, (one) => told(one, named));
	let [known, read, before, drawn, silences] = [null, 0, "", "", false];
	let named = (actor) => actor;
	const last = (kind) => happened.events.find(({ type }) => type === kind);

	const fact = (term, value) => h("div", {}, h("dt", {}, term), h("dd", {}, value));

	function render(agent) {
		document.title = `${agent.name} · Rollcall`;
		say(name, agent.name);
		const { directive, today, boot_id } = agent.detail;
		say(reason, `${why(agent, last("agent.revoked"))}${directive ? ` ${asked(directive)}` : ""}${
			today?.over_budget && (directive?.action ?? "run") === "run" ? " It is over its budget, and told to pause until 0:00 UTC." : ""}`);
		// What is under somebody's finger is not exchanged for nothing.
		const all = JSON.stringify([agent, silences]);
		if (all === drawn) return;
		drawn = all;
		const is = stateOf(agent);
		state.replaceChildren(pill(is, STATES[is][0]));
		const { board_id, created_at, last_seen_at, detail, heartbeat_config: { interval_seconds, missing_tolerance } } = agent;
		facts.replaceChildren(
			fact("Last seen", last_seen_at ? ago(last_seen_at) : "never"),
			fact("Last said", detail.health ?? "nothing"),
			fact("Heartbeat", `every ${span(interval_seconds * 1000)}, silent for at most ${span(missing_tolerance * 1000)}`),
			fact("Limit", detail.rate_limit_per_minute ? `${detail.rate_limit_per_minute} a minute` : "the deployment's"),
			fact("Requests", detail.requests_total.toLocaleString()),
			today && !today.budget ? fact("Used today", `${dollars(today.cost_usd)}, ${count(today.tokens, "token")}`) : "",
			boot_id ? fact("Boot id", h("code", {}, boot_id)) : "",
			fact("Created", ago(created_at)),
			fact("Board", board_id ? h("code", {}, board_id) : "none"),
			fact("Id", h("code", {}, id)));
		if (!mayChange()) return;
		sync(buttons, actions(agent, silences, path, () => refresh(true), () => go("#/")), ([word]) => word, ([word, kind]) => button(word, null, kind), (node, [, , run]) => { node.onclick = run; });
	}

	return {
		node: h("article", {}, h("a.back", { href: "#/" }, "← The fleet"), h("div.title", {}, name, state), reason, buttons, bars,
			h("div.two", {}, h("section", {}, h("h2", {}, "What happened"), happened.nodes), h("section", {}, h("h2", {}, "Facts"), facts))),
		/** The agent each time; its events when it changed, and once a minute. */
		async refresh() {
			const orNone = (missing) => (error) => {
				if (![404, 422].includes(error.status)) throw error;
				return missing;
			};
			const agent = await get(path, { detail: true }).catch(orNone(null));
			const { updated_at, detail: { offline_since, directive, boot_id, today } = {} } = agent ?? {};
			const signature = JSON.stringify([updated_at, agent && stateOf(agent), offline_since, directive, boot_id, today?.over_budget]);
			if (signature !== before || now() - read > 60_000) {
				const page = await readEvents().catch(orNone({ items: [], next: null }));
				[named, known, silences] = await Promise.all([actors(), turns(`${path}/events`, page), getIfServed("silences", { limit: 1 })]);
				happened.take(page);
				[before, read] = [signature, now()];
			}
			bars.replaceChildren(presence("24 hours", known, agent, DAY, 4), presence("7 days", known, agent, 7 * DAY, 7));
			if (today?.budget) bars.prepend(spend(today));
			if (agent) return render(agent);
			const deleted = last("agent.deleted");
			say(name, deleted?.payload.before.name ?? "No such agent");
			state.replaceChildren(pill("revoked", deleted ? "Deleted" : "Unknown"));
			say(reason, deleted ? "It was deleted. What happened to it is kept for a while." : "Nothing is known of an agent with this id.");
			buttons.replaceChildren();
			facts.replaceChildren(fact("Id", h("code", {}, id)));
			if (!happened.events.length) bars.replaceChildren();
		},
	};
}
