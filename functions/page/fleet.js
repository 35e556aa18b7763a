// The fleet: how many agents there are of each state, and who they are, worst first.

import { get, getIfServed, mayChange, post } from "./api.js";
import { ago, ask, h, mark, now, reveal, say, setAgo, span, sync } from "./dom.js";

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
  live: ["Live", "live"],
  revoked: ["Revoked", "revoked"],
};
const ORDER = Object.keys(STATES);

/** The state of an agent in one word: offline before everything that it said of itself. */
export function stateOf(agent) {
  const detail = agent.detail ?? {};
  if (detail.state === "revoked") return "revoked";
  if (detail.state === "pending") return "waiting";
  if (!agent.last_seen_at) return detail.offline_since ? "never" : "fresh";
  if (detail.health === "offline" && detail.offline_since) return "left";
  if (agent.status === "offline") return "offline";
  if (detail.concern === "stalled") return "stalled";
  if (agent.status === "error") return "error";
  if (detail.late) return "late";
  return agent.status === "degraded" ? "degraded" : "live";
}

/** A state as a shape and a word. */
export const pill = (state) => h("span", { class: `pill is-${state}` }, STATES[state][0]);

/** The short form of a board's id. */
export const board = (id) => (id ? h("code", { title: id }, id.slice(0, 8)) : "");

// The tiles: word, what the API can find by itself in a fleet that is too large to be loaded, and whether it is shown
// when nobody is in it.
const TILES = {
  offline: ["Offline", { absent: true }, true],
  stalled: ["Stalled", {}, false],
  unwell: ["Unwell", {}, false],
  late: ["Late", {}, true],
  waiting: ["Waiting", { state: "pending" }, true],
  live: ["Live", {}, true],
  left: ["Left", { absent: true }, false],
  revoked: ["Revoked", { state: "revoked" }, true],
};

/** A fleet up to this size is loaded whole; of a larger one the absent first, and pages. */
const WHOLE = 1000;
const PAGE = 200;

// What was loaded last is shown at once when one comes back to the view.
const fleet = { agents: new Map(), lists: [], whole: false, summary: null, read: 0, question: "" };
const filter = { tile: "", board: "", name: "" };

async function page(list) {
  const { items, next } = await get("agents", { detail: true, cursor: list.next ?? "", limit: PAGE, ...list.question });
  list.next = next;
  list.ended = !next;
  return items;
}

/** Reads the list anew. `onPart` hears of each page of the first reading. */
async function readLists(onPart) {
  const first = fleet.read === 0;
  const agents = first ? fleet.agents : new Map();
  const keep = (items) => items.forEach((agent) => agents.set(agent.id, agent));
  const all = { question: {} };
  const summarized = fleet.summary?.agents;
  let whole = summarized === undefined || summarized <= WHOLE;
  while (whole && !all.ended) {
    keep(await page(all));
    if (first) onPart?.();
    whole = all.ended || agents.size < WHOLE;
  }
  let lists = [all];
  if (!whole) {
    lists = questions();
    for (const list of lists) keep(await page(list));
  }
  Object.assign(fleet, { agents, lists, whole, read: now(), question: JSON.stringify(filter) });
}

/** What a fleet that is too large is asked for, by what is wanted of it. */
function questions() {
  const where = { board_id: filter.board };
  if (filter.name) return [{ question: { ...where, name: filter.name, cursor: undefined }, byName: true }];
  const asked = filter.tile ? [TILES[filter.tile][1]] : [{ absent: true }, {}];
  return asked.map((question) => ({ question: { ...where, ...question } }));
}

/** How many of each tile there are. */
function counts() {
  const count = Object.fromEntries(Object.keys(TILES).map((tile) => [tile, 0]));
  for (const agent of fleet.agents.values()) count[STATES[stateOf(agent)][1]] += 1;
  const said = fleet.summary;
  if (said && !fleet.whole) {
    Object.assign(count, { offline: said.offline + said.never_seen, stalled: said.stalled, waiting: said.pending, revoked: said.revoked });
    count.live = said.live - said.stalled;
  }
  return count;
}

// builder-2 before builder-10.
const NAMES = new Intl.Collator(undefined, { numeric: true });

const total = () => fleet.summary?.agents ?? fleet.agents.size;

function shown() {
  const wanted = filter.name.toLowerCase();
  const rows = [];
  for (const agent of fleet.agents.values()) {
    const state = stateOf(agent);
    if (filter.tile && STATES[state][1] !== filter.tile) continue;
    if (filter.board && agent.board_id !== filter.board) continue;
    if (wanted && !agent.name.toLowerCase().includes(wanted)) continue;
    rows.push({ agent, state, rank: ORDER.indexOf(state), since: agent.detail?.offline_since ?? agent.last_seen_at ?? "" });
  }
  const bad = ORDER.indexOf("late");
  return rows.sort((a, b) => a.rank - b.rank
    || (a.rank < bad && a.since !== b.since ? (a.since < b.since ? -1 : 1) : NAMES.compare(a.agent.name, b.agent.name)));
}

