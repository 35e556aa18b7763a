// Tokens: who lets agents in, and who may look and change.

import { forgetLabels, get, mayChange, me, post, remove } from "./api.js";
import { ago, ask, h, now, reveal, say, setAgo, sync } from "./dom.js";
import { board } from "./fleet.js";

const DAY = 86400;

function mint(refresh) {
  return ask({
    title: "New token",
    text: "The token is shown once; only its digest is kept.",
    fields: [
      { name: "kind", label: "For", options: [["enrollment", "agents: it lets them in"], ["operator", "people: it opens this page and the API"]] },
      { name: "role", label: "May", options: [["operator", "see and change everything"], ["viewer", "see everything, and change nothing"]] },
      { name: "label", label: "Label", hint: "What it is for, or whose it is", maxlength: 100 },
      { name: "board_id", label: "Board", hint: "A UUID: this board alone; empty: all boards", pattern: "[0-9a-fA-F-]{36}" },
      { name: "days", label: "Ends in", options: [["30", "30 days"], ["1", "a day"], ["7", "a week"], ["90", "90 days"], ["365", "a year"]] },
      { name: "reusable", label: "Lets in any number of agents", type: "checkbox", value: true },
      { name: "approved", label: "Agents that it creates are active at once", type: "checkbox", value: true },
    ],
    change: (show, { kind }) => {
      show("role", kind === "operator" && Boolean(me.id));
      show("reusable", kind === "enrollment");
      show("approved", kind === "enrollment");
    },
    action: "Make the token",
    run: async ({ kind, role, label, board_id, days, reusable, approved }) => {
      const wanted = { kind, label: label || null, expires_in_seconds: Number(days) * DAY, board_id: board_id || null };
      if (kind === "operator") Object.assign(wanted, role === "viewer" && { role });
      else Object.assign(wanted, { reusable, approved, all_boards: !board_id });
      const made = await post("tokens", wanted);
      forgetLabels();
      return () => {
        refresh(true);
        const link = new URL(`#token=${made.token}`, location.href).href;
        reveal("The new token", "It is shown now and never again.", kind === "operator" ? [["Token", made.token], ["Link to this page", link]] : [["Token", made.token]]);
      };
    },
  });
}

function end(token, refresh) {
  const own = token.id === me.id;
  return ask({
    title: `End “${token.label ?? token.id.slice(0, 8)}”?`,
    text: [token.kind === "operator"
      ? "Whoever has it is refused from the next request on."
      : "It lets nobody in any more, and agents that beat by it are refused within a minute. Their own keys stay good.",
    own && "This is the token that you are signed in with."].filter(Boolean),
    action: "End it",
    danger: true,
    run: async () => {
      await remove(`tokens/${token.id}`);
      forgetLabels();
      return () => refresh(true);
    },
  });
}

/** The view. */
export function tokensView({ refresh }) {
  const rows = h("tbody", { role: "rowgroup" });
  const column = (text) => h("th", { scope: "col", role: "columnheader" }, text);
  const none = h("p", { class: "muted" });
  const cell = (label, ...children) => h("td", { role: "cell", "data-label": label }, ...children);
  const kinds = (token) => (token.kind === "enrollment" ? `enrollment${token.reusable ? "" : ", once"}${token.approved ? "" : ", to approve"}` : token.role === "viewer" ? "viewer" : "operator");
  const row = (token) => h("tr", { role: "row" },
    cell("Label", h("span", { class: "name" }, token.label ?? h("code", {}, token.id.slice(0, 8))), token.id === me.id && h("span", { class: "muted" }, " (yours)")),
    cell("Kind", kinds(token)), cell("Board", token.board_id ? board(token.board_id) : "all"), cell("Made", ago(token.created_at)), cell("Ends", ago(token.expires_at)),
    cell("Last used"), cell("Let in", token.kind === "enrollment" ? h("span", {}) : "–"),
    cell("", mayChange() && h("button", { type: "button", class: "danger quiet", onclick: () => end(token, refresh), "aria-label": `End ${token.label ?? token.id.slice(0, 8)}` }, "End")));
  return {
    node: h("div", {}, h("div", { class: "title" }, h("h1", {}, "Tokens"), mayChange() && h("button", { type: "button", class: "primary", onclick: () => mint(refresh) }, "New token")),
      h("p", { class: "muted" }, "Enrollment tokens let agents in. Operators' and viewers' tokens are for people; each is best made for one of them, and ended with one click."),
      h("table", { role: "table", class: "cards" }, h("caption", { class: "unseen" }, "Tokens, newest first"),
        h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, column("Label"), column("Kind"), column("Board"), column("Made"), column("Ends"), column("Last used"), column("Let in"), column(""))), rows), none),
    async refresh() {
      const { items } = await get("tokens");
      sync(rows, items, (token) => token.id, row, (node, token) => {
        const [, , , , , used, uses] = node.children;
        node.classList.toggle("over", Date.parse(token.expires_at) < now());
        // It is noted to the hour.
        if (!token.last_used_at) say(used, "never");
        else if (now() - Date.parse(token.last_used_at) < 3_600_000) say(used, "this hour");
        else if (used.firstElementChild) setAgo(used.firstElementChild, token.last_used_at);
        else used.replaceChildren(ago(token.last_used_at));
        if (uses.firstElementChild) say(uses.firstElementChild, token.uses.toLocaleString());
      });
      say(none, items.length ? "" : "There is none.");
    },
  };
}
