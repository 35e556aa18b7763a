// Tokens: who lets agents in, and who may look and change.

import { forgetLabels, get, mayChange, me, post, remove } from "./api.js";
import { BOARD, ago, ask, body, button, cell, code, h, now, reveal, row, say, since, sync, table, view } from "./dom.js";

const ofAgents = ({ kind }) => kind === "enrollment";
const ofPeople = ({ kind }) => kind === "operator";

const mint = (refresh) => ask({
	title: "New token",
	text: "The token is shown once; only its digest is kept.",
	fields: [
		{ name: "kind", label: "For", options: [["enrollment", "agents: it lets them in"], ["operator", "people: it opens this page and the API"]] },
		{ name: "role", label: "May", options: [["operator", "see and change everything"], ["viewer", "see everything, and change nothing"]], when: ofPeople },
		{ name: "label", label: "Label", hint: "What it is for, or whose it is", maxlength: 100 },
		{ ...BOARD, hint: "A UUID: that board alone; empty: all boards" },
		{ name: "days", label: "Ends in", options: [["30", "30 days"], ["1", "a day"], ["7", "a week"], ["90", "90 days"], ["365", "a year"]] },
		{ name: "reusable", label: "Lets in any number of agents", type: "checkbox", value: true, when: ofAgents },
		{ name: "approved", label: "Agents that it creates are active at once", type: "checkbox", value: true, when: ofAgents },
	],
	action: "Make the token",
	run: async ({ label, board_id, days, ...values }) => {
		const all_boards = !board_id && !me.board_id;
		const made = await post("tokens", { ...values, label: label || null, board_id: board_id || null, all_boards, expires_in_seconds: days * 86400 });
		forgetLabels();
		return () => {
			refresh(true);
			reveal("The new token", "", ["Token", made.token], ...(made.link ? [["Link to this page", made.link]] : []));
		};
	},
});

const named = ({ label, id }) => label ?? id.slice(0, 8);

const end = (token, refresh) => ask({
	title: `End “${named(token)}”?`,
	text: [ofPeople(token) ? "Whoever has it is refused from the next request on." : "It lets nobody in any more, and agents that beat by it are refused within a minute. Their own keys stay good.",
		token.id === me.id && "It is the one that you are signed in with."].filter(Boolean),
	action: "End it",
	danger: true,
	run: async () => {
		await remove(`tokens/${token.id}`);
		forgetLabels();
		return () => refresh(true);
	},
});

/** The view. */
export function tokensView({ refresh }) {
	const rows = body();
	const kind = (token) => (ofPeople(token) ? token.role : `enrollment${token.reusable ? "" : ", once"}${token.approved ? "" : ", to approve"}`);
	const create = (token) => row(
		cell("Label", h("b", {}, named(token)), token.id === me.id && h("span", { class: "muted" }, " (yours)")), cell("Kind", kind(token)), cell("Board", code(token.board_id) || "all"),
		cell("Made", ago(token.created_at)), cell("Ends", ago(token.expires_at)), cell("Last used"), cell("Let in"), cell("", mayChange() && button("End", () => end(token, refresh), "danger quiet", `End ${named(token)}`)));
	return {
		node: view("Tokens", "Enrollment tokens let agents in. Operators' and viewers' are for people: best one for each, which one click ends.",
			mayChange() && button("New token", () => mint(refresh), "primary"), table("Tokens, newest first", ["Label", "Kind", "Board", "Made", "Ends", "Last used", "Let in", ""], rows)),
		async refresh() {
			const { items } = await get("tokens");
			sync(rows, items, ({ id }) => id, create, (node, token) => {
				const [, , , , , used, uses] = node.children;
				node.classList.toggle("over", Date.parse(token.expires_at) < now());
				// It is noted to the hour.
				if (now() - Date.parse(token.last_used_at) < 3_600_000) say(used, "this hour");
				else since(used, token.last_used_at);
				say(uses, ofAgents(token) ? token.uses.toLocaleString() : "–");
			});
		},
	};
}
