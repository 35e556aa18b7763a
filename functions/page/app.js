// The frame: who is here, which view is open, and when it is read again.

import { agentView } from "./agent.js";
import { alertsView, channelsView, silencesView } from "./alerts.js";
import { getIfServed, introduce, me, session } from "./api.js";
import { button, h, mark, now, say, span, tick } from "./dom.js";
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

const main = h("main", { tabindex: -1 });
const banner = h("p.banner", { role: "status" });
const pulse = h("span.pulse", {});
const stale = h("div.stale", { role: "alert" });
const links = h("nav", { "aria-label": "Views" });
const role = h("span.role", {});
const logo = (size) => h("img", { src: "page/icon.svg", alt: "", width: size, height: size });
const header = h("header", {}, button("Skip to the content", () => main.focus(), "skip"), h("a.brand", { href: "#/" }, logo(26), "Rollcall"), links,
	h("div.who", {}, pulse, role, button("Sign out", () => leave(), "quiet")));

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
	const good = session.begin(token);
	if (!good) leave("The link holds no operator's token.");
	return good;
}

function leave(why = "") {
	session.end();
	forgetFleet();
	clearTimeout(timer);
	view = null;
	problem = null;
	lastGood = 0;
	document.title = "Rollcall";
	const said = h("p.problem", { role: "alert" }, why);
	const input = h("input", { id: "token", type: "password", autocomplete: "off", required: true, placeholder: "rco_…", "aria-describedby": "hint" });
	const form = h("form.login", {}, logo(56), h("h1", {}, "Rollcall"), h("p.muted", {}, "Which of your agents are alive."),
		h("label", { for: "token" }, "Operator's token"), input, h("small", { id: "hint" }, "It stays in this tab, and is gone with it."), said,
		h("button.primary", {}, "Sign in"));
	form.addEventListener("submit", (event) => {
		event.preventDefault();
		if (session.begin(input.value.trim())) enter();
		else say(said, "An operator's token is rco_ and 48 hexadecimal characters.");
	});
	document.body.replaceChildren(h("main.door", {}, form));
	input.focus();
}

async function enter() {
	document.body.replaceChildren(header, stale, banner, main);
	main.replaceChildren(h("p.muted", {}, "Calling the roll…"));
	showProblem(null);
	try {
		await introduce();
	} catch (error) {
		return error.status === 403 ? leave(`The token was refused: ${error.message}.`) : failed(error, enter);
	}
	say(role, me.role === "viewer" ? "read only" : "");
	links.replaceChildren(...Object.entries(VIEWS).map(([path, [word, , route]]) => {
		const link = h("a", { href: `#/${path}`, hidden: Boolean(route) }, word);
		if (route) getIfServed(route, { limit: 1 }).then((served) => { link.hidden = !served; }, () => {});
		return link;
	}));
	route();
}

function route() {
	const [name, id] = location.hash.replace(/^#\/?/, "").split("/");
	const context = { refresh, go: (path) => { location.hash = path; } };
	const path = VIEWS[name] ? name : "";
	document.title = "Rollcall";
	view = name === "agents" && id ? agentView(context, id) : VIEWS[path][1](context);
	for (const link of links.children) mark(link, "aria-current", link.hash === `#/${path}` && "page");
	main.replaceChildren(view.node);
	scrollTo(0, 0);
	say(banner, "");
	refresh();
}

/** Reads the open view again; `anew` whatever is known already. */
async function refresh(anew = false) {
	clearTimeout(timer);
	const mine = view;
	if (!mine) return problem && enter();
	if (reading === mine && !anew) return;
	reading = mine;
	try {
		await mine.refresh(anew);
		if (view !== mine) return;
		lastGood = now();
		showProblem(null);
		say(banner, mine.banner?.() ?? "");
		main.dataset.read = location.hash || "#/";
		if (!document.hidden) timer = setTimeout(refresh, EVERY);
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
	if (!document.hidden) timer = setTimeout(next, wait);
}

/** What was read last stays, greyed, with its age. */
function showProblem(what) {
	problem = what;
	if (!what) failures = 0;
	mark(document.body, "data-stale", Boolean(what && lastGood) && "");
	if (!what) stale.replaceChildren();
	else if (!stale.firstChild) stale.replaceChildren(h("span"), button("Try now", () => refresh(true)));
	status();
}

function status() {
	const age = span(now() - lastGood);
	if (problem) say(stale.firstChild, `${problem.message}.${lastGood ? ` What you see is ${age} old.` : ""} Trying again in ${span(problem.next - now())}.`);
	say(pulse, problem ? "not connected" : !lastGood ? "" : now() - lastGood < 30_000 ? "up to date" : `read ${age} ago`);
	mark(pulse, "data-state", problem ? "lost" : "good");
}

setInterval(() => {
	if (document.hidden || !(view || problem)) return;
	tick();
	status();
}, 1000);

document.addEventListener("visibilitychange", () => {
	clearTimeout(timer);
	if (!document.hidden && (view || problem)) refresh();
});

addEventListener("hashchange", () => {
	if (location.hash.startsWith("#token=")) takeToken() && enter();
	else if (view) route();
});

addEventListener("keydown", (event) => {
	const search = document.getElementById("name");
	if (event.key !== "/" || !search || event.target.closest?.("input, textarea, select, dialog")) return;
	event.preventDefault();
	search.focus();
});

if (takeToken() || session.token) enter();
else if (!document.querySelector(".door")) leave();
