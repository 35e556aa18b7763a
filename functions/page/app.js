// The frame: who is here, which view is open, and when it is read again.

import { getIfServed, introduce, me, session } from "./api.js";
import { agentView } from "./agent.js";
import { alertsView, channelsView, silencesView } from "./alerts.js";
import { h, mark, now, say, span, tick } from "./dom.js";
import { fleetView, forgetFleet } from "./fleet.js";
import { tokensView } from "./tokens.js";

const EVERY = 15_000;

// Word, view, and the route without which it is not there.
const VIEWS = {
  "": ["Fleet", fleetView],
  alerts: ["Alerts", alertsView, "alerts"],
  channels: ["Channels", channelsView, "channels"],
  silences: ["Silences", silencesView, "silences"],
  tokens: ["Tokens", tokensView],
};

const main = h("main", { id: "main", tabindex: "-1" });
const banner = h("p", { class: "banner", role: "status" });
const pulse = h("span", { class: "pulse" });
const again = h("button", { type: "button", onclick: () => refresh(true) }, "Try now");
const stale = h("div", { class: "stale", role: "alert" });
const links = h("nav", { "aria-label": "Views" });
const role = h("span", { class: "role" });
const skip = h("a", { href: "#main", class: "skip", onclick: (event) => { event.preventDefault(); main.focus(); } }, "Skip to the content");
const header = h("header", {}, skip,
  h("a", { class: "brand", href: "#/" }, h("img", { src: "page/icon.svg", alt: "", width: 26, height: 26 }), "Rollcall"),
  links,
  h("div", { class: "who" }, pulse, role, h("button", { type: "button", class: "quiet", onclick: () => leave() }, "Sign out")));

let view = null;
let timer = 0;
let reading = null;
let failures = 0;
let lastGood = 0;
let problem = null;

/** Takes a token out of the address, where it must not stay: history and screens would keep it. */
function takeToken() {
  const token = /^#token=(.*)$/.exec(location.hash)?.[1];
  if (token === undefined) return false;
  history.replaceState(null, "", location.pathname + location.search);
  if (session.begin(decodeURIComponent(token))) return true;
  leave("The link holds no operator's token.");
  return false;
}

function leave(why = "") {
  session.end();
  forgetFleet();
  clearTimeout(timer);
  view = null;
  failures = 0;
  problem = null;
  document.title = "Rollcall";
  const said = h("p", { class: "problem", role: "alert" }, why);
  const input = h("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false", required: true, placeholder: "rco_…", "aria-describedby": "token-hint" });
  const form = h("form", { class: "login" },
    h("img", { src: "page/icon.svg", alt: "", width: 56, height: 56 }),
    h("h1", {}, "Rollcall"),
    h("p", { class: "muted" }, "Which of your agents are alive."),
    h("label", { for: "token" }, "Operator's token"), input,
    h("small", { id: "token-hint" }, "It stays in this tab, and is gone with it."),
    said, h("button", { class: "primary", type: "submit" }, "Sign in"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (session.begin(input.value.trim())) enter();
    else say(said, "An operator's token is rco_ and 48 hexadecimal characters.");
  });
  document.body.replaceChildren(h("main", { class: "door" }, form));
  input.focus();
}

async function enter() {
  document.body.replaceChildren(header, stale, banner, main);
  showProblem(null);
  main.replaceChildren(h("p", { class: "muted" }, "Calling the roll…"));
  try {
    await introduce();
  } catch (error) {
    if (error.status === 401 || error.status === 403) return leave(`The token was refused: ${error.message}.`);
    failed(error, enter);
    return;
  }
  say(role, me.role === "viewer" ? "read only" : "");
  links.replaceChildren();
  for (const [path, [word, , route]] of Object.entries(VIEWS)) {
    const link = h("a", { href: `#/${path}`, "data-view": path, hidden: Boolean(route) }, word);
    links.append(link);
    if (route) getIfServed(route, { limit: 1 }).then((served) => { link.hidden = !served; }, () => {});
  }
  route();
}

function route() {
  const [name, id] = location.hash.replace(/^#\/?/, "").split("/");
  const context = { refresh, go: (path) => { location.hash = path; } };
  const open = name === "agents" && id ? () => agentView(context, id) : () => (VIEWS[name] ?? VIEWS[""])[1](context);
  view = open();
  document.title = "Rollcall";
  for (const link of links.children) mark(link, "aria-current", link.dataset.view === (VIEWS[name] ? name : "") && "page");
  main.replaceChildren(view.node);
  scrollTo(0, 0);
  say(banner, "");
  refresh();
}

/** Reads the view's data again; `anew` whatever is known already. */
async function refresh(anew = false) {
  clearTimeout(timer);
  const mine = view;
  if (!mine) return problem && enter();
  if (reading === mine && !anew) return;
  reading = mine;
  try {
    await mine.refresh(anew);
    if (view !== mine) return;
    failures = 0;
    lastGood = now();
    showProblem(null);
    say(banner, mine.banner?.() ?? "");
    timer = setTimeout(refresh, EVERY);
  } catch (error) {
    if (view === mine) failed(error, refresh);
  } finally {
    if (reading === mine) reading = null;
  }
}

function failed(error, next) {
  if (error.status === 401) return leave(`You are signed out: ${error.message}.`);
  failures += 1;
  const wait = Math.max(error.retryAfter * 1000 || 0, Math.min(60_000, 2500 * 2 ** failures));
  showProblem({ message: error.message, next: now() + wait });
  timer = setTimeout(next, wait);
}

/** What was read last stays, greyed, with its age. */
function showProblem(what) {
  problem = what;
  mark(document.body, "data-stale", Boolean(what) && lastGood > 0);
  if (!what) stale.replaceChildren();
  else if (!stale.firstChild) stale.replaceChildren(h("span", {}), again);
  status();
}

function status() {
  if (problem) {
    const old = lastGood ? ` What you see is ${span(now() - lastGood)} old.` : "";
    say(stale.firstChild, `${problem.message[0].toUpperCase()}${problem.message.slice(1)}.${old} Trying again in ${span(problem.next - now())}.`);
  }
  const quiet = now() - lastGood < 30_000;
  say(pulse, problem ? "not connected" : !lastGood ? "" : quiet ? "up to date" : `read ${span(now() - lastGood)} ago`);
  mark(pulse, "data-state", problem ? "lost" : "good");
}

setInterval(() => {
  if (document.hidden) return;
  tick();
  if (view || problem) status();
}, 1000);

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (!document.hidden && view) {
    tick();
    refresh();
  }
});

addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) {
    if (takeToken()) enter();
  } else if (view) route();
});

addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest?.("input, textarea, select, dialog")) return;
  const search = document.getElementById("name");
  if (search) {
    event.preventDefault();
    search.focus();
  }
});

if (takeToken() || session.token) enter();
else if (!document.querySelector(".door")) leave();
