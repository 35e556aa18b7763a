// Under `rollcall run` the wrapper sends the heartbeats, and this process talks to it by files. docs/clients.md says what is
// in them.

import { files, hexadecimal, pid } from "./environment.js";

export interface Word {
  status: string;
  progressAgeSeconds: number | null;
  usage: { tokens: number; cost_usd: number };
  ackDirective: number | null;
}

/** What the wrapper says, and what this process has to say. */
export class SharedState {
  readonly #theirs: string;
  readonly #ours: string;
  #written = "";

  constructor(path: string) {
    this.#theirs = path;
    this.#ours = `${path}.${hexadecimal(8)}`;
  }

  /** What the wrapper's file holds. */
  async read(): Promise<unknown> {
    return JSON.parse(await (await files()).readFile(this.#theirs, "utf8"));
  }

  /** Replaces this process's file if anything is new in it; `moved` is when its progress was made. */
  async write(word: Word, moved: number | null): Promise<void> {
    const { progressAgeSeconds, ackDirective, ...rest } = word;
    const news = JSON.stringify([rest, ackDirective, moved]);
    if (news === this.#written) return;
    const report = { pid, ...rest, progress_age_seconds: progressAgeSeconds, ack_directive: ackDirective };
    const { writeFile, rename } = await files();
    await writeFile(`${this.#ours}.new`, JSON.stringify(report));
    await rename(`${this.#ours}.new`, this.#ours);
    this.#written = news;
  }
}
