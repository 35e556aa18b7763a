/**
 * Heartbeats for Rollcall, from Node, Workers and browsers.
 *
 *     await new Heartbeat("https://rollcall.example", key).run(async (heartbeat) => {
 *       for (const task of tasks) {
 *         await heartbeat.check();
 *         await perform(task);
 *         heartbeat.progress();
 *       }
 *     });
 *
 * No failure reaches the program: everything is told to `log`, and no key or token ever is.
 */

import * as answers from "./answer.js";
import type { Directive } from "./answer.js";
import { hexadecimal, secret, variable } from "./environment.js";
import { SharedState } from "./state.js";

export type { Directive };
export type Status = "healthy" | "degraded" | "error";
export type LastWord = "offline" | "error";

/** What is told, in lines. */
export interface Log {
  info(line: string): void;
  warn(line: string): void;
  error(line: string): void;
}

export interface Options {
  /** The agent's key; else the environment's `ROLLCALL_KEY`, or the file that `ROLLCALL_KEY_FILE` names. */
  key?: string;
  /** With an enrollment token: the name of the agent, which its first heartbeat creates. */
  name?: string;
  /** The enrollment token; else `ROLLCALL_ENROLLMENT_TOKEN`, or its file. */
  token?: string;
  /** The board of an agent that is created. */
  boardId?: string;
  /** Where lines go; by default warnings and errors to the console. */
  log?: Log;
}

export interface Usage {
  tokens?: number;
  costUsd?: number;
}

/** What an operator's `stop` raises in `check()`. */
export class Stop extends Error {
  override name = "Stop";
}

// Seconds, all of them.
const DEADLINE = 10;
const FIRST_INTERVAL = 60;
const RETRY = 1;
const REFUSED = 60;
const REFUSED_MOST = 600;
const PROMISE_MOST = 86_400;
/** How often a sleeper looks at the clock on the wall: timers stand still while the machine is suspended. */
const SLEEPER = 30;
const SHARE = 1;
const STOP = 5;

const ownBootId = hexadecimal(8);

/** Tells Rollcall that this program is alive, at the interval that its answers name. */
export class Heartbeat {
  readonly #url: string;
  readonly #name: string | undefined;
  readonly #token: string;
  readonly #boardId: string | undefined;
  readonly #log: Log;
  readonly #state: SharedState | undefined;
  readonly #bell = new Bell();
  readonly #handlers = new Map<string, (directive: Directive) => unknown>();
  #key: string;
  #issued = "";
  #credential = "";
  #status: Status = "healthy";
  #lastWord: LastWord = "offline";
  #stopping = false;
  #workers = 0;
  #progressAt = 0;
  #sleepers: number[] = [];
  #hurry = false;
  #tokens = 0;
  #costUsd = 0;
  #directive: Directive | null = null;
  #obeyed: number | null = null;
  #interval = FIRST_INTERVAL;
  #acceptedBefore = false;
  #refusals = 0;
  #failures = 0;
  #complaint = "";
  #onItsWay: AbortController | undefined;
  #gaveUp = false;
  #running: Promise<void> | undefined;
  #alive = false;

  /**
   * @param url where Rollcall is; else the environment's `ROLLCALL_URL`
   * @param options the agent's key, or more
   */
  constructor(url?: string, options: string | Options = {}) {
    const { key, name, token, boardId, log } = typeof options === "string" ? { key: options } : (options as Options);
    this.#url = (url?.trim() || variable("ROLLCALL_URL")).replace(/\/+$/, "");
    this.#key = key?.trim() ?? "";
    this.#name = name;
    this.#token = token?.trim() ?? "";
    this.#boardId = boardId;
    this.#log = log ?? { info() {}, warn: console.warn, error: console.error };
    const state = variable("ROLLCALL_STATE");
    this.#state = state ? new SharedState(state) : undefined;
  }

  // ---- For the program ----

