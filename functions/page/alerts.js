// Who was told of what: alerts, the channels that they go to, deliveries, and silences.

import { get, mayChange, patch, post, remove } from "./api.js";
import { ago, ask, clock, day, full, h, reveal, say, span, sync, when } from "./dom.js";
import { board } from "./fleet.js";

const cell = (label, ...children) => h("td", { role: "cell", "data-label": label }, ...children);
const table = (caption, columns, rows) => h("table", { role: "table", class: "cards" }, h("caption", { class: "unseen" }, caption),
  h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map((text) => h("th", { scope: "col", role: "columnheader" }, text)))), rows);
const button = (word, onclick, kind = "quiet", label) => h("button", { type: "button", class: kind, onclick, "aria-label": label }, word);
const agentLink = ({ id, name }) => h("a", { href: `#/agents/${id}` }, name);

// ---- Alerts ----

const ENDS = ["agent.recovered", "system.heard"];

function tale({ type, data }) {
  const { agent } = data;
  const board_ = agent?.board_id && [" on board ", board(agent.board_id)];
  switch (type) {
    case "agent.recovered":
      return [agentLink(agent), ` is over ${data.ended ?? "it"}`, data.downtime_seconds ? ` after ${span(data.downtime_seconds * 1000)}` : "", data.cause ? ` (${data.cause})` : "", board_];
    case "fleet.incident": {
      const agents = data.agents ?? [];
      const parts = ["began", "ended", "still_offline"].filter((part) => data.counts?.[part] || data[part]).map((part) => `${data.counts?.[part] ?? data[part]} ${part.replaceAll("_", " ")}`);
      return [`Incident${data.mass ? " across the fleet" : ""}: ${parts.join(", ") || `${agents.length} agents`}. `,
        agents.slice(0, 8).flatMap((one, at) => [at ? ", " : "", agentLink(one)]), agents.length > 8 || data.more ? ` and ${(data.more ?? 0) + Math.max(0, agents.length - 8)} more` : ""];
    }
    case "system.deaf":
      return ["Rollcall itself could not hear: its own outage, and nobody's death"];
    case "system.heard":
      return ["Rollcall hears again"];
    default:
      return agent ? [agentLink(agent), ` ${(data.began ?? type.split(".")[1]).replaceAll("_", " ")}`, data.last_seen_at ? `, last heard ${when(data.last_seen_at)}` : "", board_] : [h("code", {}, type)];
  }
}

/** The view of what was told. */
export function alertsView() {
  const events = h("div", { class: "timeline" });
  const none = h("p", { class: "muted" });
  const more = h("button", { type: "button", hidden: true }, "Earlier");
  let list = [];
  let next = null;
  const render = () => {
    const days = Map.groupBy ? Map.groupBy(list, (one) => day(one.at)) : list.reduce((all, one) => all.set(day(one.at), [...(all.get(day(one.at)) ?? []), one]), new Map());
    sync(events, [...days], ([key]) => key, ([key]) => h("section", {}, h("h2", {}, key), h("ol", {})),
      (node, [, ofDay]) => sync(node.lastChild, ofDay, (one) => one.seq, (one) => h("li", { class: `event is-${ENDS.includes(one.type) ? "live" : one.type === "system.deaf" ? "unwell" : "offline"}` },
        h("time", { datetime: one.at, title: full(one.at) }, clock(one.at)), h("div", {}, tale(one), h("span", { class: "muted" }, ` #${one.seq}`)))));
    more.hidden = !next;
    say(none, list.length ? "" : "Nobody had to be told of anything yet.");
  };
  more.addEventListener("click", async () => {
    const page = await get("alerts", { limit: 50, before: next });
    list.push(...page.items);
    ({ next } = page);
    render();
  });
  return {
    node: h("div", {}, h("div", { class: "title" }, h("h1", {}, "Alerts")), h("p", { class: "muted" }, "One outage, one message: what channels were told, newest first."), events, none, more),
    async refresh() {
      const page = await get("alerts", { limit: 50 });
      const oldest = page.items.at(-1)?.seq;
      const older = list.filter((one) => oldest !== undefined && one.seq < oldest);
      if (!older.length) ({ next } = page);
      list = [...page.items, ...older];
      render();
    },
  };
}

// ---- Channels ----

const CONCERNS = ["offline", "never_seen", "error", "stalled", "cloned", "over_budget", "unheeded", "waiting"];

const concernFields = (chosen) => CONCERNS.map((concern) => ({ name: `on-${concern}`, label: concern.replaceAll("_", " "), type: "checkbox", value: chosen ? chosen.includes(concern) : concern !== "waiting" }));
const concernsOf = (values) => CONCERNS.filter((concern) => values[`on-${concern}`]);

