// What an answer to a heartbeat says.

/** What an operator wants of this agent. */
export interface Directive {
  /** To be compared for equality alone. */
  version: number;
  action: "run" | "pause" | "drain" | "stop" | "rotate_key" | (string & {});
  /** RFC 3339. */
  deadline?: string;
}

const MOST_BYTES = 64 * 1024;

/** The body's text.
 * @throws RangeError if it is longer than 64 KiB */
export async function text(response: Response): Promise<string> {
  const reader = response.body?.getReader();
  const decoder = new TextDecoder();
  let [said, bytes] = ["", 0];
  for (;;) {
    const part = await reader?.read();
    if (!part || part.done) return said + decoder.decode();
    bytes += part.value.byteLength;
    if (bytes > MOST_BYTES) {
      await reader?.cancel();
      throw new RangeError(`the answer is longer than ${MOST_BYTES} bytes`);
    }
    said += decoder.decode(part.value, { stream: true });
  }
}

/** The object that a body is; an empty one if it is not. */
export function object(body: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(body);
    return isObject(value) ? value : {};
  } catch {
    return {};
  }
}

/** The seconds between heartbeats that an accepted one names, or none. */
export function interval(answer: Record<string, unknown>): number | undefined {
  const config = answer["heartbeat_config"];
  const seconds = isObject(config) ? config["interval_seconds"] : undefined;
  return typeof seconds === "number" && seconds > 0 ? Math.min(Math.max(seconds, 1), 86_400) : undefined;
}

/** The directive of an accepted heartbeat, or null. */
export function directive(answer: unknown): Directive | null {
  const directive = isObject(answer) ? answer["directive"] : undefined;
  const known =
    isObject(directive) && Number.isSafeInteger(directive["version"]) && typeof directive["action"] === "string";
  return known ? (directive as unknown as Directive) : null;
}

/** What Rollcall says of a refusal; undefined if it was not Rollcall. */
export function message(answer: Record<string, unknown>): string | undefined {
  const detail = answer["detail"];
  if (Array.isArray(detail)) return detail.map((problem) => String(problem?.msg)).join("; ");
  return typeof detail === "string" ? detail : undefined;
}

/** Retry-After, a number or a date, in seconds from now and at most an hour; 0 without one. */
export function retryAfter(header: string | null): number {
  if (!header) return 0;
  const seconds = /^\s*-?\d+\s*$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.min(Math.max(seconds, 0), 3600) : seconds > 0 ? 3600 : 0;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
