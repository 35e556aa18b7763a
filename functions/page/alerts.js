// Who was told of what: alerts, the channels that they go to, deliveries, and silences.

import { get, mayChange, patch, post, remove } from "./api.js";
import {
	BOARD, FOR, QUIET, REASON, ago, ask, body, button, code, count, event, h, overlap, pill, reveal, rowOf, say, show, span, sync, table, tableView, timeline, view, when, words,
} from "./dom.js";

const agent = ({ id, name }) => h("a", { href: `#/agents/${id}` }, name);

/** A button with a dialog whose `run` changes something, which is then read again. */
const act = (word, kind, refresh, title, text, run, fields = []) => button(word, () => ask({
	title, text, fields, action: word, danger: kind.startsWith("danger"), run, then: () => refresh(true),
}), kind);

// ---- Alerts ----

const is = (concern) => (concern === "error" ? "in error" : words(concern ?? ""));
const CALM = ["agent.recovered", "fleet.recovered", "system.heard"];

function tale({ type, data }) {
	const { agent: one, agents = [], more, mass, total, since, seconds, channel } = data;
	const few = [agents.slice(0, 8).flatMap((each, at) => [at ? ", " : "", agent(each)]), agents.length > 8 || more ? ` and ${total - Math.min(8, agents.length)} more` : ""];
	switch (type) {
		case "agent.recovered":
			return [agent(one), ` is no longer ${is(data.ended)}`, data.downtime_seconds && ` after ${span(data.downtime_seconds * 1000)}`, data.cause && ` (${data.cause})`];
		case "fleet.incident":
		case "fleet.recovered":
			return [`${count(total, "agent")} ${type === "fleet.incident" ? "in trouble" : "well again"}${mass ? ", most of the fleet" : ""}: `, few];
		case "agents.waiting":
			return [`${count(total, "agent waits", "agents wait")} to be let in: `, few];
		case "system.deaf":
			return `Rollcall hears nobody since ${when(since)}: its own outage, and nobody's death`;
		case "system.heard":
			return `Rollcall hears again, after ${span(seconds * 1000)}`;
		case "channel.disabled":
			return `The channel ${channel.label ?? channel.target} is disabled: ${data.reason}`;
		default:
			return [agent(one), ` is ${is(data.began)}`, data.last_seen_at && `, last heard ${when(data.last_seen_at)}`];
	}
}

/** The view of what was told. */
export function alertsView() {
	const none = h("p.muted", {});
	const read = (before) => get("alerts", { limit: 50, before });
	const state = (type) => (CALM.includes(type) ? "live" : type === "system.deaf" ? "unwell" : "offline");
	const told = timeline(read, ({ seq }) => seq, (one) => event(state(one.type), one.at, tale(one), h("span.muted", {}, ` #${one.seq}`)));
	return {
		node: view("Alerts", "One outage, one message: what was told, newest first.", null, none, told.nodes),
		async refresh() {
			told.take(await read());
			say(none, told.events.length ? "" : "Nobody had to be told of anything yet.");
		},
	};
}

// ---- Channels ----

const CONCERNS = ["offline", "never_seen", "cloned", "error", "stalled", "over_budget", "unheeded", "waiting"];
const concerns = (chosen = CONCERNS.slice(0, 4)) => [...new Set([...CONCERNS, ...chosen])].map((name) => ({ name: `on-${name}`, label: words(name), type: "checkbox", value: chosen.includes(name) }));
const chosen = (values) => Object.keys(values).filter((name) => name.startsWith("on-") && values[name]).map((name) => name.slice(3));
const secret = (made) => made.secret && reveal("The channel's secret", "By it the receiver knows that a message is Rollcall's.", ["Signing secret", made.secret]);

function deliveries(channel) {
	const [rows, none] = [body(), h("p.muted", { role: "status" }, "…")];
	const again = ({ seq }) => button("Redeliver", () => post(`channels/${channel.id}/redeliver`, { seq }).then(read, (error) => say(none, error.message)));
	const attempt = ({ at, status, error, ms }) => h("li", {}, `${when(at)}: ${status ?? ""} ${error ?? ""} ${ms ?? "–"} ms`);
	const columns = ["Message", "State", "Attempts", "Next", ""];
	const create = (one) => rowOf(columns, [
		[one.seq && `#${one.seq} `, one.type], pill({ delivered: "live", failed: "offline", pending: "waiting" }[one.state] ?? "left", one.state),
		one.attempts.length ? h("details", {}, h("summary", {}, String(one.attempts.length)), h("ol", {}, one.attempts.map(attempt))) : "0",
		one.next_attempt_at ? ago(one.next_attempt_at) : "–", one.seq && one.state === "failed" && mayChange() && again(one),
	]);
	async function read() {
		const { items } = await get(`channels/${channel.id}/deliveries`, { limit: 50 });
		sync(rows, items, JSON.stringify, create);
		say(none, items.length ? "" : "Nothing was sent yet.");
	}
	show(`Deliveries to ${channel.label ?? channel.target}`, "Close", "wide", table("Deliveries, newest first", columns, rows), none);
	read().catch((error) => say(none, error.message));
}