function headline(count) {
  const all = total();
  if (!all) return "No agents yet";
  const of = `${all.toLocaleString()} ${all === 1 ? "agent" : "agents"}`;
  if (!fleet.whole && !fleet.summary) return `More than ${of}`;
  if (count.offline) return `${count.offline.toLocaleString()} of ${of} ${count.offline === 1 ? "is" : "are"} offline`;
  const awaited = all - count.revoked - count.left - count.waiting;
  if (!awaited) return `${of}, none of them at work`;
  return all === 1 ? "The one agent is here" : awaited === all ? `All ${of} are here` : `Everybody is here: ${awaited.toLocaleString()} of ${of}`;
}

/** Asks for a new agent, and shows its key. */
function create(refresh) {
  return ask({
    title: "New agent",
    text: "An active agent is made. Its API key is shown once, and only its digest is kept.",
    fields: [
      { name: "name", label: "Name", required: true, maxlength: 100 },
      { name: "board_id", label: "Board", hint: "A UUID, or nothing", pattern: "[0-9a-fA-F-]{36}" },
      { name: "interval", label: "Heartbeat every", type: "number", min: 1, max: 86400, value: 60, hint: "Seconds" },
      { name: "tolerance", label: "Silent for at most", type: "number", min: 2, max: 604800, value: 120, hint: "Seconds; at least twice the interval" },
    ],
    action: "Create the agent",
    run: async (values) => {
      const made = await post("agents", {
        name: values.name,
        board_id: values.board_id || null,
        heartbeat_config: { interval_seconds: Number(values.interval), missing_tolerance: Number(values.tolerance) },
      });
      fleet.agents.set(made.id, made);
      return () => {
        refresh();
        reveal(`${made.name} may come`, "This is its key. It is shown now and never again.", [["API key", made.agent_token]]);
      };
    },
  });
}

