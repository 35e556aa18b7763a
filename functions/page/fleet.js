// The fleet: how many agents there are of each state, and who they are, worst first.

import { get, getIfServed, mayChange, post } from "./api.js";
import {
	agentOf, ask, body, button, cell, code, count, h, mark, now, ofAgent, pill, reveal, row, say, since, span, sync, table,
} from "./dom.js";

/** Every state, worst first: its word, and the tile that counts it. */
export const STATES = {
	offline: ["Offline", "offline"],
	never: ["Never came", "offline"],
	stalled: ["Stalled", "stalled"],
	error: ["Error", "unwell"],
	late: ["Late", "late"],
	degraded: ["Degraded", "unwell"],
	waiting: ["To approve", "waiting"],
	fresh: ["Not seen yet", "waiting"],
	left: ["Left", "left"],
	asleep: ["Asleep", "live"],
	live: ["Live", "live"],
	revoked: ["Revoked", "revoked"],
};
const ORDER = Object.keys(STATES);

/** The state of an agent in one word: offline before everything that it said of itself. */
export function stateOf({ status, last_seen_at, detail }) {
	if (detail.state === "revoked") return "revoked";
	if (detail.state === "pending") return "waiting";
	if (!last_seen_at) return detail.offline_since ? "never" : "fresh";
	if (detail.health === "offline" && detail.offline_since) return "left";
	if (status === "offline") return "offline";
	// After a pause the work has 15 minutes to move.
	const may = now() - Date.parse(detail.directive?.since) < { pause: Infinity, run: 9e5 }[detail.directive?.action];
	if (Date.parse(detail.stalls_at) <= now() && !may && !detail.today?.over_budget) return "stalled";
	if (status === "error") return "error";
	if (detail.late) return "late";
	if (status === "degraded") return "degraded";
	return Date.parse(detail.next_beat_at) > now() ? "asleep" : "live";
}

// Word; what the API finds by itself in a fleet that is too large to be loaded; whether it is shown when nobody is in it.
const TILES = {
	offline: ["Offline", { absent: true }, true],
	stalled: ["Stalled", {}],
	unwell: ["Unwell", { status: "error" }],
	late: ["Late", {}, true],
	waiting: ["Waiting", { state: "pending" }, true],
	live: ["Live", {}, true],
	left: ["Left", { absent: true }],
	revoked: ["Revoked", { state: "revoked" }, true],
};

/** A fleet up to this size is loaded whole; of a larger one the absent first, and pages. */
const WHOLE = 1000;
const PAGE = 200;

// What was read last is shown at once to who comes back to the view.
const nothing = () => ({ agents: new Map(), lists: [], whole: false, summary: null, read: 0, asked: "" });
const everybody = () => ({ tile: "", board: "", name: "" });
let fleet = nothing();
let filter = everybody();

/** Somebody changed an agent: what was read of the fleet is too old now. */
export function rereadFleet() {
	fleet.read = Math.min(fleet.read, 1);
}

/** Nobody's agents stay when the user goes. */
export function forgetFleet() {
	fleet = nothing();
	filter = everybody();
}

async function page(list) {
	const { items, next } = await get("agents", { detail: true, cursor: list.next ?? "", limit: PAGE, ...list.question });
	Object.assign(list, { next, ended: !next, pages: (list.pages ?? 0) + 1 });
	return items;
}

/** What a fleet that is too large is asked for. */
function questions() {
	const where = { board_id: filter.board };
	if (filter.name) return [{ ...where, name: filter.name, cursor: undefined }];
	return (filter.tile ? [TILES[filter.tile][1]] : [{ absent: true }, {}]).map((question) => ({ ...where, ...question }));
}

/** Reads the lists anew; the first time each page is shown as it comes. */
async function readLists(show) {
	const asked = JSON.stringify(filter);
	const agents = fleet.read ? new Map() : fleet.agents;
	const keep = (items) => items.forEach((agent) => agents.set(agent.id, agent));
	const all = { question: {} };
	let lists = [all];
	let whole = fleet.summary?.as_of ? fleet.summary.agents <= WHOLE : fleet.whole || !fleet.read;
	while (whole && !all.ended) {
		keep(await page(all));
		if (!fleet.read) show();
		whole = all.ended || agents.size < WHOLE;
	}
	if (!whole) {
		const before = asked === fleet.asked ? fleet.lists : [];
		lists = questions().map((question) => ({ question }));
		await Promise.all(lists.map(async (list, at) => {
			do keep(await page(list));
			while (!list.ended && list.pages < before[at]?.pages);
		}));
	}
	Object.assign(fleet, { agents, lists, whole, asked, read: now() });
}

