// Elements and text, never markup: what an agent calls itself can only ever be text.

function fill(node, properties, children) {
	for (const [name, value] of Object.entries(properties)) {
		if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
		else mark(node, name, value === true ? "" : value);
	}
	node.append(...children.flat(3).filter((child) => child || child === 0));
	return node;
}

/** An element, with a class behind a dot: `h("td.name", {}, agent.name)`. */
export function h(tag, properties, ...children) {
	const [name, kind] = tag.split(".");
	return fill(document.createElement(name), { class: kind, ...properties }, children);
}
export const svg = (tag, properties, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);

/** A text, and an attribute (with null or false none), where it is another. */
export function say(node, text) {
	if (node.textContent !== text) node.textContent = text;
}
export function mark(node, name, value) {
	if (value === null || value === undefined || value === false) node.removeAttribute(name);
	else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** Brings a parent's children in line with items, each by its key: what stays keeps its focus and its place. */
export function sync(parent, items, keyOf, create, update) {
	const before = parent.known ?? new Map();
	parent.known = new Map();
	let place = parent.firstChild;
	for (const item of items) {
		const key = keyOf(item);
		const node = before.get(key) ?? create(item);
		before.delete(key);
		parent.known.set(key, node);
		update?.(node, item);
		if (node === place) place = place.nextSibling;
		else parent.insertBefore(node, place);
	}
	for (const node of before.values()) node.remove();
}

// ---- What the views are made of ----

export const button = (word, onclick, kind, label) => h("button", { type: "button", class: kind, onclick, "aria-label": label }, word);
export const cell = (label, ...children) => h("td", { role: "cell", "data-label": label }, ...children);
export const row = (...cells) => h("tr", { role: "row" }, cells);
export const rowOf = (columns, contents) => row(columns.map((name, at) => cell(name, contents[at])));
export const code = (id) => (id ? h("code", { title: id }, id.slice(0, 8)) : "");
/** A name in a sentence, whatever its letters' direction. */
export const isolated = (name) => `\u2068${name}\u2069`;
export const words = (name) => name.replaceAll("_", " ");
export const count = (number, one, more = `${one}s`) => `${number.toLocaleString()} ${number === 1 ? one : more}`;
export const pill = (state, word) => h("span", { class: `pill is-${state}` }, word);

/** A table, whose rows are cards on a phone; the columns' names, the last of which may be empty. */
export const table = (caption, columns, rows) => h("table.cards", { role: "table" }, h("caption.unseen", {}, caption),
	h("thead", { role: "rowgroup" }, row(columns.map((name) => h("th", { scope: "col", role: "columnheader", class: name.toLowerCase() }, name || h("span.unseen", {}, "Actions"))))), rows);
export const body = () => h("tbody", { role: "rowgroup" });

/** A view: its title, what it is about, a button that makes something, and the rest. */
export const view = (title, about, add, ...rest) => h("div", {}, h("div.title", {}, h("h1", {}, title), add), h("p.muted", {}, about), ...rest);

/** A view of one table: the items that are read, each by its key and with what is in its columns, or what is said of none. */
export function tableView({ title, about, add, columns, read, key, cells, update, none = "" }) {
	const [rows, empty] = [body(), h("p.muted", {})];
	return {
		node: view(title, about, add, table(title, columns, rows), empty),
		async refresh() {
			const { items } = await read();
			sync(rows, items, key, (one) => rowOf(columns, cells(one)), update);
			say(empty, items.length ? "" : none);
		},
	};
}

/** Events by their days, newest first, page by page; what was read of earlier pages stays when the first is read again. */
export function timeline(read, keyOf, create) {
	const node = h("div.timeline", {});
	const more = button("Earlier", async () => {
		more.disabled = true;
		await read(next).then(({ items, ...page }) => {
			events.push(...items);
			({ next } = page);
		}, () => {});
		more.disabled = false;
		render();
	});
	let [events, next] = [[], null];
	function render() {
		const days = new Map();
		for (const event of events) days.set(day(event.at), [...(days.get(day(event.at)) ?? []), event]);
		sync(node, [...days], ([name]) => name, ([name]) => h("section", {}, h("h2", {}, name), h("ol", {})), (section, [, ofDay]) => sync(section.lastChild, ofDay, keyOf, create));
		more.hidden = !next;
	}
	render();
	return {
		nodes: [node, more],
		get events() {
			return events;
		},
		/** The first page, as it is now. */
		take(page) {
			const older = events.filter((one) => page.next && keyOf(one) < keyOf(page.items.at(-1)));
			if (!older.length) ({ next } = page);
			events = [...page.items, ...older];
			render();
		},
	};
}
export const event = (state, moment, ...said) => h("li", { class: `event is-${state}` }, h("time", { datetime: moment, title: full(moment) }, clock(moment)), h("div", {}, ...said));

// ---- Time ----

let skew = 0;

/** The server's time: a browser's clock may be wrong. */
export const now = () => Date.now() + skew;

/** Learns the time from an answer's `Date`, which has whole seconds. */
export function learnTime(date) {
	const seen = Date.parse(date) + 500 - Date.now();
	if (Math.abs(seen - skew) > 1500) skew = seen;
}

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

/** A duration as people say it: `45 s`, `3 min`, `2 h 5 min`, `3 d 4 h`. */
export function span(milliseconds) {
	const seconds = Math.max(0, Math.round(milliseconds / 1000));
	const at = UNITS.findIndex(([size]) => seconds >= size);
	if (at < 0) return "0 s";
	const [size, unit] = UNITS[at];
	const whole = Math.floor(seconds / size);
	const rest = at < 2 && whole < 10 ? Math.floor((seconds % size) / UNITS[at + 1][0]) : 0;
	return `${whole} ${unit}${rest ? ` ${rest} ${UNITS[at + 1][1]}` : ""}`;
}

const format = (options) => {
	const form = new Intl.DateTimeFormat(undefined, options);
	return (moment) => form.format(new Date(moment));
};
const full = format({ dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });
export const clock = format({ hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = format({ weekday: "short", day: "numeric", month: "short" });

/** Today the time alone, else with its day. */
export const when = (moment) => (day(moment) === day(now()) ? clock(moment) : `${day(moment)}, ${clock(moment)}`);

function age(node) {
	const past = now() - Date.parse(node.dateTime);
	say(node, past < -1000 ? `in ${span(-past)}` : past < 1500 ? "now" : `${span(past)} ago`);
}

/** How long ago, or how soon: it goes on counting. */
export function ago(moment, node = h("time.ago", {})) {
	mark(node, "datetime", moment);
	mark(node, "title", full(moment));
	age(node);
	return node;
}

/** The same in a place of its own, for what may never have been. */
export function since(place, moment) {
	if (!moment) say(place, "never");
	else if (place.firstElementChild) ago(moment, place.firstElementChild);
	else place.replaceChildren(ago(moment));
}

/** Makes every age on the page right. */
export const tick = () => document.querySelectorAll("time.ago").forEach(age);

// ---- Dialogs: what a button does is said before it does it ----

export const BOARD = { name: "board_id", label: "Board", hint: "A UUID; empty: all, or none", pattern: "[0-9a-fA-F-]{36}" };
export const REASON = { name: "reason", label: "Reason", hint: "Optional", maxlength: 500 };
export const FOR = { name: "length", label: "For", options: [["3600", "an hour"], ["14400", "4 hours"], ["86400", "a day"], ["604800", "a week"], ["2592000", "30 days"]] };
export const QUIET = "Nobody is told who falls silent meanwhile, and who is back. What is still so when it ends is told then.";
export const overlap = (label) => ({ name: "overlap", label, options: [["300", "5 minutes"], ["3600", "an hour"], ["86400", "a day"], ["0", "at once"]] });

/** Name, board and heartbeat of an agent, and what its fields say. */
export const ofAgent = ({ name, board_id, heartbeat_config: { interval_seconds = 60, missing_tolerance = 120 } = {} } = {}) => [
	{ name: "name", label: "Name", value: name, required: true, maxlength: 100 },
	{ ...BOARD, value: board_id },
	{ name: "interval", label: "Heartbeat every", type: "number", min: 1, max: 86400, value: interval_seconds, hint: "Seconds" },
	{ name: "tolerance", label: "Silent for at most", type: "number", min: 2, max: 604800, value: missing_tolerance, hint: "Seconds; at least twice the interval" },
];
export const agentOf = ({ name, board_id, interval, tolerance }) => ({
	name, board_id, heartbeat_config: { interval_seconds: Number(interval), missing_tolerance: Number(tolerance) },
});

let fields = 0;

function field({ name, label, hint, type = "text", options, value, when: shown, ...rest }) {
	const id = `field-${++fields}`;
	const common = { id, name, "aria-describedby": hint && `${id}-hint`, ...rest };
	const input = options ? h("select", common, options.map(([key, text]) => h("option", { value: key }, text))) : h("input", { type, autocomplete: "off", spellcheck: "false", ...common });
	const check = type === "checkbox";
	if (check) input.checked = value;
	else if (value !== undefined && value !== null) input.value = value;
	const text = [h("label", { for: id }, label), input];
	const node = h("div", { class: check ? "field check" : "field" }, check ? text.reverse() : text, hint && h("small", { id: `${id}-hint` }, hint));
	node.shown = shown;
	return node;
}

function open(title, kind, content) {
	content.prepend(h("h2", { id: "dialog-title" }, title));
	const dialog = h("dialog", { class: kind, "aria-labelledby": "dialog-title", onclose: () => dialog.remove() }, content);
	document.body.append(dialog);
	dialog.showModal();
	return dialog;
}

/** A dialog with this title that is only closed. */
export function show(title, last, kind, ...content) {
	const dialog = open(title, kind, h("div.form", {}, content, h("div.buttons", {}, button(last, () => dialog.close(), "primary"))));
}

/**
 * Says what will happen, asks for what it needs, and does it: `run` gets the fields' values, null for an empty one. Then
 * follows `then`, and the function that `run` may return. If `run` fails the dialog stays open with the reason.
 */
export function ask({ title, text, fields: wanted = [], action, danger, run, then }) {
	const problem = h("p.problem", { role: "alert" });
	const go = h("button", { class: danger ? "danger" : "primary" }, action);
	const stop = button("Cancel", () => dialog.close());
	const nodes = wanted.map(field);
	const form = h("form", {}, [text].flat().map((line) => h("p", {}, line)), nodes, problem, h("div.buttons", {}, stop, go));
	const values = () => Object.fromEntries([...form.querySelectorAll("[name]:enabled")].map((input) => [input.name, input.type === "checkbox" ? input.checked : input.value.trim() || null]));
	const choose = () => nodes.filter((node) => node.shown).forEach((node) => {
		node.hidden = !node.shown(values());
		node.querySelector("[name]").disabled = node.hidden;
	});
	form.addEventListener("change", choose);
	choose();
	form.addEventListener("submit", async (event) => {
		event.preventDefault();
		go.disabled = true;
		say(problem, "");
		try {
			const after = await run(values());
			dialog.close();
			then();
			if (typeof after === "function") after();
		} catch (error) {
			say(problem, error.message);
			go.disabled = false;
		}
	});
	const dialog = open(title, "", form);
	(form.querySelector("[name]:enabled") ?? (danger ? stop : go)).focus();
}

/** Shows secrets, this once: pairs of a label and a text, each to be copied. */
export function reveal(title, text, ...secrets) {
	const copied = h("p.muted", { role: "status" });
	show(title, "I have kept it", "", h("p", {}, `${text} It is shown now and never again.`), secrets.map(([label, secret], at) => {
		const input = h("input.secret", { id: `secret-${at}`, readonly: true, value: secret });
		const copy = async () => {
			input.select();
			await navigator.clipboard?.writeText(secret).catch(() => document.execCommand("copy"));
			say(copied, `${label} copied.`);
		};
		return h("div.field", {}, h("label", { for: input.id }, label), h("div.copy", {}, input, button("Copy", copy, "", `Copy ${label}`)));
	}), copied);
}
