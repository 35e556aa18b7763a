// One agent: why it is in its state, when it was here, what happened to it, and what can be done.

import { actors, get, getIfServed, mayChange, patch, post, remove } from "./api.js";
import { ago, ask, clock, day, full, h, mark, now, reveal, say, span, svg, sync, when } from "./dom.js";
import { board, pill, stateOf, STATES } from "./fleet.js";

const HOUR = 3_600_000;
const WEEK = 7 * 24 * HOUR;

// ---- Why ----

const at = (text) => (text ? Date.parse(text) : NaN);

/** Why the agent is in its state, in words that name what was seen. */
export function why(agent, last) {
  const { interval_seconds: every, missing_tolerance: tolerance } = agent.heartbeat_config;
  const detail = agent.detail ?? {};
  const seen = at(agent.last_seen_at);
  const beats = `It beats every ${span(every * 1000)} and may be silent for ${span(tolerance * 1000)}.`;
  const said = detail.health && detail.health !== "offline" ? ` Its last word was “${detail.health}”.` : "";
  switch (stateOf(agent)) {
    case "revoked":
      return `Shut out${last.revoked ? ` ${when(last.revoked.at)}${last.revoked.payload.reason ? `: “${last.revoked.payload.reason}”` : ""}` : ""}. Its heartbeats are refused until it is restored.`;
    case "waiting":
      return `Registered ${when(agent.created_at)}, and not let in yet: its heartbeats are refused until it is verified or approved. Without that it is removed after some days.`;
    case "never":
      return `Let in ${when(detail.verified_at ?? agent.created_at)}, and never heard. ${beats}`;
    case "fresh":
      return `Let in ${when(detail.verified_at ?? agent.created_at)}, and not heard yet. ${beats}`;
    case "left":
      return `It said ${when(detail.offline_since)} that it leaves, so nobody misses it. Its next heartbeat brings it back.`;
    case "offline": {
      const missed = Math.floor((now() - seen) / (every * 1000));
      const told = detail.offline_since ? `It was announced ${when(detail.offline_since)}.` : "The next sweep announces it.";
      if (at(detail.lease_expires_at) > now()) return `Restored, and not heard since ${when(seen)}. It is missed again from ${when(detail.lease_expires_at)} on.`;
      return `Last heard ${when(seen)}; ${missed.toLocaleString()} ${missed === 1 ? "heartbeat is" : "heartbeats are"} missing. ${beats} ${told}${said}`;
    }
    case "stalled":
      return `It beats, but its work has not moved for too long.${said}`;
    case "error":
      return `It beats, and says that it is in error.`;
    case "late":
      return `Its heartbeat is ${span(now() - seen - every * 1000)} late. It counts as offline from ${clock(seen + tolerance * 1000)} on, unless it is heard before.`;
    case "degraded":
      return `It beats, and says that it is degraded.`;
    default:
      return `Its next heartbeat is due by ${clock(seen + every * 1000)}. ${beats}`;
  }
}

// ---- When it was here ----

/** When an event happened is in its id. */
const idTime = (id) => parseInt(id.replace("-", "").slice(0, 12), 16);

const TURNS = ["agent.offline", "agent.online", "agent.revoked", "agent.restored"];