/** The view. */
export function fleetView({ refresh }) {
  const title = h("h1", { id: "headline", role: "status" }, "The fleet");
  const bar = h("div", { class: "share", "aria-hidden": "true" });
  const tiles = h("div", { class: "tiles", role: "group", "aria-label": "Show only" });
  const boards = h("select", { id: "board", onchange: () => choose({ board: boards.value }) });
  const names = h("input", { id: "name", type: "search", placeholder: "Find by name", autocomplete: "off", spellcheck: "false", maxlength: 100 });
  const rows = h("tbody", { role: "rowgroup" });
  const column = (text, kind) => h("th", { scope: "col", role: "columnheader", class: kind }, text);
  const table = h("table", { role: "table", class: "cards" },
    h("caption", { class: "unseen" }, "Agents, worst first"),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, column("State"), column("Name"), column("Board", "board"), column("Last seen"), column("Last said"), column("Directive", "directive"))),
    rows);
  const note = h("p", { class: "muted note" });
  const more = h("button", { type: "button", onclick: loadMore }, "Load more");
  const add = h("button", { type: "button", class: "primary", onclick: () => create(refresh) }, "New agent");
  const empty = h("div", { class: "empty" });

  let typing;
  names.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => choose({ name: names.value.trim() }), fleet.whole ? 60 : 300);
  });

  function choose(change) {
    Object.assign(filter, change);
    render();
    if (!fleet.whole && fleet.read) refresh(true);
  }

  async function loadMore() {
    more.disabled = true;
    try {
      const list = fleet.lists.find((candidate) => !candidate.ended);
      if (list) (await page(list)).forEach((agent) => fleet.agents.set(agent.id, agent));
    } finally {
      more.disabled = false;
      render();
    }
  }

  function renderTiles(count) {
    const visible = Object.entries(TILES).filter(([tile, [, , always]]) => always || count[tile] || filter.tile === tile);
    sync(tiles, visible, ([tile]) => tile,
      ([tile, [word]]) => h("button", { type: "button", class: `tile is-${tile}`, onclick: () => choose({ tile: filter.tile === tile ? "" : tile }) },
        h("b", {}), h("span", {}, word)),
      (node, [tile]) => {
        mark(node, "aria-pressed", filter.tile === tile);
        mark(node, "data-none", count[tile] === 0);
        say(node.firstChild, count[tile].toLocaleString());
      });
    const parts = visible.filter(([tile]) => count[tile]);
    sync(bar, parts, ([tile]) => tile, ([tile]) => h("i", { class: `is-${tile}` }), (node, [tile]) => { node.style.flexGrow = count[tile]; });
  }

  function renderRow(node, { agent, state }) {
    const [where, name, on, seen, said, told] = node.children;
    if (where.dataset.state !== state) {
      where.dataset.state = state;
      where.replaceChildren(pill(state));
    }
    mark(node, "class", `is-${state}`);
    say(name.firstChild, agent.name);
    if (on.dataset.id !== String(agent.board_id)) {
      on.dataset.id = agent.board_id;
      on.replaceChildren(board(agent.board_id));
    }
    if (!agent.last_seen_at) say(seen, "never");
    else if (seen.firstElementChild) setAgo(seen.firstElementChild, agent.last_seen_at);
    else seen.replaceChildren(ago(agent.last_seen_at));
    say(said, agent.detail?.health ?? "");
    say(told, agent.detail?.directive?.action ?? "");
  }

  function row({ agent }) {
    const cell = (label, kind, ...children) => h("td", { role: "cell", "data-label": label, class: kind }, ...children);
    const link = h("a", { href: `#/agents/${agent.id}` });
    const node = h("tr", { role: "row" }, cell("State"), cell("Name", "name", link), cell("Board", "board"), cell("Last seen"), cell("Last said"), cell("Directive", "directive"));
    node.addEventListener("click", (event) => {
      if (!event.target.closest("a") && !getSelection().toString()) link.click();
    });
    return node;
  }

  function render() {
    const count = counts();
    renderTiles(count);
    say(title, fleet.read || fleet.agents.size ? headline(count) : "Calling the roll…");
    const list = shown();
    sync(rows, list, ({ agent }) => agent.id, row, renderRow);
    const all = [...fleet.agents.values()];
    const known = [...new Set(all.map((agent) => agent.board_id).filter(Boolean).concat(filter.board || []))].sort();
    sync(boards, ["", ...known], (id) => id, (id) => h("option", { value: id }, id ? `Board ${id.slice(0, 8)}` : "All boards"));
    boards.value = filter.board;
    boards.hidden = !known.length;
    mark(table, "data-boards", known.length > 0);
    mark(table, "data-directives", all.some((agent) => agent.detail?.directive));
    table.hidden = !list.length;
    tools.hidden = !all.length;
    const rest = fleet.lists.some((candidate) => !candidate.ended && !candidate.byName);
    more.hidden = fleet.whole || !rest;
    say(note, fleet.whole || !fleet.read ? "" : `${list.length.toLocaleString()} shown. The fleet is too large to be shown whole: absent agents come first, and a name is found by its beginning.`);
    renderEmpty(all.length, list.length);
    document.title = count.offline ? `(${count.offline}) Rollcall` : "Rollcall";
  }

  function renderEmpty(known, listed) {
    const what = !fleet.read ? "" : known && !listed ? "filtered" : known ? "" : "new";
    if (empty.dataset.what === what) return;
    empty.dataset.what = what;
    if (what === "filtered") empty.replaceChildren(h("p", {}, "Nobody is like that."), h("button", { type: "button", onclick: () => { names.value = ""; choose({ tile: "", board: "", name: "" }); } }, "Show all"));
    else if (what === "new") {
      empty.replaceChildren(h("p", {}, "An agent is here as soon as it registers, or beats for the first time with an enrollment token:"),
        h("pre", {}, h("code", {}, `curl -sS ${new URL("api/v1/agents/heartbeat", location.href.split("#")[0])} \\\n  -H "x-agent-token: rce_…" -d '{"name": "researcher-1"}'`)),
        h("p", {}, "Enrollment tokens are made under ", h("a", { href: "#/tokens" }, "Tokens"), "."));
    } else empty.replaceChildren();
  }

  const tools = h("div", { class: "tools" }, h("label", { class: "unseen", for: "name" }, "Find by name"), names, h("label", { class: "unseen", for: "board" }, "Board"), boards);
  names.value = filter.name;
  render();

  return {
    node: h("div", { class: "fleet" }, h("div", { class: "title" }, title, mayChange() && add), bar, tiles, tools, table, empty, note, more),
    /** One read where nothing is new: the list is read when the summary changed, or a minute after the last time. */
    async refresh(anew) {
      const before = JSON.stringify({ ...fleet.summary, as_of: null });
      fleet.summary = await getIfServed("fleet");
      const same = fleet.summary && before === JSON.stringify({ ...fleet.summary, as_of: null });
      const small = !fleet.summary && fleet.whole && fleet.agents.size <= PAGE;
      const due = now() - fleet.read > 59_000 || small || (fleet.summary && !same) || fleet.question !== JSON.stringify(filter);
      if (anew || due) await readLists(render);
      render();
    },
    banner: () => {
      const said = fleet.summary;
      if (said?.deaf_since) return `Rollcall hears nobody since ${span(now() - Date.parse(said.deaf_since))}: what it says of agents may be its own outage.`;
      const old = said?.as_of && now() - Date.parse(said.as_of);
      return old > 120_000 ? `The sweep has not run for ${span(old)}: nobody is announced meanwhile.` : "";
    },
  };
}

/** Nobody's agents stay when the user goes. */
export function forgetFleet() {
  Object.assign(fleet, { agents: new Map(), lists: [], whole: false, summary: null, read: 0 });
  Object.assign(filter, { tile: "", board: "", name: "" });
}