function create(refresh) {
  return ask({
    title: "New channel",
    text: "It is told from now on, and first what is down at this moment.",
    fields: [
      { name: "kind", label: "Kind", options: [["webhook", "Webhook, signed"], ["slack", "Slack"], ["discord", "Discord"]] },
      { name: "url", label: "Address", type: "url", required: true, hint: "https. It is kept, and never shown again whole" },
      { name: "label", label: "Label", maxlength: 100 },
      { name: "board_id", label: "Board", hint: "A UUID: this board alone; empty: all boards", pattern: "[0-9a-fA-F-]{36}" },
      ...concernFields(),
    ],
    action: "Create the channel",
    run: async ({ kind, url, label, board_id, ...values }) => {
      const made = await post("channels", { kind, url, label: label || null, board_id: board_id || null, concerns: concernsOf(values) });
      return () => {
        refresh(true);
        if (made.secret) reveal("The channel's secret", "By it the receiver knows that a message is Rollcall's. It is shown now and never again.", [["Signing secret", made.secret]]);
      };
    },
  });
}

function deliveriesOf(channel, refresh) {
  const rows = h("tbody", { role: "rowgroup" });
  const none = h("p", { class: "muted", role: "status" }, "…");
  const read = async () => {
    const { items } = await get(`channels/${channel.id}/deliveries`, { limit: 50 });
    sync(rows, items, ({ id, state, attempts }) => `${id} ${state} ${attempts.length}`, (one) => {
      const last = one.attempts.at(-1);
      return h("tr", { role: "row" },
        cell("Message", h("code", {}, one.seq ? `#${one.seq}` : one.id.slice(0, 8)), ` ${one.type ?? ""}`),
        cell("State", h("span", { class: `pill is-${{ delivered: "live", failed: "offline", pending: "waiting" }[one.state] ?? "left"}` }, one.state)),
        cell("Attempts", one.attempts.length ? h("details", {}, h("summary", {}, String(one.attempts.length)), h("ol", {}, one.attempts.map((attempt) => h("li", {}, `${when(attempt.at)}: ${attempt.status ?? ""} ${attempt.error ?? ""} ${attempt.ms ?? "–"} ms`)))) : "0"),
        cell("Last", last ? ago(last.at) : one.next_attempt_at ? ["next ", ago(one.next_attempt_at)] : "–"),
        cell("", one.seq && one.state === "failed" && mayChange() && button("Redeliver", async () => {
          await post(`channels/${channel.id}/redeliver`, { seq: one.seq }).catch((error) => say(none, error.message));
          await read();
        })));
    });
    say(none, items.length ? "" : "Nothing was sent yet.");
  };
  const dialog = h("dialog", { class: "wide", "aria-labelledby": "dialog-title" }, h("div", { class: "form" },
    h("h2", { id: "dialog-title" }, `Deliveries to ${channel.label ?? channel.target}`), table("Deliveries, newest first", ["Message", "State", "Attempts", "Last", ""], rows), none,
    h("div", { class: "buttons" }, button("Close", () => dialog.close(), "primary"))));
  dialog.addEventListener("close", () => { dialog.remove(); refresh(true); });
  document.body.append(dialog);
  dialog.showModal();
  read().catch((error) => say(none, error.message));
}