/** How many of each tile there are; of a fleet that is not loaded whole, as the last sweep counted. */
function counts() {
	const sums = Object.fromEntries(Object.keys(TILES).map((tile) => [tile, 0]));
	for (const agent of fleet.agents.values()) sums[STATES[stateOf(agent)][1]] += 1;
	const said = fleet.summary;
	if (!said?.as_of || fleet.whole) return { ...sums, all: fleet.agents.size };
	const { agents, live, late, offline, never_seen, error, stalled, pending, revoked } = said;
	return { ...sums, all: agents, offline: offline + never_seen, stalled, unwell: error, late, waiting: pending, live: Math.max(0, live - error - stalled), left: 0, revoked };
}

// builder-2 before builder-10.
const NAMES = new Intl.Collator(undefined, { numeric: true });

/** Who is shown: the worst first, of those who are absent the longest first, else by name. */
function shown() {
	const rows = [];
	for (const agent of fleet.agents.values()) {
		const state = stateOf(agent);
		if (filter.tile && STATES[state][1] !== filter.tile) continue;
		if (filter.board && agent.board_id !== filter.board) continue;
		if (!agent.name.toLowerCase().includes(filter.name.toLowerCase())) continue;
		const rank = ORDER.indexOf(state);
		rows.push({ agent, state, rank, since: rank < 2 ? agent.detail.offline_since ?? agent.last_seen_at : "" });
	}
	return rows.sort((a, b) => a.rank - b.rank || (a.since < b.since ? -1 : a.since > b.since ? 1 : NAMES.compare(a.agent.name, b.agent.name)));
}

function headline({ all, offline, revoked, left, waiting }) {
	if (!all) return "No agents yet";
	const of = count(all, "agent");
	if (!fleet.whole && !fleet.summary?.as_of) return `More than ${of}`;
	if (offline) return `${offline.toLocaleString()} of ${of} ${offline === 1 ? "is" : "are"} offline`;
	const awaited = all - revoked - left - waiting;
	if (!awaited) return `${of}, none of them at work`;
	return awaited < all ? `${awaited.toLocaleString()} of ${of} are here, and nobody is missing` : all === 1 ? "The one agent is here" : `All ${of} are here`;
}

const create = (refresh) => ask({
	title: "New agent",
	text: "An active agent is made. Its API key is shown once, and only its digest is kept.",
	fields: ofAgent(),
	action: "Create the agent",
	run: async (values) => {
		const made = await post("agents", agentOf(values));
		return () => reveal(`${made.name} may come`, "This is its key.", ["API key", made.agent_token]);
	},
	then: () => refresh(true),
});

const link = () => row(cell("State"), h("td.name", { role: "cell" }, h("a")), cell("Board"), cell("Last seen"), cell("Last said"), cell("Directive"));

function fillRow(node, { agent, state }) {
	const [is, name, on, seen, said, told] = node.children;
	if (is.dataset.state !== state) {
		is.dataset.state = state;
		is.replaceChildren(pill(state, STATES[state][0]));
	}
	mark(node, "class", `is-${state}`);
	say(name.firstChild, agent.name);
	mark(name.firstChild, "href", `#/agents/${agent.id}`);
	if (on.title !== (agent.board_id ?? "")) {
		on.title = agent.board_id ?? "";
		on.replaceChildren(code(agent.board_id));
	}
	since(seen, agent.last_seen_at);
	say(said, agent.detail.health ?? "");
	const { directive } = agent.detail;
	say(told, directive ? `${directive.action}${directive.acknowledged_at ? "" : " (asked)"}` : "");
}