  /**
   * Starts the heartbeats, does the work, and says how it ended: `offline` on purpose, after a failure `error`. The program
   * runs on until the work is done, also if it waits for nothing but an operator.
   */
  async run<T>(work: (heartbeat: this) => Promise<T> | T): Promise<T> {
    this.start();
    const hold = setInterval(() => {}, 2 ** 30);
    let lastWord: LastWord = "error";
    try {
      const done = await work(this);
      lastWord = "offline";
      return done;
    } catch (error) {
      if (error instanceof Stop) lastWord = "offline";
      throw error;
    } finally {
      await this.stop(lastWord);
      clearInterval(hold);
    }
  }

  /** Starts the heartbeats. They do not keep the program running. A second call does nothing. */
  start(): this {
    if (!this.#running) {
      this.#alive = true;
      const sending = this.#state ? this.#shareUntilStopped(this.#state) : this.#sendUntilStopped();
      this.#running = sending.finally(() => (this.#alive = false));
    }
    return this;
  }

  /** Ends the heartbeats, and says `offline`, so that the absence is not taken for a death. It takes 5 s at most. */
  async stop(lastWord: LastWord = "offline"): Promise<void> {
    if (!this.#stopping) this.#lastWord = lastWord;
    this.#stopping = true;
    this.#bell.ring();
    if (!this.#running) return;
    const patience = new Bell();
    this.#running.then(() => patience.ring());
    await patience.wait(STOP, true);
    if (!this.#alive) return;
    this.#gaveUp = true;
    this.#onItsWay?.abort();
  }

  /** Whether this object sends heartbeats: from its start to its end. */
  get alive(): boolean {
    return this.#alive;
  }

  /** The agent's key; after the heartbeat that created the agent its new one. After a rotation the new key is assigned here. */
  get key(): string | undefined {
    return this.#key || this.#issued || undefined;
  }

  set key(key: string) {
    this.#key = key.trim();
  }

  /** What the next heartbeats say. */
  get status(): Status {
    return this.#status;
  }

  set status(status: Status) {
    if (["healthy", "degraded", "error"].includes(status)) this.#status = status;
    else this.#tell("error", `status: ${String(status).slice(0, 50)} is not one of healthy, degraded, error; it stays as it is`);
  }

  /** There is work to do until the end of `work`: `progressAge` counts from its start, or the last `progress()`. */
  async working<T>(work: () => Promise<T> | T): Promise<T> {
    this.#workers += 1;
    this.progress();
    try {
      return await work();
    } finally {
      this.#workers -= 1;
    }
  }

  /** Called by the loop that works, whenever it got further. */
  progress(): void {
    this.#progressAt = performance.now();
  }

  /** Seconds since the work last got further; null while there is none, and during a `sleepUntil()`. */
  get progressAge(): number | null {
    const working = this.#workers > 0 && this.#sleepers.length === 0;
    return working ? (performance.now() - this.#progressAt) / 1000 : null;
  }

  /** Adds what was used since the last call: tokens, and dollars. The next accepted heartbeat reports it. */
  usage({ tokens = 0, costUsd = 0 }: Usage): void {
    const good = [tokens, costUsd].every((number) => Number.isFinite(number) && number >= 0);
    if (!good) return this.#tell("error", "usage: neither negative nor infinite, and a number; it is not counted");
    this.#tokens += Math.trunc(tokens);
    this.#costUsd += costUsd;
  }

  /**
   * Waits until `when`, a date or milliseconds of the epoch, and says beforehand that it will: the heartbeat that promises
   * the next one follows the one on its way, and until `when` there is no other. A sleep that is shorter than the interval
   * needs no promise. `stop()` ends it early.
   */
  async sleepUntil(when: Date | number): Promise<void> {
    const until = Number(when) / 1000;
    const promised = until - now() > this.#interval;
    if (promised) {
      this.#sleepers.push(until);
      this.#hurryUp();
    }
    while (!this.#stopping && until > now()) await this.#bell.wait(Math.min(until - now(), SLEEPER), true);
    if (promised) {
      this.#sleepers.splice(this.#sleepers.indexOf(until), 1);
      // What was announced is no stall.
      this.progress();
      this.#hurryUp();
    }
  }

  /** What an operator wants, by the last accepted heartbeat; null: work. */
  get directive(): Directive | null {
    return this.#directive && { ...this.#directive };
  }

  /** Tells Rollcall, with the next heartbeats, that this directive is obeyed. `check()` does it by itself. */
  acknowledge(directive: Directive | null): void {
    // Version 0 is a budget's, and nobody waits for its acknowledgement.
    if (directive && directive.version !== 0) this.#obeyed = directive.version;
  }

  /**
   * Calls `handler` with each new directive of an action, such as `drain`. It should end soon: its end acknowledges the
   * directive, a failure does not.
   */
  on(action: Directive["action"], handler: (directive: Directive) => unknown): this {
    this.#handlers.set(action, handler);
    return this;
  }

  /**
   * Awaited by the loop that works: waits while an operator wants a pause.
   * @throws Stop when an operator wants an end
   */
  async check(): Promise<void> {
    for (let paused = false; ; paused = true) {
      const action = (!this.#stopping && this.#directive?.action) || "run";
      if (["run", "pause", "stop"].includes(action) && !this.#stopping) this.acknowledge(this.#directive);
      if (action === "stop") throw new Stop("an operator asked this agent to stop");
      if (action !== "pause") {
        // A pause is no stall.
        if (paused) this.progress();
        return;
      }
      // Somebody waits: the program must not end because nothing else is to do.
      await this.#bell.wait(SLEEPER, true);
    }
  }

  #hurryUp(): void {
    this.#hurry = true;
    this.#bell.ring();
  }

  /** Each accepted heartbeat says whether there is a directive; nothing else does. */
  #directed(directive: Directive | null): void {
    const isNew = this.#directive?.version !== directive?.version;
    this.#directive = directive;
    if (!directive) this.#obeyed = null;
    if (!isNew) return;
    this.#tell("info", `directive: ${directive?.action ?? "none"}`);
    this.#bell.ring();
    const told = directive ?? { version: 0, action: "run" };
    const handler = this.#handlers.get(told.action);
    if (handler) {
      // Also what it throws at once is a failed promise.
      Promise.resolve({ ...told }).then(handler).then(
        () => this.acknowledge(told),
        (error) => this.#tell("error", `what should obey ${told.action} failed, and it is not acknowledged: ${printed(error)}`),
      );
    }
  }

  // ---- The sender ----

  async #sendUntilStopped(): Promise<void> {
    do {
      const delay = await this.#sendOne();
      await this.pause(delay);
    } while (!this.#stopping);
    try {
      const { status } = await this.#post(this.#lastWord);
      if (status !== 200) throw new Error(`HTTP ${status}`);
    } catch (error) {
      this.#tell("warn", `could not say ${this.#lastWord} at the end: ${this.#reason(error)}`);
    }
  }

  /**
   * Waits for so many seconds, or for the end. Nothing shortens the pause after a failure.
   * @internal
   */
  async pause(seconds: number): Promise<void> {
    const until = performance.now() + seconds * 1000;
    const steady = !this.#failures && !this.#refusals;
    while (!this.#stopping && !(this.#hurry && steady)) {
      const left = (until - performance.now()) / 1000;
      if (left <= 0) return;
      await this.#bell.wait(left, false);
    }
  }

  /** What one heartbeat may take in all, in seconds. @internal */
  deadline = DEADLINE;

  /** @internal */
  chance(): number {
    return Math.random();
  }

  /** Sends one heartbeat; how many seconds to wait until the next. Nothing is thrown. */
  async #sendOne(): Promise<number> {
    try {
      const { status, retryAfter, body, usage } = await this.#post(this.#status);
      const answer = answers.object(body);
      if (status === 401 || status === 403) return this.#refused(status, answers.message(answer));
      if (status !== 200) return this.#lost(status ? `HTTP ${status}` : "a redirect", retryAfter);
      const interval = answers.interval(answer);
      if (interval === undefined) return this.#lost("an answer that is not Rollcall's");
      // What came on top meanwhile is the next heartbeat's.
      this.#tokens -= usage?.tokens ?? 0;
      this.#costUsd -= usage?.cost_usd ?? 0;
      this.#directed(answers.directive(answer));
      if (typeof answer["agent_token"] === "string") this.#issued = answer["agent_token"];
      const complaint = JSON.stringify(answer["report_errors"] ?? "");
      if (complaint !== this.#complaint && answer["report_errors"])
        this.#tell("error", `a part of the heartbeat was not understood: ${complaint}`);
      this.#complaint = complaint;
      return this.#accepted(interval);
    } catch (error) {
      return this.#lost(this.#reason(error));
    }
  }

  #accepted(interval: number): number {
    if (!this.#acceptedBefore || this.#refusals || this.#failures)
      this.#tell("info", `heartbeats are accepted${this.#acceptedBefore ? " again" : ""}`);
    this.#acceptedBefore = true;
    [this.#interval, this.#refusals, this.#failures] = [interval, 0, 0];
    const asleep = this.#asleep();
    // The sleeper wakes the sender in time, unless its sleep takes more than one promise.
    if (asleep !== undefined) return Math.min(asleep + SLEEPER, PROMISE_MOST);
    // A little early, at random: a fleet that started at once spreads out.
    return interval * (0.9 + 0.1 * this.chance());
  }

  /** For how many seconds nothing happens but sleep. */
  #asleep(): number | undefined {
    const left = Math.min(...this.#sleepers) - now();
    return this.#sleepers.length && left > 0 ? left : undefined;
  }

  /** An unknown key, an agent that is not verified or is revoked, or a proxy's own door: all may pass. */
  #refused(status: number, message: string | undefined): number {
    const delay = Math.min(REFUSED * 2 ** Math.min(this.#refusals, 20), REFUSED_MOST) * (0.9 + 0.1 * this.chance());
    this.#refusals += 1;
    const said = message === undefined ? `HTTP ${status}, and not from Rollcall` : `HTTP ${status}: ${message}`;
    this.#tell("error", `heartbeat refused: ${said}; next try in ${delay.toFixed(1)} s`);
    return delay;
  }

  #lost(problem: string, retryAfter = 0): number {
    this.#failures += 1;
    const backoff = Math.min(RETRY * 2 ** Math.min(this.#failures, 20), this.#interval);
    const delay = retryAfter + backoff * (0.5 + 0.5 * this.chance());
    this.#tell("warn", `heartbeat failed: ${problem}; next try in ${delay.toFixed(1)} s`);
    return delay;
  }

  /** One exchange, under one deadline. */
  async #post(status: string) {
    const url = new URL(this.#url);
    if (!/^https?:$/.test(url.protocol) || url.username || url.password)
      throw new TypeError("the URL must begin with http:// or https:// and a host, without a user's name");
    const [path, said] = await this.#whom();
    if (this.#gaveUp) throw new Error("there was no time");
    const report = this.#report();
    const onItsWay = new AbortController();
    this.#onItsWay = onItsWay;
    const timer = setTimeout(() => onItsWay.abort(new DOMException("", "TimeoutError")), this.deadline * 1000);
    try {
      const response = await fetch(this.#url + path, {
        method: "POST",
        headers: { "content-type": "application/json", "x-agent-token": this.#credential },
        body: JSON.stringify({ ...said, status, report }),
        // The key is for this host alone.
        redirect: "manual",
        signal: onItsWay.signal,
      });
      const retryAfter = answers.retryAfter(response.headers.get("retry-after"));
      return { status: response.status, retryAfter, body: await answers.text(response), usage: report.usage };
    } finally {
      clearTimeout(timer);
    }
  }

  /** The route that takes the credential, and what it has to be told. */
  async #whom(): Promise<[string, object]> {
    const byName = this.#name !== undefined && !this.#key;
    this.#credential = byName
      ? this.#token || (await secret("ROLLCALL_ENROLLMENT_TOKEN"))
      : this.#key || (await secret("ROLLCALL_KEY"));
    // The runtime's error would repeat a header's value.
    if (!/^[!-~]+$/.test(this.#credential))
      throw new TypeError(this.#credential ? "the key or token has letters that none has" : "there is no key");
    if (!byName) return ["/api/v1/agent/heartbeat", {}];
    return ["/api/v1/agents/heartbeat", { name: this.#name, board_id: this.#boardId }];
  }

  /** What this heartbeat says beside the status. */
  #report() {
    this.#hurry = false;
    const given = variable("ROLLCALL_BOOT_ID").toLowerCase();
    const asleep = this.#stopping ? undefined : this.#asleep();
    // Dollars in whole millionths, as they are counted; the rest waits for more.
    const usage = { tokens: Math.min(this.#tokens, 1e12), cost_usd: Math.max(Math.min(millionths(this.#costUsd), 1e12), 0) };
    return {
      boot_id: /^[0-9a-f]{16}$/.test(given) ? given : ownBootId,
      progress_age_seconds: this.progressAge ?? undefined,
      next_beat_in_seconds: asleep && Math.min(asleep, PROMISE_MOST),
      ack_directive: this.#obeyed ?? undefined,
      usage: usage.tokens || usage.cost_usd ? usage : undefined,
    };
  }

  #reason(error: unknown): string {
    const { name, message, cause } = Object(error) as Error;
    if (name === "TimeoutError") return `no whole answer within ${this.deadline} s`;
    const inner = Object(cause) as Error & { code?: string };
    return [`${name}: ${message}`, inner.code ?? inner.message].filter(Boolean).join(": ");
  }

  /** A line of the log; another's text in it has no control characters, and no key. */
  #tell(level: keyof Log, line: string): void {
    let clean = line.slice(0, 500).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, " ");
    for (const secret of [this.#credential, this.#key, this.#token, this.#issued])
      if (secret) clean = clean.replaceAll(secret, "(the key)");
    try {
      this.#log[level](clean);
    } catch {
      // A log that fails is the program's, and no reason to fail it here.
    }
  }

  // ---- Under `rollcall run` ----

  async #shareUntilStopped(state: SharedState): Promise<void> {
    this.#tell("info", "rollcall run sends the heartbeats of this process");
    do {
      await this.#share(state, this.#status);
      await this.pause(SHARE);
    } while (!this.#stopping);
    await this.#share(state, this.#lastWord);
  }

  /** One look at what the wrapper says, and one word to it. */
  async #share(state: SharedState, status: string): Promise<void> {
    let problem = "";
    try {
      this.#directed(answers.directive(await state.read()));
      this.#hurry = false;
      const age = this.progressAge;
      const usage = { tokens: this.#tokens, cost_usd: millionths(this.#costUsd) };
      const word = { status, progressAgeSeconds: age, usage, ackDirective: this.#obeyed };
      await state.write(word, age === null ? null : this.#progressAt);
    } catch (error) {
      problem = this.#reason(error);
    }
    if (problem && problem !== this.#complaint) this.#tell("warn", `rollcall run cannot be talked to: ${problem}`);
    this.#complaint = problem;
  }
}

/** Wakes those who wait. */
class Bell {
  readonly #waiting = new Set<() => void>();

  ring(): void {
    for (const wake of [...this.#waiting]) wake();
  }

  /** Until somebody rings, or so many seconds; `holds` says whether the program goes on as long as that. */
  wait(seconds: number, holds: boolean): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.#waiting.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, seconds * 1000);
      // Node's timers are objects, others' are numbers.
      if (!holds) (timer as { unref?(): void }).unref?.();
      this.#waiting.add(wake);
    });
  }
}

/** Whatever was thrown, as text: there are objects that none can be made of. */
function printed(thrown: unknown): string {
  try {
    return String(thrown);
  } catch {
    return "something without a text";
  }
}

/** Seconds of the epoch. */
function now(): number {
  return Date.now() / 1000;
}

function millionths(dollars: number): number {
  return Math.round(dollars * 1e6) / 1e6;
}