function buttons(channel, refresh) {
	const { id, kind, label, state } = channel;
	const name = `“${label ?? channel.target}”`;
	const path = `channels/${id}`;
	const put = (body) => patch(path, body);
	const does = (word, text, run, fields, title = `${word} ${name}?`) => act(word, word === "Delete" ? "danger quiet" : "quiet", refresh, title, text, run, fields);
	return h("div.buttons", {}, button("Deliveries", () => deliveries(channel), "quiet"), mayChange() && [
		does("Test", "A message that says it is a test is sent now.", async () => {
			await post(`${path}/test`);
			return () => deliveries(channel);
		}),
		state === "enabled" ? does("Pause", "It is told nothing until it is resumed; then first what is down.", () => put({ state: "paused" }))
			: does("Resume", "It is told from now on, and first what is down.", () => put({ state: "enabled" })),
		does("Change", "", (values) => put({ label: values.label, concerns: chosen(values), ...(values.url && { url: values.url }) }),
			[{ name: "label", label: "Label", value: label, maxlength: 100 }, { name: "url", label: "New address", type: "url", hint: "Empty: as it is" }, ...concerns(channel.concerns)], `Change ${name}`),
		kind === "webhook" && does("Rotate secret", "Messages are signed with both for a while.", async (values) => {
			const made = await put({ rotate_secret: { overlap_seconds: Number(values.overlap) } });
			return () => secret(made);
		}, [overlap("The secret before ends in")], `A new secret for ${name}?`),
		does("Delete", "It is told nothing more, and what was not delivered yet is not sent.", () => remove(path)),
	]);
}

/** The view of those who are told. */
export function channelsView({ refresh }) {
	const add = () => act("New channel", "primary", refresh, "New channel", "It is told from now on, and first what is down at this moment.", async ({ kind, url, label, board_id, ...values }) => {
		const made = await post("channels", { kind, url, label, board_id, concerns: chosen(values) });
		return () => secret(made);
	}, [
		{ name: "kind", label: "Kind", options: [["webhook", "Webhook, signed"], ["slack", "Slack"], ["discord", "Discord"]] },
		{ name: "url", label: "Address", type: "url", required: true, hint: "It is kept, and never shown again whole" },
		{ name: "label", label: "Label", maxlength: 100 }, BOARD, ...concerns(),
	]);
	const state = ({ state, failing_since }) => (state === "enabled" ? (failing_since ? pill("late", "failing") : pill("live", state)) : pill(state === "paused" ? "left" : "offline", state));
	const cells = (one) => [
		[h("b", {}, one.label ?? one.target), one.label && h("div.muted", {}, one.target)], one.kind, [state(one), one.disabled_reason && h("div.muted", {}, one.disabled_reason)],
		one.concerns.map(words).join(", "), code(one.board_id) || "all", buttons(one, refresh),
	];
	return tableView({
		title: "Channels", about: "Who is told, and of what.", add: mayChange() && add(), columns: ["Channel", "Kind", "State", "Told of", "Board", ""],
		read: () => get("channels"), key: JSON.stringify, cells, none: "Nobody is told yet when an agent falls silent.",
	});
}

// ---- Silences ----

/** The view of those of whom nobody is told. */
export function silencesView({ refresh }) {
	const add = () => act("New silence", "primary", refresh, "New silence", QUIET,
		({ scope, id, length, reason }) => post("silences", { [scope]: id ?? true, for_seconds: Number(length), reason }), [
			{ name: "scope", label: "Of", options: [["all", "the whole fleet"], ["board_id", "a board"], ["agent_id", "an agent"]] },
			{ ...BOARD, name: "id", label: "Its id", hint: "A UUID", required: true, when: ({ scope }) => scope !== "all" }, FOR, REASON,
		]);
	const scope = (one) => (one.agent_id ? ["agent ", h("a", { href: `#/agents/${one.agent_id}` }, one.agent_id.slice(0, 8))] : one.board_id ? ["board ", code(one.board_id)] : "the whole fleet");
	const cells = (one) => [scope(one), one.reason ?? "–", ago(one.ends_at),
		mayChange() && act("End", "quiet", refresh, "End this silence?", "What is still so is told with the next sweep.", () => remove(`silences/${one.id}`))];
	return tableView({
		title: "Silences", about: "Of whom nobody is told for a while: during a deployment, over a night.", add: mayChange() && add(),
		columns: ["Of", "Reason", "Ends", ""], read: () => get("silences"), key: ({ id }) => id, cells, none: "Nobody is silenced.",
	});
}