/** The view. */
export function fleetView({ refresh }) {
	const title = h("h1", { "aria-live": "polite" });
	const bar = h("div.share", { "aria-hidden": "true" });
	const tiles = h("div.tiles", { role: "group", "aria-label": "Show only" });
	const boards = h("select", { "aria-label": "Board", onchange: () => choose({ board: boards.value }) });
	const names = h("input", { id: "name", type: "search", "aria-label": "Find by name", placeholder: "Find by name", autocomplete: "off", maxlength: 100, value: filter.name });
	const tools = h("div.tools", {}, names, boards);
	const rows = body();
	const list = table("Agents, worst first", ["State", "Name", "Board", "Last seen", "Last said", "Directive"], rows);
	const note = h("p.muted", {});
	const more = button("Load more", loadMore);
	const empty = h("div.empty", {});
	rows.addEventListener("click", ({ target }) => {
		if (!target.closest("a") && !getSelection().toString()) target.closest("tr").querySelector("a").click();
	});
	let typing;
	names.addEventListener("input", () => {
		clearTimeout(typing);
		typing = setTimeout(() => choose({ name: names.value.trim() }), fleet.whole ? 50 : 300);
	});

	function choose(change) {
		Object.assign(filter, change);
		render();
		if (!fleet.whole && fleet.read) refresh(true);
	}

	async function loadMore() {
		more.disabled = true;
		const next = fleet.lists.find(({ ended }) => !ended);
		await page(next).then((items) => items.forEach((agent) => fleet.agents.set(agent.id, agent)), () => {});
		more.disabled = false;
		render();
	}

	function renderEmpty(what) {
		if (empty.dataset.what === what) return;
		empty.dataset.what = what;
		empty.replaceChildren(...(what === "filtered" ? [h("p", {}, "Nobody is like that."), button("Show all", () => {
			names.value = "";
			choose(everybody());
		})] : what === "new" ? [h("p", {}, "An agent is here as soon as it sends its first heartbeat, with an enrollment token from ", h("a", { href: "#/tokens" }, "Tokens"), ":"),
			h("pre", { tabindex: 0 }, `curl -sS ${new URL("api/v1/agents/heartbeat", document.baseURI)} \\\n  -H "x-agent-token: rce_…" -d '{"name": "researcher-1"}'`)] : []));
	}

	function render() {
		const sums = counts();
		say(title, fleet.agents.size || fleet.read ? headline(sums) : "Calling the roll…");
		const visible = Object.keys(TILES).filter((tile) => TILES[tile][2] || sums[tile] || filter.tile === tile);
		sync(tiles, visible, (tile) => tile,
			(tile) => h("button", { type: "button", class: `tile is-${tile}`, onclick: () => choose({ tile: filter.tile === tile ? "" : tile }) }, h("b"), h("span", {}, TILES[tile][0])),
			(node, tile) => {
				mark(node, "aria-pressed", filter.tile === tile);
				mark(node, "data-none", !sums[tile]);
				say(node.firstChild, sums[tile].toLocaleString());
			});
		sync(bar, visible.filter((tile) => sums[tile]), (tile) => tile, (tile) => h("i", { class: `is-${tile}` }), (node, tile) => { node.style.flexGrow = sums[tile]; });
		const found = shown();
		sync(rows, found, ({ agent }) => agent.id, link, fillRow);
		const all = [...fleet.agents.values()];
		const known = [...new Set(all.map(({ board_id }) => board_id).concat(filter.board).filter(Boolean))].sort();
		sync(boards, ["", ...known], (id) => id, (id) => h("option", { value: id }, id ? `Board ${id.slice(0, 8)}` : "All boards"));
		boards.value = filter.board;
		boards.hidden = !known.length;
		mark(list, "data-boards", known.length > 0);
		mark(list, "data-directives", all.some(({ detail }) => detail.directive));
		list.hidden = !found.length;
		tiles.hidden = bar.hidden = !sums.all;
		tools.hidden = !all.length && !filter.name;
		more.hidden = fleet.whole || !fleet.lists.some(({ ended, question }) => !ended && !question.name);
		say(note, fleet.whole || !fleet.read ? "" : `${found.length.toLocaleString()} shown of a fleet that is too large to be shown whole: who is absent first; a name is found by its beginning.`);
		renderEmpty(!fleet.read || found.length ? "" : sums.all ? "filtered" : "new");
		document.title = sums.offline ? `(${sums.offline}) Rollcall` : "Rollcall";
	}

	render();
	return {
		node: h("div.fleet", {}, h("div.title", {}, title, mayChange() && button("New agent", () => create(refresh), "primary")), bar, tiles, tools, list, empty, note, more),
		/** One read where nothing is new: the lists are read when the summary changed, and a minute after the last time. */
		async refresh(anew) {
			const told = () => JSON.stringify({ ...fleet.summary, as_of: "" });
			const before = told();
			fleet.summary = await getIfServed("fleet");
			if (anew || before !== told() || now() - fleet.read > 59_000 || fleet.asked !== JSON.stringify(filter)) await readLists(render);
			render();
		},
		banner() {
			const { as_of, deaf_since } = fleet.summary ?? {};
			const ago = (moment) => span(now() - Date.parse(moment));
			if (deaf_since) return `Rollcall hears nobody since ${ago(deaf_since)}: what it says of agents may be its own outage.`;
			return now() - Date.parse(as_of) > 120_000 ? `The sweep has not run for ${ago(as_of)}: nobody is announced meanwhile.` : "";
		},
	};
}