/** What turned the agent in the last week, oldest first, and since when all of it is known. */
async function turns(path, timeline) {
  const from = now() - WEEK;
  const reaches = (page) => !page.next || idTime(page.next) < from;
  let since = 0;
  let events = timeline.items;
  if (!reaches(timeline)) {
    // Its own events may be many: the turns are asked for by their type, up to five pages of each.
    events = [];
    await Promise.all(TURNS.map(async (type) => {
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
  return { since, events: [...events].sort((a, b) => (a.at < b.at ? -1 : 1)) };
}

/** What an event says that the agent was before it, and is from when on. */
function turn({ type, at: moment, payload }) {
  const time = at(moment);
  switch (type) {
    case "agent.offline":
      return payload.reason === "reported" ? { was: "up", is: "left", from: time } : { was: "up", is: "silent", from: at(payload.last_seen_at) || time };
    case "agent.online":
      return { was: "silent", is: "up", from: time, missing: at(payload.last_seen_at) };
    case "agent.never_seen":
      return { was: "none", is: "silent", from: time };
    case "agent.registered":
      return { was: "none", is: payload.state === "active" ? "up" : "none", from: time };
    case "agent.verified":
    case "agent.approved":
      return { was: "none", is: "up", from: time };
    case "agent.restored":
      return { was: "out", is: payload.after?.state === "pending" ? "none" : "up", from: time };
    case "agent.revoked":
      return { was: "up", is: "out", from: time };
    case "agent.deleted":
      return { was: "up", is: "none", from: time };
    default:
      return null;
  }
}

const PRESENT = { offline: "silent", never: "silent", left: "left", revoked: "out", waiting: "none", fresh: "none" };

/** The pieces of time from `from` to `until`, each with what the agent was: up, silent, left, out, none or unknown. */
export function pieces({ since, events }, agent, from, until) {
  const present = agent ? PRESENT[stateOf(agent)] ?? "up" : "none";
  const changes = events.map(turn).filter(Boolean);
  const list = [];
  let is = changes[0]?.was ?? present;
  let start = Math.max(since, 0);
  if (since) list.push({ is: "unknown", start: 0, end: since });
  for (const change of changes) {
    // Silence begins with the last heartbeat, which is before its announcement.
    const end = Math.max(change.from, start);
    if (change.missing && is === "up" && change.missing > start) {
      list.push({ is, start, end: change.missing });
      list.push({ is: "silent", start: change.missing, end });
    } else list.push({ is, start, end });
    ({ is } = change);
    start = end;
  }
  // The lease is over, and no sweep has said so yet; or it has not come since it was let in.
  if (present === "silent" && is === "up" && agent.last_seen_at) {
    const end = Math.max(start, at(agent.last_seen_at));
    list.push({ is, start, end });
    start = end;
    is = "silent";
  } else if (present === "none" && is === "up") is = "none";
  list.push({ is, start, end: until });
  return list
    .map((piece) => ({ ...piece, start: Math.max(piece.start, from), end: Math.min(piece.end, until) }))
    .filter((piece) => piece.end > piece.start);
}

const MEANING = { up: "here", silent: "silent", left: "left on purpose", out: "shut out", none: "not let in, or not there", unknown: "not known" };

function presence(label, known, agent, length) {
  const until = now();
  const from = until - length;
  const list = pieces(known, agent, from, until);
  const sum = (is) => list.filter((piece) => piece.is === is).reduce((all, piece) => all + piece.end - piece.start, 0);
  const [up, silent] = [sum("up"), sum("silent")];
  const share = up + silent ? (Math.floor((up / (up + silent)) * 10_000) / 100).toLocaleString(undefined, { maximumFractionDigits: 2 }) + " %" : "–";
  const gaps = list.filter((piece) => piece.is === "silent");
  const longest = Math.max(0, ...gaps.map((piece) => piece.end - piece.start));
  const told = gaps.length ? `${gaps.length} ${gaps.length === 1 ? "silence" : "silences"}, ${gaps.length === 1 ? "of" : "the longest"} ${span(longest)}` : up ? "no silence" : "nothing to tell";
  const scale = (moment) => ((moment - from) / length) * 1000;
  const marks = [1, 2, 3, 4, 5, 6].filter((n) => n < (length > 24 * HOUR ? 7 : 4)).map((n) => {
    const x = (n * 1000) / (length > 24 * HOUR ? 7 : 4);
    return svg("line", { x1: x, x2: x, y1: 0, y2: 24, class: "hour" });
  });
  // Silence is drawn last and never narrower than it can be seen.
  const drawn = [...list].sort((a, b) => (a.is === "silent") - (b.is === "silent")).map((piece) => {
    const width = Math.max(scale(piece.end) - scale(piece.start), piece.is === "silent" ? 3 : 0);
    return svg("rect", { x: Math.min(scale(piece.start), 1000 - width), width, y: 0, height: 24, class: `was-${piece.is}` },
      svg("title", {}, `${MEANING[piece.is]}: ${when(piece.start)} to ${piece.end >= until ? "now" : when(piece.end)} (${span(piece.end - piece.start)})`));
  });
  return h("figure", { class: "presence" },
    h("figcaption", {}, h("span", {}, label), h("b", {}, share), h("span", { class: "muted" }, told)),
    svg("svg", { viewBox: "0 0 1000 24", preserveAspectRatio: "none", role: "img", "aria-label": `${label}: here for ${share}, ${told}` }, drawn, marks),
    h("div", { class: "ends muted", "aria-hidden": "true" }, h("span", {}, `${label} ago`), h("span", {}, "now")));
}

// ---- What happened ----

const change = (payload) => Object.keys(payload.after ?? {}).map((name) => {
  const text = (value) => (value === null || value === undefined ? "nothing" : typeof value === "object" ? Object.values(value).join(" / ") : String(value));
  return `${name.replaceAll("_", " ")}: ${text(payload.before?.[name])} → ${text(payload.after[name])}`;
}).join("; ");

const because = ({ reason }) => (reason ? `: “${reason}”` : "");

// Each event of the system as a sentence, and the colour of what it led to.
const TOLD = {
  "agent.registered": ["fresh", (p) => (p.state === "active" ? "Created, active" : "Registered")],
  "agent.verified": ["live", () => "Let in by its key"],
  "agent.approved": ["live", (p) => `Approved${because(p)}`],
  "agent.revoked": ["revoked", (p) => `Shut out${because(p)}`],
  "agent.restored": ["live", (p) => `Restored${because(p)}`],
  "agent.updated": ["fresh", (p) => `Changed ${change(p)}`],
  "agent.key_rotated": ["fresh", (p) => `New key; the one before ends ${when(p.previous_key_ends)}`],
  "agent.deleted": ["revoked", () => "Deleted"],
  "agent.offline": ["offline", (p) => (p.reason === "reported" ? "Left on purpose" : `Fell silent; last heard ${when(p.last_seen_at)}`)],
  "agent.online": ["live", (p, moment) => `Back${p.last_seen_at ? ` after ${span(at(moment) - at(p.last_seen_at))}` : ""}`],
  "agent.never_seen": ["offline", () => "Never came"],
};

function event({ id, type, at: moment, actor, payload }, named) {
  const [state, sentence] = TOLD[type] ?? ["own", () => h("code", {}, type)];
  const kind = type === "agent.offline" && payload.reason === "reported" ? "left" : state;
  return h("li", { class: `event is-${kind}`, "data-id": id },
    h("time", { datetime: moment, title: full(moment) }, clock(moment)),
    h("div", {}, h("span", {}, sentence(payload ?? {}, moment)), actor !== "agent" && h("span", { class: "muted" }, ` by ${named(actor)}`),
      payload !== null && !TOLD[type] && h("details", {}, h("summary", {}, "what it said"), h("pre", {}, h("code", {}, JSON.stringify(payload, null, 2))))));
}

// ---- What can be done ----

const REASON = { name: "reason", label: "Reason", hint: "Optional; it stands in the agent's events", maxlength: 500 };

/** The actions that the agent's state allows: word, dialog. */
function actions(agent, { path, changed, gone }) {
  const state = agent.detail?.state;
  const name = `“${agent.name}”`;
  const say = async (action, body) => {
    await post(`${path}/${action}`, body);
    return changed;
  };
  const told = (title, text, action, verb, danger) => () => ask({ title, text, action, danger, fields: [REASON], run: ({ reason }) => say(verb, { reason: reason || null }) });
  const list = [];
  if (state === "pending") list.push(["Approve", "primary", told(`Approve ${name}?`, "It becomes active, and its heartbeats are taken from now on.", "Approve", "approve")]);
  if (state === "revoked") list.push(["Restore", "primary", told(`Restore ${name}?`, "Its key is good again, and it has some minutes to be heard before it is missed.", "Restore", "restore")]);
  if (agent.detail && "directive" in agent.detail && state === "active") {
    const now_ = agent.detail.directive?.action;
    const directive = (word, action, text, danger) => now_ !== action && list.push([word, "", () => ask({
      title: `${word} ${name}?`, text, action: word, danger, fields: [REASON], run: ({ reason }) => say("directive", { action, reason: reason || null }),
    })]);
    directive("Pause", "pause", "With its next heartbeat it is asked to start no new work, and to go on beating, until this is changed.");
    if (now_) directive("Resume", "run", "With its next heartbeat it is asked to work again.");
    directive("Drain", "drain", "With its next heartbeat it is asked to finish what it has, and then to leave.");
    directive("Stop", "stop", "With its next heartbeat it is asked to end. This is advice: what shuts an agent out is “Revoke”.", true);
  }
  list.push(["Rotate key", "", () => ask({
    title: `A new key for ${name}?`,
    text: "The new key is shown once. The key before stays good for as long as you say here; one that was replaced earlier ends now.",
    fields: [{ name: "overlap", label: "The key before ends in", options: [["300", "5 minutes"], ["3600", "an hour"], ["86400", "a day"], ["0", "at once"]] }],
    action: "Rotate",
    run: async ({ overlap }) => {
      const made = await post(`${path}/rotate-key`, { overlap_seconds: Number(overlap) });
      return () => {
        reveal("The new key", `It is shown now and never again. Put it where ${agent.name} reads it.`, [["API key", made.agent_token]]);
        changed();
      };
    },
  })]);
  list.push(["Change", "", () => ask({
    title: `Change ${name}`,
    text: "A new tolerance moves the lease that runs.",
    fields: [
      { name: "name", label: "Name", value: agent.name, required: true, maxlength: 100 },
      { name: "board_id", label: "Board", value: agent.board_id ?? "", hint: "A UUID, or nothing", pattern: "[0-9a-fA-F-]{36}" },
      { name: "interval", label: "Heartbeat every", type: "number", min: 1, max: 86400, value: agent.heartbeat_config.interval_seconds, hint: "Seconds" },
      { name: "tolerance", label: "Silent for at most", type: "number", min: 2, max: 604800, value: agent.heartbeat_config.missing_tolerance, hint: "Seconds; at least twice the interval" },
      { name: "limit", label: "Heartbeats a minute", type: "number", min: 1, max: 6000, value: agent.detail?.rate_limit_per_minute ?? "", hint: "Empty is the deployment's own limit" },
    ],
    action: "Change",
    run: async ({ name: renamed, board_id, interval, tolerance, limit }) => {
      await patch(path, {
        name: renamed, board_id: board_id || null, rate_limit_per_minute: Number(limit) || null,
        heartbeat_config: { interval_seconds: Number(interval), missing_tolerance: Number(tolerance) },
      });
      return changed;
    },
  })]);
  if (agent.silenceable) list.push(["Silence", "", () => ask({
    title: `Silence ${name}?`,
    text: "Nobody is told of it, neither that it falls silent nor that it is back. What is still so when the silence ends is told then.",
    fields: [{ name: "for", label: "For", options: [["3600", "an hour"], ["14400", "4 hours"], ["86400", "a day"], ["604800", "a week"]] }, REASON],
    action: "Silence",
    run: async ({ for: length, reason }) => {
      await post("silences", { agent_id: agent.id, for_seconds: Number(length), reason: reason || null });
      return changed;
    },
  })]);
  if (state !== "revoked") list.push(["Revoke", "danger", told(`Shut ${name} out?`, "From its next request on it is refused, whatever key it has, until it is restored.", "Revoke", "revoke", true)]);
  list.push(["Delete", "danger", () => ask({
    title: `Delete ${name}?`,
    text: "Its row and its key go, its events stay. An agent that beats by an enrollment token comes back with its next heartbeat: to keep it out, revoke it instead.",
    action: "Delete", danger: true,
    run: async () => {
      await remove(path);
      return gone;
    },
  })]);
  return list;
}

// ---- The view ----

/** The view of the agent with this id. */
export function agentView({ refresh, go }, id) {
  const path = `agents/${id}`;
  const name = h("h1", {}, "…");
  const state = h("span", {});
  const reason = h("p", { class: "why" });
  const buttons = h("div", { class: "buttons actions" });
  const facts = h("dl", { class: "facts" });
  const bars = h("div", {});
  const events = h("div", { class: "timeline" });
  const more = h("button", { type: "button", hidden: true }, "Earlier");
  let known = null;
  let list = [];
  let next = null;
  let read = 0;
  let before = "";
  let drawn = "";
  let named = (actor) => actor;
  let silences = false;

  more.addEventListener("click", async () => {
    more.disabled = true;
    try {
      const page = await get(`${path}/events`, { limit: 100, before: next });
      list.push(...page.items);
      ({ next } = page);
      renderEvents();
    } finally {
      more.disabled = false;
    }
  });

  function renderEvents() {
    const days = new Map();
    for (const one of list) {
      const key = day(one.at);
      if (!days.has(key)) days.set(key, []);
      days.get(key).push(one);
    }
    sync(events, [...days], ([key]) => key, ([key]) => h("section", {}, h("h3", {}, key), h("ol", {})),
      (node, [, ofDay]) => sync(node.lastChild, ofDay, (one) => one.id, (one) => event(one, named)));
    more.hidden = !next;
  }

  function fact(term, ...value) {
    return h("div", {}, h("dt", {}, term), h("dd", {}, ...value));
  }

  function render(agent) {
    document.title = `${agent.name} · Rollcall`;
    say(name, agent.name);
    const is = stateOf(agent);
    if (state.dataset.state !== is) {
      state.dataset.state = is;
      state.replaceChildren(pill(is));
    }
    const last = { revoked: list.find((one) => one.type === "agent.revoked") };
    say(reason, why(agent, last));
    // What is under somebody's finger is not exchanged for nothing.
    const now_ = JSON.stringify([agent, silences]);
    if (now_ === drawn) return;
    drawn = now_;
    const { interval_seconds: every, missing_tolerance: tolerance } = agent.heartbeat_config;
    facts.replaceChildren(
      fact("Last seen", agent.last_seen_at ? ago(agent.last_seen_at) : "never"),
      fact("Last said", agent.detail?.health ?? "nothing"),
      fact("Heartbeat", `every ${span(every * 1000)}, silent for at most ${span(tolerance * 1000)}`),
      fact("Board", agent.board_id ? h("code", {}, agent.board_id) : "none"),
      fact("Limit", agent.detail?.rate_limit_per_minute ? `${agent.detail.rate_limit_per_minute} a minute` : "the deployment's"),
      fact("Requests", (agent.detail?.requests_total ?? 0).toLocaleString()),
      fact("Created", ago(agent.created_at)),
      fact("Id", h("code", {}, agent.id)));
    if (mayChange()) {
      const act = actions({ ...agent, silenceable: silences }, { path, changed: () => refresh(true), gone: () => go("#/") });
      const focused = document.activeElement?.dataset?.word;
      sync(buttons, act, ([word, kind]) => word + kind, ([word, kind]) => h("button", { type: "button", class: kind, "data-word": word }, word), (node, [, , run]) => { node.onclick = run; });
      if (focused) buttons.querySelector(`[data-word="${focused}"]`)?.focus();
    }
  }

  return {
    node: h("article", { class: "agent" },
      h("p", { class: "back" }, h("a", { href: "#/" }, "← The fleet")),
      h("div", { class: "title" }, name, state), reason, buttons, bars,
      h("div", { class: "two" }, h("section", {}, h("h2", {}, "What happened"), events, more), h("aside", {}, h("h2", {}, "Facts"), facts))),
    /** The agent each time; its events when it changed, and once a minute. */
    async refresh() {
      let agent;
      try {
        agent = await get(path, { detail: true });
      } catch (error) {
        if (error.status !== 404 && error.status !== 422) throw error;
      }
      const signature = agent && JSON.stringify([agent.updated_at, stateOf(agent), agent.detail?.offline_since]);
      if (!known || signature !== before || now() - read > 60_000) {
        const page = await get(`${path}/events`, { limit: 100 }).catch((error) => {
          if (error.status === 404 || error.status === 422) return { items: [], next: null };
          throw error;
        });
        named = await actors();
        const fresh = new Set(page.items.map((one) => one.id));
        const older = list.filter((one) => !fresh.has(one.id) && page.next && one.id < page.next);
        if (!older.length) ({ next } = page);
        list = [...page.items, ...older];
        known = await turns(`${path}/events`, page);
        before = signature;
        read = now();
        silences = Boolean(await getIfServed("silences", { limit: 1 }));
        renderEvents();
      }
      bars.replaceChildren(presence("24 hours", known, agent, 24 * HOUR), presence("7 days", known, agent, WEEK));
      if (agent) render(agent);
      else {
        const deleted = list.find((one) => one.type === "agent.deleted");
        say(name, deleted?.payload.before?.name ?? "No such agent");
        state.replaceChildren(h("span", { class: "pill is-revoked" }, deleted ? "Deleted" : "Unknown"));
        say(reason, deleted ? "It was deleted. What happened to it is kept for a while." : "Nothing is known of an agent with this id.");
        buttons.replaceChildren();
        facts.replaceChildren(fact("Id", h("code", {}, id)));
        if (!list.length) bars.replaceChildren();
      }
    },
  };
}
