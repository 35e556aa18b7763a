// Tokens: who lets agents in, and who may look and change.

import { forgetLabels, get, mayChange, me, post, remove } from "./api.js";
import { BOARD, ago, ask, button, code, h, now, reveal, say, since, tableView } from "./dom.js";

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
	run: async ({ board_id, days, ...values }) => {
		const all_boards = !board_id && !me.board_id;
		const made = await post("tokens", { ...values, board_id, all_boards, expires_in_seconds: days * 86400 });
		forgetLabels();
		return () => reveal("The new token", "", ["Token", made.token], ...(made.link ? [["Link to this page", made.link]] : []));
	},
	then: () => refresh(true),
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
	},
	then: () => refresh(true),
});

/** The view. */
export function tokensView({ refresh }) {
	const kind = (token) => (ofPeople(token) ? token.role : `enrollment${token.reusable ? "" : ", once"}${token.approved ? "" : ", to approve"}`);
	const cells = (token) => [
		[h("b", {}, named(token)), token.id === me.id && h("span.muted", {}, " (yours)")], kind(token), code(token.board_id) || "all", ago(token.created_at), ago(token.expires_at), "", "",
		mayChange() && button("End", () => end(token, refresh), "danger quiet", `End ${named(token)}`),
	];
	const update = (node, token) => {
		const [, , , , , used, uses] = node.children;
		node.classList.toggle("over", Date.parse(token.expires_at) < now());
		// It is noted to the hour.
		if (now() - Date.parse(token.last_used_at) < 3_600_000) say(used, "this hour");
		else since(used, token.last_used_at);
		say(uses, ofAgents(token) ? token.uses.toLocaleString() : "–");
	};
	return tableView({
		title: "Tokens", about: "Enrollment tokens let agents in. Operators' and viewers' are for people: best one for each, which one click ends.",
		add: mayChange() && button("New token", () => mint(refresh), "primary"), columns: ["Label", "Kind", "Board", "Made", "Ends", "Last used", "Let in", ""],
		read: () => get("tokens"), key: ({ id }) => id, cells, update,
	});
}