/** The view of those who are told. */
export function channelsView({ refresh }) {
  const rows = h("tbody", { role: "rowgroup" });
  const none = h("p", { class: "muted" });
  const named = (channel) => channel.label ?? channel.target;
  const put = (channel, body) => async () => {
    await patch(`channels/${channel.id}`, body);
    return () => refresh(true);
  };
  const todo = (channel) => {
    const name = `“${named(channel)}”`;
    const is = channel.state;
    return [
      button("Deliveries", () => deliveriesOf(channel, refresh)),
      mayChange() && [
        button("Test", () => ask({ title: `Test ${name}?`, text: "A message that says it is a test is sent now.", action: "Send it", run: async () => { await post(`channels/${channel.id}/test`); return () => deliveriesOf(channel, refresh); } })),
        is === "enabled"
          ? button("Pause", () => ask({ title: `Pause ${name}?`, text: "It is told nothing until it is resumed; then first what is down.", action: "Pause", run: put(channel, { state: "paused" }) }))
          : button("Resume", () => ask({ title: `Resume ${name}?`, text: "It is told from now on, and first what is down.", action: "Resume", run: put(channel, { state: "enabled" }) })),
        button("Change", () => ask({ title: `Change ${name}`, text: [], action: "Change",
          fields: [{ name: "label", label: "Label", value: channel.label ?? "", maxlength: 100 }, { name: "url", label: "New address", type: "url", hint: "Empty: as it is" }, ...concernFields(channel.concerns)],
          run: ({ label, url, ...values }) => put(channel, { label: label || null, concerns: concernsOf(values), ...(url && { url }) })() })),
        channel.kind === "webhook" && button("Rotate secret", () => ask({ title: `A new secret for ${name}?`, text: "Messages are signed with both for a while.", action: "Rotate",
          fields: [{ name: "overlap", label: "The secret before ends in", options: [["86400", "a day"], ["3600", "an hour"], ["0", "at once"]] }],
          run: async ({ overlap }) => {
            const made = await patch(`channels/${channel.id}`, { rotate_secret: { overlap_seconds: Number(overlap) } });
            return () => { refresh(true); if (made.secret) reveal("The new secret", "It is shown now and never again.", [["Signing secret", made.secret]]); };
          } })),
        button("Delete", () => ask({ title: `Delete ${name}?`, text: "It is told nothing more, and what was not delivered yet is not sent.", action: "Delete", danger: true,
          run: async () => { await remove(`channels/${channel.id}`); return () => refresh(true); } }), "danger quiet"),
      ],
    ];
  };
  return {
    node: h("div", {}, h("div", { class: "title" }, h("h1", {}, "Channels"), mayChange() && button("New channel", () => create(refresh), "primary")),
      h("p", { class: "muted" }, "Who is told, and of what."), table("Channels", ["Channel", "Kind", "State", "Told of", "Board", ""], rows), none),
    async refresh() {
      const { items } = await get("channels");
      sync(rows, items, (channel) => JSON.stringify(channel), (channel) => h("tr", { role: "row" },
        cell("Channel", h("span", { class: "name" }, named(channel)), channel.label && h("div", { class: "muted" }, channel.target)), cell("Kind", channel.kind),
        cell("State", h("span", { class: `pill is-${{ enabled: channel.failing_since ? "late" : "live", paused: "left" }[channel.state] ?? "offline"}` }, channel.failing_since && channel.state === "enabled" ? "failing" : channel.state),
          channel.disabled_reason && h("div", { class: "muted" }, channel.disabled_reason)),
        cell("Told of", (channel.concerns ?? []).map((concern) => concern.replaceAll("_", " ")).join(", ")), cell("Board", channel.board_id ? board(channel.board_id) : "all"),
        cell("", h("div", { class: "buttons" }, todo(channel)))));
      say(none, items.length ? "" : "Nobody is told yet when an agent falls silent.");
    },
  };
}

// ---- Silences ----

function silence(refresh) {
  return ask({
    title: "New silence",
    text: "Nobody is told of these agents, neither that they fall silent nor that they are back. What is still so when the silence ends is told then.",
    fields: [
      { name: "scope", label: "Of", options: [["all", "the whole fleet"], ["board_id", "a board"], ["agent_id", "an agent"]] },
      { name: "id", label: "Its id", hint: "A UUID", pattern: "[0-9a-fA-F-]{36}", required: true },
      { name: "for", label: "For", options: [["3600", "an hour"], ["14400", "4 hours"], ["86400", "a day"], ["604800", "a week"], ["2592000", "30 days"]] },
      { name: "reason", label: "Reason", maxlength: 500 },
    ],
    change: (show, { scope }) => {
      show("id", scope !== "all");
      document.querySelector('[name="id"]').disabled = scope === "all";
    },
    action: "Silence",
    run: async ({ scope, id, for: length, reason }) => {
      await post("silences", { [scope]: scope === "all" ? true : id, for_seconds: Number(length), reason: reason || null });
      return () => refresh(true);
    },
  });
}

/** The view of those of whom nobody is told. */
export function silencesView({ refresh }) {
  const rows = h("tbody", { role: "rowgroup" });
  const none = h("p", { class: "muted" });
  const scope = (one) => (one.agent_id ? ["agent ", h("a", { href: `#/agents/${one.agent_id}` }, one.agent_id.slice(0, 8))] : one.board_id ? ["board ", board(one.board_id)] : "the whole fleet");
  return {
    node: h("div", {}, h("div", { class: "title" }, h("h1", {}, "Silences"), mayChange() && button("New silence", () => silence(refresh), "primary")),
      h("p", { class: "muted" }, "Of whom nobody is told for a while: a deployment, a night."), table("Silences", ["Of", "Reason", "Ends", ""], rows), none),
    async refresh() {
      const { items } = await get("silences");
      sync(rows, items, (one) => one.id, (one) => h("tr", { role: "row" }, cell("Of", scope(one)), cell("Reason", one.reason ?? "–"), cell("Ends", ago(one.ends_at)),
        cell("", mayChange() && button("End", () => ask({ title: "End this silence?", text: "What is still so is told with the next sweep.", action: "End it", run: async () => { await remove(`silences/${one.id}`); return () => refresh(true); } })))));
      say(none, items.length ? "" : "Nobody is silenced.");
    },
  };
}
