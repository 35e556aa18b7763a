// What the machine says, where there is one: Workers and browsers have neither variables nor files.

interface Process {
  pid: number;
  env: Record<string, string | undefined>;
}

interface Files {
  readFile(path: string, encoding: "utf8"): Promise<string>;
  writeFile(path: string, text: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
}

const machine = (globalThis as { process?: Partial<Process> }).process;

/** This process's number; 0 where there are none. */
export const pid = machine?.pid ?? 0;

/** A variable's text, without the white space around it; "" if there is none. */
export function variable(name: string): string {
  return machine?.env?.[name]?.trim() ?? "";
}

/** The environment's secret, or that of the file that the variable with `_FILE` at its end names. */
export async function secret(name: string): Promise<string> {
  const file = variable(`${name}_FILE`);
  return variable(name) || (file && (await (await files()).readFile(file, "utf8")).trim());
}

/** Node's files. A bundler for browsers does not see the name, and need not find the module. */
export async function files(): Promise<Files> {
  const name = "node:fs/promises";
  return (await import(/* @vite-ignore */ /* webpackIgnore: true */ name)) as Files;
}

export function hexadecimal(bytes: number): string {
  const random = crypto.getRandomValues(new Uint8Array(bytes));
  return Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
